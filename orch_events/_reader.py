# SPDX-License-Identifier: MIT
"""Reading a log: `EventReader`, the one-call queries, and the pool of connections behind them.

A connection has one user at a time; between two pages of a stream it is back in the pool, so a stream that is not
being read holds no statement, no lock and no snapshot.
"""

import contextlib
import os
import sqlite3
import warnings
from collections.abc import AsyncIterator, Iterator
from typing import Final, Self

from . import _rows
from ._connection import checked_path, open_for_reading, translated
from ._errors import ForkedError, LogClosedError, OrchEventsError, ReadError
from ._events import Event, StepEvent, StepLogPaths
from ._lifetime import register
from ._rows import MAX_ID, PAGE_ROWS, Page, Selection
from ._schema import prepare_reading

__all__ = ["EventReader", "query_latest_step_log_paths", "query_step_events"]

BUSY_TIMEOUT: Final = 10.0
"""Default of every `busy_timeout`, in seconds."""

_SPARE: Final = 4
"""Connections kept open for the next query; each costs two file descriptors and opening one 0.2 ms."""


class ReadPool:
    """Read-only connections to one file, each lent to one user at a time."""

    def __init__(self, path: str, busy_timeout: float) -> None:
        self.path = path
        self._busy_timeout = busy_timeout
        self._spare: list[sqlite3.Connection] = []
        self._refusal: OrchEventsError | None = None
        register(self)

    def _open(self) -> sqlite3.Connection:
        connection = open_for_reading(self.path, self._busy_timeout)
        try:
            with translated(ReadError, self.path, "cannot read"):
                prepare_reading(connection, self.path)
        except BaseException:
            connection.close()
            raise
        return connection

    @contextlib.contextmanager
    def lend(self) -> Iterator[sqlite3.Connection]:
        """A connection for the body's use alone."""
        if self._refusal is not None:
            raise self._refusal
        try:
            connection = self._spare.pop()
        except IndexError:
            connection = self._open()
        try:
            with translated(ReadError, self.path, "cannot read"):
                yield connection
        except BaseException:
            connection.close()
            raise
        if len(self._spare) < _SPARE and self._refusal is None:
            self._spare.append(connection)
        else:
            connection.close()

    def close(self) -> None:
        """Close what is not lent; what is lent will be closed when it comes back. Idempotent."""
        if isinstance(self._refusal, ForkedError):
            raise self._refusal
        self._refusal = LogClosedError(f"{self.path}: this log is closed")
        while self._spare:
            self._spare.pop().close()

    @property
    def closed(self) -> bool:
        """Whether `close` was called, or never will be because of a fork."""
        return self._refusal is not None

    def forked(self) -> None:
        self._refusal = ForkedError(f"{self.path}: this log was opened before a fork; open a new one in the child")

    def exiting(self) -> None:
        self.close()

    # ------------------------------------------------------------------------------------------------ queries

    def pages(self, selection: Selection, after_id: int, limit: int | None = None) -> Iterator[Page]:
        """Everything selected that is in the log now, by pages."""
        rows, up_to = PAGE_ROWS, MAX_ID
        while limit is None or limit > 0:
            with self.lend() as connection:
                page = _rows.read_page(connection, selection, after_id, up_to, rows if limit is None else min(rows, limit))
                if up_to == MAX_ID:  # later pages end here, or a fast writer would keep us for ever
                    up_to = _rows.read_last_id(connection) if len(page.ids) == page.limit else 0
            if page.ids:
                yield page
                after_id, rows = page.ids[-1], min(PAGE_ROWS, page.limit * 2)
                limit = None if limit is None else limit - len(page.ids)
            if len(page.ids) < page.limit:
                return


class Queries:
    """The questions a log answers, whether it is open for writing or only for reading. Base of both; not public.

    Every method may be called from any thread, and from several at once; the ``…_async`` twins run the same query in a
    thread. All raise `ReadError` when the file cannot be read, `LogClosedError` after `close`, `ForkedError` in the
    child of a fork.
    """

    def __init__(self, pool: ReadPool) -> None:
        self._pool = pool

    def query_step_events(self, task_id: str, *, after_id: int = 0) -> list[StepEvent]:
        """The task's step events (`STEP_EVENT_TYPES`) with an id above `after_id`, in id order.

        An unknown task has none. A payload that is not JSON leaves its fields ``None``; it never raises.
        """
        selection = Selection(task_id=task_id, steps_only=True)
        return [event for page in self._pool.pages(selection, after_id) for event in _rows.page_step_events(page)]

    async def query_step_events_async(self, task_id: str, *, after_id: int = 0) -> list[StepEvent]:
        """`query_step_events`, without blocking the event loop."""
        from ._aio import in_thread

        return await in_thread(self.query_step_events, task_id, after_id=after_id)

    def query_latest_step_log_paths(self, task_id: str) -> StepLogPaths | None:
        """Where the task's latest step writes its output, for tailing.

        Looks at the newest ``step_spawned`` or ``step_started`` event alone, as the reference does: ``None`` when the
        task has none, or when that one names no phase or no stdout file. Costs O(log n).
        """
        with self._pool.lend() as connection:
            return _rows.read_latest_log_paths(connection, task_id)

    async def query_latest_step_log_paths_async(self, task_id: str) -> StepLogPaths | None:
        """`query_latest_step_log_paths`, without blocking the event loop."""
        from ._aio import in_thread

        return await in_thread(self.query_latest_step_log_paths, task_id)

    def query_events(
        self,
        task_id: str | None = None,
        *,
        event_type_prefix: str | None = None,
        after_id: int = 0,
        limit: int | None = None,
    ) -> Iterator[Event]:
        """The events of a task, or of all, with an id above `after_id`, in id order; at most `limit` of them.

        `event_type_prefix` is literal: ``_`` and ``%`` are no wildcards. Streams in bounded memory, and ends at what
        the log held soon after the first event was asked for. An iterator left half-read holds no lock and no snapshot.
        """
        for page in self._pool.pages(Selection(task_id, event_type_prefix), after_id, limit):
            yield from _rows.page_events(page)

    async def query_events_async(
        self,
        task_id: str | None = None,
        *,
        event_type_prefix: str | None = None,
        after_id: int = 0,
        limit: int | None = None,
    ) -> AsyncIterator[Event]:
        """`query_events` as an async iterator: each page is read in a thread."""
        from ._aio import in_thread

        pages = self._pool.pages(Selection(task_id, event_type_prefix), after_id, limit)
        while page := await in_thread(next, pages, None):
            for event in await in_thread(_rows.page_events, page):
                yield event


class EventReader(Queries):
    """An event log opened for reading only. Creates nothing, writes nothing, works beside any number of live writers.

    (SQLite itself may create the ``-wal`` and ``-shm`` files that every reader of a log needs, so the directory must be
    writable unless they exist.) `busy_timeout` is the longest wait for a lock, in seconds. Raises `LogNotFoundError`
    when there is no file, `SchemaError` when it is no event log, `ReadError` when it cannot be opened.

    Safe to share between threads and tasks. Close it, or use it as a context manager (``with`` or ``async with``).
    """

    def __init__(self, path: str | os.PathLike[str], *, busy_timeout: float = BUSY_TIMEOUT) -> None:
        super().__init__(ReadPool(checked_path(path), busy_timeout))
        with self._pool.lend():
            pass  # whatever is wrong with the file is wrong now, not at the first query

    def close(self) -> None:
        """Close the connections. Idempotent; a second call does nothing."""
        self._pool.close()

    async def aclose(self) -> None:
        """`close`, without blocking the event loop."""
        from ._aio import in_thread

        await in_thread(self.close)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    def __del__(self) -> None:
        # `_pool` is missing when the path was refused.
        if hasattr(self, "_pool") and not self._pool.closed:
            warnings.warn(f"{self._pool.path}: EventReader was not closed", ResourceWarning, source=self, stacklevel=2)
            self._pool.close()


def query_step_events(db_path: str | os.PathLike[str], task_id: str) -> list[StepEvent]:
    """`EventReader.query_step_events` on a path: opens the log for this one call. Raises what `EventReader` does."""
    with EventReader(db_path) as reader:
        return reader.query_step_events(task_id)


def query_latest_step_log_paths(db_path: str | os.PathLike[str], task_id: str) -> StepLogPaths | None:
    """`EventReader.query_latest_step_log_paths` on a path: opens the log for this one call."""
    with EventReader(db_path) as reader:
        return reader.query_latest_step_log_paths(task_id)
