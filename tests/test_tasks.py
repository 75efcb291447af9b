# SPDX-License-Identifier: MIT
"""Questions over many tasks: `query_tasks`, and the command `tasks`."""

import asyncio
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from orch_events import EventLog, EventReader, TaskSummary

from .terminal import outcome, record_past, terminal

BOTH_ENGINES = True


@pytest.fixture
def db(tmp_path: Path) -> Path:
    return tmp_path / "log.db"


def record(db: Path, *events: tuple[str, str, timedelta, dict[str, object]]) -> None:
    """Record ``(task, type, age, payload)``."""
    past: list[tuple[timedelta, dict[str, object]]] = [
        (age, {"task_id": task, "event_type": event_type, "payload": payload})
        for task, event_type, age, payload in events
    ]
    record_past(db, *past)


def names(found: list[TaskSummary]) -> list[str]:
    return [task.task_id for task in found]


def hours(number: float) -> timedelta:
    return timedelta(hours=number)


def test_a_task_is_summed_up(path: Path) -> None:
    with EventLog(path) as log:
        log.insert_event("t", None, "task_started")
        log.insert_event("", None, "daemon_started")
        log.insert_event("u", None, "custom")
        log.insert_event("t", None, "task_failed")
        first, _, _, last = log.query_events()
        found = log.query_tasks()
    assert found[0] == TaskSummary(
        task_id="t",
        events=2,
        first_event_id=1,
        first_created_at=first.created_at,
        last_event_id=4,
        last_event_type="task_failed",
        last_created_at=last.created_at,
        status="failed",
    )
    assert [(task.task_id, task.status) for task in found] == [("t", "failed"), ("u", "unknown")]


def test_tasks_are_found_by_status_and_by_when_they_were_active(db: Path) -> None:
    record(
        db,
        ("a", "task_started", hours(50), {}),
        ("b", "task_started", hours(49), {}),
        ("b", "task_failed", hours(48), {}),
        ("c", "task_failed", hours(3), {}),
        ("a", "step_started", hours(2), {"step": "s"}),
        ("d", "task_completed", hours(1), {}),
    )
    with EventReader(db) as reader:
        assert names(reader.query_tasks()) == ["d", "a", "c", "b"]
        assert names(reader.query_tasks(limit=2)) == ["d", "a"]
        assert names(reader.query_tasks(limit=0)) == []
        assert names(reader.query_tasks(status="failed")) == ["c", "b"]
        assert names(reader.query_tasks(status="failed", since=hours(24))) == ["c"]
        assert names(reader.query_tasks(since=datetime.now(UTC) - hours(2.5))) == ["d", "a"]
        assert names(reader.query_tasks(status="no such")) == []
        assert names(asyncio.run(reader.query_tasks_async(status="running", limit=1))) == ["a"]
        for wrong in ({"limit": -1}, {"since": "yesterday"}, {"since": timedelta.max}):
            options: Any = wrong
            with pytest.raises(ValueError, match=next(iter(wrong))):
                reader.query_tasks(**options)


def test_the_wanted_are_found_among_very_many(path: Path) -> None:
    with EventLog(path) as log:
        log.insert_event("old", None, "task_failed")
        log.insert_events((f"t{n}", None, "task_completed", {}) for n in range(300))
        assert names(log.query_tasks(status="failed")) == ["old"]
        assert len(log.query_tasks()) == 301
        assert names(log.query_tasks(limit=101))[-1] == "t199"


MANY: list[tuple[str, str, timedelta, dict[str, object]]] = [
    ("first", "task_started", hours(30), {"goal": "ship it"}),
    ("first", "step_started", hours(30), {"step": "plan", "step_scope": "task"}),
    ("first", "step_finished", hours(29), {"step": "plan", "success": False, "exit_code": 1}),
    ("first", "task_failed", hours(29), {}),
    ("second", "task_started", hours(2), {}),
    ("second", "step_started", hours(2), {"step": "build", "command": "make all"}),
    ("second", "step_finished", hours(1), {"step": "build", "success": True}),
    ("second", "task_completed", hours(1), {}),
    ("third", "custom", hours(0.5), {"name": "nightly"}),
    ("third", "step_started", hours(0), {"step": "s"}),
    ("", "daemon_started", hours(0), {}),
]


def test_the_table_says_how_each_task_went_and_what_it_is_about(db: Path) -> None:
    record(db, *MANY)
    title, *rows = outcome("--db", db, "tasks")[1].splitlines()
    assert title.split()[4:] == ["took", "events", "failed", "running", "about"]
    told = [[cell for cell in row.split("  ") if cell] for row in rows]
    assert [[row[0], *map(str.strip, row[3:])] for row in told] == [
        ["third", "30m 00s", "2", "1", "nightly"],
        ["second", "1h 00m", "4", "make all"],
        ["first", "1h 00m", "4", "1", "ship it"],
    ]
    assert outcome("--db", db, "tasks", "--no-task")[1].splitlines()[-1].startswith("''      -  ")


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ((), ["third", "second", "first"]),
        (("--failed",), ["first"]),
        (("--status", "completed"), ["second"]),
        (("--running",), []),
        (("--since", "1d"), ["third", "second"]),
        (("--limit", "1"), ["third"]),
        (("--all", "--no-task"), ["third", "second", "first", ""]),
    ],
)
def test_which_tasks_are_listed(db: Path, words: tuple[str, ...], found: list[str]) -> None:
    record(db, *MANY)
    code, printed, complaint = outcome("--db", db, "tasks", "--json", *words)
    lines = [json.loads(line) for line in printed.splitlines()]
    assert (code, complaint, [line["task_id"] for line in lines]) == (0, "", found)
    assert all(
        list(line)
        == [
            "task_id",
            "events",
            "first_event_id",
            "first_created_at",
            "last_event_id",
            "last_event_type",
            "last_created_at",
            "status",
        ]
        for line in lines
    )
    if not found:
        assert outcome("--db", db, "tasks", *words) == (0, "", "orch-events: no such tasks\n")


def test_as_many_tasks_are_listed_as_fit_on_the_screen(db: Path) -> None:
    with EventLog(db) as log:
        log.insert_events((f"t{n}", None, "x", {}) for n in range(30))
    assert len(outcome("--db", db, "tasks")[1].splitlines()) == 21
    assert outcome("--db", db, "tasks")[2] == "orch-events: there are more: --all, --limit N\n"
    assert len(outcome("--db", db, "tasks", "--all")[1].splitlines()) == 31
    assert outcome("--db", db, "tasks", "--limit", "2")[2] == ""
    with terminal("--db", db, "tasks", lines=10) as shown:
        assert shown.end() == 0
        assert [line.split()[0] for line in shown.screen.text().splitlines()] == [
            "task",
            *(f"t{n}" for n in range(29, 22, -1)),
            "orch-events:",
        ]


def test_a_command_without_a_task_takes_that_of_the_newest_event(db: Path) -> None:
    for task in ("old", "new", ""):
        record(db, (task, "task_started", hours(1), {}))
    status, printed, _ = outcome("--db", db, "trace")
    assert status == 0 and "new" in printed and "old" not in printed
