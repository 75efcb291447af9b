# SPDX-License-Identifier: MIT
"""Reading a log: the questions one answers, `EventReader`, and the one-call queries.

Only checks, forwards and documents; how pages come out of the file is decided in `_pool`.
"""

import os
import threading
import warnings
from collections.abc import AsyncIterator, Callable, Iterator
from itertools import chain
from typing import Final, Self

from ._connection import checked_path
from ._errors import PayloadError
from ._events import Event, StepEvent, StepLogPaths
from ._payload import check_text
from ._pool import ReadPool
from ._retention import Stats, read_stats
from ._rows import MAX_ID, Page, Selection, page_events, page_step_events, read_latest_log_paths

BUSY_TIMEOUT: Final = 10.0
"""Default of every `busy_timeout`, in seconds."""


class Queries:
    """What logs open for writing and for reading have in common: the questions they answer, and closing.

    Every method may be called from any thread, and from several at once; the ``…_async`` twins do their reading in
    threads. All raise `ReadError` when the file cannot be read, `LogClosedError` after `close`, `ForkedError` in the
    child of a fork; and at the call, `ValueError` for what cannot be asked: an id or limit not of 0 to 2**63-1, a task
    or prefix that is no string or, having a lone surrogate, none of Unicode.
    """

    def __init__(
        self, pool: ReadPool, close: Callable[[], None], drop: Callable[[], None], may_close: Callable[[], None]
    ) -> None:
        self._pool = pool
        self._close = close
        self._drop = drop
        self._may_close = may_close

    def query_step_events(self, task_id: str, *, after_id: int = 0) -> list[StepEvent]:
        """The task's step events (`STEP_EVENT_TYPES`) with an id above `after_id`, in id order.

        An unknown task has none. A payload that is not JSON leaves its fields ``None``; it never raises.
        """
        pages = self._pool.pages(_checked(Selection(task_id, steps_only=True), after_id), after_id)
        return [event for page in pages for event in page_step_events(page)]

    async def query_step_events_async(self, task_id: str, *, after_id: int = 0) -> list[StepEvent]:
        """`query_step_events`, without blocking the event loop."""
        import asyncio

        return await asyncio.to_thread(self.query_step_events, task_id, after_id=after_id)

    def query_latest_step_log_paths(self, task_id: str) -> StepLogPaths | None:
        """Where the task's latest step writes its output, for tailing.

        Looks at the newest ``step_spawned`` or ``step_started`` event alone, as the reference does: ``None`` when the
        task has none, or when that one names no phase or no stdout file. Costs O(log n).
        """
        _checked(Selection(task_id, steps_only=True))
        with self._pool.lend() as connection:
            return read_latest_log_paths(connection, task_id)

    async def query_latest_step_log_paths_async(self, task_id: str) -> StepLogPaths | None:
        """`query_latest_step_log_paths`, without blocking the event loop."""
        import asyncio

        return await asyncio.to_thread(self.query_latest_step_log_paths, task_id)

    def query_events(
        self, task_id: str | None = None, *,
        event_type_prefix: str | None = None, after_id: int = 0, limit: int | None = None,
    ) -> Iterator[Event]:
        """The events of a task, or of all, with an id above `after_id`, in id order; at most `limit` of them.

        `event_type_prefix` is literal: ``_`` and ``%`` are no wildcards. Streams in bounded memory, and ends at what
        the log held soon after the first event was asked for. An iterator left half-read holds no lock and no snapshot.
        """
        selection = _checked(Selection(task_id, event_type_prefix), after_id, limit)
        return chain.from_iterable(map(page_events, self._pool.pages(selection, after_id, limit)))

    def query_events_async(
        self, task_id: str | None = None, *,
        event_type_prefix: str | None = None, after_id: int = 0, limit: int | None = None,
    ) -> AsyncIterator[Event]:
        """`query_events` as an async iterator: each page is read in a thread."""
        selection = _checked(Selection(task_id, event_type_prefix), after_id, limit)
        return _events(self._pool.pages(selection, after_id, limit))

    def follow_step_events(
        self, task_id: str, *, after_id: int = 0,
        stop: threading.Event | None = None, timeout: float | None = None, until_finished: bool = False,
    ) -> Iterator[StepEvent]:
        """The task's step events so far, then each as it is committed, by this process or any other.

        Each exactly once, in id order, starting after `after_id`; the task need not exist yet. Ends after what there
        was when `stop` was set (noticed within 0.1 s), when no new event came for `timeout` seconds, or, with
        `until_finished`, after what was recorded up to the task's end (completed, failed or cancelled, and not started
        again). Raises `ReadError` when the file is deleted or replaced. An iterator left waiting holds no lock,
        snapshot or statement.
        """
        selection = _checked(Selection(task_id, steps_only=True), after_id)
        return self._pool.follow(selection, page_step_events, after_id, stop, timeout, until_finished)

    def follow_step_events_async(
        self, task_id: str, *, after_id: int = 0, timeout: float | None = None, until_finished: bool = False
    ) -> AsyncIterator[StepEvent]:
        """`follow_step_events` for coroutines: to end it, cancel the task or leave the loop. Waits without thread."""
        selection = _checked(Selection(task_id, steps_only=True), after_id)
        return self._pool.follow_async(selection, page_step_events, after_id, timeout, until_finished)

    def follow_events(
        self, task_id: str | None = None, *, after_id: int = 0,
        stop: threading.Event | None = None, timeout: float | None = None, until_finished: bool = False,
    ) -> Iterator[Event]:
        """As `follow_step_events`, for every event of one task or of all (`until_finished` needs a task)."""
        selection = _checked(Selection(task_id), after_id, until_finished=until_finished)
        return self._pool.follow(selection, page_events, after_id, stop, timeout, until_finished)

    def follow_events_async(
        self, task_id: str | None = None, *,
        after_id: int = 0, timeout: float | None = None, until_finished: bool = False,
    ) -> AsyncIterator[Event]:
        """`follow_events` for coroutines; cancel the task, or leave the loop, to end it. Waiting holds no thread."""
        selection = _checked(Selection(task_id), after_id, until_finished=until_finished)
        return self._pool.follow_async(selection, page_events, after_id, timeout, until_finished)

    def stats(self, *, days: int = 14) -> Stats:
        """Figures of the log, and its events on each of the last `days`.

        Reads the index of tasks and a few thousand rows, no more: of 5,000,000 events in half a second.
        """
        with self._pool.lend() as connection:
            return read_stats(connection, self._pool.path, days)

    async def stats_async(self, *, days: int = 14) -> Stats:
        """`stats`, without blocking the event loop."""
        import asyncio

        return await asyncio.to_thread(self.stats, days=days)

    def close(self) -> None:
        """Commit everything accepted, then close. Later calls of anything but `close` raise `LogClosedError`.

        Idempotent, also from several threads at once: each returns when it is closed. Of a log open for writing, raises
        `WriteError` for a failed write nobody has heard of. A sink that calls it is refused, and nothing is closed.
        """
        self._may_close()
        self._close()

    async def aclose(self) -> None:
        """`close`, without blocking the event loop."""
        import asyncio

        self._may_close()  # asked of this thread, as the other would wait for a sink that waits for it
        await asyncio.to_thread(self.close)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    def __del__(self) -> None:
        if hasattr(self, "_pool") and not self._pool.closed:  # without a pool it never came to be open
            message = f"{self._pool.path}: {type(self).__name__} was not closed"
            try:
                warnings.warn(message, ResourceWarning, source=self, stacklevel=2)
            finally:
                self._drop()


def _checked(
    selection: Selection, after_id: object = 0, limit: object = None, until_finished: bool = False
) -> Selection:
    if until_finished and selection.task_id is None:
        raise ValueError("until_finished needs a task_id")
    for name, number in {"after_id": after_id, "limit": 0 if limit is None else limit}.items():
        if not isinstance(number, int) or isinstance(number, bool) or not 0 <= number <= MAX_ID:
            raise ValueError(f"{name} must be a whole number from 0 to 2**63-1, not {number!r}")
    try:
        if selection.steps_only or selection.task_id is not None:
            check_text("task_id", selection.task_id)
        if selection.event_type_prefix is not None:
            check_text("event_type_prefix", selection.event_type_prefix)
    except PayloadError as error:
        raise ValueError(str(error)) from None
    return selection


async def _events(pages: Iterator[Page]) -> AsyncIterator[Event]:
    import asyncio

    while page := await asyncio.to_thread(lambda: next(pages, None)):
        for event in await asyncio.to_thread(page_events, page):
            yield event


class EventReader(Queries):
    """An event log opened for reading only. Creates nothing, writes nothing, works beside any number of live writers.

    (SQLite itself may create the ``-wal`` and ``-shm`` files that every reader of a log needs, so the directory must be
    writable unless they exist.) `busy_timeout` is the longest wait for a lock, in seconds. Raises `LogNotFoundError`
    when there is no file or it is empty, `SchemaError` when it is no event log, `ReadError` when it cannot be opened.
    With ``must_exist=False`` it may come later: until then queries raise `LogNotFoundError`, and the ``follow_…``
    methods wait.

    Safe to share between threads and tasks. Close it, or use it as a context manager (``with`` or ``async with``).
    """

    def __init__(
        self, path: str | os.PathLike[str], *, busy_timeout: float = BUSY_TIMEOUT, must_exist: bool = True
    ) -> None:
        pool = ReadPool(checked_path(path), busy_timeout, must_exist)
        pool.exists()  # whatever is wrong with the file is wrong now, not at the first query
        super().__init__(pool, pool.close, pool.close, lambda: None)


def query_step_events(db_path: str | os.PathLike[str], task_id: str) -> list[StepEvent]:
    """`EventReader.query_step_events` on a path: opens the log for this one call. Raises what `EventReader` does."""
    with EventReader(db_path) as reader:
        return reader.query_step_events(task_id)


def query_latest_step_log_paths(db_path: str | os.PathLike[str], task_id: str) -> StepLogPaths | None:
    """`EventReader.query_latest_step_log_paths` on a path: opens the log for this one call."""
    with EventReader(db_path) as reader:
        return reader.query_latest_step_log_paths(task_id)
