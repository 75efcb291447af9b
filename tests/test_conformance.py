# SPDX-License-Identifier: MIT
"""The 400 rows of ``data/step_events.jsonl``, each with the reference's answer, through real files and public queries.

Values are compared by `repr`, in which 1, 1.0 and True differ, and 0.0 and -0.0 as well. Where we deviate from the
reference on purpose (64-bit pids, correctly rounded floats) the file holds our answer, marked ``deviation``.
"""

import asyncio
import json
import sqlite3
from collections.abc import Callable, Iterable
from contextlib import closing
from dataclasses import fields
from functools import partial
from operator import attrgetter
from pathlib import Path
from typing import Any, Final, NamedTuple

import pytest

from orch_events import (
    Event,
    EventLog,
    EventReader,
    StepEvent,
    StepLogPaths,
    observed_step_scope_from_payload,
    query_latest_step_log_paths,
    query_step_events,
)

from .engines import Current, only_files
from .helpers import outside

BOTH_ENGINES = True


class Case(NamedTuple):
    """A stored row and what reading it must give."""

    name: str
    event_type: str
    payload_json: str
    created_at: str
    task_item_id: str | None
    step: str | None
    step_scope: str | None
    fields: dict[str, object]
    log_paths: StepLogPaths | None
    scope_from_payload: str | None
    promoted: tuple[str | None, str | None, int | None]

    @property
    def task(self) -> str:
        """The task it has to itself."""
        return f"task of {self.name}"


def _case(line: str) -> Case:
    row = json.loads(line)
    expected: dict[str, Any] = row["expected"]
    paths = expected["log_paths"]
    promoted = expected["promoted"]
    return Case(
        name=row["name"],
        **row["input"],
        fields=expected["event"],
        log_paths=None if paths is None else StepLogPaths(*paths),
        scope_from_payload=expected["scope_from_payload"],
        promoted=(promoted["step"], promoted["step_scope"], promoted["cycle"]),
    )


DATA: Final = Path(__file__).parent / "data" / "step_events.jsonl"
CASES: Final = [_case(line) for line in DATA.read_text(encoding="utf-8").splitlines()]
FIELDS: Final = [field.name for field in fields(StepEvent) if field.name != "event_id"]


def cases() -> list[Case]:
    """The rows that the engine can hold: PostgreSQL has no NUL in a text."""
    if Current.database is None:
        return CASES
    return [
        case
        for case in CASES
        if not any("\0" in text for text in case[1:7] if isinstance(text, str))
    ]


TOGETHER: Final = "every row in one task"
GOOD: Final = '{"step":"neighbour","pid":1}'

COLUMNS: Final = "task_id, task_item_id, event_type, payload_json, created_at, step, step_scope"
OLD_TABLE: Final = """
CREATE TABLE events(id INTEGER PRIMARY KEY AUTOINCREMENT, task_id TEXT NOT NULL, task_item_id TEXT,
    event_type TEXT NOT NULL, payload_json TEXT NOT NULL, created_at TEXT NOT NULL)
"""


def shown(event: StepEvent) -> dict[str, str]:
    """Every field but the id, as `repr`; the scope as the plain string that the data file has."""
    values = {name: getattr(event, name) for name in FIELDS}
    return {
        name: repr(str(v) if name == "step_scope" and v is not None else v)
        for name, v in values.items()
    }


def wrong(found: Iterable[tuple[Case, StepEvent]]) -> dict[str, set[tuple[str, str]]]:
    """The cases that were read differently from what they should be, and the differing fields."""
    differences = {
        case.name: set(shown(event).items())
        - {(name, repr(value)) for name, value in case.fields.items()}
        for case, event in found
    }
    return {name: fields for name, fields in differences.items() if fields}


def check_each(read: Callable[[str], list[StepEvent]]) -> None:
    """Every row, read through `read` from the task it has to itself, is what it should be."""
    found = [(case, event) for case in cases() for event in read(case.task)]
    assert [case for case, _ in found] == cases()
    assert not wrong(found)


@pytest.fixture
def db_path(path: Path) -> Path:
    """A log in which each row has a task to itself, one with two good neighbours, and a place in a task of all."""
    EventLog(path).close()
    rows: list[tuple[str | None, ...]] = []
    for case in cases():
        values = (
            case.task_item_id,
            case.event_type,
            case.payload_json,
            case.created_at,
            case.step,
            case.step_scope,
        )
        good = (None, "step_started", GOOD, "", None, None)
        beside = f"{case.task}, with neighbours"
        rows += [
            (case.task, *values),
            (beside, *good),
            (beside, *values),
            (beside, *good),
            (TOGETHER, *values),
        ]
    outside(path, f"INSERT INTO events({COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?)", rows)
    return path


def test_the_file_has_400_cases_that_name_every_field() -> None:
    assert len(CASES) == 400
    assert all(case.fields.keys() == set(FIELDS) for case in CASES)


@pytest.mark.parametrize("opener", [EventLog, EventReader])
def test_each_row_reads_as_the_reference_has_it(
    db_path: Path, opener: type[EventLog] | type[EventReader]
) -> None:
    with opener(db_path) as log:
        check_each(log.query_step_events)


def test_each_row_reads_the_same_through_the_function(db_path: Path) -> None:
    check_each(partial(query_step_events, db_path))


def test_each_row_reads_the_same_in_a_coroutine(db_path: Path) -> None:
    async def read() -> dict[str, list[StepEvent]]:
        async with EventReader(db_path) as log:
            return {case.task: await log.query_step_events_async(case.task) for case in cases()}

    check_each(asyncio.run(read()).__getitem__)


def test_a_row_reads_the_same_beside_any_other(db_path: Path) -> None:
    with EventReader(db_path) as log:
        together = log.query_step_events(TOGETHER)
        assert len(together) == len(cases()) > 390
        assert not wrong(zip(cases(), together, strict=True))
        assert [event.event_id for event in together] == sorted(
            {event.event_id for event in together}
        )
        for case in cases():
            before, event, after = log.query_step_events(f"{case.task}, with neighbours")
            assert not wrong([(case, event)])
            assert (before.step, before.pid, after.step, after.pid) == (
                "neighbour",
                1,
                "neighbour",
                1,
            ), case.name


def test_stored_rows_come_back_as_they_are(db_path: Path) -> None:
    with EventReader(db_path) as log:
        events = list(log.query_events(TOGETHER))
    columns = attrgetter("task_item_id", "event_type", "payload_json", "created_at")
    assert [columns(event) for event in events] == [columns(case) for case in cases()]


def test_log_paths(tmp_path: Path) -> None:
    path = tmp_path / "events.db"
    with EventLog(path) as log:
        outside(  # every row as if it were its task's newest ``step_spawned``
            path,
            "INSERT INTO events(task_id, event_type, payload_json, created_at) VALUES (?, 'step_spawned', ?, '')",
            [(case.task, case.payload_json) for case in cases()],
        )

        async def read() -> list[StepLogPaths | None]:
            return [await log.query_latest_step_log_paths_async(case.task) for case in cases()]

        expected = [case.log_paths for case in cases()]
        assert sum(paths is not None for paths in expected) > 90
        assert [log.query_latest_step_log_paths(case.task) for case in cases()] == expected
        assert [query_latest_step_log_paths(path, case.task) for case in cases()] == expected
        assert asyncio.run(read()) == expected


def test_the_newest_spawned_or_started_event_alone_tells_the_log_paths(tmp_path: Path) -> None:
    history: list[tuple[str, dict[str, object], StepLogPaths | None]] = [
        ("step_spawned", {"phase": "a", "stdout_path": "1"}, StepLogPaths("a", "1", "")),
        (
            "step_started",
            {"step": "b", "stdout_path": "2", "stderr_path": "3"},
            StepLogPaths("b", "2", "3"),
        ),
        ("step_finished", {"phase": "c", "stdout_path": "4"}, StepLogPaths("b", "2", "3")),
        ("step_spawned", {"phase": "", "step": "d", "stdout_path": "5"}, None),
        ("step_spawned", {"phase": 6, "step": "e", "stdout_path": "7"}, StepLogPaths("e", "7", "")),
        ("step_started", {"step": "f"}, None),
    ]
    with EventLog(tmp_path / "events.db") as log:
        for event_type, payload, expected in history:
            log.insert_event("t", None, event_type, payload)
            assert log.query_latest_step_log_paths("t") == expected


def test_scope_from_payload(db_path: Path) -> None:
    with EventReader(db_path) as log:
        scopes = [
            observed_step_scope_from_payload(event.payload) for event in log.query_events(TOGETHER)
        ]
    assert scopes == [case.scope_from_payload for case in cases()]


def _promoted_columns(path: Path) -> list[tuple[str | None, str | None, int | None]]:
    return outside(path, "SELECT step, step_scope, cycle FROM events ORDER BY id")


def test_promoted_columns_are_written(tmp_path: Path, db_path: Path) -> None:
    with EventReader(db_path) as log:
        payloads = [event.payload for event in log.query_events(TOGETHER)]
    inserted = [
        (case, payload)
        for case, payload in zip(cases(), payloads, strict=True)
        if isinstance(payload, dict)
        and (Current.database is None or "\0" not in f"{case.promoted[0]}{case.promoted[1]}")
    ]
    assert len(inserted) > 250
    with EventLog(tmp_path / "new.db", durability="normal") as log:
        for case, payload in inserted:
            log.insert_event(case.task, case.task_item_id, case.event_type, payload)
    assert repr(_promoted_columns(tmp_path / "new.db")) == repr(
        [case.promoted for case, _ in inserted]
    )


@only_files
def test_promoted_columns_are_added_to_an_old_file(tmp_path: Path) -> None:
    path = tmp_path / "old.db"
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(OLD_TABLE)
        connection.executemany(
            "INSERT INTO events(task_id, task_item_id, event_type, payload_json, created_at) VALUES ('t', ?, ?, ?, ?)",
            [
                (case.task_item_id, case.event_type, case.payload_json, case.created_at)
                for case in CASES
            ],
        )
    unpromoted = [
        i for i, case in enumerate(CASES) if case.step is None and case.step_scope is None
    ]

    before = query_step_events(path, "t")  # leaves the file as it is
    assert not wrong((CASES[i], before[i]) for i in unpromoted)
    EventLog(path).close()
    assert repr(_promoted_columns(path)) == repr([case.promoted for case in CASES])
    assert repr(query_step_events(path, "t")) == repr(before)


# ------------------------------------------------------------------------------------------------ a check on the data


def _naive(case: Case) -> dict[str, object]:
    """What a reader made of `json.loads` and `isinstance` gives."""
    try:
        payload = json.loads(case.payload_json)
    except (ValueError, RecursionError):
        payload = None
    get = payload.get if isinstance(payload, dict) else {}.get
    kinds: dict[str, type | tuple[type, ...]] = {
        "confidence": (float, int),
        "success": bool,
        "pid_alive": bool,
    }
    kinds |= dict.fromkeys(("agent_id", "reason", "output_state"), str)
    read: dict[str, object] = {
        name: v if isinstance(v := get(name), kinds.get(name, int)) else None for name in FIELDS
    }
    read |= {name: getattr(case, name) for name in ("event_type", "task_item_id", "created_at")}
    scope = case.step_scope or get("step_scope")
    read["step"] = case.step or get("step") or get("phase")
    read["step_scope"] = scope if scope in ("task", "item") else None
    return read


def test_the_data_tell_a_careless_reader_from_ours() -> None:
    assert (
        sum(
            repr(_naive(case)) != repr({name: case.fields[name] for name in FIELDS})
            for case in cases()
        )
        > 40
    )


def test_payloads_that_are_not_json_say_so(db_path: Path) -> None:
    bad = {case.name for case in cases() if case.name.startswith("invalid/")}
    with EventReader(db_path) as log:
        events: list[Event] = list(log.query_events(TOGETHER))
    assert {
        case.name for case, event in zip(cases(), events, strict=True) if event.payload is None
    } >= bad
