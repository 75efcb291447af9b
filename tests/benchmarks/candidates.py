# SPDX-License-Identifier: MIT
"""Who is measured on files: this library, plain `sqlite3`, and the peers, each as the same few functions.

Rule: a candidate does the work as its own documentation shows, with an fsync for each commit where it lets one choose.
A peer takes part where it is the one to beat, and is imported in the process that measures it and in no other.
"""

import asyncio
import json
import sqlite3
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields, make_dataclass
from datetime import UTC, datetime
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from typing import Any, Final, NamedTuple, TypeAlias
from uuid import UUID

from orch_events import STEP_EVENT_TYPES, EventLog, StepEvent

NewEvent: TypeAlias = tuple[str, str | None, str, dict[str, object]]
TASK: Final = "task-1"


@dataclass
class Log:
    """An open log, by what it can do. What returns has been acked."""

    close: Callable[[], object]
    append: Callable[[NewEvent], object] = NotImplemented
    bulk: Callable[[list[NewEvent]], object] = NotImplemented
    read: Callable[[], list[Any]] = NotImplemented  # all of `TASK`, each payload parsed
    listen: Callable[[], Iterator[int]] = NotImplemented  # each `elapsed_secs`, as it comes
    latest: Callable[[], object] = (
        NotImplemented  # what one wants of the newest spawned or started event
    )
    append_async: Callable[[NewEvent], Awaitable[object]] = NotImplemented
    read_async: Callable[[], Awaitable[list[Any]]] = NotImplemented


def orch_events(path: str, one_by_one: bool = False, **options: Any) -> Log:
    log = EventLog(path, **options)

    def submit(events: list[NewEvent]) -> None:
        for event in events:
            log.submit_event(*event)
        log.flush()

    return Log(
        log.close,
        lambda event: log.insert_event(*event),
        submit if one_by_one else log.insert_events,
        lambda: log.query_step_events(TASK),
        lambda: (event.elapsed_secs or 0 for event in log.follow_step_events(TASK)),
        lambda: log.query_latest_step_log_paths(TASK),
        lambda event: log.insert_event_async(*event),
        lambda: log.query_step_events_async(TASK),
    )


# The reference's table with its two indexes, and what is asked of it.
TABLE: Final = """
CREATE TABLE IF NOT EXISTS events(id INTEGER PRIMARY KEY AUTOINCREMENT, task_id TEXT NOT NULL, task_item_id TEXT,
    event_type TEXT NOT NULL, payload_json TEXT NOT NULL, created_at TEXT NOT NULL, step TEXT, step_scope TEXT,
    cycle INTEGER);
CREATE INDEX IF NOT EXISTS idx_events_task_created_at ON events(task_id, created_at);
CREATE INDEX IF NOT EXISTS idx_events_task_type_step ON events(task_id, event_type, step);
"""
COLUMNS: Final = (
    "task_id",
    "task_item_id",
    "event_type",
    "payload_json",
    "created_at",
    "step",
    "step_scope",
    "cycle",
)
INSERT: Final = f"INSERT INTO events({', '.join(COLUMNS)}) VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
ASK: Final = "SELECT event_type, step, step_scope, task_item_id, created_at, payload_json FROM events WHERE task_id = ?"
STEPS: Final = f"{ASK} AND event_type IN ({str([*map(str, STEP_EVENT_TYPES)])[1:-1]}) ORDER BY id"
LATEST: Final = f"{ASK} AND event_type IN ('step_spawned', 'step_started') ORDER BY id DESC LIMIT 1"
NEWS: Final = "SELECT id, payload_json FROM events WHERE id > ? ORDER BY id"
FIELDS: Final = [field.name for field in fields(StepEvent)][1:]
PAYLOAD_FIELDS: Final = FIELDS[4:-1]
Typed: Final[Callable[..., object]] = make_dataclass("Typed", FIELDS, slots=True)


def row_of(event: NewEvent) -> tuple[object, ...]:
    task_id, item_id, event_type, payload = event
    get = payload.get
    now = datetime.now(UTC).isoformat()
    step = get("step") or get("phase")
    return (
        task_id,
        item_id,
        event_type,
        json.dumps(payload),
        now,
        step,
        get("step_scope"),
        get("cycle"),
    )


def typed(row: tuple[Any, ...]) -> object:
    """A step event with whatever stands in its payload: the reader that one writes first."""
    kind, step, scope, item, at, text = row
    get = json.loads(text).get
    step = step or get("step") or get("phase")
    scope = scope or get("step_scope")
    return Typed(kind, step, scope, item, *map(get, PAYLOAD_FIELDS), at)


def plain(path: str, synchronous: str = "FULL", behind: bool = False, interval: float = 0) -> Log:
    """One connection and a lock. `behind`: batches are written in a thread. `interval`: between looks for news."""
    lock, connection = (
        threading.Lock(),
        sqlite3.connect(path, 60, isolation_level=None, check_same_thread=False),
    )
    connection.executescript(f"PRAGMA journal_mode=WAL; PRAGMA synchronous={synchronous}; {TABLE}")

    def append(event: NewEvent) -> object:
        row = row_of(event)
        with lock:
            return connection.execute(INSERT, row)

    def bulk(events: list[NewEvent]) -> None:
        connection.execute("BEGIN IMMEDIATE")
        connection.executemany(INSERT, map(row_of, events))
        connection.execute("COMMIT")

    def listen() -> Iterator[int]:
        last = 0
        version = None
        while True:
            before = version
            version = connection.execute("PRAGMA data_version").fetchone()
            rows = connection.execute(NEWS, (last,)).fetchall() if version != before else []
            for event_id, text in rows:
                last = event_id
                yield json.loads(text)["elapsed_secs"]
            time.sleep(interval)

    return Log(
        connection.close,
        append,
        (lambda events: ThreadPoolExecutor(1).submit(bulk, events).result()) if behind else bulk,
        lambda: list(map(typed, connection.execute(STEPS, (TASK,)))),
        listen,
        lambda: typed(connection.execute(LATEST, (TASK,)).fetchone()),
        lambda event: asyncio.to_thread(append, event),
    )


def honker(path: str) -> Log:
    database = import_module("honker").open(path)
    stream = database.stream("events")

    def append(event: NewEvent, **options: object) -> object:
        return stream.publish(
            {"item": event[1], "type": event[2], "payload": event[3]}, key=event[0], **options
        )

    def bulk(events: list[NewEvent]) -> None:
        with database.transaction() as transaction:
            for event in events:
                append(event, tx=transaction)

    async def take(messages: Any, number: int) -> list[Any]:
        return [(await anext(messages)).payload["payload"] for _ in range(number)]

    def read() -> list[Any]:
        (total,) = database.query("SELECT count(*) AS n FROM _honker_stream")
        return asyncio.run(take(stream.subscribe(from_offset=0), total["n"]))

    def listen() -> Iterator[int]:
        with asyncio.Runner() as runner:
            messages = stream.subscribe(from_offset=0)
            while True:
                yield runner.run(take(messages, 1))[0]["elapsed_secs"]

    return Log(database.close, append, bulk, read, listen)


def aiosqlite(path: str) -> Log:
    """One autocommitting connection for all coroutines, to a plain log."""

    async def connect() -> Any:
        return await import_module("aiosqlite").connect(path, timeout=60, isolation_level=None)

    async def append(event: NewEvent) -> None:
        await connection.execute(INSERT, row_of(event))

    async def read() -> list[Any]:
        return list(map(typed, await connection.execute_fetchall(STEPS, (TASK,))))

    bulk = plain(path).bulk
    connection = asyncio.run(connect())
    return Log(
        lambda: asyncio.run(connection.close()),
        bulk=bulk,
        read=lambda: asyncio.run(read()),
        append_async=append,
        read_async=read,
    )


def eventsourcing(path: str) -> Log:
    stored, module = (
        import_module("eventsourcing.persistence").StoredEvent,
        import_module("eventsourcing.sqlite"),
    )
    store = module.SQLiteDatastore(db_name=path)
    recorder = module.SQLiteApplicationRecorder(store)
    recorder.create_table()

    def bulk(events: list[NewEvent]) -> None:
        texts = (
            json.dumps({"task": event[0], "item": event[1], **event[3]}).encode()
            for event in events
        )
        kinds = (event[2] for event in events)
        recorder.insert_events(
            list(map(partial(stored, UUID(int=1)), range(1, len(events) + 1), kinds, texts))
        )

    return Log(store.close, bulk=bulk)


def litequeue(path: str) -> Log:
    queue = import_module("litequeue").LiteQueue(path, timeout=60)
    return Log(queue.close, lambda event: queue.put(json.dumps(event)))


def persistqueue(path: str) -> Log:
    connect = partial(
        import_module("persistqueue").FIFOSQLiteQueue, f"{path}.d", multithreading=True, timeout=60
    )

    def bulk(events: list[NewEvent]) -> None:
        later = connect(auto_commit=False)
        for event in events:
            later.put(event)
        later.task_done()

    queue = connect()
    return Log(queue.close, queue.put, bulk, queue.queue)


def sqlite_utils(path: str) -> Log:
    plain(path).close()
    table = import_module("sqlite_utils").Database(sqlite3.connect(path, 60))["events"]

    def bulk(events: list[NewEvent]) -> None:
        table.insert_all((dict(zip(COLUMNS, row_of(event))) for event in events), batch_size=1000)

    return Log(table.db.close, bulk=bulk)


class Candidate(NamedTuple):
    open: Callable[[str], Log]
    work: str
    ack: str
    steady: bool = False  # goes on beside a busy thread, so that it needs more to do there to be clocked at all


EACH: Final = "fsynced, each commit by itself"
NONE: Final = "NOT fsynced (synchronous=NORMAL)"
WRITING: Final = "W1 W2 W3 W4 W5bulk W5threads W8"
FILES: Final = {
    "orch_events": Candidate(
        orch_events,
        f"{WRITING} W6 W6c W7 W9 memory import loop",
        "fsynced, once for all who wait",
        True,
    ),
    "orch_events_normal": Candidate(partial(orch_events, durability="normal"), WRITING, NONE, True),
    "orch_events_submit": Candidate(
        partial(orch_events, one_by_one=True), "W4", "fsynced by the time of `flush`"
    ),
    "raw_naive": Candidate(plain, "W1 W2 W3 W5threads W8", EACH),
    "raw_naive_normal": Candidate(partial(plain, synchronous="NORMAL"), "W1 W2", NONE),
    "raw_executemany": Candidate(plain, "W4 W5bulk W9", EACH),
    "raw_bg_executemany": Candidate(partial(plain, behind=True), "W4 W5bulk", EACH),
    "raw_typed": Candidate(plain, "W6 W6c", EACH),
    "poll_5ms": Candidate(partial(plain, interval=0.005), "W7", EACH),
    "poll_1ms": Candidate(partial(plain, interval=0.001), "W7", EACH),
}
_PEERS: Final = {
    "honker": Candidate(honker, "W1 W2 W4 W5bulk W5threads W6 W6c W7", NONE, True),
    "aiosqlite": Candidate(aiosqlite, "W3 W6 W6c loop", EACH),
    "eventsourcing": Candidate(eventsourcing, "W4 W5bulk", EACH),
    "litequeue": Candidate(litequeue, "W1 W2 W5threads", NONE, True),
    "persistqueue": Candidate(persistqueue, "W1 W2 W5threads W6 W6c", EACH),
    "sqlite_utils": Candidate(sqlite_utils, "W4 W5bulk", EACH, True),
}
PEERS: Final = {name: peer for name, peer in _PEERS.items() if find_spec(name)}
"""Those that are installed, by the names of their modules."""
