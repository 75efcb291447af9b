# SPDX-License-Identifier: MIT
"""What an open log promises its caller: ids and their order, batches, reading beside writing, backpressure, closing."""

import asyncio
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Final

import pytest

from orch_events import EventLog, EventReader, LogClosedError, PayloadError, QueueFullError

from .engines import Current, only_files
from .helpers import (
    PATIENCE,
    Gate,
    NewEvent,
    execute,
    library_threads,
    start,
    stored,
    together,
    traced,
    write_connection,
    write_locked,
)

BOTH_ENGINES = True

EVENT: Final[NewEvent] = ("t1", None, "step_started", {"step": "qa"})


def numbered(*count: int) -> list[NewEvent]:
    """Events that can be told apart."""
    return [("t1", None, "numbered", {"n": n}) for n in range(*count)]


# ------------------------------------------------------------------------------------------------------ ids and order


def test_ids_count_the_calls_of_a_thread_however_it_writes(log: EventLog, path: Path) -> None:
    first = log.insert_event(*EVENT)
    futures = [log.submit_event(*event) for event in numbered(100)]
    middle = log.insert_event(*EVENT)
    batch = log.insert_events(numbered(5000))
    last = log.insert_event(*EVENT)
    ids = [first, *(future.result(PATIENCE) for future in futures), middle, *batch, last]
    assert ids == list(range(1, 5104))
    assert [row.event_id for row in stored(path)] == ids


def test_every_thread_gets_the_ids_of_its_own_events(log: EventLog, path: Path) -> None:
    def writer(name: str) -> Callable[[], dict[int, str]]:
        def write() -> dict[int, str]:
            acked = {}
            for n in range(40):
                acked[log.insert_event(name, None, f"{name}-{n}", {})] = f"{name}-{n}"
                future = log.submit_event(name, None, f"{name}+{n}", {})
                batch = log.insert_events([(name, None, f"{name}*{n}.{k}", {}) for k in range(3)])
                acked[future.result(PATIENCE)] = f"{name}+{n}"
                acked |= {event_id: f"{name}*{n}.{k}" for k, event_id in enumerate(batch)}
            assert list(acked) == sorted(acked), "ids must follow the order of one thread's calls"
            return acked

        return write

    acked: dict[int, str] = {}
    for part in together(*(writer(f"w{k}") for k in range(6))):
        acked |= part
    assert acked == {row.event_id: row.event_type for row in stored(path)}
    assert sorted(acked) == list(range(1, 6 * 40 * 5 + 1))


def test_ids_are_never_used_twice(log: EventLog, path: Path) -> None:
    assert log.insert_events([EVENT] * 3) == [1, 2, 3]
    execute(path, "DELETE FROM events WHERE id >= 2")
    assert log.insert_event(*EVENT) == 4
    execute(path, "DELETE FROM events")
    assert log.insert_events([EVENT] * 2) == [5, 6]


@pytest.mark.parametrize("size", [4, 3000])
def test_a_batch_with_one_bad_event_is_refused_whole(log: EventLog, path: Path, size: int) -> None:
    events: list[NewEvent] = [
        *numbered(size - 1),
        ("t1", None, "x", {"deep": [{"nan": float("nan")}]}),
    ]
    with pytest.raises(PayloadError) as caught:
        log.insert_events(events)
    assert caught.value.key_path == f"events[{size - 1}].payload.deep[0].nan"
    assert stored(path) == []
    assert log.insert_events(iter(events[:-1])) == list(range(1, size))
    assert log.insert_events([]) == []


BAD: Final[dict[str, NewEvent]] = {
    "lone surrogate in the task": ("\ud83d", None, "x", {}),
    "lone surrogate in the item": ("t", "\ud83d", "x", {}),
    "lone surrogate in the type": ("t", None, "\ud83d", {}),
    "lone surrogate in a string": ("t", None, "x", {"a": "\ud83d"}),
    "lone surrogate in a key": ("t", None, "x", {"\ud83d": 1}),
    "infinity": ("t", None, "x", {"a": float("inf")}),
    "beyond a double": ("t", None, "x", {"a": 10**400}),
    "no JSON form": ("t", None, "x", {"a": {1, 2}}),
}


@pytest.mark.parametrize("bad", BAD.values(), ids=BAD)
def test_a_bad_event_is_refused_at_the_call_and_its_neighbours_stay(
    log: EventLog, path: Path, bad: NewEvent
) -> None:
    futures = [log.submit_event(*EVENT)]
    for refused in (log.insert_event, log.submit_event):
        with pytest.raises(PayloadError):
            refused(*bad)
    futures.append(log.submit_event("t", None, "x", {"big": 2**63, "nul": "\0"}))
    assert [future.result(PATIENCE) for future in futures] == [1, 2]
    assert len(stored(path)) == 2


# ------------------------------------------------------------------------------------------------------------ reading


def test_a_prefix_is_literal(log: EventLog) -> None:
    types = ["step_a", "stepper", "step%", "step", "a\1b", "é_x", "éx"]
    if Current.database is None:
        types.append("a\0b")
    log.insert_events([("t", None, name, {}) for name in types])

    def selected(prefix: str) -> list[str]:
        return [event.event_type for event in log.query_events(event_type_prefix=prefix)]

    for prefix in ("step_", "step%", "step", "", "a\0", "a\1", "é_", "nothing"):
        assert selected(prefix) == [name for name in types if name.startswith(prefix)]


@pytest.mark.parametrize("after_id", [0, 1, 2047, 2048, 4999, 5000, 9999])
@pytest.mark.parametrize("limit", [None, 0, 1, 2048, 2049, 10_000])
def test_after_id_and_limit_cut_out_exactly_that(
    big_log: EventLog, after_id: int, limit: int | None
) -> None:
    found = [event.event_id for event in big_log.query_events(after_id=after_id, limit=limit)]
    assert found == list(range(after_id + 1, 5001))[:limit]


@pytest.fixture(scope="module")
def big_log(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EventLog]:
    with EventLog(tmp_path_factory.mktemp("big") / "events.db") as log:
        log.insert_events(numbered(5000))
        yield log


@only_files
def test_a_stream_ends_where_the_log_did_and_pins_nothing_meanwhile(
    log: EventLog, path: Path
) -> None:
    log.insert_events(numbered(5000))
    stream = log.query_events()
    seen = [next(stream).event_id]
    for _ in range(5):
        log.insert_events(numbered(1000))
    with closing(
        sqlite3.connect(path)
    ) as other:  # a snapshot or a read lock would leave this half done
        assert other.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone() == (0, 0, 0)
    seen += [event.event_id for event in stream]
    assert seen == list(range(1, 5001))


def test_a_reader_sees_whole_batches_only(log: EventLog, path: Path) -> None:
    done = False

    def read() -> None:
        with EventReader(path) as reader:
            while not done:
                assert len(list(reader.query_events())) % 7 == 0

    def write() -> None:
        nonlocal done
        try:
            for _ in range(60):
                log.insert_events([EVENT] * 7)
        finally:
            done = True

    together(read, read, read, write)


def test_many_threads_may_share_one_log_for_reading(log: EventLog) -> None:
    log.insert_events([(f"t{n % 5}", None, "step_started", {"step": f"s{n}"}) for n in range(100)])
    expected = {f"t{k}": [f"s{n}" for n in range(k, 100, 5)] for k in range(5)}

    def read() -> None:
        for task_id, steps in list(expected.items()) * 20:
            assert [event.step for event in log.query_step_events(task_id)] == steps

    together(*[read] * 12)


def test_a_relative_path_means_the_directory_the_log_was_opened_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with EventLog("events.db") as log, EventReader("events.db") as reader:
        log.insert_event(*EVENT)
        monkeypatch.chdir("/")
        assert len(list(log.query_events())) == len(list(reader.query_events())) == 1


# ----------------------------------------------------------------------------------------------------- how it commits


@only_files
def test_one_event_is_one_statement(log: EventLog) -> None:
    with traced(write_connection(log)) as statements:
        log.insert_event(*EVENT)
        assert len(statements) == 1
        log.insert_events(numbered(500))
        assert len(statements) == 2
        log.insert_events(numbered(5000))
    assert statements[2] == "BEGIN IMMEDIATE"
    assert statements[-1] == "COMMIT"
    assert all(
        statement.startswith(("INSERT ", "BEGIN IMMEDIATE", "COMMIT")) for statement in statements
    )


@only_files
def test_what_is_queued_shares_commits(log: EventLog, path: Path) -> None:
    with traced(write_connection(log)) as statements:
        for event in numbered(10_000):
            log.submit_event(*event)
        log.flush()
    assert len(stored(path)) == 10_000
    assert len(statements) < 200


# ------------------------------------------------------------------------------------------------------- backpressure


def test_a_full_queue_blocks_then_refuses_then_recovers(path: Path) -> None:
    gate = Gate()
    with EventLog(path, sink=gate, queue_capacity=3, busy_timeout=0.3) as log:
        accepted = [start(lambda: log.insert_event(*EVENT))]
        assert gate.waiting.wait(PATIENCE)
        futures = [log.submit_event(*event) for event in numbered(3)]
        for write in (log.submit_event, log.insert_event):
            with pytest.raises(QueueFullError):
                write(*EVENT)
        waiting = [start(lambda: log.submit_event(*EVENT)) for _ in range(2)]
        gate.open()
        futures += [future.result(PATIENCE) for future in waiting]
        assert sorted(future.result(PATIENCE) for future in accepted + futures) == [
            1,
            2,
            3,
            4,
            5,
            6,
        ]
        assert log.insert_event(*EVENT) == 7
    assert len(stored(path)) == 7


@pytest.mark.long
def test_a_call_that_gave_up_waiting_takes_no_place_of_one_that_still_waits(path: Path) -> None:
    gate = Gate()
    with EventLog(path, sink=gate, queue_capacity=1, busy_timeout=2) as log:
        log.submit_event(*EVENT)
        assert gate.waiting.wait(PATIENCE)
        log.submit_event(*EVENT)
        impatient = start(lambda: log.submit_event(*EVENT))
        with pytest.raises(TimeoutError):
            impatient.result(1)
        patient = start(lambda: log.submit_event(*EVENT))
        with pytest.raises(QueueFullError):
            impatient.result(PATIENCE)
        gate.open()
        patient.result(PATIENCE)


def test_a_lock_held_elsewhere_blocks_writers_until_it_is_released(path: Path) -> None:
    with EventLog(path, queue_capacity=2, busy_timeout=PATIENCE) as log:
        with write_locked(path):
            jobs = [start(partial(log.insert_event, f"w{n}", None, "x", {})) for n in range(8)]
            with pytest.raises(TimeoutError):
                jobs[-1].result(0.2)
            assert not any(job.done() for job in jobs)
        assert sorted(job.result(PATIENCE) for job in jobs) == list(range(1, 9))
    assert {row.task_id for row in stored(path)} == {f"w{n}" for n in range(8)}


# ------------------------------------------------------------------------------------------------------------ closing

CALLS: Final[dict[str, Callable[[EventLog], object]]] = {
    "insert_event": lambda log: log.insert_event(*EVENT),
    "insert_events": lambda log: log.insert_events([EVENT]),
    "submit_event": lambda log: log.submit_event(*EVENT),
    "flush": lambda log: log.flush(),
    "query_events": lambda log: list(log.query_events()),
    "query_step_events": lambda log: log.query_step_events("t1"),
    "query_latest_step_log_paths": lambda log: log.query_latest_step_log_paths("t1"),
    "insert_event_async": lambda log: asyncio.run(log.insert_event_async(*EVENT)),
    "insert_events_async": lambda log: asyncio.run(log.insert_events_async([EVENT])),
    "flush_async": lambda log: asyncio.run(log.flush_async()),
    "query_step_events_async": lambda log: asyncio.run(log.query_step_events_async("t1")),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_a_closed_log_says_so(
    log: EventLog, path: Path, call: Callable[[EventLog], object]
) -> None:
    call(log)
    log.close()
    before = stored(path)
    for _ in range(2):
        with pytest.raises(LogClosedError):
            call(log)
    log.close()
    assert stored(path) == before


def test_close_drains_and_every_concurrent_close_waits_for_it(log: EventLog, path: Path) -> None:
    futures = [log.submit_event(*event) for event in numbered(3000)]

    def close() -> bool:
        log.close()
        return all(future.done() for future in futures)

    assert together(*[close] * 4) == [True] * 4
    assert [future.result(0) for future in futures] == list(range(1, 3001))
    assert library_threads() == []
    assert len(stored(path)) == 3000


def test_close_refuses_calls_that_wait_for_room(path: Path) -> None:
    gate = Gate()
    with EventLog(path, sink=gate, queue_capacity=1, busy_timeout=PATIENCE) as log:
        log.submit_event(*EVENT)
        assert gate.waiting.wait(PATIENCE)
        log.submit_event(*EVENT)
        waiting = start(lambda: log.submit_event(*EVENT))
        ending = start(log.close)
        with pytest.raises(TimeoutError):
            ending.result(0.2)
        gate.open()
        ending.result(PATIENCE)
        refusal = waiting.exception(PATIENCE)
    assert refusal is None or isinstance(refusal, LogClosedError)
    assert len(stored(path)) == (3 if refusal is None else 2)
