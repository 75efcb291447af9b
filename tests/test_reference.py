# SPDX-License-Identifier: MIT
"""The reference program's own tests, under their own names, through our API.

Each asserts what its original asserts and no more; the finer points are in the other files.
"""

import asyncio
from pathlib import Path

import pytest

from orch_events import (
    EventLog,
    NoopSink,
    ObservedStepScope,
    TracingEventSink,
    observed_step_scope_from_payload,
    observed_step_scope_label,
    query_latest_step_log_paths,
    query_step_events,
)


@pytest.fixture
def db_path(tmp_path: Path) -> Path:
    """A log without events."""
    path = tmp_path / "events.db"
    EventLog(path).close()
    return path


def insert_event(
    db_path: Path,
    task_id: str,
    task_item_id: str | None,
    event_type: str,
    payload: dict[str, object],
) -> None:
    """The reference's `insert_event(…).await`, on a log opened for this one event."""

    async def insert() -> None:
        async with EventLog(db_path) as log:
            await log.insert_event_async(task_id, task_item_id, event_type, payload)

    asyncio.run(insert())


def test_noop_sink_does_not_panic() -> None:
    sink = NoopSink()
    sink.emit("task1", "item1", "step_started", {})
    sink.emit("task1", None, "task_completed", {"status": "ok"})


def test_insert_event_and_query_roundtrip(db_path: Path) -> None:
    insert_event(db_path, "task1", "item1", "step_started", {"step": "qa", "agent_id": "qa_agent"})
    insert_event(
        db_path,
        "task1",
        "item1",
        "step_finished",
        {"step": "qa", "success": True, "duration_ms": 1500},
    )
    insert_event(db_path, "task1", None, "cycle_started", {"cycle": 1})

    events = query_step_events(db_path, "task1")
    assert len(events) == 3

    assert events[0].event_type == "step_started"
    assert events[0].step == "qa"
    assert events[0].task_item_id == "item1"
    assert events[0].agent_id == "qa_agent"

    assert events[1].event_type == "step_finished"
    assert events[1].success is True
    assert events[1].duration_ms == 1500

    assert events[2].event_type == "cycle_started"


def test_query_step_events_empty_for_unknown_task(db_path: Path) -> None:
    assert query_step_events(db_path, "nonexistent_task") == []


def test_observed_step_scope_parses_known_values() -> None:
    assert observed_step_scope_from_payload({"step_scope": "task"}) is ObservedStepScope.TASK
    assert observed_step_scope_from_payload({"step_scope": "item"}) is ObservedStepScope.ITEM
    assert observed_step_scope_from_payload({}) is None


def test_observed_step_scope_label_returns_unspecified_for_none() -> None:
    assert observed_step_scope_label(None) == "unspecified"
    assert observed_step_scope_label(ObservedStepScope.TASK) == "task"
    assert observed_step_scope_label(ObservedStepScope.ITEM) == "item"


def test_query_latest_step_log_paths_returns_none_when_empty(db_path: Path) -> None:
    assert query_latest_step_log_paths(db_path, "task1") is None


def test_query_latest_step_log_paths_returns_paths(db_path: Path) -> None:
    payload: dict[str, object] = {
        "phase": "qa",
        "stdout_path": "/tmp/stdout.log",
        "stderr_path": "/tmp/stderr.log",
    }
    insert_event(db_path, "task1", "item1", "step_spawned", payload)

    paths = query_latest_step_log_paths(db_path, "task1")
    assert paths is not None
    phase, stdout, stderr = paths
    assert phase == "qa"
    assert stdout == "/tmp/stdout.log"
    assert stderr == "/tmp/stderr.log"


def test_query_latest_step_log_paths_empty_phase_returns_none(db_path: Path) -> None:
    insert_event(db_path, "task1", "item1", "step_started", {"stdout_path": "/tmp/out.log"})

    assert query_latest_step_log_paths(db_path, "task1") is None


def test_query_step_events_parses_step_scope_and_task_item_id(db_path: Path) -> None:
    insert_event(db_path, "task1", "item1", "step_started", {"step": "qa", "step_scope": "item"})

    (event,) = query_step_events(db_path, "task1")
    assert event.step_scope is ObservedStepScope.ITEM
    assert event.task_item_id == "item1"


def test_tracing_event_sink_does_not_panic_on_all_event_types() -> None:
    sink = TracingEventSink()
    # Error level
    sink.emit("t1", None, "task_failed", {"error": "boom"})
    # Warning level
    sink.emit("t1", None, "step_timeout", {"secs": 60})
    sink.emit("t1", None, "auto_rollback_failed", {})
    # Info level
    sink.emit("t1", "i1", "step_started", {})
    sink.emit("t1", None, "step_finished", {})
    sink.emit("t1", None, "task_completed", {})
    sink.emit("t1", None, "task_paused", {})
    # Debug level (everything else)
    sink.emit("t1", None, "step_heartbeat", {})
    sink.emit("t1", None, "custom_event", {})


def test_tracing_event_sink_default_impl() -> None:
    sink = TracingEventSink()
    sink.emit("t1", None, "task_completed", {})


def test_observed_step_scope_from_payload_unknown_value() -> None:
    assert observed_step_scope_from_payload({"step_scope": "unknown"}) is None


def test_query_latest_step_log_paths_prefers_step_key_over_phase(db_path: Path) -> None:
    # The reference's name promises more than its body: it shows that `step` serves where there is no `phase`.
    payload: dict[str, object] = {
        "step": "implement",
        "stdout_path": "/tmp/out.log",
        "stderr_path": "/tmp/err.log",
    }
    insert_event(db_path, "task1", "item1", "step_started", payload)

    paths = query_latest_step_log_paths(db_path, "task1")
    assert paths is not None
    phase, stdout, _ = paths
    assert phase == "implement"
    assert stdout == "/tmp/out.log"


def test_query_step_events_uses_promoted_column_scope(db_path: Path) -> None:
    insert_event(db_path, "task1", "item1", "step_started", {"step": "qa", "step_scope": "task"})

    (event,) = query_step_events(db_path, "task1")
    assert event.step_scope is ObservedStepScope.TASK


def test_step_event_parses_all_optional_fields(db_path: Path) -> None:
    payload: dict[str, object] = {
        "step": "implement",
        "step_scope": "task",
        "elapsed_secs": 120,
        "stdout_bytes": 4096,
        "stderr_bytes": 256,
        "stdout_delta_bytes": 0,
        "stderr_delta_bytes": 4,
        "stagnant_heartbeats": 3,
        "pid": 12345,
        "pid_alive": True,
        "output_state": "low_output",
    }
    insert_event(db_path, "task1", None, "step_heartbeat", payload)

    (event,) = query_step_events(db_path, "task1")
    assert event.step_scope is ObservedStepScope.TASK
    assert event.elapsed_secs == 120
    assert event.stdout_bytes == 4096
    assert event.stderr_bytes == 256
    assert event.stdout_delta_bytes == 0
    assert event.stderr_delta_bytes == 4
    assert event.stagnant_heartbeats == 3
    assert event.pid == 12345
    assert event.pid_alive is True
    assert event.output_state == "low_output"
