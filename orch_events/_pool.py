# SPDX-License-Identifier: MIT
"""The connections one reader reads with, and what it reads: pages of rows, those there are and those to come.

A connection has one user at a time; between two pages it is back in the pool, so a stream that is not being read holds
no statement, no lock and no snapshot.
"""

import contextlib
import sqlite3
import threading
import time
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Final, TypeVar

from ._connection import open_for_reading, translated
from ._errors import ForkedError, LogClosedError, LogNotFoundError, OrchEventsError, PrunedError, ReadError
from ._events import TERMINAL_EVENT_TYPES
from ._lifetime import register
from ._rows import MAX_ID, PAGE_ROWS, Page, Selection, read_last_id, read_page, read_task_status
from ._schema import prepare_reading
from ._upkeep import read_pruned
from ._wakeup import TICK, Watcher, watching

T = TypeVar("T")

_SPARE: Final = 4
"""Connections kept open for the next query; each costs two file descriptors and opening one 0.2 ms."""


class _Exiting(LogClosedError):
    """Closed by the interpreter's end, of which a daemon thread that follows should not complain."""


@dataclass(slots=True, eq=False, repr=False)
class Place:
    """How far somebody has read."""

    after_id: int
    settled: int | None = None
    """That so many were pruned is no news; ``None`` before the first page."""


class ReadPool:
    """Read-only connections to one file, each lent to one user at a time."""

    def __init__(self, path: str, busy_timeout: float, must_exist: bool = True) -> None:
        self.path = path
        self._must_exist = must_exist
        self.busy_timeout = busy_timeout
        self._spare: list[sqlite3.Connection] = []
        self._bells: set[Callable[[], object]] = set()
        """Of those who follow, to be told of the close."""
        self._refusal: OrchEventsError | None = None
        register(self)

    @contextlib.contextmanager
    def lend(self) -> Generator[sqlite3.Connection, None, None]:
        """A connection for the body's use alone; one that met an error is not used again."""
        if self._refusal is not None:
            raise type(self._refusal)(str(self._refusal))
        with translated(ReadError, self.path, "cannot read"):
            try:
                connection, new = self._spare.pop(), False
            except IndexError:
                connection, new = open_for_reading(self.path, self.busy_timeout), True
            try:
                if new:
                    prepare_reading(connection, self.path)
                yield connection
            except BaseException:
                connection.close()
                raise
        if len(self._spare) < _SPARE and self._refusal is None:
            self._spare.append(connection)
        else:
            connection.close()

    @property
    def closed(self) -> bool:
        """Whether `close` was called, or never will be because of a fork."""
        return self._refusal is not None

    def close(self, refusal: type[LogClosedError] = LogClosedError) -> None:
        """Close what is not lent; what is lent will be closed when it comes back. Idempotent."""
        if isinstance(self._refusal, ForkedError):
            raise ForkedError(str(self._refusal))
        self._refusal = refusal(f"{self.path}: this log is closed")
        self._close_spare()
        for bell in self._bells.copy():
            with contextlib.suppress(RuntimeError):  # its event loop is closed
                bell()

    def _close_spare(self) -> None:
        with contextlib.suppress(IndexError):
            while True:
                self._spare.pop().close()

    def exiting(self) -> None:
        self.close(_Exiting)

    def forked(self) -> list[sqlite3.Connection]:
        self._refusal = ForkedError(f"{self.path}: this log was opened before a fork; open a new one in the child")
        spare, self._spare = self._spare, list[sqlite3.Connection]()  # and nobody may close them
        return spare

    def exists(self) -> bool:
        """Whether there is a log to read; raises `LogNotFoundError` unless a missing one was asked to be waited for."""
        try:
            with self.lend():
                return True
        except LogNotFoundError:
            if self._must_exist:
                raise
            return False

    def pages(self, selection: Selection, after: int | Place, limit: int | None = None) -> Iterator[Page]:
        """Everything selected that is in the log now; `PrunedError` where the events that came next were pruned."""
        rows, up_to, place = PAGE_ROWS, MAX_ID, Place(after) if isinstance(after, int) else after
        while limit is None or limit > 0:
            with self.lend() as connection:
                wanted = rows if limit is None else min(rows, limit)
                page = read_page(connection, selection, place.after_id, up_to, wanted)
                full = len(page.ids) == page.limit
                if page.was_pruned is not None:
                    page, full = self._before_gap(connection, selection, place, page, full)
                place.settled = place.settled or 0
                if full and up_to == MAX_ID:  # later pages end here, or a fast writer would keep us for ever
                    up_to = read_last_id(connection)
            if page.ids:
                place.after_id, rows = page.ids[-1], min(PAGE_ROWS, page.limit * 2)
                yield page
                limit = None if limit is None else limit - len(page.ids)
            if not full:
                return

    def _before_gap(
        self, connection: sqlite3.Connection, selection: Selection, place: Place, page: Page, full: bool
    ) -> tuple[Page, bool]:
        """What of `page` comes before the newest event pruned ahead of `place`, if any; and whether there is more.

        Asked after the page was read, so whatever was missing from it is known of. Where events are left before that
        one, they come first. Somebody who comes anew is told at once, unless the very next event is there, as it is
        for whoever goes on as the error says.
        """
        pruned, count = read_pruned(connection, selection.task_id, place.after_id)
        new = place.settled is None
        if new and place.after_id == 0:  # whoever wants all there is
            place.settled = count
        if pruned <= place.after_id or count <= (place.settled or 0):
            return page, full
        before = page
        if not page.ids or page.ids[-1] > pruned:  # empty: what was committed since counts too
            before = read_page(connection, selection, place.after_id, pruned, page.limit)
        if before.ids and (not new or before.ids[0] == place.after_id + 1):
            return before, True
        first = (before.ids or page.ids or [pruned + 1])[0]
        raise PrunedError(f"{self.path}: events after {place.after_id} were pruned; the next is {first}", first)

    def _has_ended(self, selection: Selection) -> bool:
        with self.lend() as connection:
            return read_task_status(connection, selection.task_id or "") in TERMINAL_EVENT_TYPES

    @contextlib.contextmanager
    def _watching(
        self, bell: Callable[[], object], stop: threading.Event | None = None
    ) -> Generator[Watcher, None, None]:
        self._bells.add(bell)
        try:
            with watching(self.path, bell, stop) as watcher:
                yield watcher
        finally:
            self._bells.discard(bell)

    def follow(
        self, selection: Selection, decode: Callable[[Page], list[T]], after_id: int,
        stop: threading.Event | None, timeout: float | None, until_finished: bool,
    ) -> Iterator[T]:
        """Everything selected that is in the log now, then whatever is committed."""
        self._close_spare()  # the file may have been replaced since
        woken, place = threading.Event(), Place(after_id)
        deadline = None if timeout is None else time.monotonic() + timeout
        while not self.exists():
            if (stop is not None and stop.is_set()) or (deadline is not None and time.monotonic() >= deadline):
                return
            time.sleep(TICK)
        with contextlib.suppress(_Exiting), self._watching(woken.set, stop) as watcher:
            while True:
                # Cleared and asked before reading: whatever comes during it rings again, and what was committed before
                # the end is read.
                woken.clear()
                last = (stop is not None and stop.is_set()) or (until_finished and self._has_ended(selection))
                for page in self.pages(selection, place):
                    watcher.check()  # or it may be another file's
                    yield from decode(page)
                    deadline = None if timeout is None else time.monotonic() + timeout
                watcher.check()
                if last:
                    return
                left = threading.TIMEOUT_MAX if deadline is None else max(0.0, deadline - time.monotonic())
                if not woken.wait(min(left, threading.TIMEOUT_MAX)):
                    return

    async def follow_async(
        self, selection: Selection, decode: Callable[[Page], list[T]], after_id: int,
        timeout: float | None, until_finished: bool,
    ) -> AsyncIterator[T]:
        """`follow` for coroutines: reads in threads, waits without one."""
        import asyncio

        self._close_spare()
        loop, woken, place = asyncio.get_running_loop(), asyncio.Event(), Place(after_id)
        bell = partial(loop.call_soon_threadsafe, woken.set)
        deadline = None if timeout is None else loop.time() + timeout
        while not await asyncio.to_thread(self.exists):
            if deadline is not None and loop.time() >= deadline:
                return
            await asyncio.sleep(TICK)
        with self._watching(bell) as watcher:
            while True:
                woken.clear()
                last = until_finished and await asyncio.to_thread(self._has_ended, selection)
                pages = self.pages(selection, place)
                while page := await asyncio.to_thread(lambda: next(pages, None)):
                    watcher.check()
                    for event in decode(page) if len(page.ids) < 100 else await asyncio.to_thread(decode, page):
                        yield event
                    deadline = None if timeout is None else loop.time() + timeout
                watcher.check()
                if last:
                    return
                try:
                    async with asyncio.timeout_at(deadline):
                        await woken.wait()
                except TimeoutError:
                    return
