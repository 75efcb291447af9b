# SPDX-License-Identifier: MIT
"""What the tests of following share: all ways to follow behind one signature, and a follower at work beside them."""

import asyncio
import ctypes
import os
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from operator import attrgetter
from pathlib import Path
from types import FrameType, SimpleNamespace
from typing import Final, Protocol, TypeAlias, TypeVar

import pytest

from orch_events import Event, EventLog, EventReader, StepEvent

from .helpers import PATIENCE, NewEvent, library_threads, start, wait_until

T = TypeVar("T")
Queries: TypeAlias = EventLog | EventReader

BEAT: Final[NewEvent] = ("t", None, "step_heartbeat", {"step": "qa", "text": "x" * 200})
OTHER: Final[NewEvent] = ("other", None, "step_heartbeat", {})
END: Final[NewEvent] = ("t", None, "task_completed", {})


class Follow(Protocol):
    """The signature of `follow_events`, which the async one is given, too."""

    def __call__(
        self,
        task_id: str | None = None,
        *,
        after_id: int = 0,
        timeout: float | None = None,
        until_finished: bool = False,
    ) -> Iterator[Event]: ...


Way: TypeAlias = Callable[[Queries], Follow]


def in_turn(stream: AsyncIterator[T]) -> Iterator[T]:
    """An async iterator as a plain one. Its event loop runs only while the next item is asked for."""

    async def following() -> T | None:
        return await anext(stream, None)

    with asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner:
        while (item := runner.run(following())) is not None:
            yield item


def follow_sync(queries: Queries) -> Follow:
    return queries.follow_events


def follow_async(queries: Queries) -> Follow:
    def follow(
        task_id: str | None = None,
        *,
        after_id: int = 0,
        timeout: float | None = None,
        until_finished: bool = False,
    ) -> Iterator[Event]:
        return in_turn(
            queries.follow_events_async(
                task_id, after_id=after_id, timeout=timeout, until_finished=until_finished
            )
        )

    return follow


@pytest.fixture(params=[follow_sync, follow_async], ids=["sync", "async"])
def way(request: pytest.FixtureRequest) -> Way:
    """How to follow: plainly, or through an event loop."""
    chosen: Way = request.param
    return chosen


@pytest.fixture(params=["log", "reader"])
def queries(request: pytest.FixtureRequest, path: Path, log: EventLog) -> Iterator[Queries]:
    """What to follow with: the log that is written, or a reader beside it."""
    with EventReader(path) as reader:
        yield log if request.param == "log" else reader


@pytest.fixture(params=[False, True], ids=["log sync", "reader async"])
def follow(request: pytest.FixtureRequest, path: Path, log: EventLog) -> Iterator[Follow]:
    """Follow `log`, once in each way and once with each kind of handle."""
    with EventReader(path) as reader:
        yield follow_async(reader) if request.param else follow_sync(log)


@pytest.fixture(params=["inotify", "polling", "inotify refused"])
def waking(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """How followers may hear of commits: as the system can, or where it has no inotify, or will give no more of it."""
    chosen: str = request.param
    refusing = SimpleNamespace(inotify_init1=lambda _: -1, inotify_add_watch=lambda *_: -1)
    if chosen != "inotify":
        libc = refusing if chosen == "inotify refused" else object()
        monkeypatch.setattr(ctypes, "CDLL", lambda _: libc)
    return chosen


def watchers() -> list[threading.Thread]:
    """The threads that watch a log in this process."""
    return [thread for thread in library_threads() if thread.name == "orch_events watcher"]


@pytest.fixture(autouse=True)
def nobody_stays(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Whatever a test does to its followers, the watchers end; sooner than usual, for there are many tests."""
    for module in ("commit_watcher", "following"):
        monkeypatch.setattr(f"orch_events._core.{module}.TICK", 0.01)
    before = watchers()
    yield
    deadline = time.monotonic() + PATIENCE / 6
    while set(watchers()) - set(before):
        assert time.monotonic() < deadline, "a watcher stays"
        time.sleep(0.002)


@pytest.fixture
def restless(monkeypatch: pytest.MonkeyPatch, nobody_stays: None) -> None:
    """A watcher looks hundreds of times within a short test."""
    monkeypatch.setattr("orch_events._core.commit_watcher.TICK", 0.001)


def descriptors() -> list[str]:
    """What this process has open."""
    folder = "/proc/self/fd"
    found = list[str]()
    for name in os.listdir(folder):
        try:
            found.append(os.readlink(f"{folder}/{name}"))
        except FileNotFoundError:  # the one for the listing itself
            continue
    return found


def ids(events: Iterable[Event | StepEvent]) -> list[int]:
    return [event.event_id for event in events]


async def first(
    stream: AsyncIterator[Event], count: int, arrived: list[int] | None = None
) -> list[int]:
    """The ids of the first `count` events; leaves the rest. Each is added to `arrived` when it comes."""
    found: list[int] = []
    async for event in stream:
        found.append(event.event_id)
        if arrived is not None:
            arrived.append(event.event_id)
        if len(found) == count:
            break
    return found


class Beside:
    """A follower in a thread of its own: what it has seen so far, and how it ends."""

    def __init__(self, events: Iterable[Event] | Iterable[StepEvent] | Iterable[int]) -> None:
        self.seen: list[int] = []
        self._thread = 0
        self._end = start(lambda: self._run(events))

    def _run(self, events: Iterable[Event | StepEvent | int]) -> list[int]:
        self._thread = threading.get_ident()
        for event in events:
            self.seen.append(event if isinstance(event, int) else event.event_id)
        return self.seen

    def saw(self, count: int) -> list[int]:
        """The ids it has seen, once there are `count`."""
        wait_until(lambda: len(self.seen) >= count or self._end.done())
        return list(self.seen)

    def asleep(self) -> None:
        """Return once it waits for something to happen, or has ended."""
        names = {"_rings", "select", "poll"}
        wait_until(lambda: self._end.done() or _running(self._thread) in names)

    def end(self, within: float = PATIENCE) -> list[int]:
        """All ids it has seen, once it has ended; raises what it raised."""
        return self._end.result(within)


def woken_each_time(follower: Beside, log: EventLog) -> None:
    """Of an empty log's task: it waits, is woken by each event, and ends with the task."""
    for n in range(3):
        follower.asleep()
        log.insert_event(*BEAT)
        assert len(follower.saw(n + 1)) == n + 1
    log.insert_event(*END)
    assert follower.end() == [1, 2, 3, 4]


def _running(thread: int) -> str:
    # Not kept in a variable, or this frame would hold itself and its callers for the garbage collector.
    frame: FrameType | None = attrgetter("_current_frames")(sys)().get(thread)
    return "" if frame is None else frame.f_code.co_name


PROGRAM: Final = """
import asyncio, gc, json, logging, os, random, signal, sys, threading, time, traceback
import orch_events._core.commit_watcher
from orch_events import EventLog, EventReader, ForkedError

path = sys.argv[1]
BEAT, END = ("t", None, "step_heartbeat", {}), ("t", None, "task_completed", {})
logging.getLogger("asyncio").setLevel(logging.ERROR)  # in debug mode it tells of what a busy machine made slow

def without_inotify():
    import ctypes
    ctypes.CDLL = lambda _: object()

def watchers():
    return [thread for thread in threading.enumerate() if thread.name == "orch_events watcher"]
"""
"""How the programs begin that `run_script` runs."""
