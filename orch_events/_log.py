# SPDX-License-Identifier: MIT
"""`EventLog`: the log opened for writing, and the one function that writes on somebody else's connection.

Only checks, forwards and documents. Each asyncio twin stands beside its original and differs in nothing but waiting.
"""

import os
import sqlite3
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future
from datetime import datetime, timedelta, timezone
from functools import partial
from typing import Final

from ._aio import append
from ._connection import DURABILITY, Durability, checked_path, open_for_writing, translated
from ._errors import SchemaError, WriteError
from ._pool import ReadPool
from ._reader import BUSY_TIMEOUT, Queries
from ._retention import BATCH, Cleaning, Cleanup
from ._rows import MAX_ID, NewEvent, NewRow, insert_one, new_row, new_rows, timestamp
from ._schema import prepare
from ._sinks import EventSink
from ._upkeep import Rules
from ._writer import Writer

QUEUE_CAPACITY: Final = 10_000
"""Events that may wait for the writer thread: about 5 MB of them, and a tenth of a second of its work."""


class EventLog(Queries):
    """An event log opened for writing and reading. Creates the file if there is none (not its directory).

    `sink` hears of each event once it is durable. `durability` says what an ack means: with ``"full"`` the event
    survives a power cut, with ``"normal"`` a crash of the program or of the system's processes, but perhaps not of the
    machine. `queue_capacity` bounds the events waiting to be committed. `busy_timeout`, in seconds, bounds the wait for
    another process's lock and for room in the queue.

    Raises `LogNotFoundError` when the directory is missing, `SchemaError` when the file is something else or newer,
    `WriteError` when it cannot be written, `ValueError` for an impossible option.

    Safe to share between threads, tasks and event loops; each process opens its own. Events of one thread are recorded
    in the order of its calls. Close it, or use it as a context manager (``with`` or ``async with``); a program that
    forgets still finds every accepted event on disk.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        sink: EventSink | None = None,
        durability: Durability = "full",
        queue_capacity: int = QUEUE_CAPACITY,
        busy_timeout: float = BUSY_TIMEOUT,
    ) -> None:
        if durability not in DURABILITY:
            raise ValueError(f"durability must be 'full' or 'normal', not {durability!r}")
        if queue_capacity < 1:
            raise ValueError(f"queue_capacity must be at least 1, not {queue_capacity}")
        if not busy_timeout >= 0:
            raise ValueError(f"busy_timeout must not be negative, not {busy_timeout}")
        name = checked_path(path)
        connection = open_for_writing(name, durability, busy_timeout)
        try:
            with translated(WriteError, name, "cannot open"):
                prepare(connection, name, busy_timeout)
        except BaseException:
            connection.close()
            raise
        writer, pool = Writer(connection, name, sink, queue_capacity, busy_timeout), ReadPool(name, busy_timeout)

        def close(end: Callable[[], None]) -> None:
            try:
                end()
            finally:
                pool.close()

        super().__init__(pool, partial(close, writer.close), partial(close, writer.drop), writer.check_outside)
        self._writer = writer

    def insert_event(
        self, task_id: str, task_item_id: str | None, event_type: str, payload: Mapping[str, object]
    ) -> int:
        """Record one event; returns its id once it is durable.

        Raises `PayloadError` for what cannot be stored or would not read back equal, `QueueFullError` when the log
        cannot keep up, `WriteError` when the commit failed. Blocks for one commit, shared with whoever else is writing.
        """
        return self._writer.append((new_row((task_id, task_item_id, event_type, payload), timestamp()),))

    async def insert_event_async(
        self, task_id: str, task_item_id: str | None, event_type: str, payload: Mapping[str, object]
    ) -> int:
        """`insert_event` for coroutines; holds no thread while it waits.

        If it is cancelled the event is in the log once or not at all.
        """
        return await append(self._writer, (new_row((task_id, task_item_id, event_type, payload), timestamp()),))

    def insert_events(self, events: Iterable[NewEvent]) -> list[int]:
        """Record ``(task_id, task_item_id, event_type, payload)`` tuples in one transaction, all or none; their ids.

        Their timestamps are equal and their ids contiguous. Raises as `insert_event`; a `PayloadError` names the event
        by its place in `events` and nothing is written. Another process that writes waits until all are in.
        """
        rows = [row for run in new_rows(events) for row in run]
        last = self._writer.append(rows)
        return list(range(last - len(rows) + 1, last + 1))

    async def insert_events_async(self, events: Iterable[NewEvent]) -> list[int]:
        """`insert_events` for coroutines. `events` is iterated on the loop, which goes on in between."""
        import asyncio

        rows: list[NewRow] = []
        for run in new_rows(events):
            rows += run
            await asyncio.sleep(0)
        last = await append(self._writer, rows)
        return list(range(last - len(rows) + 1, last + 1))

    def submit_event(
        self, task_id: str, task_item_id: str | None, event_type: str, payload: Mapping[str, object]
    ) -> Future[int]:
        """Queue one event and return at once; the future resolves to its id when it is durable.

        Raises `PayloadError`, and `QueueFullError` after waiting `busy_timeout` seconds for room. The future fails with
        `WriteError`; if nobody holds it then, the failure is logged and raised by the next `flush` or `close`. It
        cannot be cancelled: an accepted event is written. Its callbacks run on the writer's thread and must not write.
        In the child of a fork, one from before the fork never resolves.
        """
        return self._writer.submit((new_row((task_id, task_item_id, event_type, payload), timestamp()),))

    def flush(self) -> None:
        """Wait until everything accepted so far is durable; raises `WriteError` for a failure nobody has heard of."""
        self._writer.flush()

    async def flush_async(self) -> None:
        """`flush` for coroutines."""
        await append(self._writer, ())
        self._writer.raise_unheard()

    def cleanup(
        self, *,
        older_than: timedelta | datetime | None = None, keep_last: int | None = None, max_bytes: int | None = None,
        only_finished: bool = True, dry_run: bool = False, batch: int = BATCH,
        archive: str | os.PathLike[str] | None = None, gzip: bool = False,
        progress: Callable[[Cleanup], object] | None = None,
    ) -> Cleanup:
        """Delete old events, beside live writers, and give their space back to the file system; says what it did.

        Those go that are strictly older than `older_than` (an age, or a moment, in UTC if it has no zone), and then,
        the oldest first, as many as it takes for the database to fit into `max_bytes`; given neither, all. But nothing
        of a task that has not ended (completed, failed or cancelled) goes, unless `only_finished` is false, nor the
        `keep_last` newest events of any task. A time that cannot be understood is never old. The event that gives a
        task its status goes last: else, with a later one kept, the task would seem to run again.

        At most `batch` events go in one commit, which holds the write lock for a few milliseconds. Interrupted by
        whatever, it leaves a sound log, and a second call goes on. `archive` is a directory: what is to go is first
        written there, as JSON lines, with `gzip` compressed, one file a run (one for each 500,000 events, so that disk
        and memory stay bounded), named by time and ids. A crash may leave events in the log and in a file, never in
        neither. `progress` hears of each commit.

        A reader who comes to where events were is told by `PrunedError`. Ids are not given again. Raises `ValueError`
        for what makes no sense, such as no criterion at all, `WriteError`, and `OSError` from writing the archive. Of
        a file made without ``auto_vacuum`` the space is used again instead: `Cleanup.bytes_reusable`. For coroutines:
        ``await asyncio.to_thread(log.cleanup, …)``.
        """
        if older_than is None and keep_last is None and max_bytes is None:
            raise ValueError("cleanup needs older_than, keep_last or max_bytes")
        numbers = list[object]((keep_last or 0, max_bytes or 0, batch - 1))
        if not all(isinstance(number, int) and 0 <= number <= MAX_ID for number in numbers):
            raise ValueError("keep_last, max_bytes and batch must be whole numbers, from 0, 0 and 1 to 2**63-1")
        try:
            if isinstance(older_than, timedelta):
                older_than = datetime.now(timezone.utc) - older_than
            elif older_than is not None:
                zone = older_than.tzinfo or timezone.utc
                older_than = older_than.replace(tzinfo=zone).astimezone(timezone.utc)
        except (AttributeError, OverflowError):
            raise ValueError(f"older_than is neither an age nor a moment, or out of range: {older_than}") from None
        path, timeout = self._pool.path, self._pool.busy_timeout
        with self._pool.lend():  # if it may still be used
            connection = open_for_writing(path, "normal", timeout)
        try:
            with translated(WriteError, path, "cleanup stopped"):
                return Cleaning(
                    connection=connection, path=path, rules=Rules(older_than, keep_last or 0, only_finished),
                    max_bytes=max_bytes, batch=batch, dry_run=dry_run, timeout=timeout, progress=progress,
                    archive=None if archive is None else os.fspath(archive), gzip=gzip,
                ).run()
        finally:
            connection.close()


def insert_event_with_conn(
    conn: sqlite3.Connection, task_id: str, task_item_id: str | None, event_type: str, payload: Mapping[str, object]
) -> int:
    """Record one event on *your* connection, within whatever transaction it has; returns the event's id.

    One INSERT, no more: the event commits or rolls back together with your own rows (the transactional outbox). The
    database must have been opened once with `EventLog`, which creates the table. Raises `PayloadError`, `SchemaError`
    when there is no table, `WriteError` for any other database error. Call it where you may use `conn`.
    """
    row = new_row((task_id, task_item_id, event_type, payload), timestamp())
    with translated(WriteError, "insert_event_with_conn", "not written"):
        try:
            return insert_one(conn, row)
        except sqlite3.OperationalError as error:
            if "no such table" in str(error):
                raise SchemaError("no table 'events' in this database; open it once with EventLog") from error
            raise
