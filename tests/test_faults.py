# SPDX-License-Identifier: MIT
"""Faults injected into a live log: each caller gets a typed error with its cause, and the log works again after."""

import asyncio
import ctypes
import json
import logging
import sqlite3
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Final, TypeAlias

import pytest

from orch_events import EventLog, OrchEventsError, RecordingSink, WriteError, insert_event_with_conn

from .helpers import (
    PATIENCE,
    Gate,
    NewEvent,
    execute,
    library_threads,
    numbers,
    poison,
    run_script,
    start,
    stored,
    write_connection,
    write_locked,
)

Fault: TypeAlias = Callable[[EventLog, Path], Iterator[None]]

BIG: Final[NewEvent] = ("t", None, "big", {"text": "x" * 9000})
MANY: Final[list[NewEvent]] = [("t", None, "big", {"text": "x" * 90})] * 3000
"""More than one statement takes, so that the batch is a transaction of several."""


# ---------------------------------------------------------------------------------- whatever the fault, whoever calls


def disk_full(log: EventLog, path: Path) -> Iterator[None]:
    connection = write_connection(log)
    (pages,) = connection.execute("PRAGMA page_count").fetchone()
    connection.execute(f"PRAGMA max_page_count={pages}")
    yield
    connection.execute("PRAGMA max_page_count=1000000")


def busy(log: EventLog, path: Path) -> Iterator[None]:
    with write_locked(path):
        yield


def read_only(log: EventLog, path: Path) -> Iterator[None]:
    write_connection(log).execute("PRAGMA query_only=ON")
    yield
    write_connection(log).execute("PRAGMA query_only=OFF")


def interrupted(log: EventLog, path: Path) -> Iterator[None]:
    write_connection(log).set_progress_handler(lambda: 1, 10)
    yield
    write_connection(log).set_progress_handler(None, 0)


def commit_fails(log: EventLog, path: Path) -> Iterator[None]:
    write_connection(log).execute("PRAGMA foreign_keys=ON")
    execute(
        path,
        "CREATE TABLE owner(id INTEGER PRIMARY KEY)",
        "CREATE TABLE owned(id INTEGER REFERENCES owner(id) DEFERRABLE INITIALLY DEFERRED)",
        "CREATE TRIGGER dangling AFTER INSERT ON events BEGIN INSERT INTO owned VALUES (new.id); END",
    )
    yield
    execute(path, "DROP TRIGGER dangling")


def refused_by_trigger(kind: str) -> Fault:
    def fault(log: EventLog, path: Path) -> Iterator[None]:
        execute(
            path,
            f"CREATE TRIGGER refuse AFTER INSERT ON events BEGIN SELECT raise({kind}, 'no'); END",
        )
        yield
        execute(path, "DROP TRIGGER refuse")

    return fault


FAULTS: Final[dict[str, tuple[Fault, str]]] = {
    "disk full": (disk_full, "SQLITE_FULL"),
    "busy": (busy, "SQLITE_BUSY"),
    "read-only": (read_only, "SQLITE_READONLY"),
    "interrupted": (interrupted, "SQLITE_INTERRUPT"),
    "commit fails": (commit_fails, "SQLITE_CONSTRAINT_FOREIGNKEY"),
    "raise(ABORT)": (refused_by_trigger("ABORT"), "SQLITE_CONSTRAINT_TRIGGER"),
    "raise(FAIL)": (refused_by_trigger("FAIL"), "SQLITE_CONSTRAINT_TRIGGER"),
    "raise(ROLLBACK)": (refused_by_trigger("ROLLBACK"), "SQLITE_CONSTRAINT_TRIGGER"),
}
WAYS: Final[dict[str, Callable[[EventLog], object]]] = {
    "insert_event": lambda log: log.insert_event(*BIG),
    "insert_events": lambda log: log.insert_events([BIG] * 5),
    "many insert_events": lambda log: log.insert_events(MANY),
    "submit_event": lambda log: log.submit_event(*BIG).result(PATIENCE),
    "insert_event_async": lambda log: asyncio.run(log.insert_event_async(*BIG)),
    "insert_events_async": lambda log: asyncio.run(log.insert_events_async([BIG] * 5)),
}


@pytest.mark.parametrize(("fault", "name"), FAULTS.values(), ids=FAULTS)
@pytest.mark.parametrize("write", WAYS.values(), ids=WAYS)
def test_a_failed_write_is_typed_and_leaves_nothing_behind(
    path: Path, fault: Fault, name: str, write: Callable[[EventLog], object]
) -> None:
    heard: list[str] = []

    class Sink:
        def emit(
            self, _task: str, _item: str | None, event_type: str, _payload: Mapping[str, object], /
        ) -> None:
            heard.append(event_type)

    with EventLog(path, busy_timeout=0.1, sink=Sink()) as log:
        assert log.insert_event("t", None, "before", {}) == 1
        with contextmanager(fault)(log, path):
            for _ in range(2):
                with pytest.raises(WriteError) as caught:
                    write(log)
                assert caught.value.path == str(path)
                assert caught.value.sqlite_errorname == name
                assert isinstance(caught.value.__cause__, sqlite3.Error)
                assert not write_connection(log).in_transaction
                assert [row.event_type for row in stored(path)] == ["before"]
        write(log)
        after = log.insert_event("t", None, "after", {})
        log.flush()
    rows = stored(path)
    assert rows[-1].event_id == after
    assert (
        [row.event_type for row in rows] == heard == ["before", *["big"] * (len(rows) - 2), "after"]
    )


def test_a_real_write_error_from_the_file_system(tmp_path: Path, path: Path) -> None:
    """A limit on file sizes makes the operating system itself refuse to let the log grow."""
    printed = run_script(
        tmp_path,
        """
        import json, os, resource, sys
        from orch_events import EventLog, WriteError

        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        with EventLog(sys.argv[1]) as log:
            ids = [log.insert_event("t", None, "x", {})]
            resource.setrlimit(resource.RLIMIT_FSIZE, (os.stat(sys.argv[1] + "-wal").st_size, hard))
            for write in (log.insert_event, lambda *event: log.submit_event(*event).result()):
                try:
                    write("t", None, "x", {})
                except WriteError as error:
                    assert error.sqlite_errorname.startswith("SQLITE_IOERR"), error.sqlite_errorname
                else:
                    raise AssertionError("written")
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
            ids.append(log.insert_event("t", None, "x", {}))
            ids.append(log.submit_event("t", None, "x", {}).result())
        print(json.dumps(ids))
        """,
        path,
    )
    assert [row.event_id for row in stored(path)] == numbers(printed)


FULL_DISK: Final = """
import os, sys
from orch_events import EventLog, EventReader, WriteError

folder = sys.argv[1]
path, ballast = f"{folder}/events.db", f"{folder}/ballast"
event = ("t", None, "x", {"text": "x" * 2000})

def submitted(log):
    futures = [log.submit_event(*event) for _ in range(20)]
    errors = [future.exception() for future in futures]
    return [future.result() for future in futures]

ways = [lambda log: [log.insert_event(*event)], lambda log: log.insert_events([event] * 20), submitted]
with open(ballast, "wb") as file:
    file.write(bytes(1_300_000))
acked = []
with EventLog(path) as log:
    for _ in range(2):
        for way in ways:
            for _ in range(1000):
                try:
                    acked += way(log)
                except WriteError as error:
                    assert error.sqlite_errorname == "SQLITE_FULL", error.sqlite_errorname
                    break
            else:
                raise AssertionError("never full")
    with open(f"{folder}/rest", "wb", buffering=0) as file:
        try:
            while file.write(bytes(4096)):
                pass
        except OSError:
            pass
    try:
        EventLog(f"{folder}/other.db").close()
    except WriteError as error:
        assert error.sqlite_errorname == "SQLITE_FULL", error.sqlite_errorname
    else:
        raise AssertionError("room for another log")
    os.unlink(ballast)
    for way in ways:
        acked += way(log)
    log.flush()
os.unlink(f"{folder}/rest")
EventLog(f"{folder}/other.db").close()
with EventReader(path) as reader:
    found = [event.event_id for event in reader.query_events()]
assert set(acked) <= set(found) and found == list(range(1, len(found) + 1)), (len(acked), len(found))
print(len(acked), len(found))
"""


def test_a_really_full_disk_is_an_error_until_there_is_room(tmp_path: Path) -> None:
    """In a file system of 2 MB, which vanishes with the process that mounts it."""
    disk = tmp_path / "disk"
    disk.mkdir()
    shell = 'mount -t tmpfs -o size=2m,mode=700 tmpfs "$0" && exec "$@"'
    mount = ("unshare", "--user", "--map-root-user", "--mount", "sh", "-c", shell, str(disk))
    try:
        subprocess.run([*mount, "true"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"mounts no file system here: {getattr(error, 'stderr', error)}")
    acked, found = map(int, run_script(tmp_path, FULL_DISK, disk, wrapper=mount).split())
    assert 40 < acked <= found < 1000
    assert list(disk.iterdir()) == []


# ----------------------------------------------------------------------------------------- who shares a failed commit


@pytest.mark.parametrize("kind", ["ABORT", "ROLLBACK", "FAIL"])
def test_a_poisoned_event_leaves_its_neighbours_unharmed(
    log: EventLog, path: Path, kind: str
) -> None:
    execute(path, poison(kind))
    types = ["good", "bad", "good", "good", "bad", "good"]
    with write_locked(path):  # so that they are committed together
        futures = [log.submit_event("t", None, kind, {"n": n}) for n, kind in enumerate(types)]
        batch = start(
            lambda: log.insert_events(
                [("t", None, "bad" if n == 2 else "batch", {}) for n in range(4)]
            )
        )
    errors = [future.exception(PATIENCE) for future in futures]
    assert [isinstance(error, WriteError) for error in errors] == [kind == "bad" for kind in types]
    assert isinstance(batch.exception(PATIENCE), WriteError)
    acked = {future.result(): {"n": n} for n, future in enumerate(futures) if errors[n] is None}
    assert {row.event_id: row.payload for row in stored(path)} == acked


COPY: Final = "INSERT INTO events VALUES (NULL, 'host', NULL, 'copy', '{}', '', NULL, NULL, NULL)"
AFTER: Final = "CREATE TRIGGER p AFTER INSERT ON events WHEN new.event_type = 'bad' BEGIN "
COUNT: Final = """
CREATE TRIGGER p AFTER INSERT ON events BEGIN
    INSERT OR IGNORE INTO counts VALUES (new.event_type, 0);
    UPDATE counts SET n = n + 1 WHERE kind = new.event_type;
END"""
IN_THE_WAY: Final[dict[str, tuple[list[str], int]]] = {
    "ignores some": ([poison("IGNORE").replace(", 'no'", "")], 0),
    "adds before": (
        [f"CREATE TRIGGER p BEFORE INSERT ON events WHEN new.event_type = 'bad' BEGIN {COPY}; END"],
        1,
    ),
    "adds after": ([f"{AFTER}{COPY}; END"], 1),
    "deletes": ([AFTER + "DELETE FROM events WHERE id = new.id; END"], 0),
    "renumbers": ([AFTER + "UPDATE events SET id = id + 100000 WHERE id = new.id; END"], 0),
    "counts": (["CREATE TABLE counts(kind TEXT UNIQUE, n INTEGER)", COUNT], 0),
}
"""What a host's triggers may do with events of type ``bad``, and how many events of its own that makes for each."""


@pytest.mark.parametrize(
    ("moment", "statements", "copies"),
    [
        pytest.param(
            moment,
            *means,
            id=f"{name}, {moment}",
            marks=() if moment == "while open" or name == "counts" else pytest.mark.long,
        )
        for moment in ("before", "while open")
        for name, means in IN_THE_WAY.items()
    ],
)
def test_no_trigger_of_the_host_makes_an_id_wrong(
    path: Path, moment: str, statements: list[str], copies: int
) -> None:
    types = ["good", "bad", "good", "bad", "good"]
    if moment == "before":
        EventLog(path).close()
        execute(path, *statements)
    acked: dict[int, str] = {}
    with EventLog(path, sink=(sink := RecordingSink())) as log:
        acked[log.insert_event("t", None, "good", {})] = "good"
        if moment == "while open":
            execute(path, *statements)
        with write_locked(path):  # so that they are committed together
            futures = [log.submit_event("t", None, kind, {}) for kind in types]
        for kind, future in zip(types, futures, strict=True):
            with suppress(WriteError):
                acked[future.result(PATIENCE)] = kind
        for batch in (["good"] * 3, types, ["good"] * 2500, [*["good"] * 2500, "bad", "good"]):
            with suppress(WriteError):
                acked.update(
                    zip(
                        log.insert_events([("t", None, kind, {}) for kind in batch]),
                        batch,
                        strict=True,
                    )
                )
        with suppress(WriteError):
            acked[log.insert_event("t", None, "bad", {})] = "bad"
        execute(path, "DROP TRIGGER p")
        for _ in range(3):
            ids = log.insert_events([("t", None, "good", {})] * 3)
            acked.update(dict.fromkeys(ids, "good"))
    kept = {row.event_id: row.event_type for row in stored(path)}
    assert {event_id: kind for event_id, kind in kept.items() if kind != "copy"} == acked
    assert list(kept.values()).count("copy") == copies * list(acked.values()).count("bad")
    assert [event[2] for event in sink.events] == list(acked.values())
    assert list(acked.values()).count("good") >= 2500 + 3 + 3 + 9 + 1


def test_a_row_that_a_conflict_clause_would_drop_is_an_error(path: Path) -> None:
    columns = "id INTEGER PRIMARY KEY, task_id TEXT, task_item_id TEXT, event_type TEXT, payload_json TEXT, created_at"
    execute(path, f"CREATE TABLE events({columns}, UNIQUE(task_id, event_type) ON CONFLICT IGNORE)")
    with EventLog(path) as log:
        assert log.insert_event("t", None, "a", {}) == 1
        for events in (["a"], ["b", "a"], ["c", "c"]):
            with pytest.raises(WriteError) as caught:
                log.insert_events([("t", None, kind, {}) for kind in events])
            assert caught.value.sqlite_errorname == "SQLITE_CONSTRAINT_UNIQUE"
        assert log.insert_event("t", None, "b", {}) == 2
    assert [row.event_type for row in stored(path)] == ["a", "b"]


def test_an_event_in_the_callers_transaction_is_there_or_an_error(path: Path) -> None:
    EventLog(path).close()
    execute(path, *IN_THE_WAY["ignores some"][0])
    with closing(sqlite3.connect(path)) as connection:
        assert insert_event_with_conn(connection, "t", None, "good", {}) == 1
        with pytest.raises(WriteError, match="ignores"):
            insert_event_with_conn(connection, "t", None, "bad", {})
        assert insert_event_with_conn(connection, "t", None, "good", {}) == 2


def test_a_full_disk_fails_every_waiting_call(path: Path) -> None:
    with EventLog(path, busy_timeout=PATIENCE) as log, contextmanager(disk_full)(log, path):
        with write_locked(path):
            futures = [log.submit_event(*BIG) for _ in range(200)]
            blocked = [start(lambda: log.insert_event(*BIG)) for _ in range(4)]
        errors = [future.exception(PATIENCE) for future in futures + blocked]
        assert all(
            isinstance(error, WriteError) and error.sqlite_errorname == "SQLITE_FULL"
            for error in errors
        )
        assert stored(path) == []


# --------------------------------------------------------------------------------------------- nothing fails silently


def lose(log: EventLog, path: Path, count: int) -> None:
    """Fail `count` events that nobody waits for."""
    execute(path, poison())
    with write_locked(path):
        for _ in range(count):
            log.submit_event("t", None, "bad", {})
        log.submit_event("t", None, "good", {})


def test_a_failure_that_no_caller_waits_for_is_logged_and_raised_by_flush_once(
    log: EventLog, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    lose(log, path, 3)
    with pytest.raises(WriteError) as caught:
        log.flush()
    assert caught.value.sqlite_errorname == "SQLITE_CONSTRAINT_TRIGGER"
    assert any("2 more" in note for note in caught.value.__notes__)
    assert [record.levelno for record in caplog.records] == [logging.ERROR] * 3
    log.flush()
    log.close()


def test_close_raises_what_flush_did_not_and_closes_all_the_same(log: EventLog, path: Path) -> None:
    lose(log, path, 1)
    with pytest.raises(WriteError):
        log.close()
    log.close()
    assert [row.event_type for row in stored(path)] == ["good"]
    assert library_threads() == []


def test_a_failure_its_holder_can_see_is_not_raised_again(
    log: EventLog, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    execute(path, poison())
    held = log.submit_event("t", None, "bad", {})
    log.flush()
    assert isinstance(held.exception(0), WriteError)
    with pytest.raises(WriteError):
        log.insert_event("t", None, "bad", {})
    log.close()
    assert caplog.records == []


def test_a_failure_is_raised_by_flush_when_its_future_was_dropped_without_a_look(
    log: EventLog, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """However late: while the future is held, its holder may still ask."""
    execute(path, poison())
    held = log.submit_event("t", None, "bad", {})
    log.flush()
    assert held.done()
    del held
    with pytest.raises(WriteError):
        log.flush()
    assert [record.levelno for record in caplog.records] == [logging.ERROR]


# -------------------------------------------------------------------------------------- what no except clause expects


class Exploding:
    """A sink that raises what only the interpreter should."""

    def __init__(self, error: type[BaseException]) -> None:
        self.error = error
        self.armed = True

    def emit(
        self, _task: str, _item: str | None, _type: str, _payload: Mapping[str, object], /
    ) -> None:
        if self.armed:
            self.armed = False
            raise self.error


@pytest.mark.parametrize(
    "error", [SystemExit, KeyboardInterrupt, asyncio.CancelledError, GeneratorExit]
)
def test_a_base_exception_in_a_sink_leaves_no_caller_waiting(
    path: Path, error: type[BaseException]
) -> None:
    with EventLog(path, sink=Exploding(error)) as log:
        with write_locked(path):
            futures = [log.submit_event("t", None, "x", {"n": n}) for n in range(5)]
        assert [future.result(PATIENCE) for future in futures] == [
            1,
            2,
            3,
            4,
            5,
        ]  # durable, so acked
        assert start(lambda: log.insert_event("t", None, "x", {})).result(PATIENCE) == 6
    assert len(stored(path)) == 6


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt, asyncio.CancelledError])
def test_a_base_exception_in_a_callback_leaves_no_caller_waiting(
    log: EventLog, path: Path, error: type[BaseException]
) -> None:
    def explode(_: Future[int]) -> None:
        raise error

    with write_locked(path):
        futures = [log.submit_event("t", None, "x", {"n": n}) for n in range(5)]
        futures[1].add_done_callback(explode)
    assert [future.result(PATIENCE) for future in futures] == [1, 2, 3, 4, 5]
    assert start(lambda: log.insert_event("t", None, "x", {})).result(PATIENCE) == 6
    assert (
        start(lambda: log.submit_event("t", None, "x", {}).result(PATIENCE)).result(PATIENCE) == 7
    )


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize("moment", ["idle", "committing"])
@pytest.mark.skipif(
    sys.implementation.name != "cpython", reason="kills a thread by means of CPython's C API"
)
def test_a_killed_writer_thread_leaves_no_caller_waiting(path: Path, moment: str) -> None:
    gate = Gate()
    with EventLog(path, sink=gate) as log:
        if moment == "idle":
            gate.open()
        log.submit_event("t", None, "x", {})
        assert gate.waiting.wait(PATIENCE)
        futures = (
            [log.submit_event("t", None, "x", {}) for _ in range(3)]
            if moment == "committing"
            else []
        )
        for thread in library_threads():
            assert thread.ident is not None
            ctypes.pythonapi.PyThreadState_SetAsyncExc(
                ctypes.c_ulong(thread.ident), ctypes.py_object(SystemExit)
            )
        gate.open()
        futures.append(start(lambda: log.submit_event("t", None, "x", {})).result(PATIENCE))
        for future in futures:  # written, or a typed error: but an answer
            assert isinstance(future.exception(PATIENCE), OrchEventsError | None)
        last = start(lambda: log.insert_event("t", None, "x", {})).result(PATIENCE)
        start(log.flush).result(PATIENCE)
    acked = [future.result() for future in futures if future.exception() is None]
    assert {*acked, last} <= {row.event_id for row in stored(path)}


# ------------------------------------------------------------------------------------------------------------- Ctrl-C

INTERRUPTED: Final = """
    import json, os, random, signal, sys, threading, time
    from orch_events import EventLog

    path, seconds = sys.argv[1], float(sys.argv[2])
    armed = stop = False

    def interrupt(*_):  # disarms itself, so that the handler of one interrupt is not interrupted by the next
        global armed
        if armed:
            armed = False
            raise KeyboardInterrupt

    def send():
        while not stop:
            time.sleep(random.random() * 0.004)
            os.kill(os.getpid(), signal.SIGINT)

    def write(name, acked):
        n = 0
        while not stop:
            n += 1
            acked[log.insert_event(name, None, "x", {"n": n})] = [name, n]
            future = log.submit_event(name, None, "x", {"n": -n})
            acked[future.result()] = [name, -n]

    log = EventLog(path, queue_capacity=2)
    signal.signal(signal.SIGINT, interrupt)
    acked = {}
    others = [{} for _ in range(2)]
    threads = [threading.Thread(target=write, args=(f"w{k}", part)) for k, part in enumerate(others)]
    threads.append(threading.Thread(target=send))
    for thread in threads:
        thread.start()
    n = hits = 0
    end = time.monotonic() + seconds
    while time.monotonic() < end or hits <= 10:
        try:
            armed = True
            n += 1
            match random.randrange(12):
                case 0:
                    ids = log.insert_events([("main", None, "batch", {"n": n})] * 2100)
                    acked.update((i, ["main", n]) for i in ids)
                case 1:
                    log.submit_event("main", None, "x", {"n": n})
                case 2:
                    log.flush()
                case _:
                    acked[log.insert_event("main", None, "x", {"n": n})] = ["main", n]
            armed = False
        except KeyboardInterrupt:
            hits += 1
    stop = True
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive()
    log.insert_event("main", None, "x", {"n": n + 1})
    log.close()
    for part in others:
        acked |= part
    print(json.dumps([hits, sorted([i, *rest] for i, rest in acked.items())]))
"""


def check_interrupted(folder: Path, path: Path, seconds: float) -> None:
    hits, acked = json.loads(run_script(folder, INTERRUPTED, path, seconds))
    rows = stored(path)
    found = {row.event_id: [row.task_id, row.payload["n"]] for row in rows}
    assert hits > 10
    assert [entry for entry in acked if found.get(entry[0]) != entry[1:]] == []
    copies = Counter((row.task_id, row.event_type, row.payload["n"]) for row in rows)
    assert {(kind, count) for (_, kind, _), count in copies.items()} == {("x", 1), ("batch", 2100)}


def test_ctrl_c_anywhere_loses_nothing_that_was_acked(tmp_path: Path, path: Path) -> None:
    check_interrupted(tmp_path, path, 0.3)


@pytest.mark.long
def test_ctrl_c_anywhere_loses_nothing_that_was_acked_for_longer(
    tmp_path: Path, path: Path
) -> None:
    check_interrupted(tmp_path, path, 20)


def test_what_an_interrupt_left_behind_is_rolled_back(log: EventLog, path: Path) -> None:
    """As after a KeyboardInterrupt that came between a statement and the rollback."""
    left = write_connection(log)
    left.execute("BEGIN IMMEDIATE")
    left.execute(
        "INSERT INTO events(task_id, event_type, payload_json, created_at) VALUES ('t', 'half', '{}', '')"
    )
    assert log.insert_event("t", None, "whole", {}) == 1
    assert [event.event_type for event in stored(path)] == ["whole"]
    left.execute("BEGIN")
    assert log.insert_events([("t", None, "many", {})] * 5000)[-1] == 5001
    assert len(stored(path)) == 5001


def test_a_batch_interrupted_after_its_commit_is_known_by_its_last_row(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its sink, which hears of what is recorded, hears of all of it. As after a KeyboardInterrupt on the way back."""

    def commit_and_raise(commit: Callable[[], int], _deadline: float) -> int:
        commit()
        raise KeyboardInterrupt

    sink = RecordingSink()
    with EventLog(path, sink=sink) as log:
        where = "orch_events._storage.sqlite.write_session.retry_transient"
        monkeypatch.setattr(where, commit_and_raise)
        with pytest.raises(KeyboardInterrupt):
            log.insert_events([("t", None, kind, {}) for kind in ("first", "second", "last")])
    assert [event_type for _, _, event_type, _ in sink.events] == ["first", "second", "last"]


def test_a_batch_of_several_statements_is_rolled_back_whole(path: Path) -> None:
    """The table is the host's, and has a rule that only the last of them breaks."""
    execute(
        path,
        """CREATE TABLE events(id INTEGER PRIMARY KEY AUTOINCREMENT, task_id TEXT NOT NULL,
        task_item_id TEXT, event_type TEXT NOT NULL CHECK (event_type <> 'bad'), payload_json TEXT NOT NULL,
        created_at TEXT NOT NULL, step TEXT, step_scope TEXT, cycle INTEGER)""",
    )
    with EventLog(path) as log:
        good: NewEvent = ("t", None, "good", {})
        with pytest.raises(WriteError, match="CHECK"):
            log.insert_events([*[good] * 5000, ("t", None, "bad", {})])
        assert not write_connection(log).in_transaction
        assert stored(path) == []
        with write_locked(path):
            pass  # nobody holds the lock
        ids = log.insert_events([good] * 5000)
        assert len(stored(path)) == 5000 and ids == list(range(ids[0], ids[0] + 5000))
