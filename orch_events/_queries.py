# SPDX-License-Identifier: MIT
"""Reading a log: the questions one answers, `EventReader`, and the one-call queries.

Only checks, forwards and documents; how pages come out of a store is decided in the core.
"""

import threading
import warnings
from collections.abc import (
    AsyncIterator,
    Callable,
    Iterator,
)
from datetime import UTC, datetime, timedelta
from functools import partial
from importlib import import_module
from itertools import islice
from typing import (
    Final,
    Self,
    cast,
)

from ._core.following import follow, follow_async
from ._core.paging import Cursor, pages
from ._core.read_sessions import ReadSessions
from ._storage.interface import (
    MAX_ID,
    Page,
    ReadSession,
    Selection,
)
from ._storage.pages import page_events, page_step_events
from ._values.errors import ForkedError, OrchEventsError, PayloadError
from ._values.event_types import STEP_EVENT_TYPES
from ._values.events import (
    Event,
    StepEvent,
    StepLogPaths,
)
from ._values.json_encoding import check_text
from ._values.stats import Stats
from ._values.task_summary import TaskSummary
from ._values.timestamps import is_since, moment_before

BUSY_TIMEOUT: Final = 10.0
"""Default of every `busy_timeout`, in seconds."""

_FIRST_TASKS: Final = 100
"""How many tasks are looked at first; then all the others."""


class Queries:
    """What logs open for writing and for reading have in common: the questions they answer, and closing.

    Every method may be called from any thread, and from several at once; the ``…_async`` twins do their reading in
    threads. All raise `ReadError` when the file cannot be read, `LogClosedError` after `close`, `ForkedError` in the
    child of a fork; and at the call, `ValueError` for what cannot be asked: an id or limit not of 0 to 2**63-1, a task
    or prefix that is no string or, having a lone surrogate, none of Unicode.
    """

    def __init__(
        self,
        sessions: ReadSessions,
        close: Callable[[], None],
        drop: Callable[[], None],
        may_close: Callable[[], None],
    ) -> None:
        self._close = close
        self._drop = drop
        self._may_close = may_close
        self._sessions = sessions  # the last: what has one can be finalized

    def query_step_events(self, task_id: str, *, after_id: int = 0) -> list[StepEvent]:
        """The task's step events (`STEP_EVENT_TYPES`) with an id above `after_id`, in id order.

        An unknown task has none. A payload that is not JSON leaves its fields ``None``; it never raises.
        """
        found = pages(
            self._sessions,
            _checked(Selection(task_id, event_types=STEP_EVENT_TYPES), after_id),
            Cursor(after_id),
        )
        return [event for page in found for event in page_step_events(page)]

    async def query_step_events_async(self, task_id: str, *, after_id: int = 0) -> list[StepEvent]:
        """`query_step_events`, without blocking the event loop."""
        return await self._sessions.in_thread(
            lambda: self.query_step_events(task_id, after_id=after_id)
        )

    def query_latest_step_log_paths(self, task_id: str) -> StepLogPaths | None:
        """Where the task's latest step writes its output, for tailing.

        Looks at the newest ``step_spawned`` or ``step_started`` event alone, as the reference does: ``None`` when the
        task has none, or when that one names no phase or no stdout file. Costs O(log n).
        """
        _checked(Selection(task_id, event_types=STEP_EVENT_TYPES))
        with self._sessions.lend() as session:
            return session.latest_log_paths(task_id)

    async def query_latest_step_log_paths_async(self, task_id: str) -> StepLogPaths | None:
        """`query_latest_step_log_paths`, without blocking the event loop."""
        return await self._sessions.in_thread(lambda: self.query_latest_step_log_paths(task_id))

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
        selection = _checked(Selection(task_id, event_type_prefix), after_id, limit)
        return self._events(pages(self._sessions, selection, Cursor(after_id), limit))

    def query_events_async(
        self,
        task_id: str | None = None,
        *,
        event_type_prefix: str | None = None,
        after_id: int = 0,
        limit: int | None = None,
    ) -> AsyncIterator[Event]:
        """`query_events` as an async iterator: each page is read in a thread."""
        selection = _checked(Selection(task_id, event_type_prefix), after_id, limit)
        return self._events_async(pages(self._sessions, selection, Cursor(after_id), limit))

    def follow_step_events(
        self,
        task_id: str,
        *,
        after_id: int = 0,
        stop: threading.Event | None = None,
        timeout: float | None = None,
        until_finished: bool = False,
    ) -> Iterator[StepEvent]:
        """The task's step events so far, then each as it is committed, by this process or any other.

        Each exactly once, in id order, starting after `after_id`; the task need not exist yet. Ends after what there
        was when `stop` was set (noticed within 0.1 s), when no new event came for `timeout` seconds, or, with
        `until_finished`, after what was recorded up to the task's end (completed, failed or cancelled, and not started
        again). Raises `ReadError` when the file is deleted or replaced. An iterator left waiting holds no lock,
        snapshot or statement.
        """
        selection = _checked(Selection(task_id, event_types=STEP_EVENT_TYPES), after_id)
        return follow(
            self._sessions,
            selection,
            page_step_events,
            after_id,
            stop,
            timeout,
            until_finished,
            self,
        )

    def follow_step_events_async(
        self,
        task_id: str,
        *,
        after_id: int = 0,
        timeout: float | None = None,
        until_finished: bool = False,
    ) -> AsyncIterator[StepEvent]:
        """`follow_step_events` for coroutines: to end it, cancel the task or leave the loop. Waits without thread."""
        selection = _checked(Selection(task_id, event_types=STEP_EVENT_TYPES), after_id)
        return follow_async(
            self._sessions,
            selection,
            page_step_events,
            after_id,
            timeout,
            until_finished,
            self,
        )

    def follow_events(
        self,
        task_id: str | None = None,
        *,
        after_id: int = 0,
        stop: threading.Event | None = None,
        timeout: float | None = None,
        until_finished: bool = False,
    ) -> Iterator[Event]:
        """As `follow_step_events`, for every event of one task or of all (`until_finished` needs a task)."""
        selection = _checked(Selection(task_id), after_id, until_finished=until_finished)
        return follow(
            self._sessions,
            selection,
            page_events,
            after_id,
            stop,
            timeout,
            until_finished,
            self,
        )

    def follow_events_async(
        self,
        task_id: str | None = None,
        *,
        after_id: int = 0,
        timeout: float | None = None,
        until_finished: bool = False,
    ) -> AsyncIterator[Event]:
        """`follow_events` for coroutines; cancel the task, or leave the loop, to end it. Waiting holds no thread."""
        selection = _checked(Selection(task_id), after_id, until_finished=until_finished)
        return follow_async(
            self._sessions,
            selection,
            page_events,
            after_id,
            timeout,
            until_finished,
            self,
        )

    # Methods, so that an iterator keeps alive what would close the log when it goes.

    def _events(self, found: Iterator[Page]) -> Iterator[Event]:
        for page in found:
            yield from page_events(page)

    async def _events_async(self, found: Iterator[Page]) -> AsyncIterator[Event]:
        while page := await self._sessions.in_thread(lambda: next(found, None)):
            for event in await self._sessions.in_thread(partial(page_events, page)):
                yield event

    def query_tasks(
        self,
        *,
        status: str | None = None,
        since: timedelta | datetime | None = None,
        limit: int | None = None,
    ) -> list[TaskSummary]:
        """The tasks of the log, the most recently active first; at most `limit` of them.

        Only those with that `status`, and with an event not older than `since`: an age, or a moment (in UTC if it has no
        zone). A task whose last time cannot be understood is never so new. Events of no task are not listed. Reads the
        index of tasks once or twice, and a few rows of each task that it looks at.
        """
        if limit is not None:
            _check_number("limit", limit)
        cutoff = None
        if since is not None:
            cutoff = moment_before("since", since, datetime.now(UTC))
        return list(islice(self._tasks(status, cutoff), limit))

    async def query_tasks_async(
        self,
        *,
        status: str | None = None,
        since: timedelta | datetime | None = None,
        limit: int | None = None,
    ) -> list[TaskSummary]:
        """`query_tasks`, without blocking the event loop."""
        return await self._sessions.in_thread(
            lambda: self.query_tasks(status=status, since=since, limit=limit)
        )

    def _tasks(self, status: str | None, cutoff: datetime | None) -> Iterator[TaskSummary]:
        before_id = MAX_ID
        rows = _FIRST_TASKS
        while True:
            with self._sessions.lend() as session:
                found = session.tasks(before_id, rows)
            for task in found:
                if not task.task_id or status not in (None, task.status):
                    continue
                if cutoff is None or is_since(task.last_created_at, cutoff):
                    yield task
            if len(found) < rows:
                return
            before_id = found[-1].last_event_id
            rows = MAX_ID

    def stats(self, *, days: int = 14) -> Stats:
        """Figures of the log, and its events on each of the last `days`.

        Reads the index of tasks and a few thousand rows, no more: of 5,000,000 events in half a second.
        """
        read_stats = cast(
            "Callable[[ReadSession, int], Stats]", load_maintenance("stats", "read_stats")
        )
        with self._sessions.lend() as session:
            return read_stats(session, days)

    async def stats_async(self, *, days: int = 14) -> Stats:
        """`stats`, without blocking the event loop."""
        return await self._sessions.in_thread(lambda: self.stats(days=days))

    def close(self) -> None:
        """Commit everything accepted, then close. Later calls of anything but `close` raise `LogClosedError`.

        Idempotent, also from several threads at once: each returns when it is closed. Of a log open for writing, raises
        `WriteError` for a failed write that was not reported yet. A sink that calls it is refused, and nothing is closed.
        """
        self._may_close()
        self._close()

    async def aclose(self) -> None:
        """`close`, without blocking the event loop."""
        import asyncio

        self._may_close()  # asked of this thread, as the other would wait for a sink that waits for it
        try:
            closing = asyncio.get_running_loop().run_in_executor(None, self.close)
        except RuntimeError:  # no thread is to be had
            self.close()
        else:
            await closing

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _kind: object, error: BaseException | None, _traceback: object) -> None:
        try:
            self.close()
        except ForkedError:
            if (
                error is None
            ):  # else the child of a fork leaves the block by an exception of its own
                raise

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, _kind: object, error: BaseException | None, _traceback: object
    ) -> None:
        try:
            await self.aclose()
        except ForkedError:
            if error is None:
                raise

    def __del__(self) -> None:
        # Without sessions it never came to be open.
        if hasattr(self, "_sessions") and not self._sessions.closed:
            message = f"{self._sessions.path}: {type(self).__name__} was not closed"
            try:
                warnings.warn(message, ResourceWarning, source=self, stacklevel=2)
            finally:
                self._drop()


def load_maintenance(module: str, function: str) -> object:
    """A function of the maintenance layer. It is imported by name, because a copy may lack it."""
    try:
        found = import_module(f"._maintenance.{module}", __package__)
    except ModuleNotFoundError as error:
        raise OrchEventsError(
            "this copy of the package has no folder '_maintenance', which cleanup and stats need"
        ) from error
    return cast("dict[str, object]", vars(found))[function]


def _checked(
    selection: Selection,
    after_id: object = 0,
    limit: object = None,
    until_finished: bool = False,
) -> Selection:
    """The selection; `ValueError` for what cannot be asked."""
    if until_finished and selection.task_id is None:
        raise ValueError("until_finished needs a task_id")
    _check_number("after_id", after_id)
    if limit is not None:
        _check_number("limit", limit)
    try:
        if selection.event_types is not None or selection.task_id is not None:
            check_text("task_id", selection.task_id)
        if selection.event_type_prefix is not None:
            check_text("event_type_prefix", selection.event_type_prefix)
    except PayloadError as error:
        raise ValueError(str(error)) from None
    return selection


def _check_number(name: str, number: object) -> None:
    if not isinstance(number, int) or isinstance(number, bool) or not 0 <= number <= MAX_ID:
        raise ValueError(f"{name} must be a whole number from 0 to 2**63-1, not {number!r}")
