# SPDX-License-Identifier: MIT
"""Follows a log: everything selected that is there now, then each event as it is committed.

One round: silence the bell, look whether this is the last round (stopped, or the task has ended), read
all pages, wait for the bell. In this order: a commit during the reading rings the bell again, and all that
was committed before the end is read. The bell is rung by the watcher of the store, see `commit_watcher`;
where that has no thread, the follower looks by itself every `TICK` seconds.
"""

import contextlib
import math
import threading
import time
from collections.abc import (
    AsyncIterator,
    Callable,
    Generator,
    Iterator,
)
from functools import partial
from queue import Empty, SimpleQueue
from typing import (
    TYPE_CHECKING,
    Final,
    TypeVar,
)

from .._storage.interface import Page, Selection
from .._values.host_errors import is_from_host
from .._values.task_status import ENDED
from .commit_watcher import (
    TICK,
    Bell,
    Watcher,
    watching,
)
from .paging import Cursor, pages
from .read_sessions import ExitingError, ReadSessions

if TYPE_CHECKING:
    import asyncio

T = TypeVar("T")

_DECODED_ON_LOOP: Final = 100
"""Rows of a page that are decoded without a thread at most: starting one costs as much."""


def follow(
    sessions: ReadSessions,
    selection: Selection,
    decode: Callable[[Page], list[T]],
    after_id: int,
    stop: threading.Event | None,
    timeout: float | None,
    until_finished: bool,
    owner: object,
) -> Iterator[T]:
    """Yields what `decode` makes of each page. See `Queries.follow_events` for the arguments.

    `owner` would close the sessions when it is collected: the iterator keeps it alive.
    """
    sessions.close_spare()  # the file may have been replaced since
    cursor = Cursor(after_id)
    # Not an `Event`: a signal handler that closes the log while this thread is about to wait for one
    # would wait for a lock that this thread holds.
    woken: SimpleQueue[None] = SimpleQueue()

    def ring() -> bool:
        woken.put(None)
        return True

    deadline = _deadline(time.monotonic(), timeout)
    exists = sessions.exists()
    with contextlib.suppress(ExitingError):
        while not exists:
            if _is_set(stop) or (deadline is not None and time.monotonic() >= deadline):
                return
            time.sleep(TICK)
            exists = sessions.exists()
        with _watching(sessions, ring, stop) as watcher:
            while True:
                _silence(woken)
                is_last = _is_set(stop)
                if not is_last and until_finished:
                    is_last = _has_ended(sessions, selection, cursor)
                for page in pages(sessions, selection, cursor):
                    watcher.check()  # the page may be another file's
                    yield from decode(page)
                    deadline = _deadline(time.monotonic(), timeout)
                watcher.check()
                if is_last:
                    return
                left = _seconds_until(deadline)
                pause = threading.TIMEOUT_MAX
                if watcher.ended:
                    pause = TICK
                if not _rings(woken, min(left, pause)) and left <= pause:
                    return


async def follow_async(
    sessions: ReadSessions,
    selection: Selection,
    decode: Callable[[Page], list[T]],
    after_id: int,
    timeout: float | None,
    until_finished: bool,
    owner: object,
) -> AsyncIterator[T]:
    """`follow` for coroutines: reads in threads, waits without one."""
    import asyncio

    sessions.close_spare()
    loop = asyncio.get_running_loop()
    woken = asyncio.Event()
    cursor = Cursor(after_id)
    deadline = _deadline(loop.time(), timeout)
    if not await _wait_for_log(sessions, deadline):
        return
    with _watching(sessions, _bell_on_loop(loop, woken)) as watcher:
        while True:
            woken.clear()
            is_last = until_finished and await sessions.in_thread(
                lambda: _has_ended(sessions, selection, cursor)
            )
            unread = pages(sessions, selection, cursor)
            while page := await sessions.in_thread(lambda: next(unread, None)):
                watcher.check()
                for event in await _decode_async(sessions, page, decode):
                    yield event
                deadline = _deadline(loop.time(), timeout)
            watcher.check()
            if is_last:
                return
            until = deadline
            if watcher.ended:
                until = min(loop.time() + TICK, deadline or math.inf)
            if not await _rings_async(woken, until) and until == deadline:
                return


def _deadline(now: float, timeout: float | None) -> float | None:
    if timeout is None:
        return None
    return now + timeout


def _seconds_until(deadline: float | None) -> float:
    if deadline is None:
        return threading.TIMEOUT_MAX
    return min(threading.TIMEOUT_MAX, max(0.0, deadline - time.monotonic()))


def _is_set(stop: threading.Event | None) -> bool:
    return stop is not None and stop.is_set()


def _has_ended(sessions: ReadSessions, selection: Selection, cursor: Cursor) -> bool:
    """Whether the task has ended. Asked before each reading, so that all is read when it has.

    Once a status is known, only later events are asked: a file without the index of statuses has each of
    them looked at. Ids are in the order of commits, so this question has seen all that was read before it.
    """
    task_id = selection.task_id
    if task_id is None or task_id == "":  # events of no task have no end
        return False
    with sessions.lend() as session:
        status = session.task_status(task_id, cursor.asked_id)
    if status is not None:
        cursor.status = status
    if cursor.status is not None:
        cursor.asked_id = cursor.read_id
    return cursor.status in ENDED


@contextlib.contextmanager
def _watching(
    sessions: ReadSessions, bell: Bell, stop: threading.Event | None = None
) -> Generator[Watcher, None, None]:
    sessions.bells.add(bell)
    try:
        with watching(sessions.store, bell, stop) as watcher:
            yield watcher
    finally:
        sessions.bells.discard(bell)


async def _wait_for_log(sessions: ReadSessions, deadline: float | None) -> bool:
    """Whether there is a log. One that may come later is waited for until `deadline` of the loop."""
    import asyncio

    loop = asyncio.get_running_loop()
    while not await sessions.in_thread(sessions.exists):
        if deadline is not None and loop.time() >= deadline:
            return False
        await asyncio.sleep(TICK)
    return True


async def _decode_async(
    sessions: ReadSessions, page: Page, decode: Callable[[Page], list[T]]
) -> list[T]:
    """The events of a page. A large one is decoded in a thread, so that the loop can run other tasks."""
    if len(page.ids) < _DECODED_ON_LOOP:
        return decode(page)
    return await sessions.in_thread(partial(decode, page))


def _rings(bell: "SimpleQueue[None]", seconds: float) -> bool:
    """Whether `bell` has rung since it was silenced, or does within `seconds`."""
    try:
        bell.get(timeout=seconds)
    except Empty as error:
        if is_from_host(error):
            raise
        return False
    return True


def _silence(bell: "SimpleQueue[None]") -> None:
    while not bell.empty():  # nothing else takes from it
        bell.get_nowait()


def _bell_on_loop(loop: "asyncio.AbstractEventLoop", woken: "asyncio.Event") -> Bell:
    """A bell that sets `woken` on its loop, until that is closed."""

    def ring() -> bool:
        try:
            loop.call_soon_threadsafe(woken.set)
        except RuntimeError:
            if not loop.is_closed():
                raise
            return False
        return True

    return ring


async def _rings_async(woken: "asyncio.Event", until: float | None) -> bool:
    """Whether `woken` is set, or will be before `until` of the running loop."""
    import asyncio

    waiting = asyncio.timeout_at(until)
    try:
        async with waiting:
            await woken.wait()
    except TimeoutError:
        if not waiting.expired():  # a signal handler of the host's raised it
            raise
        return False
    return True
