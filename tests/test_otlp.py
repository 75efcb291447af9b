# SPDX-License-Identifier: MIT
"""`trace --format otlp`: what each span says. That collectors take it is checked with a real one, by `.ci/run`."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from orch_events import EventLog

from .terminal import outcome

BOTH_ENGINES = True


@pytest.fixture
def db(tmp_path: Path) -> Path:
    return tmp_path / "log.db"


def exported(db: Path, task: str = "t") -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The root span and the others, each with its attributes by name."""
    code, printed, complaint = outcome("--db", db, "trace", task, "--format", "otlp")
    assert (code, complaint, printed.count("\n")) == (0, "", 1)
    (resource,) = json.loads(printed)["resourceSpans"]
    (scope,) = resource["scopeSpans"]
    root, *runs = scope["spans"]
    for span in (root, *runs):
        span["attributes"] = {one["key"]: one["value"] for one in span["attributes"]}
        assert re.fullmatch("[0-9a-f]{32}", span["traceId"])
        assert re.fullmatch("[0-9a-f]{16}", span["spanId"])
        times = span["startTimeUnixNano"], span["endTimeUnixNano"]
        assert all(isinstance(time, str) for time in times) and int(times[0]) <= int(times[1])
    assert len({span["spanId"] for span in (root, *runs)}) == 1 + len(runs)
    assert {span["traceId"] for span in runs} <= {root["traceId"]}
    return root, runs


def result(span: dict[str, Any]) -> object:
    return span["attributes"].get("cicd.pipeline.task.run.result", {}).get("stringValue")


def test_each_run_is_a_span_under_the_step_it_ran_in_or_under_the_task(db: Path) -> None:
    with EventLog(db) as log:
        log.insert_event("t", None, "task_started")
        log.insert_event("t", None, "step_started", {"step": "outer"})
        log.insert_event("t", "i", "step_started", {"step": "inner", "parent_step": "outer"})
        log.insert_event("t", "i", "step_finished", {"step": "inner", "success": True})
        log.insert_event("t", None, "step_finished", {"step": "outer", "success": True})
        log.insert_event("t", None, "task_completed")
    root, (outer, inner) = exported(db)
    assert (root["name"], root["parentSpanId"], root["kind"]) == ("t", "", 1)
    assert root["attributes"]["cicd.pipeline.result"] == {"stringValue": "success"}
    assert (outer["parentSpanId"], inner["parentSpanId"]) == (root["spanId"], outer["spanId"])
    assert (inner["name"], inner["attributes"]["orch_events.item"]) == (
        "inner",
        {"stringValue": "i"},
    )
    assert [span["status"] for span in (root, outer, inner)] == [{}, {}, {}]
    assert exported(db) == (root, [outer, inner]), "the same ids each time"


def test_failures_are_errors_and_what_has_no_end_is_marked(db: Path) -> None:
    endings: list[tuple[str, dict[str, object], object, object]] = [
        ("step_finished", {"success": False, "exit_code": 3}, "failure", "3"),
        ("step_timeout", {}, "timeout", "timeout"),
        ("step_finished", {"success": False, "error_type": "ValueError"}, "failure", "ValueError"),
        ("step_finished", {"success": False, "reason": "no"}, "failure", "_OTHER"),
        ("step_skipped", {}, "skip", None),
        ("step_heartbeat", {}, None, None),
    ]
    with EventLog(db) as log:
        for number, (event_type, payload, *_) in enumerate(endings):
            step = {"step": f"s{number}"}
            log.insert_event("t", None, "step_started", step)
            log.insert_event("t", None, event_type, {**step, **payload})
    root, runs = exported(db)
    for span, (_, _, told, error) in zip(runs, endings, strict=True):
        assert result(span) == told
        assert span["attributes"].get("error.type", {}).get("stringValue") == error
        assert (span["status"].get("code") == 2) == (error is not None)
    assert runs[3]["status"]["message"] == "no"
    *ended, last = runs
    unfinished = {"boolValue": True}
    assert last["attributes"]["orch_events.unfinished"] == unfinished
    assert root["attributes"]["orch_events.unfinished"] == unfinished
    assert not any("orch_events.unfinished" in span["attributes"] for span in ended)


def test_a_recorded_trace_context_gives_the_ids(db: Path) -> None:
    trace, caller, own = "ab" * 16, "cd" * 8, "ef" * 8
    context = {"traceparent": f"00-{trace}-{caller}-01", "span_id": own}
    with EventLog(db) as log:
        log.insert_event("t", None, "step_started", {"step": "s", **context})
        log.insert_event(
            "u", None, "step_started", {"step": "s", "traceparent": "00-x", "span_id": "y"}
        )
    root, (run,) = exported(db)
    assert (root["traceId"], root["parentSpanId"]) == (trace, caller)
    assert (run["traceId"], run["spanId"], run["parentSpanId"]) == (trace, own, root["spanId"])
    other, _ = exported(db, "u")
    assert other["traceId"] != trace and other["parentSpanId"] == ""


def test_a_task_that_failed_says_why(db: Path) -> None:
    with EventLog(db) as log:
        log.insert_event("t", None, "task_failed", {"reason": "no luck"})
    root, runs = exported(db)
    assert (root["status"], runs) == ({"code": 2, "message": "no luck"}, [])
    assert root["attributes"]["cicd.pipeline.result"] == {"stringValue": "failure"}
