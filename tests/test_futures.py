# SPDX-License-Identifier: MIT
"""What `submit_event` returns is a `concurrent.futures.Future` to whoever looks at it, whenever and however."""

import asyncio
import gc
import threading
from collections.abc import Callable
from concurrent.futures import Future, as_completed, wait
from contextlib import closing
from pathlib import Path

import pytest

from orch_events import EventLog, WriteError
from orch_events._entry import LazyFuture

from .helpers import PATIENCE, Gate, start, together

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
    ours, theirs = LazyFuture(), Future[int]()
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
    gate, calls = Gate(), list[int]()
    with EventLog(path, sink=gate) as log:
        leading = start(lambda: log.insert_event("t", None, "x", {}))
        assert gate.waiting.wait(PATIENCE)
        future = log.submit_event("t", None, "x", {})
        future.add_done_callback(lambda done: calls.append(done.result(0)))
        waiting = [start(lambda: future.result(PATIENCE)) for _ in range(3)]
        assert not future.done() and future.running() and not future.cancel()
        gate.open()
        assert [leading.result(PATIENCE), *(job.result(PATIENCE) for job in waiting)] == [1, 2, 2, 2]
    assert calls == [2]


def test_looked_at_by_many_in_the_moment_it_is_told(log: EventLog) -> None:
    def look(barrier: threading.Barrier, future: Future[int], heard: list[int]) -> int:
        barrier.wait(PATIENCE)
        future.add_done_callback(lambda done: heard.append(done.result(0)))
        return future.result(PATIENCE)

    for n in range(1, 201):
        barrier, future, heard = threading.Barrier(3), LazyFuture(), list[int]()
        looking = [start(lambda: look(barrier, future, heard)) for _ in range(2)]
        barrier.wait(PATIENCE)
        future.tell(n)
        assert future.done()
        assert [job.result(PATIENCE) for job in looking] == [n, n] == heard


def test_after_a_flush_all_are_done_for_everybody(log: EventLog) -> None:
    for _ in range(50):
        futures = [log.submit_event("t", None, "x", {}) for _ in range(20)]
        log.flush()
        assert together(*[lambda: all(future.done() for future in futures)] * 3) == [True] * 3


def test_what_waits_is_little_for_the_garbage_collector(path: Path) -> None:
    """With a condition for each event the collector took longer than the commits."""
    gate, count = Gate(), 1000
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
