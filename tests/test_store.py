# SPDX-License-Identifier: MIT
"""The core and the front over the seam: the same with the real engine and with a store made of lists.

What only a fault of a store can show is tested with the lists alone, which have faults on demand.
"""

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path
from types import NoneType

import pytest

from orch_events import (
    EventLog,
    EventReader,
    PrunedError,
    QueueFullError,
    RecordingSink,
    WriteError,
)
from orch_events._storage.interface import Store
from orch_events._storage.open_store import open_store

from .helpers import PATIENCE, start, wait_until
from .list_store import Fault, ListStore


@pytest.fixture
def lists(monkeypatch: pytest.MonkeyPatch) -> ListStore:
    """Every log that is opened is in this store."""
    store = ListStore("in memory")
    for module in ("_event_log", "_event_reader"):
        monkeypatch.setattr(f"orch_events.{module}.open_store", lambda _: store)
    return store


@pytest.fixture(params=["sqlite", "lists"])
def log(request: pytest.FixtureRequest, path: Path) -> Iterator[EventLog]:
    """A log in each kind of store."""
    if request.param == "lists":
        request.getfixturevalue("lists")
    with EventLog(path) as log:
        yield log


def test_the_engine_and_the_lists_are_stores(path: Path) -> None:
    stores: list[Store] = [open_store(path), ListStore("in memory")]
    assert [store.path for store in stores] == [str(path), "in memory"]


def test_ids_follow_the_order_of_commits(log: EventLog) -> None:
    first = log.insert_event("t", None, "x", {"n": 1})
    batch = log.insert_events([("t", "i", "x", {"n": n}) for n in (2, 3)])
    later = log.submit_event("u", None, "x", {})
    log.flush()
    assert [first, *batch, later.result()] == [1, 2, 3, 4]
    assert [event.payload for event in log.query_events("t")] == [{"n": 1}, {"n": 2}, {"n": 3}]


def test_many_pages_are_read_as_one(log: EventLog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("orch_events._core.paging.PAGE_ROWS", 3)
    log.insert_events([("t", None, "step_heartbeat", {"pid": n}) for n in range(20)])
    log.insert_event("t", None, "no_step", {})
    assert [event.pid for event in log.query_step_events("t")] == list(range(20))
    assert len(list(log.query_events("t", limit=7))) == 7
    assert len(list(log.query_events("t", event_type_prefix="no_"))) == 1


def test_log_paths_are_those_of_the_newest_start(log: EventLog) -> None:
    assert log.query_latest_step_log_paths("t") is None
    for name in ("one", "two"):
        log.insert_event("t", None, "step_spawned", {"phase": name, "stdout_path": f"/{name}"})
    assert log.query_latest_step_log_paths("t") == ("two", "/two", "")


def test_a_follower_sees_each_event_once_until_the_task_ends(log: EventLog) -> None:
    log.insert_event("t", None, "step_started", {"step": "a"})
    following = log.follow_step_events("t", until_finished=True, timeout=PATIENCE)
    assert next(following).event_id == 1
    recording = start(lambda: log.insert_event("t", None, "step_finished", {"step": "a"}))
    assert next(following).event_id == 2
    recording.result(PATIENCE)
    log.insert_event("t", None, "task_completed", {})
    assert list(following) == []


def test_coroutines_append_and_follow(log: EventLog) -> None:
    async def main() -> list[int]:
        ids = await asyncio.gather(
            *(log.insert_event_async("t", None, "step_started", {"pid": n}) for n in range(50))
        )
        await log.insert_event_async("t", None, "task_completed", {})
        assert sorted(ids) == list(range(1, 51))
        return [
            event.event_id async for event in log.follow_step_events_async("t", until_finished=True)
        ]

    assert asyncio.run(main()) == list(range(1, 51))


def test_a_reader_that_comes_to_a_gap_is_told(lists: ListStore, path: Path) -> None:
    with EventLog(path) as log, EventReader(path) as reader:
        log.insert_events([("t", None, "x", {"n": n}) for n in range(5)])
        lists.prune("t", 3)
        assert [event.event_id for event in reader.query_events("t")] == [4, 5]
        with pytest.raises(PrunedError) as caught:
            list(reader.query_events("t", after_id=1))
        assert caught.value.first_available_id == 4
        assert [event.event_id for event in reader.query_events("t", after_id=3)] == [4, 5]


def test_a_row_at_fault_fails_alone(lists: ListStore, path: Path) -> None:
    with EventLog(path) as log:
        lists.gate.clear()
        first = log.submit_event("a", None, "x", {})
        wait_until(lambda: log._queue._commit_owner is not None)  # it is being committed
        others = [log.submit_event(task, None, "x", {}) for task in ("b", "bad", "c")]
        lists.faults.append(Fault(refused_task="bad"))
        lists.gate.set()
        assert first.result(PATIENCE) == 1
        assert isinstance(others[1].exception(PATIENCE), WriteError)
        assert [others[0].result(), others[2].result()] == [2, 3]
        assert lists.commits == [1, 1, 1]
        lists.faults.clear()


def test_a_fault_of_the_store_fails_the_whole_batch(lists: ListStore, path: Path) -> None:
    with EventLog(path) as log:
        lists.gate.clear()
        log.submit_event("a", None, "x", {})
        wait_until(lambda: log._queue._commit_owner is not None)
        others = [log.submit_event("b", None, "x", {}) for _ in range(3)]
        lists.faults.append(Fault(affects_all=True))
        lists.gate.set()
        errors = [other.exception(PATIENCE) for other in others]
        assert log.insert_event("c", None, "x", {}) == 2
    assert all(isinstance(error, WriteError) for error in errors)
    assert len({id(error) for error in errors}) == 3, "each caller raises an error of its own"


@pytest.mark.parametrize("is_held", [True, False])
def test_flush_takes_no_failure_for_its_own_that_it_shares_a_commit_with(
    lists: ListStore, path: Path, is_held: bool
) -> None:
    """It raises what nobody else can see, and that once."""
    with EventLog(path) as log:
        lists.gate.clear()
        log.submit_event("a", None, "x", {})
        wait_until(lambda: log._queue._commit_owner is not None)
        futures = [log.submit_event("b", None, "x", {})]
        flushing = start(log.flush)
        wait_until(lambda: len(log._queue._entries) == 2)
        lists.faults.append(Fault(affects_all=True))
        if not is_held:
            futures.clear()
        lists.gate.set()
        assert isinstance(flushing.exception(PATIENCE), NoneType if is_held else WriteError)
        assert all(isinstance(future.exception(PATIENCE), WriteError) for future in futures)
        log.flush()


def test_a_close_waits_for_the_commit_of_another_thread(lists: ListStore, path: Path) -> None:
    with EventLog(path) as log:
        before = lists.open_sessions
        lists.gate.clear()
        leading = start(lambda: log.insert_event("t", None, "x", {}))
        wait_until(lambda: log._queue._commit_owner is not None)
        closing = start(log.close)
        wait_until(lambda: log._queue._refusal is not None)
        time.sleep(0.05)  # in which it would close too soon
        meanwhile = lists.open_sessions
        lists.gate.set()
        assert leading.result(PATIENCE) == 1
        closing.result(PATIENCE)
    assert meanwhile == before > lists.open_sessions


@pytest.mark.parametrize("after_commit", [False, True])
def test_what_a_handler_raises_reaches_the_caller_and_the_rows_are_told_apart(
    lists: ListStore, path: Path, after_commit: bool
) -> None:
    with EventLog(path) as log:
        lists.faults.append(Fault(raised=KeyboardInterrupt(), after_commit=after_commit))
        with pytest.raises(KeyboardInterrupt):
            log.insert_event("t", None, "x", {})
        assert log.insert_event("t", None, "y", {}) == (2 if after_commit else 1)
        kinds = [event.event_type for event in log.query_events()]
    assert kinds == (["x", "y"] if after_commit else ["y"])


@pytest.mark.parametrize("after_commit", [False, True])
def test_an_interrupted_batch_gets_its_true_outcome(
    lists: ListStore, path: Path, after_commit: bool
) -> None:
    sink = RecordingSink()
    with EventLog(path, sink=sink) as log:
        lists.gate.clear()
        log.submit_event("a", None, "first", {})
        wait_until(lambda: log._queue._commit_owner is not None)
        others = [log.submit_event("b", None, "second", {}) for _ in range(3)]
        lists.faults.append(Fault(raised=KeyboardInterrupt(), after_commit=after_commit))
        lists.gate.set()
        errors = [other.exception(PATIENCE) for other in others]
        if after_commit:
            assert [other.result() for other in others] == [2, 3, 4]
        else:
            assert all(isinstance(error, WriteError) for error in errors)
            assert all("interrupted by KeyboardInterrupt" in str(error) for error in errors)
    assert len(sink.events) == (4 if after_commit else 1)


def test_a_queue_that_stays_full_is_an_error(lists: ListStore, path: Path) -> None:
    with EventLog(path, queue_capacity=1, busy_timeout=0.2) as log:
        lists.gate.clear()
        log.submit_event("a", None, "x", {})
        wait_until(lambda: log._queue._commit_owner is not None)
        log.submit_event("b", None, "x", {})
        with pytest.raises(QueueFullError):
            log.submit_event("c", None, "x", {})
        lists.gate.set()


def test_a_close_releases_every_session(lists: ListStore, path: Path) -> None:
    with EventLog(path) as log, EventReader(path) as reader:
        log.insert_event("t", None, "x", {})
        assert next(reader.follow_events()).event_id == 1
        assert list(log.query_events())
    wait_until(lambda: lists.open_sessions == 0)
