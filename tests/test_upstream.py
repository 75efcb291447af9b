# SPDX-License-Identifier: MIT
"""Logs as the reference program writes them: what every command and every reader makes of its events."""

import json
import random
import re
import sqlite3
import sys
from collections import Counter
from contextlib import closing
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import islice
from pathlib import Path
from types import FrameType
from typing import Any, Final, TypeAlias

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from orch_events import EventLog, EventReader, EventType
from orch_events.cli.arguments import Reader

from .helpers import all_statements, execute
from .terminal import outcome

UPSTREAM: Final = Path(__file__).parent / "data" / "upstream_run.jsonl"
TASK: Final = "0b1c2d3e-4f50"
EPOCH: Final = datetime(2026, 4, 8, 9, tzinfo=UTC)

Told: TypeAlias = tuple[str, str | None, dict[str, Any]]
"""An event of the task ``t``: its type, its item, its payload."""


@pytest.fixture
def db(tmp_path: Path) -> Path:
    return tmp_path / "log.db"


@pytest.fixture
def upstream(db: Path) -> Path:
    """The log of a whole run, restored."""
    assert orch("--db", db, "emit", "--jsonl", UPSTREAM, "--restore") == "events recorded: 31\n"
    return db


def orch(*words: object) -> str:
    status, stdout, stderr = outcome(*words)
    assert (status, stderr) == (0, ""), (words, stderr)
    return stdout


def trace(db: Path, task: str = "t") -> dict[str, Any]:
    document = json.loads(orch("--db", db, "trace", task, "--json"))
    assert isinstance(document, dict)
    return document


def tasks(db: Path, *words: str) -> dict[str, dict[str, Any]]:
    lines = orch("--db", db, "tasks", "--json", *words).splitlines()
    return {row["task_id"]: row for row in map(json.loads, lines)}


def record(db: Path, *told: Told, every: float = 1.0) -> None:
    """A log of the task ``t`` whose events came so many seconds after one another."""
    lines = list[str]()
    for number, (kind, item, payload) in enumerate(told, 1):
        event = {
            "event_id": number,
            "task_id": "t",
            "task_item_id": item,
            "event_type": kind,
            "payload": payload,
            "created_at": (EPOCH + timedelta(seconds=every * number)).isoformat(),
        }
        lines.append(json.dumps(event))
    source = db.with_suffix(".jsonl")
    source.write_text("\n".join(lines))
    orch("--db", db, "emit", "--jsonl", source, "--restore")


def steps(document: dict[str, Any], *members: str) -> list[tuple[Any, ...]]:
    runs = [run for cycle in document["cycles"] for run in cycle["steps"]]
    return [tuple(run[member] for member in members) for run in runs]


# -------------------------------------------------------------------------------------------------- the log of a run

RUN: Final = [
    ("init_once", None, "task", None, "succeeded", 0, None),
    ("plan", None, "task", None, "succeeded", 0, None),
    ("review", None, "task", None, "failed", 1, None),
    ("lint", "review", "task", None, "failed", 1, None),
    ("qa_testing", None, "item", "item-aaa", "failed", None, "agent exited early"),
    ("qa_testing", None, "item", "item-bbb", "skipped", None, "prehook_false"),
    ("triage", None, "item", "item-aaa", "succeeded", 0, None),
    ("merge", None, "task", None, "succeeded", None, None),
    ("slow", None, "item", "item-bbb", "failed", None, None),
    ("self_restart", None, "task", None, "succeeded", 75, None),
]


def test_the_trace_of_a_run_tells_each_step_as_it_was(upstream: Path) -> None:
    document = trace(upstream, TASK)
    members = ("step", "parent_step", "scope", "item", "status", "exit_code", "reason")
    assert steps(document, *members) == RUN
    assert (document["status"], document["finished"]) == ("cancelled", True)
    assert document["reason"] is None, "why it began is not why it ended"
    assert [cycle["cycle"] for cycle in document["cycles"]] == [None, 1]
    told = {run["step"]: run for cycle in document["cycles"] for run in cycle["steps"]}
    assert {name for name, run in told.items() if run["timed_out"]} == {"slow"}
    assert {name for name, run in told.items() if run["restart"]} == {"self_restart"}
    assert document["anomalies"] == []


def test_the_tree_has_a_step_inside_another_below_it(upstream: Path) -> None:
    shown = orch("--db", upstream, "trace", TASK)
    assert "├─ review " in shown and "│  └─ lint " in shown
    assert (
        "exit 75, planned restart" in shown
        and "item-aaa" in shown
        and "init_once item" not in shown
    )
    assert "timeout" in next(line for line in shown.splitlines() if "slow item-bbb" in line)
    watched = orch("--db", upstream, "watch", "--once", TASK).splitlines()
    assert watched[0].startswith(f"task {TASK}  cancelled")
    assert "0 running, 5 succeeded, 4 failed, 1 skipped" in watched
    assert any(line.startswith("review > lint  task") for line in watched)


def test_why_a_task_failed_is_what_it_says(upstream: Path) -> None:
    found = {task: trace(upstream, task)["reason"] for task in ("fail-1", "fail-2")}
    assert found == {
        "fail-1": "workspace missing",
        "fail-2": "unresolved_items 2, stale_pending_items 0",
    }
    assert "unresolved_items 2, stale_pending_items 0" in orch("--db", upstream, "trace", "fail-2")


def test_every_command_has_the_same_status_and_no_task_without_a_name(upstream: Path) -> None:
    status = {TASK: "cancelled", "fail-1": "failed", "fail-2": "failed"}
    assert {task: row["status"] for task, row in tasks(upstream).items()} == status
    everything = tasks(upstream, "--no-task")
    assert (everything[""]["events"], everything[""]["status"]) == (2, None)
    assert orch("--db", upstream, "events", "").count("\n") == 3
    assert outcome("--db", upstream, "watch", "--once")[1].startswith("task fail-2  failed")
    figures = json.loads(orch("--db", upstream, "stats", "--json"))
    assert (figures["events"], figures["tasks"]) == (31, {"cancelled": 1, "failed": 2})
    with EventReader(upstream) as reader:
        for task in status:
            assert list(reader.follow_events(task, until_finished=True))
    would = orch("--db", upstream, "cleanup", "--older-than", "1s", "--dry-run")
    assert would == "to delete: 31 events; tasks gone with them: 3\n"


def test_events_of_no_task_go_by_their_age_alone(upstream: Path) -> None:
    with EventLog(upstream) as log:
        log.insert_event("", None, "daemon_shutdown_requested", {})
        log.insert_event("", None, "task_started", {"of": "no task"})
        done = log.cleanup(older_than=timedelta(days=1))
        assert (done.events, done.tasks) == (31, 3)
        assert [event.event_type for event in log.query_events("")] == [
            "daemon_shutdown_requested",
            "task_started",
        ]
        assert log.stats().tasks == {}
        done = log.cleanup(older_than=timedelta(0))
        assert (done.events, done.tasks, log.stats().events) == (2, 0, 0)
    status, _, stderr = outcome("--db", upstream, "watch", "--once")
    assert (status, stderr.count("\n")) == (1, 1)


def test_events_of_no_task_have_no_end_to_wait_for(upstream: Path) -> None:
    with EventLog(upstream) as log:
        log.insert_event("", None, "task_completed", {})
        found = list(log.follow_events("", until_finished=True, timeout=0.05))
        assert len(found) == 3
        log.submit_event("", None, "late", {})
        follower = log.follow_events("", until_finished=True, after_id=found[-1].event_id)
        assert next(follower).event_type == "late"


# --------------------------------------------------------------------------------------------- the status of a task

STATUS: Final[dict[str, str]] = {
    EventType.TASK_STARTED: "running",
    EventType.TASK_PAUSED: "paused",
    EventType.TASK_COMPLETED: "completed",
    EventType.TASK_FAILED: "failed",
    EventType.TASK_CANCELLED: "cancelled",
}
CONTROLS: Final[dict[str, str | None]] = {
    '{"status":"cancelled"}': "cancelled",
    '{"status": "paused"}': "paused",
    '{"status":"running"}': "running",
    '{"status":"completed"}': "completed",
    '{"status":"failed"}': "failed",
    '{"status":"restart_pending"}': "restart_pending",
    '{"status":"running","status":"failed"}': "failed",  # the last of the same keys
    '{"status":"failed","status":3}': None,
    '{"status":"unknown"}': "unknown",
    '{"status":""}': None,
    '{"status":null}': None,
    '{"status":["failed"]}': None,
    '{"to":"failed"}': None,
    '"failed"': None,
    '{"status":"failed"': None,
    '{"status":"failed","x":NaN}': None,
    '{"status":"failed","x":"\\ud800"}': None,
    "": None,
}


def expected(history: list[tuple[str, str]]) -> str:
    """The newest status that is told."""
    told = (
        CONTROLS[text] if kind == "task_control" else STATUS.get(kind) for kind, text in history
    )
    return next((status for status in reversed(list(told)) if status is not None), "unknown")


def insert(path: Path, histories: dict[str, list[tuple[str, str]]]) -> None:
    rows = [
        (task, kind, text, "2026-01-01T00:00:00.000000+00:00")
        for task, history in histories.items()
        for kind, text in history
    ]
    with closing(sqlite3.connect(path)) as connection, connection:
        sql = (
            "INSERT INTO events(task_id, event_type, payload_json, created_at) VALUES (?, ?, ?, ?)"
        )
        connection.executemany(sql, rows)


def check_statuses(path: Path, histories: dict[str, list[tuple[str, str]]]) -> None:
    """That every reader of a status tells the same of each task."""
    status = {task: expected(history) for task, history in histories.items() if history}
    ended = {task for task, word in status.items() if word in ("completed", "failed", "cancelled")}
    assert {task: row["status"] for task, row in tasks(path).items()} == status
    with EventReader(path) as reader:
        assert reader.stats().tasks == Counter(status.values())
        for task in status:
            events = reader.follow_events(task, until_finished=True, timeout=None)
            if task in ended:
                assert len(list(events)) == len(histories[task])
            else:
                assert len(list(islice(events, len(histories[task])))) == len(histories[task])
    for task, word in status.items():
        document = trace(path, task)
        assert (document["status"], document["finished"]) == (word, task in ended)


statuses = st.one_of(
    st.tuples(st.just("task_control"), st.sampled_from(list(CONTROLS))),
    st.tuples(st.sampled_from([*STATUS, "step_heartbeat", "x"]), st.just("{}")),
)


@settings(
    max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.lists(st.lists(statuses, max_size=4), max_size=4))
def test_every_command_reads_the_same_status(
    tmp_path: Path, found: list[list[tuple[str, str]]]
) -> None:
    path = tmp_path / f"{len(list(tmp_path.iterdir()))}.db"
    histories = {f"t{number}": history for number, history in enumerate(found)}
    with EventLog(path) as log:
        insert(path, histories)
        check_statuses(path, histories)
        gone = {task for task, history in histories.items() if history and has_ended(history)}
        done = log.cleanup(older_than=timedelta(days=1))
        assert done.tasks == len(gone)
        left = {event.task_id for event in log.query_events()}
        assert left == {task for task, history in histories.items() if history} - gone


def has_ended(history: list[tuple[str, str]]) -> bool:
    return expected(history) in ("completed", "failed", "cancelled")


@pytest.mark.parametrize(
    "encoding",
    ["UTF-16le", *(pytest.param(name, marks=pytest.mark.long) for name in ("UTF-8", "UTF-16be"))],
)
def test_every_control_is_read_alike_in_any_file(path: Path, encoding: str) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(f"PRAGMA encoding = '{encoding}'")
        connection.execute("CREATE TABLE mine(x)")
    histories = {
        f"t{number}": [("task_completed", "{}"), ("task_control", text)]
        for number, text in enumerate(CONTROLS)
    }
    with EventLog(path):
        insert(path, histories)
        check_statuses(path, histories)


@pytest.mark.long
def test_a_huge_control_is_read_too(path: Path) -> None:
    with EventLog(path) as log:
        log.insert_event("t", None, "task_control", {"status": "failed", "x": "x" * (9 << 20)})
        assert tasks(path)["t"]["status"] == "failed"
        assert len(list(log.follow_events("t", until_finished=True))) == 1
        assert log.stats().tasks == {"failed": 1}
        assert log.cleanup(older_than=timedelta(0)).tasks == 1


def test_the_status_goes_last_and_what_begins_again_stays(path: Path) -> None:
    with EventLog(path) as log:
        for task, word in (("ended", "cancelled"), ("again", "running")):
            log.insert_event(task, None, "task_completed", {})
            log.insert_event(task, None, "task_control", {"status": word})
            log.insert_event(task, None, "task_control", {"unclear": True})
            log.insert_event(task, None, "note", {})
        assert log.cleanup(keep_last=1).events == 2, "the status and the newest are kept"
        kinds = [(event.task_id, event.event_type) for event in log.query_events()]
        assert kinds[:2] == [("ended", "task_control"), ("ended", "note")]
        assert len(kinds) == 6
        assert log.cleanup(older_than=timedelta(0)).tasks == 1
        assert {event.task_id for event in log.query_events()} == {"again"}


def test_a_task_that_ends_while_it_is_followed_ends_the_following(path: Path) -> None:
    with EventLog(path) as log, EventReader(path) as reader:
        log.insert_event("t", None, "task_control", {"status": "paused"})
        events = reader.follow_events("t", until_finished=True)
        assert next(events).event_type == "task_control"
        log.insert_event("t", None, "task_control", {"status": "cancelled"})
        assert len(list(events)) == 1


def test_no_word_for_a_status_drives_a_terminal_or_a_page(db: Path, tmp_path: Path) -> None:
    word = "<script>x</script>\"'\x1b[2J\u202e"
    record(
        db,
        ("task_control", None, {"status": word, "reason": word}),
        ("step_started", None, {"step": "s"}),
    )
    page = tmp_path / "page.html"
    orch("--db", db, "trace", "t", "--html", page)
    assert "<script>" not in page.read_text() and "\x1b" not in page.read_text()
    assert trace(db)["status"] == word
    for words in (["tasks"], ["trace", "t"], ["watch", "--once", "t"], ["stats"]):
        shown = orch("--db", db, *words)
        assert "\x1b" not in shown and "\u202e" not in shown and r"\x1b[2J" in shown


OLD_INDEX: Final = f"""CREATE INDEX IF NOT EXISTS orch_events_status ON events(task_id)
    WHERE event_type IN ({", ".join(f"'{kind}'" for kind in STATUS)})"""
NEW_INDEX: Final = "orch_events_task_status"


def indexes(path: Path) -> set[str]:
    with closing(sqlite3.connect(path)) as connection:
        return {name for (name,) in connection.execute("SELECT name FROM sqlite_master")}


def test_a_file_of_before_gets_the_index_and_keeps_its_own(path: Path) -> None:
    histories = {
        "a": [("task_started", "{}"), ("task_control", '{"status":"cancelled"}')],
        "b": [("task_control", '{"status":"failed"}'), ("task_started", "{}")],
    }
    with EventLog(path):
        insert(path, histories)
    execute(path, f"DROP INDEX {NEW_INDEX}", OLD_INDEX)
    check_statuses(path, histories)  # by those who only read, and make no index
    assert NEW_INDEX not in indexes(path)
    for _ in range(2):
        with EventLog(path):
            check_statuses(path, histories)
        assert {NEW_INDEX, "orch_events_status"} <= indexes(path)
        execute(path, OLD_INDEX)  # as versions that know that one do when they open the file


# ------------------------------------------------------------------------------------------------------- each step


ENDS: Final[list[tuple[dict[str, Any], str, str]]] = [
    ({"success": True}, "succeeded", ""),
    ({"success": False}, "failed", ""),
    ({"success": True, "exit_code": 3}, "succeeded", ""),
    ({"exit_code": 0}, "succeeded", ""),
    ({"exit_code": 2}, "failed", ""),
    ({"exit_code": -9}, "failed", ""),
    ({"exit_code": "0"}, "finished", ""),
    ({"exit_code": True}, "finished", ""),
    ({"exit_code": 10**300}, "finished", ""),
    ({}, "finished", ""),
    ({"success": "yes", "exit_code": 0}, "succeeded", ""),
    ({"timed_out": True}, "failed", "timeout"),
    ({"timed_out": True, "exit_code": 0}, "failed", "timeout"),
    ({"timed_out": True, "success": False, "exit_code": -15}, "failed", "timeout"),
    ({"timed_out": False, "exit_code": 0}, "succeeded", ""),
    ({"timed_out": 1, "exit_code": 0}, "succeeded", ""),
    ({"restart": True, "exit_code": 75}, "succeeded", "planned restart"),
    ({"restart": True, "exit_code": 75, "success": False}, "succeeded", "planned restart"),
    ({"restart": True, "exit_code": 1}, "failed", ""),
    ({"restart": False, "exit_code": 75}, "failed", ""),
    ({"exit_code": 75}, "failed", ""),
    ({"restart": True, "exit_code": 75, "timed_out": True}, "failed", "timeout"),
]


@pytest.mark.parametrize("prefix", ["step", "chain_step", "dynamic_step", "dynamic_node"])
def test_how_a_step_ended(db: Path, prefix: str) -> None:
    key = "node_id" if prefix == "dynamic_node" else "step_id"
    told = list[Told]()
    for number, (payload, _, _) in enumerate(ENDS, 100):
        told.append((f"{prefix}_started", None, {key: f"s{number}"}))
        told.append((f"{prefix}_finished", None, {key: f"s{number}", **payload}))
    record(db, *told)
    names = [f"s{number}" for number in range(100, 100 + len(ENDS))]
    status = [status for _, status, _ in ENDS]
    assert steps(trace(db), "step", "status") == list(zip(names, status, strict=True))
    for words in (["trace", "t"], ["watch", "t", "--once"]):
        lines = orch("--db", db, *words).splitlines()
        for name, (_, _, note) in zip(names, ENDS, strict=True):
            (line,) = (line for line in lines if line.startswith(name))
            found = [text for text in ("timeout", "planned restart") if text in line]
            assert found == ([note] if note else []), line


WHY: Final[list[tuple[dict[str, Any], str | None]]] = [
    ({"reason": "r", "error": "e"}, "r"),
    ({"reason": "", "error": "e"}, "e"),
    ({"reason": None, "error": {"code": 5}}, '{"code": 5}'),
    ({"error": "e" * 500}, "e" * 500),
    ({"error": 7}, "7"),
    ({"error": 0}, None),
    ({"error": False}, None),
    ({"other": "x"}, None),
]


def test_why_a_step_failed_is_not_why_it_began(db: Path) -> None:
    told = list[Told]()
    for payload, _ in WHY:
        told.append(("step_started", None, {"step": "s", "reason": "retry"}))
        told.append(("step_finished", None, {"step": "s", "success": False, **payload}))
    record(db, *told)
    assert steps(trace(db), "reason") == [(reason,) for _, reason in WHY]


@pytest.mark.parametrize(
    ("told", "reason"),
    [
        ([("task_failed", {"reason": "r", "error": "e"})], "r"),
        ([("task_failed", {"error": "e", "unresolved_items": 2})], "e"),
        ([("task_failed", {"unresolved_items": 2, "stale": None, "ids": ["a"], "ok": False})],
         'unresolved_items 2, ids ["a"], ok false'),
        ([("task_failed", {"success": False, "exit_code": 2, "duration_ms": 7})], "exit_code 2"),
        ([("task_failed", {"log": "x" * 500})], f"log {'x' * 59}…"),
        ([("task_failed", {})], None),
        ([("task_failed", {"reason": "r"}), ("task_started", {"reason": "manual_or_resume"})], None),
        ([("task_failed", {"reason": "r"}), ("task_control", {"status": "running", "reason": "x"})], None),
        ([("task_failed", {"reason": "r"}), ("task_control", {"no": "status"})], "r"),
        ([("task_started", {"reason": "manual_or_resume"}), ("task_completed", {"items": 3})], None),
        ([("task_paused", {"reason": "app_shutdown"})], "app_shutdown"),
        ([("task_control", {"status": "cancelled"})], None),
        ([("task_control", {"status": "cancelled", "reason": "by hand"})], "by hand"),
        ([("task_control", {"status": "failed", "unresolved_items": 1})], "unresolved_items 1"),
    ],
)  # fmt: skip
def test_why_a_task_is_what_it_is(
    db: Path, told: list[tuple[str, dict[str, Any]]], reason: str | None
) -> None:
    record(db, *((kind, None, payload) for kind, payload in told))
    assert trace(db)["reason"] == reason


@pytest.mark.parametrize(
    ("told", "found"),
    [
        pytest.param(
            [("step_skipped", "i", {"step_id": "qa", "reason": "retry_backoff"})],
            [("qa", "i", "skipped", "retry_backoff")], id="skipped-by-its-id",
        ),
        pytest.param([("step_skipped", "i", {"reason": "retry_backoff"})], [], id="skipped-without-a-name"),
        pytest.param([("dynamic_node_ready", None, {"node_id": "n"})], [], id="ready-is-not-begun"),
        pytest.param(
            [("dynamic_node_ready", None, {"node_id": "n"}), ("dynamic_node_started", None, {"node_id": "n"}),
             ("dynamic_node_finished", None, {"node_id": "n", "success": False, "error": "e"})],
            [("n", None, "failed", "e")], id="node",
        ),
        pytest.param(
            [("dynamic_node_skipped", "i", {"node_id": "n", "scope": "item", "reason": "upstream_failed"})],
            [("n", "i", "skipped", "upstream_failed")], id="node-skipped",
        ),
        pytest.param(
            [("dynamic_node_started", "i", {"node_id": "n", "scope": "task"}),
             ("dynamic_node_finished", "j", {"node_id": "n", "scope": "task", "success": True})],
            [("n", None, "succeeded", None)], id="node-of-the-task",
        ),
        pytest.param(
            [("step_started", "anchor", {"step": "s", "step_scope": "task"}),
             ("step_spawned", "anchor", {"step": "s", "pid": 3}),
             ("step_timeout", "other", {"step": "s", "timeout_secs": 5})],
            [("s", None, "failed", None)], id="once-for-the-task-though-not-each-event-says-so",
        ),
        pytest.param(
            [("step_started", "anchor", {"step": "s"}), ("step_spawned", "anchor", {"step": "s", "pid": 3}),
             ("step_finished", "anchor", {"step": "s", "step_scope": "task", "success": True})],
            [("s", None, "succeeded", None)], id="once-for-the-task-as-it-turns-out",
        ),
        pytest.param(
            [("step_started", "a", {"step": "s", "step_scope": "item"}),
             ("step_started", "b", {"step": "s", "step_scope": "item"}),
             ("step_finished", "b", {"step": "s", "step_scope": "item", "exit_code": 0})],
            [("s", "a", "running", None), ("s", "b", "succeeded", None)], id="once-for-each-item",
        ),
        pytest.param(
            [("step_started", None, {"step": "lint"}),
             ("chain_step_started", None, {"step": "lint", "parent_step": "review"}),
             ("chain_step_finished", None, {"step": "lint", "parent_step": "review", "exit_code": 1}),
             ("step_finished", None, {"step": "lint", "exit_code": 0})],
            [("lint", None, "succeeded", None), ("lint", None, "failed", None)], id="of-one-name-inside-and-not",
        ),
        pytest.param(
            [("chain_step_started", None, {"step": "lint", "parent_step": "review"}),
             ("step_heartbeat", None, {"step": "lint", "pid": 4}),
             ("step_timeout", None, {"step": "lint", "pid": 4})],
            [("lint", None, "failed", None)], id="not-each-event-says-where-it-is-inside",
        ),
        pytest.param(
            [("dynamic_steps_injected", None, {"step_id": "x"}), ("dynamic_plan_created", None, {"step_id": "x"}),
             ("dynamic_edge_taken", None, {"node_id": "x"}), ("step_prehook_evaluated", None, {"step": "x"}),
             ("scheduler_enqueued", None, {"step": "x"}), ("output_validation_failed", None, {"step": "x"})],
            [], id="what-decides-nothing",
        ),
    ],
)  # fmt: skip
def test_which_steps_there_are(
    db: Path, told: list[Told], found: list[tuple[str, str | None, str, str | None]]
) -> None:
    record(db, *told)
    assert steps(trace(db), "step", "item", "status", "reason") == found


def test_an_item_given_up_is_an_incident_of_its_step(db: Path) -> None:
    blocked = "item_blocked_consecutive_failures"
    record(
        db,
        ("step_started", "i", {"step": "qa", "step_id": "qa", "step_scope": "item"}),
        ("step_finished", "i", {"step": "qa", "exit_code": 4}),
        (blocked, "i", {"step_id": "qa", "failure_count": 3, "last_exit_code": 4}),
        (blocked, "j", {"step_id": "never", "failure_count": 3}),
    )
    assert steps(trace(db), "step", "item", "incident", "exit_code") == [("qa", "i", blocked, 4)]
    assert orch("--db", db, "watch", "--once", "t").count(blocked) == 2


def test_steps_are_nested_as_deep_as_they_say_and_no_payload_goes_deeper_than_can_be_drawn(
    db: Path,
) -> None:
    told: list[Told] = [("step_started", "i", {"step": "s0"})]
    for number in range(1, 2000):
        inside = {"step": f"s{number}", "parent_step": f"s{number - 1}"}
        told.append(("chain_step_started", "i", inside))
    told.append(("chain_step_started", "i", {"step": "s", "parent_step": "s"}))
    told.append(("chain_step_started", "i", {"step": "a", "parent_step": "b"}))
    told.append(("chain_step_started", "i", {"step": "b", "parent_step": "a"}))
    record(db, *told)
    shown = orch("--db", db, "trace", "t").split("\n\n")[1].splitlines()
    where = {
        word: line.index(word)
        for line in shown
        for word in line.split()
        if word in ("s0", "s1", "s2", "s9")
    }
    assert [where[name] for name in ("s0", "s1", "s2")] == [0, 3, 6]
    assert len(steps(trace(db), "step")) == len(told)


# -------------------------------------------------------------------------------------------------------- anomalies


def failures(count: int, item: str = "i") -> list[Told]:
    ran: list[Told] = [
        ("step_started", item, {"step": "s"}),
        ("step_finished", item, {"step": "s", "exit_code": 1}),
    ]
    return ran * count


SUCCESS: Final[list[Told]] = [
    ("step_started", "i", {"step": "s"}),
    ("step_finished", "i", {"step": "s", "exit_code": 0}),
]


@pytest.mark.parametrize(
    ("told", "found"),
    [
        (failures(2), []),
        (failures(3), [("degenerate_loop", "error", "s", "i")]),
        ([*failures(3), *SUCCESS, *failures(4)], [("degenerate_loop", "error", "s", "i")] * 2),
        ([*failures(2), *SUCCESS, *failures(2)], []),
        ([*failures(2), *failures(1, "j")], []),
        ([*failures(2), ("step_skipped", "i", {"step": "s"}), *failures(1)], [("degenerate_loop", "error", "s", "i")]),
        ([("cycle_started", None, {"cycle": 1}), ("step_started", None, {"step": "a", "cycle": 1}),
          ("cycle_started", None, {"cycle": 2}), ("step_started", None, {"step": "b", "cycle": 2}),
          ("step_finished", None, {"step": "b", "cycle": 2, "exit_code": 0}),
          ("step_finished", None, {"step": "a", "cycle": 1, "exit_code": 0})],
         [("overlapping_cycles", "error", None, None)]),
        ([("cycle_started", None, {"cycle": 1}), ("step_started", None, {"step": "a", "cycle": 1}),
          ("step_finished", None, {"step": "a", "cycle": 1, "exit_code": 0}),
          ("cycle_started", None, {"cycle": 2}), ("step_started", None, {"step": "a", "cycle": 2}),
          ("step_finished", None, {"step": "a", "cycle": 2, "exit_code": 0})], []),
        ([("step_finished", None, {"step": "s", "exit_code": 3, "success": True})],
         [("nonzero_exit", "warning", "s", None)]),
        ([("step_finished", None, {"step": "s", "exit_code": 75, "restart": True})], []),
        ([("step_started", None, {"step": "s"}), *[("sandbox_denied", None, {"step": "s"})] * 3,
          ("sandbox_network_blocked", None, {"step": "s"}), ("step_finished", None, {"step": "s", "success": True})],
         [("sandbox_denied", "warning", "s", None)]),
        ([("task_started", None, {}), ("task_control", None, {"status": "paused"}),
          ("task_control", None, {"status": "running"}), ("task_started", None, {"reason": "manual_or_resume"})], []),
        ([("task_started", None, {}), ("step_started", None, {"step": "self_restart"}),
          ("step_finished", None, {"step": "self_restart", "exit_code": 75, "restart": True}),
          ("task_started", None, {})], []),
        ([("task_started", None, {}), ("task_started", None, {})], [("duplicate_runner", "error", None, None)]),
    ],
)  # fmt: skip
def test_what_is_odd(db: Path, told: list[Told], found: list[tuple[object, ...]]) -> None:
    record(db, *told)
    names = ("name", "severity", "step", "item")
    document = trace(db)
    assert [tuple(one[name] for name in names) for one in document["anomalies"]] == found
    if found and found[0][0] == "sandbox_denied":
        assert (
            document["anomalies"][0]["explanation"]
            == "sandbox_denied 3 times, sandbox_network_blocked once"
        )


def test_what_ends_late_is_of_the_cycle_it_began_in(db: Path) -> None:
    record(
        db,
        ("cycle_started", None, {"cycle": 1}),
        ("step_started", None, {"step": "a", "cycle": 1}),
        ("cycle_started", None, {"cycle": 2}),
        ("step_finished", None, {"step": "a", "cycle": 1, "exit_code": 0}),
        ("max_cycles_enforced", None, {"cycle": 3}),
        ("step_started", None, {"step": "b"}),
    )
    document = trace(db)
    assert [(c["cycle"], [run["step"] for run in c["steps"]]) for c in document["cycles"]] == [
        (1, ["a"]),
        (2, ["b"]),
    ]


@pytest.mark.parametrize(
    ("told", "found"),
    [
        pytest.param(
            [("step_started", "i", {"step": "a", "cycle": 1}), ("cycle_started", None, {"cycle": 2}),
             ("step_started", "i", {"step": "a", "cycle": 2}),
             ("step_finished", "i", {"step": "a", "cycle": 1, "exit_code": 1}),
             ("step_finished", "i", {"step": "a", "cycle": 2, "exit_code": 0})],
            [(1, "failed"), (2, "succeeded")], id="both-still-run",
        ),
        pytest.param(
            [("step_started", "i", {"step": "a", "cycle": 1}), ("cycle_started", None, {"cycle": 2}),
             ("step_skipped", "i", {"step": "a", "cycle": 2, "reason": "prehook_false"})],
            [(1, "running"), (2, "skipped")], id="skipped-in-the-next",
        ),
        pytest.param(
            [("step_started", "i", {"step": "a", "cycle": 1}), ("cycle_started", None, {"cycle": 2}),
             ("step_finished", "i", {"step": "a", "cycle": 2, "exit_code": 0})],
            [(1, "running"), (2, "succeeded")], id="an-end-alone",
        ),
        pytest.param(
            [("step_started", "i", {"step": "a", "cycle": 1}), ("step_timeout", "i", {"step": "a", "pid": 3}),
             ("cycle_started", None, {"cycle": 2}), ("step_started", "i", {"step": "a", "cycle": 2}),
             ("step_finished", "i", {"step": "a", "cycle": 1, "exit_code": -9})],
            [(1, "failed"), (2, "running")], id="the-end-after-a-timeout",
        ),
        pytest.param(
            [("step_started", "i", {"step": "a", "cycle": 1}), ("step_spawned", "i", {"step": "a", "pid": 3}),
             ("step_started", "i", {"step": "a", "cycle": 2}), ("step_spawned", "i", {"step": "a", "pid": 4}),
             ("step_finished", "i", {"step": "a", "pid": 3, "exit_code": 1})],
            [(1, "failed"), (2, "lost")], id="a-process-and-no-cycle",
        ),
        pytest.param(
            [("step_started", "i", {"step": "a"}), ("step_finished", "i", {"step": "a", "cycle": 1, "exit_code": 0})],
            [(None, "succeeded")], id="told-at-the-end-alone",
        ),
        pytest.param(
            [("step_started", "i", {"step": "a", "cycle": 1}), ("cycle_started", None, {"cycle": 2}),
             ("step_finished", "i", {"step": "a", "exit_code": 0})],
            [(1, "succeeded")], id="not-told-at-the-end",
        ),
    ],
)  # fmt: skip
def test_an_event_that_tells_its_cycle_is_about_the_run_in_it(
    db: Path, told: list[Told], found: list[tuple[int | None, str]]
) -> None:
    record(db, ("task_started", None, {}), *told)
    cycles = trace(db)["cycles"]
    ran = [(cycle["cycle"], run["status"]) for cycle in cycles for run in cycle["steps"]]
    assert ran == found


def test_a_step_inside_another_is_below_that_of_its_cycle_and_its_row(db: Path) -> None:
    record(
        db,
        ("step_started", "i", {"step": "qa", "step_scope": "item", "cycle": 1}),
        ("step_started", "i", {"step": "qa", "step_scope": "item", "cycle": 2}),
        (
            "chain_step_started",
            "i",
            {"step": "lint", "step_scope": "task", "cycle": 1, "parent_step": "qa"},
        ),
    )
    shown = orch("--db", db, "trace", "t").split("\n\n")[1].splitlines()
    assert [line.split("  ")[0] for line in shown[1:]] == [
        "cycle 1", "└─ qa i", "", "cycle 2", "└─ qa i"
    ]  # fmt: skip
    assert shown[3].startswith("   └─ lint ")


def test_a_denial_is_of_the_step_that_any_key_names(db: Path) -> None:
    denied = "sandbox_denied"
    record(db, (denied, None, {"step_id": "s"}), (denied, None, {"step": "s"}), (denied, None, {}))
    assert {(odd["step"], odd["explanation"]) for odd in trace(db)["anomalies"]} == {
        ("s", "sandbox_denied 2 times"),
        (None, "sandbox_denied once"),
    }


def test_each_view_of_a_task_says_why_it_failed(upstream: Path) -> None:
    for task, reason in (("fail-1", "workspace missing"), ("fail-2", "unresolved_items 2")):
        for words in (["trace", task], ["watch", "--once", task], ["trace", task, "--html", "-"]):
            assert reason in orch("--db", upstream, *words), words


def test_what_a_task_left_behind_is_lost_when_it_goes_on(db: Path) -> None:
    told: list[Told] = [("task_started", None, {}), ("step_started", None, {"step": "a"})]
    for end in (("task_failed", {}), ("task_control", {"status": "paused"}), ("task_paused", {})):
        for again in (("task_started", {}), ("task_control", {"status": "running"})):
            path = db.with_name(f"{len(list(db.parent.iterdir()))}.db")
            record(path, *told, (end[0], None, end[1]), (again[0], None, again[1]))
            assert steps(trace(path), "status") == [("lost",)]
            assert trace(path)["status"] == "running"
            with EventLog(path) as log:
                log.insert_event("t", None, "step_heartbeat", {"step": "a"})
            assert steps(trace(path), "status") == [("running",)], "it is heard of again"


# ------------------------------------------------------------------------------------------------- whatever is told

TYPES: Final = [
    *EventType,
    "dynamic_step_heartbeat",
    "chain_step_timeout",
    "chain_step_spawned",
    "custom",
    "",
]
NUMBERS: Final = [
    0,
    1,
    -1,
    75,
    2**31,
    2**32,
    2**53,
    2**63 - 1,
    2**63,
    2**64 - 1,
    2**64,
    10**300,
    10**308,
    -(10**300),
    0.5,
    -0.0,
    1e-308,
    1e300,
    1.7e308,
    -1e308,
]
WORDS: Final = ["", "s", "a", "b", "x" * 300, "\x1b[2J\u202e", "task", "item", "failed", "<b>"]
OTHERS: Final[list[object]] = [None, True, False, [], {}, [[]], {"a": 1}]
VALUES: Final = [*NUMBERS, *WORDS, *OTHERS]
KEYS: Final = [
    "step",
    "phase",
    "step_id",
    "node_id",
    "parent_step",
    "step_scope",
    "scope",
    "agent_id",
    "cycle",
    "success",
    "exit_code",
    "timed_out",
    "restart",
    "reason",
    "error",
    "status",
    "duration_ms",
    "confidence",
    "elapsed_secs",
    "timeout_secs",
    "heartbeat_secs",
    "pid",
    "pid_alive",
    "output_state",
    "stagnant_heartbeats",
    "stdout_bytes",
    "stderr_bytes",
    "stdout_delta_bytes",
    "stderr_delta_bytes",
    "stdout_path",
    "stderr_path",
    "command",
]
TIMES: Final = [
    "9999-12-31T23:59:59.999999+00:00",
    "9999-12-31T23:59:59-14:00",
    "",
    "never",
    "1",
    "0001-01-01T00:00:00+00:00",
    "0001-01-01T00:00:00+14:00",
    "1969-12-31T23:59:59Z",
]


def anything(path: Path, seed: int, count: int = 300) -> None:
    """A log of the task ``t`` with whatever payloads may hold of the keys that mean something."""
    chance = random.Random(seed)
    now = datetime.now(UTC)
    rows = list[tuple[str | None, str, str, str]]()
    for number in range(count):
        keys = chance.sample(KEYS, chance.randrange(len(KEYS)))
        payload = {key: chance.choice(VALUES) for key in keys}
        if chance.random() < 0.7:
            payload["step"] = chance.choice("ab")
        at = (now + timedelta(seconds=number - count)).isoformat()
        rows.append(
            (
                chance.choice([None, "i", "j", ""]),
                chance.choice(TYPES),
                json.dumps(payload),
                at if chance.random() < 0.9 else chance.choice(TIMES),
            )
        )
    if seed % 2:  # so that what has no end goes on
        rows = [row for row in rows if not row[1].startswith("task_")]
    with EventLog(path), closing(sqlite3.connect(path)) as connection, connection:
        sql = """INSERT INTO events(task_id, task_item_id, event_type, payload_json, created_at)
            VALUES ('t', ?, ?, ?, ?)"""
        connection.executemany(sql, rows)


VIEWS: Final[dict[str, tuple[str, ...]]] = {
    "trace": ("trace", "t"),
    "json": ("trace", "t", "--json"),
    "chrome": ("trace", "t", "--format", "chrome"),
    "html": ("trace", "t", "--html", "/dev/stdout"),
    "watch": ("watch", "t", "--once"),
    "tasks": ("tasks",),
    "stats": ("stats",),
}


def check_views(db: Path) -> None:
    for view, words in VIEWS.items():
        shown = orch("--db", db, *words)
        if view in ("json", "chrome"):
            json.loads(shown, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
        else:
            assert set(shown) - {"\n"} == {char for char in shown if char.isprintable()}
    status, _, stderr = outcome("--db", db, "logs", "t")
    assert status in (0, 1) and "Traceback" not in stderr, stderr


@pytest.mark.parametrize(
    "seed", [1, 2, *(pytest.param(seed, marks=pytest.mark.long) for seed in range(3, 60))]
)
def test_no_payload_breaks_a_view(db: Path, seed: int) -> None:
    anything(db, seed)
    check_views(db)


@pytest.mark.parametrize(
    "number",
    [
        10**308,
        *(
            pytest.param(number, marks=pytest.mark.long)
            for number in (1e308, 2**64 - 1, 10**300, -(10**308))
        ),
    ],
    ids=str,
)
def test_a_number_beyond_all_measure_is_not_said(db: Path, number: float) -> None:
    keys = [key for key in KEYS if "step" not in key and "path" not in key]
    everything = dict.fromkeys(keys, number)
    begun = {"step": "s", "heartbeat_secs": number, "pid": 3}
    with EventLog(db) as log:
        log.insert_event("t", None, "step_spawned", begun)
        log.insert_event("t", None, "step_heartbeat", {"step": "s", **everything})
        log.insert_event("t", None, "step_finished", {"step": "r", **everything})
    check_views(db)
    with EventLog(db) as log:
        log.insert_event("t", None, "task_failed", everything)
    check_views(db)
    assert steps(trace(db), "step", "exit_code") == [("s", None), ("r", None)]


@pytest.mark.parametrize("ask", ["stats", "cleanup"])
def test_what_interrupts_the_reading_of_a_status_comes_through(path: Path, ask: str) -> None:
    class Interruption(BaseException):
        """What a signal handler of the host may raise."""

    def interrupt(frame: FrameType, event: str, _: object) -> None:
        if event == "call" and frame.f_code.co_name == "task_status":
            raise Interruption

    with EventLog(path) as log:
        log.insert_event("t", None, "task_control", {"status": "failed"})
        asked = log.stats if ask == "stats" else partial(log.cleanup, older_than=timedelta(0))
        sys.setprofile(interrupt)
        try:
            with pytest.raises(Interruption):
                asked()
        finally:
            sys.setprofile(None)
        assert log.stats().tasks == {"failed": 1}
        assert log.cleanup(older_than=timedelta(0)).tasks == 1


REFERENCE: Final = (
    "CREATE INDEX idx_events_task_created_at ON events(task_id, created_at)",
    "CREATE INDEX idx_events_task_type_step ON events(task_id, event_type, step)",
)


@pytest.mark.parametrize("others", [(), REFERENCE], ids=["ours", "the reference's too"])
def test_the_statuses_of_all_tasks_come_from_the_index_of_statuses(
    path: Path, others: tuple[str, ...]
) -> None:
    with EventLog(path) as log:
        insert(path, {f"t{number}": [("task_control", "{}")] * 30 for number in range(30)})
        execute(path, *others, "ANALYZE")
        with all_statements() as statements, Reader(path) as reader:
            reader.stats()
            reader.ask(lambda session: session.tasks(1 << 40, 100))
            log.cleanup(older_than=timedelta(0))
    asked = [text for text in statements if "orch_events_status(" in text]
    assert len(asked) >= 3
    with closing(sqlite3.connect(path)) as connection:
        for name in ("orch_events_status", "orch_events_old", "orch_events_abandoned"):
            connection.create_function(name, 1, lambda _: None)
        for text in asked:
            plan = [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {text}")]
            on_status = [step for step in plan if re.search(r"\b(SEARCH|SCAN) s\b", step)]
            assert on_status and all(
                f"SEARCH s USING INDEX {NEW_INDEX} " in step for step in on_status
            ), plan
