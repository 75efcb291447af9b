# SPDX-License-Identifier: MIT
"""Following: what a follower is given, in what order, and when it ends."""

import math
import threading
import time
from functools import partial
from pathlib import Path

import pytest

from orch_events import STEP_EVENT_TYPES, EventLog, EventType, insert_event_with_conn

from .engines import host_connection
from .following import (
    BEAT,
    END,
    OTHER,
    Beside,
    Follow,
    Queries,
    Way,
    follow,
    ids,
    in_turn,
    nobody_stays,
    queries,
    restless,
    waking,
    watchers,
    way,
    woken_each_time,
)
from .helpers import PATIENCE, NewEvent, start, wait_until

BOTH_ENGINES = True

__all__ = ["follow", "nobody_stays", "queries", "restless", "waking", "way"]  # fixtures


def typed(event_type: str) -> NewEvent:
    return ("t", None, event_type, {})


# ------------------------------------------------------------------------------------------------- each exactly once


@pytest.mark.usefixtures("waking")
def test_history_comes_first_then_what_any_process_commits(
    way: Way, queries: Queries, log: EventLog, path: Path
) -> None:
    log.insert_events([BEAT] * 3)
    follower, parked = (
        Beside(way(queries)("t", until_finished=True)),
        way(queries)(timeout=PATIENCE),
    )
    assert next(parked).event_id == 1
    assert follower.saw(3) == [1, 2, 3]
    with EventLog(path) as second, host_connection(path) as (connection, schema):
        for n in range(6):
            follower.asleep()
            assert log.insert_event(*BEAT) == 4 + 9 * n
            follower.asleep()
            second.insert_event(*BEAT)
            second.submit_event(*BEAT)
            second.flush()
            insert_event_with_conn(connection, *BEAT, schema=schema)
            insert_event_with_conn(connection, *BEAT, schema=schema)
            connection.commit()
            follower.asleep()
            assert len(follower.saw(8 + 9 * n)) == 8 + 9 * n, (
                "each is seen before the next is committed"
            )
            log.insert_events([BEAT] * 4)
    last = log.insert_event(*END)
    assert follower.end() == list(range(1, last + 1))
    assert [next(parked).event_id for _ in range(1, last)] == list(range(2, last + 1))


def test_events_are_those_a_query_gives(follow: Follow, log: EventLog) -> None:
    log.insert_events([("t", "item", "x", {"n": 1, "é": [None]}), OTHER, BEAT])
    assert list(follow(timeout=0)) == list(log.query_events())
    assert list(follow("t", timeout=0)) == list(log.query_events("t"))
    log.insert_event(*END)
    assert list(follow("t", until_finished=True)) == list(log.query_events("t"))


@pytest.mark.parametrize("after_id", [0, 1, 4, 5, (1 << 63) - 1])
def test_starts_after_an_id(follow: Follow, log: EventLog, after_id: int) -> None:
    log.insert_events([BEAT] * 4)
    follower = Beside(follow("t", after_id=after_id, until_finished=True))
    history = list(range(after_id + 1, 5))
    assert follower.saw(len(history)) == history
    log.insert_events([BEAT, END])
    assert follower.end() == [event_id for event_id in range(1, 7) if event_id > after_id]


def test_a_burst_of_many_pages_arrives_whole(
    follow: Follow, log: EventLog, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orch_events._core.paging.PAGE_ROWS", 64)
    log.insert_event(*BEAT)
    follower = Beside(follow("t", until_finished=True))
    for n in range(3):
        follower.saw(1 + 1001 * n)
        follower.asleep()
        log.insert_events([BEAT, OTHER] * 1000)
        log.insert_events([BEAT])
    log.insert_event(*END)
    assert follower.end() == ids(log.query_events("t"))
    assert len(follower.seen) == 1 + 3 * 1001 + 1


def test_a_burst_of_full_pages_arrives_whole(log: EventLog) -> None:
    follower = Beside(log.follow_step_events("t", until_finished=True))
    log.insert_events([BEAT] * 6000)
    log.insert_events([BEAT] * 6000 + [END])
    assert follower.end() == list(range(1, 12_001))


@pytest.mark.parametrize("runs", [24, pytest.param(1000, marks=pytest.mark.long)])
@pytest.mark.usefixtures("restless")
def test_nothing_is_missed_between_history_and_live(
    follow: Follow, log: EventLog, runs: int
) -> None:
    """Appended before the first event is asked for, and at the same moment; on an old watcher and on a new one."""
    last = 0
    for n in range(runs):
        if n % 3:
            wait_until(lambda: not watchers())
        follower = follow(after_id=last, timeout=PATIENCE)
        if n % 2:
            last = log.insert_event(*BEAT)
            assert next(follower).event_id == last
        else:
            first = start(partial(next, follower))
            last = log.insert_event(*BEAT)
            assert first.result(PATIENCE).event_id == last
        del follower


# ------------------------------------------------------------------------------------------------------ what is chosen


def test_one_task_all_tasks_or_steps_only(way: Way, queries: Queries, log: EventLog) -> None:
    log.insert_events(
        [(task, None, kind, {}) for kind in [*EventType, "custom"] for task in ("t", "other")]
    )
    assert {event.event_type for event in way(queries)("t", timeout=0)} == {*EventType, "custom"}
    assert {event.task_id for event in way(queries)("t", timeout=0)} == {"t"}
    assert ids(way(queries)(timeout=0)) == list(range(1, 2 * len(EventType) + 3))
    for steps in (
        queries.follow_step_events("t", timeout=0),
        in_turn(queries.follow_step_events_async("t", timeout=0)),
    ):
        assert list(steps) == log.query_step_events("t")
    assert {event.event_type for event in log.query_step_events("t")} == STEP_EVENT_TYPES


def test_steps_live(queries: Queries, log: EventLog) -> None:
    followers = [
        Beside(queries.follow_step_events("t", after_id=1, until_finished=True)),
        Beside(in_turn(queries.follow_step_events_async("t", after_id=1, until_finished=True))),
    ]
    log.insert_events([BEAT, typed("custom"), BEAT, OTHER])
    for follower in followers:
        assert follower.saw(1) == [3]
        follower.asleep()
    log.insert_events([OTHER, typed("step_started"), END, BEAT])
    assert [follower.end() for follower in followers] == [[3, 6, 8]] * 2


# --------------------------------------------------------------------------------------------------------- when it ends


@pytest.mark.parametrize("end", ["task_completed", "task_failed", "task_cancelled"])
def test_ends_with_the_task(follow: Follow, log: EventLog, end: str) -> None:
    log.insert_events([typed("task_started"), BEAT])
    follower = Beside(follow("t", until_finished=True))
    follower.saw(2)
    follower.asleep()
    log.insert_events([("other", None, end, {}), typed("task_paused"), typed("x" + end)])
    follower.saw(4)
    follower.asleep()
    log.insert_events(
        [BEAT, OTHER, typed(end), BEAT, OTHER, BEAT]
    )  # stragglers in the same burst still belong to it
    assert follower.end() == [1, 2, 4, 5, 6, 8, 9, 11]
    for after_id in (0, 8, 9, 11, 12, 1000):
        over = ids(follow("t", after_id=after_id, until_finished=True))
        assert over == [event_id for event_id in follower.seen if event_id > after_id]


def test_a_task_started_again_goes_on(follow: Follow, log: EventLog) -> None:
    log.insert_events([typed("task_started"), typed("task_failed"), typed("task_started")])
    follower = Beside(follow("t", until_finished=True))
    follower.saw(3)
    follower.asleep()
    log.insert_events([typed("task_completed"), typed("task_started"), BEAT])
    follower.saw(6)
    follower.asleep()
    log.insert_events([BEAT, typed("task_cancelled")])
    assert follower.end() == list(range(1, 9))


def test_until_finished_needs_a_task(follow: Follow) -> None:
    with pytest.raises(ValueError, match="task_id"):
        follow(until_finished=True)


@pytest.mark.parametrize("timeout", [math.inf, 1e12])
def test_a_timeout_may_be_as_long_as_one_likes(
    follow: Follow, log: EventLog, timeout: float
) -> None:
    woken_each_time(Beside(follow("t", timeout=timeout, until_finished=True)), log)


def test_a_timeout_of_nothing_gives_what_there_is(follow: Follow, log: EventLog) -> None:
    assert ids(follow(timeout=0)) == []
    log.insert_events([BEAT] * 5000)
    assert ids(follow(timeout=0)) == list(range(1, 5001))
    assert ids(follow("unknown", timeout=0)) == []


def test_other_tasks_do_not_put_a_timeout_off(follow: Follow, log: EventLog) -> None:
    log.insert_event(*BEAT)
    follower = Beside(follow("t", timeout=0.05))
    ended = threading.Event()

    def write() -> None:
        while not ended.is_set():
            log.insert_event(*OTHER)

    writing = start(write)
    try:
        assert follower.end() == [1]
    finally:
        ended.set()
        writing.result(PATIENCE)


def test_a_timeout_counts_from_the_last_event(follow: Follow, log: EventLog) -> None:
    timeout = 0.2

    def gap() -> float:
        """Seconds from the last event to the end."""
        last = time.monotonic()
        for _ in follow("t", timeout=timeout):
            last = time.monotonic()
        return time.monotonic() - last

    gaps = start(gap)
    for _ in range(3):
        time.sleep(timeout / 2)
        log.insert_event(*BEAT)
    assert gaps.result(PATIENCE) >= timeout * 0.99


def test_a_slow_consumer_loses_nothing_by_a_timeout(follow: Follow, log: EventLog) -> None:
    follower = follow(timeout=0.05)
    for n in range(3):
        log.insert_event(*BEAT)
        assert next(follower).event_id == n + 1
        time.sleep(0.06)
    assert list(follower) == []


# ----------------------------------------------------------------------------------------------------------------- stop


@pytest.mark.usefixtures("waking")
def test_stop_ends_it(queries: Queries, log: EventLog) -> None:
    stop = threading.Event()
    log.insert_events([BEAT] * 3)
    followers = [Beside(queries.follow_events(stop=stop)) for _ in range(5)]
    steps = Beside(queries.follow_step_events("t", stop=stop))
    for follower in (*followers, steps):
        follower.saw(3)
        follower.asleep()
    stop.set()
    for follower in (*followers, steps):
        assert follower.end() == [1, 2, 3]
    log.insert_events([BEAT] * 5000)
    assert ids(queries.follow_events(stop=stop)) == list(range(1, 5004)), (
        "set before: what there is, and no more"
    )


def test_stop_ends_a_history_that_grows(log: EventLog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("orch_events._core.paging.PAGE_ROWS", 8)
    log.insert_events([BEAT] * 500)
    stop = threading.Event()
    seen = list[int]()
    for event in log.follow_events(stop=stop, timeout=PATIENCE):
        seen.append(event.event_id)
        stop.set()
        if len(seen) % 8 == 0:
            log.insert_events([BEAT] * 9)
        assert len(seen) < 1500, "still going on"
    assert seen == list(range(1, len(seen) + 1))


@pytest.mark.parametrize("by", ["stop", "the task's end"])
def test_nothing_that_was_committed_before_the_end_is_lost(path: Path, by: str) -> None:
    """The follower is in the midst of reading when the last event comes, and the word to end right after it."""
    last = 0
    with EventLog(path, durability="normal") as log:
        for n in range(25):
            stop = threading.Event()
            task = f"task {n}"
            ended = by != "stop"
            follower = Beside(
                log.follow_events(task, after_id=last, stop=stop, until_finished=ended)
            )
            expected = [log.insert_event(task, None, "x", {}) for _ in range(10)]
            if ended:
                expected.append(log.insert_event(task, None, "task_failed", {}))
            else:
                stop.set()
            assert follower.end() == expected
            last = expected[-1]
