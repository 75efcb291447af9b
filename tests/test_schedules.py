# SPDX-License-Identifier: MIT
"""Thousands of schedules of the commit queue, each from a seed: see `scheduler` and `queue_story`.

A schedule that fails prints its seed and its trace. `python -m tests.queue_story SEED` runs that one again.
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from itertools import count

import pytest

from orch_events import ForkedError
from orch_events._core.commit_queue import CommitQueue, _Claim
from orch_events._core.pending import BlockingEntry, Entry

from .queue_story import PLOTS, run, stage
from .scheduler import Scheduler, StandInLock, Workers

SEEDS = 800

PLOT_SEEDS = 100
"""Schedules of each plot."""

ENOUGH = 1000
"""Schedules in which a fault of the library must show."""


@pytest.fixture
def workers() -> Iterator[Workers]:
    with stage() as workers:
        yield workers


# ------------------------------------------------------------------------------------ the commit queue


def test_the_queue_keeps_its_promises_in_any_schedule(workers: Workers) -> None:
    for seed in range(SEEDS):
        run(seed, workers)


@pytest.mark.parametrize("about", PLOTS)
def test_the_queue_keeps_its_promises_where_they_once_failed(workers: Workers, about: str) -> None:
    for seed in range(PLOT_SEEDS):
        run(seed, workers, about)


@pytest.mark.long
@pytest.mark.parametrize("about", PLOTS)
def test_the_queue_keeps_its_promises_in_thousands_of_these_schedules(
    workers: Workers, about: str
) -> None:
    for seed in range(PLOT_SEEDS, PLOT_SEEDS + 3000):
        run(seed, workers, about)


@pytest.mark.long
def test_the_queue_keeps_its_promises_in_a_hundred_thousand_schedules(workers: Workers) -> None:
    for seed in range(SEEDS, SEEDS + 100_000):
        run(seed, workers)


def test_a_seed_gives_its_schedule_again(workers: Workers) -> None:
    for seed in range(60):
        assert run(seed, workers).scheduler.trace == run(seed, workers).scheduler.trace


# ----------------------------------------------------------------- what the schedules would not overlook


def failure_with(workers: Workers, about: str = "") -> str:
    """What the first schedule that fails says."""
    for seed in range(ENOUGH):
        try:
            run(seed, workers, about)
        except AssertionError as error:
            assert f"python -m tests.queue_story {seed}" in str(error)
            return str(error).partition("\n")[0]
    raise AssertionError("no schedule has failed")


def test_an_ack_before_the_commit_is_found(
    workers: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    genuine = CommitQueue._process

    def process(queue: CommitQueue, claim: _Claim) -> None:
        for entry in claim.batch:
            if isinstance(entry, BlockingEntry):
                entry.last_id = 1
                entry.wake_caller()
        genuine(queue, claim)

    monkeypatch.setattr(CommitQueue, "_process", process)
    assert failure_with(workers)


def test_an_entry_told_twice_is_found(workers: Workers, monkeypatch: pytest.MonkeyPatch) -> None:
    genuine = CommitQueue._deliver

    def deliver(queue: CommitQueue, batch: Sequence[Entry]) -> None:
        genuine(queue, batch)
        genuine(queue, batch)

    monkeypatch.setattr(CommitQueue, "_deliver", deliver)
    assert "told twice" in failure_with(workers)


def test_an_entry_committed_twice_is_found(
    workers: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    genuine = CommitQueue._take_batch
    batches = count()

    def take_batch(queue: CommitQueue, thread: int) -> _Claim | None:
        claim = genuine(queue, thread)
        if claim is not None and next(batches) % 10 == 0:
            queue._append_entry(Entry(claim.batch[0].rows))
        return claim

    monkeypatch.setattr(CommitQueue, "_take_batch", take_batch)
    assert "twice" in failure_with(workers)


def test_a_writer_thread_that_is_not_woken_is_found(
    workers: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though it would look by itself some milliseconds later."""
    monkeypatch.setattr(CommitQueue, "_wake_thread", lambda _queue: None)
    assert "nobody was woken" in failure_with(workers)


def test_a_caller_that_is_not_let_in_when_there_is_room_is_found(
    workers: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(CommitQueue, "_admit_waiting", lambda _queue: None)
    assert "was not woken" in failure_with(workers)


def test_an_event_lost_at_close_is_found(workers: Workers, monkeypatch: pytest.MonkeyPatch) -> None:
    def claim_to_close(queue: CommitQueue, claim: _Claim) -> bool:
        if queue._commit_owner is not None:
            return False
        queue._entries.clear()
        queue._commit_owner = claim
        return True

    monkeypatch.setattr(CommitQueue, "_claim_to_close", claim_to_close)
    assert failure_with(workers)


def test_a_leader_that_leaves_the_connection_owned_when_interrupted_is_found(
    workers: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    genuine = CommitQueue._change

    def change(queue: CommitQueue, step: Callable[[object], object], argument: object) -> object:
        """Forgets whose the connection is when it is interrupted."""
        try:
            return genuine(queue, step, argument)
        except Exception:
            raise
        except BaseException:
            owner = queue._commit_owner
            if owner is argument and owner is not None:
                queue._commit_owner = _Claim(owner.batch, owner.thread)
            raise

    monkeypatch.setattr(CommitQueue, "_change", change)
    assert failure_with(workers)


def test_a_child_of_a_fork_that_does_its_parents_work_is_found(
    workers: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forked(queue: CommitQueue) -> list[object]:
        """Refuses calls, and forgets nothing of what is queued."""
        queue._refusal = ForkedError("refused")
        queue._lock = threading.RLock()
        queue._changing = set()
        return []

    monkeypatch.setattr(CommitQueue, "forked", forked)
    assert "child of a fork" in failure_with(workers, "a fork in a sink")


# -------------------------------------------------------------------------------------- the scheduler


def test_a_deadlock_says_who_waits_for_what(workers: Workers) -> None:
    def taking(first: StandInLock, second: StandInLock) -> Callable[[], object]:
        def take() -> None:
            first.acquire()
            second.acquire()
            second.release()
            first.release()

        return take

    failures = set()
    for seed in range(100):
        scheduler = Scheduler(seed, workers)
        left, right = StandInLock(scheduler), StandInLock(scheduler)
        scheduler.spawn("one", taking(left, right))
        scheduler.spawn("other", taking(right, left))
        scheduler.run()
        failures.add(scheduler.failure)
    told = "everybody waits for ever; one waits (Lock.acquire), other waits (Lock.acquire)"
    assert failures == {None, told}


def test_time_goes_on_only_while_everybody_waits(workers: Workers) -> None:
    scheduler = Scheduler(2, workers)
    scheduler.time_flows = 0
    began = scheduler.now
    woken: list[tuple[str, float]] = []

    def sleeping(name: str, seconds: float) -> Callable[[], object]:
        def sleep() -> None:
            scheduler.sleep(seconds)
            woken.append((name, scheduler.now - began))

        return sleep

    scheduler.spawn("late", sleeping("late", 3600))
    scheduler.spawn("early", sleeping("early", 60))
    scheduler.run()
    assert woken == [("early", 60), ("late", 3600)]


def test_a_task_that_never_ends_is_told(workers: Workers) -> None:
    scheduler = Scheduler(1, workers)

    def spin() -> None:
        while True:
            scheduler.step("spin")

    scheduler.spawn("spinning", spin)
    scheduler.run()
    assert scheduler.failure == "it goes on for ever"
