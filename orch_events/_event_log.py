# SPDX-License-Identifier: MIT
"""The log opened for writing."""

import os
from collections.abc import (
    Callable,
    Collection,
    Iterable,
    Mapping,
)
from concurrent.futures import Future
from contextlib import (
    AbstractAsyncContextManager,
    AbstractContextManager,
)
from datetime import (
    UTC,
    datetime,
    timedelta,
)
from functools import partial
from typing import (
    Final,
    TypeAlias,
    cast,
    get_args,
)

from ._core.async_append import append
from ._core.commit_queue import CommitQueue
from ._core.read_sessions import ReadSessions
from ._core.sink_delivery import EventSink
from ._queries import (
    BUSY_TIMEOUT,
    Queries,
    load_maintenance,
)
from ._recorded_step import (
    StepBlock,
    recorded_step,
    recorded_step_async,
)
from ._storage.interface import (
    MAX_ID,
    Durability,
    MaintenanceSession,
)
from ._storage.open_store import open_store
from ._values.cleanup import (
    BATCH,
    Cleanup,
    CleanupPlan,
)
from ._values.new_events import (
    NO_FIELDS,
    NewEvent,
    NewRow,
    new_row,
    new_rows,
)
from ._values.postgres_database import PostgresDatabase
from ._values.timestamps import moment_before, timestamp

_Progress: TypeAlias = Callable[[Cleanup], object]

_DURABILITIES: Final = cast("tuple[str, ...]", get_args(Durability))

QUEUE_CAPACITY: Final = 10_000
"""Events that may wait for the writer thread: about 5 MB of them, and a tenth of a second of its work."""


class EventLog(Queries):
    """An event log opened for writing and reading. Creates the file if there is none (not its directory).

    `path` is a file, or the URL of a PostgreSQL database, ``postgresql://…?orch_events_schema=name``, or a
    `PostgresDatabase`.

    `sink` is called with each event once it is durable. `durability` says what an ack means: with ``"full"`` the event
    survives a power cut, with ``"normal"`` a crash of the program or of the system's processes, but perhaps not of the
    machine. `queue_capacity` bounds the events waiting to be committed. `busy_timeout`, in seconds, bounds the wait for
    another process's lock and for room in the queue.

    Raises `LogNotFoundError` when the directory is missing, `SchemaError` when the file is something else or newer,
    `WriteError` when it cannot be written, `ValueError` for an impossible option. In a folder that every user may write
    to, as ``/tmp`` is, others can forge events: a WARNING of our logger says so, once for each path.

    Safe to share between threads, tasks and event loops; each process opens its own. Events of one thread are recorded
    in the order of its calls, but for coroutines that wait for room in a full queue. A signal handler, a finalizer or a
    trace function may call `submit_event` at any moment; any other call of the log that it interrupted in the middle of
    a commit is refused with an `OrchEventsError`, since it would wait for itself. Close it, or use it as a context
    manager (``with`` or ``async with``); a program that forgets still finds every accepted event on disk.
    """

    def __init__(
        self,
        path: str | os.PathLike[str] | PostgresDatabase,
        *,
        sink: EventSink | None = None,
        durability: Durability = "full",
        queue_capacity: int = QUEUE_CAPACITY,
        busy_timeout: float = BUSY_TIMEOUT,
    ) -> None:
        if durability not in _DURABILITIES:
            raise ValueError(f"durability must be 'full' or 'normal', not {durability!r}")
        if queue_capacity < 1:
            raise ValueError(f"queue_capacity must be at least 1, not {queue_capacity}")
        if not busy_timeout >= 0:
            raise ValueError(f"busy_timeout must not be negative, not {busy_timeout}")
        store = open_store(path)
        session = store.open_for_writing(durability, busy_timeout)
        queue = CommitQueue(
            session,
            store.path,
            store.key,
            sink,
            queue_capacity,
            busy_timeout,
        )
        sessions = ReadSessions(store, busy_timeout)

        def close(end: Callable[[], None]) -> None:
            try:
                end()
            finally:
                sessions.close()

        super().__init__(
            sessions,
            partial(close, queue.close),
            partial(close, queue.close_from_finalizer),
            queue.refuse_inside_commit,
        )
        self._queue = queue

    def insert_event(
        self,
        task_id: str,
        task_item_id: str | None,
        event_type: str,
        payload: Mapping[str, object] = NO_FIELDS,
    ) -> int:
        """Record one event; returns its id once it is durable.

        With an empty `task_id` it is the log's own: an event of no task. `event_type` must not be empty. The payload's
        keys are strings, at any depth. An event is at most 16 MiB as a line of JSON, its payload 1,000,000 values, each
        of its names 64 KiB: so that all that was recorded can be read, archived and restored in bounded memory.

        Raises `PayloadError` for what cannot be stored or would not read back equal, `QueueFullError` when the log
        cannot keep up, `WriteError` when the commit failed. Blocks for one commit, shared with other writers.
        """
        return self._queue.append(
            (new_row((task_id, task_item_id, event_type, payload), timestamp()),)
        )

    async def insert_event_async(
        self,
        task_id: str,
        task_item_id: str | None,
        event_type: str,
        payload: Mapping[str, object] = NO_FIELDS,
    ) -> int:
        """`insert_event` for coroutines; holds no thread while it waits.

        If it is cancelled the event is in the log once or not at all.
        """
        return await append(
            self._queue, (new_row((task_id, task_item_id, event_type, payload), timestamp()),)
        )

    def insert_events(self, events: Iterable[NewEvent]) -> list[int]:
        """Record ``(task_id, task_item_id, event_type, payload)`` tuples in one transaction, all or none; their ids.

        Their timestamps are equal and their ids contiguous. Raises as `insert_event`; a `PayloadError` names the event
        by its place in `events` and nothing is written. Another process that writes waits until all are in.
        """
        rows = [row for run in new_rows(events) for row in run]
        last = self._queue.append(rows)
        return list(range(last - len(rows) + 1, last + 1))

    async def insert_events_async(self, events: Iterable[NewEvent]) -> list[int]:
        """`insert_events` for coroutines. `events` is iterated on the loop, which goes on in between."""
        import asyncio

        rows: list[NewRow] = []
        for run in new_rows(events):
            rows += run
            await asyncio.sleep(0)
        last = await append(self._queue, rows)
        return list(range(last - len(rows) + 1, last + 1))

    def submit_event(
        self,
        task_id: str,
        task_item_id: str | None,
        event_type: str,
        payload: Mapping[str, object] = NO_FIELDS,
    ) -> Future[int]:
        """Queue one event and return at once; the future resolves to its id when it is durable.

        Raises `PayloadError`, and `QueueFullError` after waiting `busy_timeout` seconds for room. The future fails with
        `WriteError`; if it is dropped without having been asked, the failure is logged and raised by the next `flush` or
        `close`. It
        cannot be cancelled: an accepted event is written. Its callbacks run on the writer's thread, and may record by
        `submit_event` alone. A signal handler must not wait for the future: where it has interrupted the very commit
        that is to come before, `result` raises an `OrchEventsError`.
        In the child of a fork, one from before the fork never resolves.
        """
        return self._queue.submit(
            (new_row((task_id, task_item_id, event_type, payload), timestamp()),)
        )

    def step(
        self,
        task_id: str,
        step: str,
        *,
        item: str | None = None,
        agent: str | None = None,
        payload: Mapping[str, object] = NO_FIELDS,
        heartbeat: float | None = None,
    ) -> AbstractContextManager[dict[str, object]]:
        """A context manager that records a block of code as a step: ``step_started``, and in the end ``step_finished``.

        The end has ``success``, ``duration_ms``, and of an exception ``reason`` and ``error_type``; the exception goes on
        unchanged, a ``KeyboardInterrupt`` or ``SystemExit`` too. What the block puts into the dictionary that ``as`` gives
        is added to the end; ``success`` too, for a failure without an exception. `payload` is in each event. With
        `heartbeat`, in seconds, a thread records a ``step_heartbeat`` that often.

        Raises as `insert_event`; an end that cannot be recorded after an exception is logged instead. Each ``with`` needs
        a new one.
        """
        block = StepBlock(
            task_id,
            step,
            item,
            agent,
            payload,
            heartbeat,
        )
        return recorded_step(self.insert_event, self.submit_event, block)

    def step_async(
        self,
        task_id: str,
        step: str,
        *,
        item: str | None = None,
        agent: str | None = None,
        payload: Mapping[str, object] = NO_FIELDS,
        heartbeat: float | None = None,
    ) -> AbstractAsyncContextManager[dict[str, object]]:
        """`step` for ``async with``. A cancellation is a failure like any other; a second one may lose the end.

        Heartbeats come from a task of the loop, so there is none while that is blocked.
        """
        block = StepBlock(
            task_id,
            step,
            item,
            agent,
            payload,
            heartbeat,
        )
        return recorded_step_async(self.insert_event_async, block)

    def flush(self) -> None:
        """Wait until everything accepted so far is durable; raises `WriteError` for a failure that was not reported yet."""
        self._queue.flush()

    async def flush_async(self) -> None:
        """`flush` for coroutines."""
        await append(self._queue, ())
        self._queue.lost.raise_first()

    def cleanup(
        self,
        *,
        older_than: timedelta | datetime | None = None,
        keep_last: int | None = None,
        max_bytes: int | None = None,
        only_finished: bool = True,
        dry_run: bool = False,
        batch: int = BATCH,
        archive: str | os.PathLike[str] | None = None,
        gzip: bool = False,
        abandoned: Collection[str] = (),
        output: str | os.PathLike[str] | Iterable[str | os.PathLike[str]] = (),
        archive_output: bool = False,
        progress: Callable[[Cleanup], object] | None = None,
    ) -> Cleanup:
        """Delete old events, beside live writers, and give their space back to the file system; says what it did.

        Those go that are strictly older than `older_than` (an age, or a moment, in UTC if it has no zone), and then,
        the oldest first, as many as it takes for the database to fit into `max_bytes`; given `keep_last` alone, all.
        But nothing of a task that has not ended (completed, failed or cancelled) goes, unless `only_finished` is false, nor the
        `keep_last` newest events of any task. Events of no task (``""``) are taken for those of a task that has ended:
        nothing else would ever let them go. A time that cannot be understood is never old. The event that gives a
        task its status goes last: else, with a later one kept, the task would seem to run again.

        At most `batch` events go in one commit, which holds the write lock for a few milliseconds. Interrupted
        anywhere, it leaves a sound log, and a second call goes on. `archive` is a directory: what is to go is first
        written there, as JSON lines, with `gzip` compressed, one file a run (one for each 500,000 events, so that disk
        and memory stay bounded), named by time and ids. A crash may leave events in the log and in a file, never in
        neither. What another program has recorded and no line of an archive can hold stays: `Cleanup.too_large`.
        `progress` is called after each commit, and while it looks for what may go.

        The tasks in `abandoned` count as ended for as long as all their events are older than `older_than`: if one of
        them records anything meanwhile, what is left of it stays. `output` is the folder in which ``orch-events run``
        keeps its output, or several: the files that deleted events name go too, or into the archive with
        `archive_output`; with `keep_last`, or if `only_finished` is false, only those of tasks that are gone. Only those
        go that an event of the task named, with a name that `run` gives, and that belong to the folder's owner or to us.

        A reader that comes to where events were gets `PrunedError`. Ids are not given again. Of a file made without
        ``auto_vacuum`` the space is used again instead: `Cleanup.bytes_reusable`. For coroutines:
        ``await asyncio.to_thread(log.cleanup, …)``.

        Raises `ValueError` for what makes no sense, such as no criterion at all or an `older_than` in the future,
        `WriteError`, and `OSError` of the archive or an output file.
        """
        plan = _cleanup_plan(
            older_than,
            keep_last,
            max_bytes,
            only_finished,
            dry_run,
            batch,
            archive,
            gzip,
            abandoned,
            output,
            archive_output,
        )
        clean = cast(
            "Callable[[MaintenanceSession, str, CleanupPlan, _Progress | None], Cleanup]",
            load_maintenance("retention", "clean"),
        )
        sessions = self._sessions
        with sessions.lend():  # if the log may still be used
            session = sessions.store.open_for_maintenance("normal", sessions.busy_timeout)

        def report(done: Cleanup) -> None:
            if progress is not None:
                progress(done)
            sessions.refuse_child()  # `progress` may have forked, and returned in the child

        try:
            return clean(session, sessions.store.name, plan, report)
        finally:
            if not sessions.is_inherited:
                session.close()


def _cleanup_plan(
    older_than: timedelta | datetime | None,
    keep_last: int | None,
    max_bytes: int | None,
    only_finished: bool,
    dry_run: bool,
    batch: int,
    archive: str | os.PathLike[str] | None,
    gzip: bool,
    abandoned: Collection[str],
    output: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
    archive_output: bool,
) -> CleanupPlan:
    """What `cleanup` is asked for; `ValueError` for what makes no sense."""
    if older_than is None and keep_last is None and max_bytes is None:
        raise ValueError("cleanup needs older_than, keep_last or max_bytes")
    numbers: list[object] = [keep_last or 0, max_bytes or 0, batch - 1]
    if not all(isinstance(number, int) and 0 <= number <= MAX_ID for number in numbers):
        raise ValueError(
            "keep_last, max_bytes and batch must be whole numbers, from 0, 0 and 1 to 2**63-1"
        )
    archive_folder = None if archive is None else _folder("archive", archive)
    if isinstance(output, (str, os.PathLike)):
        output = (output,)
    output_folders = [_folder("output", path) for path in output]
    if gzip and archive_folder is None:
        raise ValueError("gzip is of the archive, and none is wanted")
    if archive_output and (archive_folder is None or not output_folders):
        raise ValueError("archive_output needs archive and output")
    if abandoned and older_than is None:
        raise ValueError("abandoned needs older_than: how long such a task has been silent")
    if isinstance(abandoned, str):
        raise ValueError(f"abandoned names tasks, each in a text of its own: {abandoned!r}")
    return CleanupPlan(
        cutoff=_cutoff(older_than),
        keep_last=keep_last or 0,
        only_finished=only_finished,
        max_bytes=max_bytes,
        batch=batch,
        dry_run=dry_run,
        archive=archive_folder,
        gzip=gzip,
        abandoned=frozenset(abandoned),
        output=tuple(output_folders),
        archive_output=archive_output,
    )


def _cutoff(older_than: timedelta | datetime | None) -> datetime | None:
    if older_than is None:
        return None
    now = datetime.now(UTC)
    cutoff = moment_before("older_than", older_than, now)
    if cutoff > now:
        raise ValueError(f"older_than lies in the future, so everything would go: {older_than}")
    return cutoff


def _folder(name: str, path: str | os.PathLike[str]) -> str:
    folder = os.fspath(path)
    if not folder:
        raise ValueError(f"{name} is a directory; this names none: ''")
    return folder
