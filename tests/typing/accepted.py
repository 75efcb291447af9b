# SPDX-License-Identifier: MIT
"""A program that uses every public name as its users would. It must pass ``mypy --strict``, and run.

Usage: ``accepted.py DIRECTORY``
"""

import asyncio
import logging
import sqlite3
import sys
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import closing
from dataclasses import asdict, replace
from datetime import timedelta
from enum import StrEnum
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypedDict, assert_never, assert_type

import orch_events
from orch_events import (
    STEP_EVENT_TYPES,
    Cleanup,
    Event,
    EventLog,
    EventReader,
    EventSink,
    EventType,
    FanoutSink,
    ForkedError,
    JsonObject,
    JsonValue,
    LogClosedError,
    LogNotFoundError,
    NoopSink,
    ObservedStepScope,
    OrchEventsError,
    PayloadError,
    PostgresConnection,
    PostgresCursor,
    PostgresDatabase,
    PrunedError,
    QueueFullError,
    ReadError,
    RecordingSink,
    SchemaError,
    Stats,
    StepEvent,
    StepLogPaths,
    TaskSummary,
    TracingEventSink,
    WriteError,
    follow_log_file,
    insert_event_with_conn,
    observed_step_scope_from_payload,
    observed_step_scope_label,
    query_latest_step_log_paths,
    query_step_events,
)

# ------------------------------------------------------------------------------------------------ what users write


class DeployEvent(StrEnum):
    """Event types of the program's own."""

    ROLLED_OUT = "deploy_rolled_out"


class Spawned(TypedDict, total=False):
    """A payload that the program keeps typed."""

    step: str
    pid: int
    stdout_path: str
    limits: Mapping[str, int]


class Counter:
    """A sink: any class with this one method."""

    def __init__(self) -> None:
        self.seen: dict[str, int] = {}

    def emit(
        self, task: str, item: str | None, kind: str, payload: Mapping[str, object], /
    ) -> None:
        self.seen[kind] = self.seen.get(kind, 0) + len(payload)


class Careless:
    """Other names and wider types are as good."""

    def emit(self, *args: object) -> None: ...


class Untyped:
    """So is `Any`."""

    def emit(
        self, task_id: str, task_item_id: str | None, event_type: str, payload: Mapping[str, Any]
    ) -> None:
        payload.get("step")


def sinks() -> list[EventSink]:
    counter: EventSink = Counter()
    return [
        counter,
        Careless(),
        Untyped(),
        NoopSink(),
        RecordingSink(),
        TracingEventSink(),
        FanoutSink([Counter()]),
    ]


# ------------------------------------------------------------------------------------------------ writing


def write(path: Path) -> None:
    recorder = RecordingSink()
    with EventLog(
        path, sink=FanoutSink([recorder, *sinks()]), durability="normal", queue_capacity=100
    ) as log:
        assert_type(log, EventLog)
        assert_type(log.insert_event("t", None, "task_started", {}), int)
        assert_type(
            log.submit_event("t", "i", EventType.STEP_STARTED, {"tags": ["a", ("b", 1)]}),
            Future[int],
        )
        assert_type(
            log.insert_events([("t", None, "x", {}), ("t", "i", EventType.STEP_FINISHED, {})]),
            list[int],
        )

        spawned: Spawned = {
            "step": "qa",
            "pid": 7,
            "stdout_path": "/dev/null",
            "limits": {"cpu": 2},
        }
        words: dict[str, str] = {"reason": "done"}
        counts: dict[str, list[int]] = {"sizes": [1, 2]}
        mixed: dict[str, int | str | None] = {"a": 1, "b": "c", "d": None}
        objects: dict[str, object] = {"any": [1, {"thing": 2.5}]}
        json_object: JsonObject = {"a": [None, {"b": 0.5}]}
        payloads: list[Mapping[str, object]] = [
            words,
            counts,
            mixed,
            objects,
            json_object,
            MappingProxyType({"x": 1}),
        ]
        log.insert_event("t", None, EventType.STEP_SPAWNED, spawned)
        log.insert_events(("t", None, DeployEvent.ROLLED_OUT, payload) for payload in payloads)
        assert_type(log.flush(), None)
    assert_type(recorder.events[0][1], str | None)
    assert_type(recorder.events[0][3], Mapping[str, object])
    assert_type(log.close(), None)


def write_beside_own_rows(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("CREATE TABLE orders(id INTEGER PRIMARY KEY)")
        assert_type(insert_event_with_conn(connection, "t", None, "ordered", {"order": 1}), int)


class OwnCursor:
    def execute(self, query: bytes, params: Sequence[object]) -> None: ...

    def fetchall(self) -> list[tuple[int]]:
        return []


class OwnConnection:
    def cursor(self) -> OwnCursor:
        return OwnCursor()

    def close(self) -> None: ...


def write_to_a_database(connect: Callable[[], PostgresConnection]) -> None:
    cursor: PostgresCursor = OwnCursor()
    assert_type(cursor.fetchall(), Sequence[object])
    for database in (PostgresDatabase(OwnConnection), PostgresDatabase(connect, schema="tasks")):
        with EventLog(database) as log:
            log.insert_event("t", None, "ordered", {})
        assert_type(query_step_events(database, "t"), list[StepEvent])
    connection = OwnConnection()
    assert_type(insert_event_with_conn(connection, "t", None, "x", {}, schema="tasks"), int)


async def write_async(path: Path) -> None:
    async with EventLog(path, sink=NoopSink()) as log:
        assert_type(log, EventLog)
        assert_type(
            await log.insert_event_async("t", "i", EventType.STEP_FINISHED, {"success": True}), int
        )
        async with asyncio.TaskGroup() as group:
            task = group.create_task(log.insert_event_async("t", None, "x", {}))
            group.create_task(log.insert_events_async([("t", None, "x", {})]))
        assert_type(task.result(), int)
        assert_type(
            await asyncio.gather(log.insert_events_async([]), log.flush_async()),
            tuple[list[int], None],
        )
        assert_type(await log.query_step_events_async("t"), list[StepEvent])
        assert_type(await log.stats_async(), Stats)
        assert_type(await log.query_tasks_async(), list[TaskSummary])
        async with log.step_async("t", "a block", heartbeat=10) as outcome:
            outcome["tokens"] = 512
        assert_type(await log.query_latest_step_log_paths_async("t"), StepLogPaths | None)
    await log.aclose()


# ------------------------------------------------------------------------------------------------ reading


def read(path: Path) -> None:
    with EventReader(path, busy_timeout=1) as reader:
        assert_type(reader, EventReader)
        steps = reader.query_step_events("t", after_id=0)
        assert_type(steps, list[StepEvent])
        assert_type(reader.query_events(), Iterator[Event])
        for event in reader.query_events("t", event_type_prefix="step_", after_id=1, limit=10):
            assert_type(event.payload, JsonValue)
            if isinstance(event.payload, dict):
                assert_type(event.payload, JsonObject)
        for event in reader.follow_events(after_id=1, stop=threading.Event(), timeout=0.01):
            assert_type(event, Event)
        for step in reader.follow_step_events("t", until_finished=True, timeout=0.01):
            assert_type(step, StepEvent)
    assert_type(query_step_events(path, "t"), list[StepEvent])
    paths = query_latest_step_log_paths(str(path), "t")
    assert_type(paths, StepLogPaths | None)
    if paths is not None:
        phase, stdout, stderr = paths
        assert_type((phase, stdout, stderr), tuple[str, str, str])
        assert_type(paths.stdout_path, str)
        assert_type(
            follow_log_file(paths.stdout_path, lines=10, stop=threading.Event()), Iterator[str]
        )


async def read_async(path: Path) -> int:
    async with EventReader(path) as reader:
        assert_type(reader, EventReader)
        events = reader.query_events_async("t", limit=3)
        assert_type(events, AsyncIterator[Event])
        found = [event.event_id async for event in events]
        found += [event.event_id async for event in reader.follow_events_async("t", timeout=0.01)]
        found += [
            step.event_id
            async for step in reader.follow_step_events_async("t", after_id=3, timeout=0.01)
        ]
    return sum(found)


def keep_small(path: Path) -> None:
    def tell(done: Cleanup) -> None:
        assert_type(done.events, int)

    with EventLog(path) as log:
        assert_type(log.cleanup(older_than=timedelta(days=30), keep_last=3, progress=tell), Cleanup)
        done = log.cleanup(
            max_bytes=500_000_000, only_finished=False, dry_run=True, archive=path.parent, gzip=True
        )
        assert_type(done.archived, tuple[str, ...])
        done = log.cleanup(
            older_than=timedelta(days=30),
            abandoned=["t"],
            archive=path.parent,
            output=path.parent,
            archive_output=True,
        )
        assert_type(done.output_files, int)
        assert_type(log.stats(), Stats)
        tasks = log.query_tasks(status="running", since=timedelta(days=1), limit=10)
        assert_type(tasks, list[TaskSummary])
        with log.step("t", "a block", item="i", agent="a", payload={"cycle": 1}) as outcome:
            outcome["tokens"] = 512
            assert_type(outcome, dict[str, object])
        assert_type(log.stats(days=7).days, Mapping[str, int])
        try:
            list(log.query_events(after_id=1))
        except PrunedError as error:
            assert_type(error.first_available_id, int)


def describe(event: StepEvent) -> str:
    match event:
        case StepEvent(event_type=EventType.STEP_FINISHED, success=True, step=str(step)):
            assert_type(step, str)
            return f"{step} succeeded"
        case StepEvent(event_type=kind, pid=int() as pid) if kind in STEP_EVENT_TYPES:
            return f"{kind} in process {pid}"
        case _:
            return replace(event, reason="unknown").event_type


def scope_of(event: Event | StepEvent) -> str:
    scope = (
        observed_step_scope_from_payload(event.payload)
        if isinstance(event, Event)
        else event.step_scope
    )
    assert_type(scope, ObservedStepScope | None)
    match scope:
        case ObservedStepScope.TASK | ObservedStepScope.ITEM:
            return scope.value.upper()
        case None:
            return observed_step_scope_label(scope)
    assert_never(scope)


def fields(event: StepEvent) -> dict[str, object]:
    assert_type(event.duration_ms, int | None)
    assert_type(event.confidence, float | None)
    assert_type({event}, set[StepEvent])
    return asdict(event)


# ------------------------------------------------------------------------------------------------ errors


def explain(error: OrchEventsError) -> str:
    match error:
        case PayloadError(key_path=place):
            return place
        case (
            WriteError(path=path, sqlite_errorname=name)
            | ReadError(path=path, sqlite_errorname=name)
        ):
            return f"{path}: {name}"
        case LogNotFoundError():
            return str(error.filename)
        case QueueFullError() | LogClosedError() | ForkedError() | SchemaError():
            return type(error).__name__
        case _:
            return str(error)


def complain(directory: Path) -> Iterator[str]:
    try:
        EventReader(directory / "nowhere.db")
    except FileNotFoundError as error:
        assert_type(error, FileNotFoundError)
        yield f"no file {Path(error.filename).name}"
    with EventLog(directory / "events.db") as log:
        try:
            log.insert_event("t", None, "x", {"a": {"b": [float("nan")]}})
        except OrchEventsError as error:
            yield explain(error)
        try:
            log.insert_event("\ud800", None, "x", {})
        except ValueError as error:
            yield type(error).__name__


def main(directory: Path) -> None:
    logging.basicConfig(level=logging.ERROR)
    path = directory / "events.db"
    write(path)
    write_beside_own_rows(path)
    jobs: list[Callable[[Path], Coroutine[None, None, object]]] = [write_async, read_async]
    for job in jobs:
        asyncio.run(job(path))
    read(path)
    keep_small(path)
    for event in query_step_events(path, "t"):
        print(describe(event), scope_of(event), len(fields(event)), sep="\t")
    print(*complain(directory), sep="\n")
    assert_type(orch_events.__version__, str)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
