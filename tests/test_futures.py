# SPDX-License-Identifier: MIT
"""What `submit_event` returns is a `concurrent.futures.Future` to whoever looks at it, whenever and however."""

import asyncio
import gc
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future, as_completed, wait
from contextlib import closing
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

import pytest

from orch_events import EventLog, WriteError
from orch_events._core.lazy_future import LazyFuture

from .helpers import PATIENCE, Gate, run_script, start, together

BOTH_ENGINES = True

if TYPE_CHECKING:
    from _typeshed import TraceFunction

STATES = ["running", "done", "failed"]


def called_back(future: Future[int]) -> list[Future[int]]:
    calls: list[Future[int]] = []
    future.add_done_callback(calls.append)
    return [future] * calls.count(future)


async def awaited(future: Future[int]) -> int:
    return await asyncio.wait_for(asyncio.wrap_future(future), 0.01)


LOOKS: dict[str, Callable[[Future[int]], object]] = {
    "running": lambda future: future.running(),
    "done": lambda future: future.done(),
    "cancelled": lambda future: future.cancelled(),
    "cancel": lambda future: future.cancel(),
    "result": lambda future: future.result(0),
    "exception": lambda future: future.exception(0),
    "add_done_callback": lambda future: called_back(future) == [future],
    "repr": lambda future: repr(future).partition(" state=")[2],
    "wait": lambda future: [len(part) for part in wait([future], 0)],
    "as_completed": lambda future: next(as_completed([future], 0)) is future,
    "await": lambda future: asyncio.run(awaited(future)),
    "set_result": lambda future: future.set_result(1),
    "no such name": lambda future: getattr(future, "no_such_name"),
}


def seen(look: Callable[[Future[int]], object], future: Future[int]) -> object:
    try:
        return look(future)
    except Exception as error:
        return type(error)


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("first", LOOKS)
def test_it_looks_like_one_of_the_standard_library(first: str, state: str) -> None:
    """Whatever is looked at first, before or after the outcome; and each then goes on as the other does."""
    ours = LazyFuture()
    theirs = Future[int]()
    theirs.set_running_or_notify_cancel()
    if state == "done":
        ours.tell(17)
        theirs.set_result(17)
    elif state == "failed":
        ours.tell(WriteError("full", "a.db"))
        theirs.set_exception(WriteError("full", "a.db"))
    for name in (first, *LOOKS):
        assert str(seen(LOOKS[name], ours)) == str(seen(LOOKS[name], theirs)), name


def test_callbacks_and_waiting_threads_hear_of_it(path: Path) -> None:
    gate = Gate()
    calls = list[int]()
    with EventLog(path, sink=gate) as log:
        leading = start(lambda: log.insert_event("t", None, "x", {}))
        assert gate.waiting.wait(PATIENCE)
        future = log.submit_event("t", None, "x", {})
        future.add_done_callback(lambda done: calls.append(done.result(0)))
        waiting = [start(lambda: future.result(PATIENCE)) for _ in range(3)]
        assert not future.done() and future.running() and not future.cancel()
        gate.open()
        assert [leading.result(PATIENCE), *(job.result(PATIENCE) for job in waiting)] == [
            1,
            2,
            2,
            2,
        ]
    assert calls == [2]


def test_looked_at_by_many_in_the_moment_it_is_told(log: EventLog) -> None:
    def look(barrier: threading.Barrier, future: Future[int], heard: list[int]) -> int:
        barrier.wait(PATIENCE)
        future.add_done_callback(lambda done: heard.append(done.result(0)))
        return future.result(PATIENCE)

    for n in range(1, 201):
        barrier = threading.Barrier(3)
        future = LazyFuture()
        heard = list[int]()
        looking = [start(lambda: look(barrier, future, heard)) for _ in range(2)]
        barrier.wait(PATIENCE)
        future.tell(n)
        assert future.done()
        assert [job.result(PATIENCE) for job in looking] == [n, n] == heard


def test_after_a_flush_all_futures_are_done_in_every_thread(log: EventLog) -> None:
    for _ in range(50):
        futures = [log.submit_event("t", None, "x", {}) for _ in range(20)]
        log.flush()
        assert together(*[lambda: all(future.done() for future in futures)] * 3) == [True] * 3


def test_what_waits_is_little_for_the_garbage_collector(path: Path) -> None:
    """With a condition for each event the collector took longer than the commits."""
    gate = Gate()
    count = 1000
    with closing(EventLog(path, sink=gate)) as log:
        leading = start(lambda: log.insert_event("t", None, "x", {}))
        assert gate.waiting.wait(PATIENCE)
        gc.disable()
        try:
            before = len(gc.get_objects())
            futures = [log.submit_event("t", None, "x", {"n": n}) for n in range(count)]
            objects = len(gc.get_objects()) - before
        finally:
            gc.enable()
            gate.open()
        assert objects / count < 7, "with a condition for each it is 15"
        assert [future.result(PATIENCE) for future in futures] == list(range(2, count + 2))
        assert leading.result(PATIENCE) == 1


def test_a_look_that_is_broken_off_loses_nothing(tmp_path: Path) -> None:
    """By a KeyboardInterrupt, say, or by a signal handler that looks at the same future itself."""
    source = """
import copy, random, signal, threading
from orch_events._core.lazy_future import LazyFuture

class Interrupt(BaseException):
    pass

def interrupt(*_):
    if looks:
        future.done()
    else:
        raise Interrupt

signal.signal(signal.SIGALRM, interrupt)
hits = 0
for n in range(3_000):
    future, looks = LazyFuture(), n % 2
    try:
        signal.setitimer(signal.ITIMER_REAL, random.uniform(5e-6, 4e-5))
        future.running()
        future.running()
        signal.setitimer(signal.ITIMER_REAL, 0)
    except Interrupt:
        hits += 1
    looks = True
    signal.setitimer(signal.ITIMER_REAL, 0)
    future.tell(n)
    assert future.done() and future.result(0) == n == copy.copy(future).result(0)
assert hits
"""
    run_script(tmp_path, source)


def test_what_is_told_in_the_midst_of_a_look_is_seen() -> None:
    """The look has found no outcome and is about to say that it was made; until it has, whoever tells must wait."""
    future = LazyFuture()
    telling = list[Future[None]]()

    def trace(frame: FrameType, _event: str, _argument: object) -> "TraceFunction":
        if (
            frame.f_code is LazyFuture.__getattr__.__code__
            and "made" in frame.f_locals
            and not telling
        ):
            telling.append(start(lambda: future.tell(17)))
            wait(telling, 0.1)
        return trace

    def look() -> int:
        sys.settrace(trace)
        try:
            return future.result(1)
        finally:
            sys.settrace(None)

    assert start(look).result(PATIENCE) == 17
    assert telling[0].result(PATIENCE) is None


def test_a_log_collected_in_the_midst_of_a_look_is_closed_all_the_same(
    tmp_path: Path, path: Path
) -> None:
    """Without waiting for the writer, which may be waiting for the look."""
    source = """
import gc, sys, warnings
from orch_events import EventLog

warnings.simplefilter("ignore", ResourceWarning)

class Cycle:
    def __init__(self, path):
        self.itself, self.log = self, EventLog(path)

for n in range(0, 20, 3):
    gc.collect()
    gc.disable()
    cycle = Cycle(f"{sys.argv[1]}_{n}")
    for _ in range(1000):
        future = cycle.log.submit_event("t", None, "x", {})
    del cycle
    gc.set_threshold(n + 1)
    gc.enable()
    future.done()
    gc.set_threshold(700)
    assert future.result(30) == 1000
"""
    run_script(tmp_path, source, path)
