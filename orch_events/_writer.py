# SPDX-License-Identifier: MIT
"""The queue, the thread and the commit of one open log.

Rule 1: the write connection is used by its owner only. `Writer._owner` says who that is; it is taken under the mutex
when it is ``None`` and given back by whoever took it.

Rule 2: an entry is committed whole or not at all, in the order of acceptance, and hears its true outcome once.

How it works. A blocking caller that finds the queue empty and the connection unowned *leads*: it commits its own entry
itself, at the price of plain `sqlite3`. Every other entry is queued for the writer thread, which commits whatever is
queued as one transaction, never waiting to fill it. The thread is started when there is work and ends when there has
been none for a moment. It is not a daemon, so the interpreter's end, and that of a `multiprocessing` child, waits for
what was accepted and for nothing else; an idle log has no thread at all.
"""

import logging
import sqlite3
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from functools import partial
from queue import Empty, SimpleQueue
from typing import Final, Protocol

from ._connection import is_transient, primary_code, retry_transient, translate
from ._errors import ForkedError, LogClosedError, OrchEventsError, QueueFullError, WriteError
from ._lifetime import register
from ._payload import JsonValue, parse_or_none
from ._rows import CHUNK, NewRow, insert_rows
from ._sinks import EventSink

__all__: list[str] = []

_logger = logging.getLogger(__name__.rpartition(".")[0])

LINGER: Final = 0.25
"""Seconds without work after which the writer thread ends. Starting it anew takes 0.1 ms."""

_NAP: Final = 0.02
"""Longest sleep of the writer thread, in seconds: how long the interpreter's end may have to wait for it."""

# Errors of the file or the machine: what failed for one entry would fail for its neighbours. Any other error may be
# the fault of a single row (a trigger or constraint of the host's, a payload too big), so each is tried by itself.
_ENVIRONMENT: Final = {
    sqlite3.SQLITE_PERM,
    sqlite3.SQLITE_NOMEM,
    sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_CORRUPT,
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_NOTADB,
}


class Loop(Protocol):
    """What the writer knows of an event loop."""

    def call_soon_threadsafe(self, callback: Callable[[list["Entry"]], None], entries: list["Entry"], /) -> object: ...


class Entry:
    """Rows to be committed together, and how to tell the outcome. A barrier has no rows."""

    __slots__ = ("error", "last_id", "loop", "rows", "tell", "tell_all")

    def __init__(
        self,
        rows: Sequence[NewRow],
        tell: "Callable[[Entry], bool] | None" = None,
        loop: Loop | None = None,
        tell_all: "Callable[[list[Entry]], None] | None" = None,
    ) -> None:
        self.rows = rows
        self.last_id = 0
        """The id of the last row, once committed."""
        self.error: Exception | None = None
        self.tell = tell
        """Deliver the outcome; ``False`` when nobody was there to hear it."""
        self.loop = loop
        """For entries that await: one call into the loop delivers all the entries of a commit, through `tell_all`."""
        self.tell_all = tell_all

    def outcome(self) -> int:
        if self.error is not None:
            raise self.error
        return self.last_id


def _resolve(holder: list[Future[int]], entry: Entry) -> bool:
    """Resolve the future in `holder`; ``False`` if that was a failure and nobody else holds the future."""
    future = holder.pop()
    if entry.error is None:
        future.set_result(entry.last_id)
        return True
    future.set_exception(entry.error)
    held = weakref.ref(future)
    del future
    return held() is not None


class Writer:
    """Accepts entries from any thread and commits them to one connection."""

    def __init__(
        self, connection: sqlite3.Connection, path: str, sink: EventSink | None, capacity: int, timeout: float
    ) -> None:
        self.path = path
        self.timeout = timeout
        self._connection = connection
        self._sink = sink
        self._capacity = capacity
        self._mutex = threading.Lock()
        self._queue: deque[Entry] = deque()
        self._depth = 0
        self._room: deque[Callable[[], None]] = deque()
        self._owner: object | None = None
        self._thread: threading.Thread | None = None
        self._asleep = False
        self._bell: SimpleQueue[None] = SimpleQueue()
        self._refusal: type[OrchEventsError] | None = None
        self._closing = threading.Lock()
        self._open = True
        self._committing: int | None = None
        self._sink_failed = False
        self._unheard: Exception | None = None
        self._unheard_count = 0
        register(self)

    # ---------------------------------------------------------------------------------------------- accepting

    def append(self, rows: Sequence[NewRow]) -> int:
        """Commit `rows` and return the id of the last; blocks until they are durable."""
        entry = Entry(rows)
        try:
            with self._mutex:
                self._check()
                if self._owner is None and not self._queue:
                    self._owner = entry
            if self._owner is not entry:
                return self._append_by_thread(entry)
            self._committing = threading.get_ident()
            self._commit((entry,))
            self._tell_sink((entry,))
            return entry.outcome()
        finally:
            # A KeyboardInterrupt may arrive anywhere above, so who owns is read off, not remembered; and no byte code
            # between the test and the store runs signal handlers.
            if self._owner is entry:
                self._committing = None
                self._owner = None
                if self._queue:
                    self._ring()

    def _append_by_thread(self, entry: Entry) -> int:
        done = threading.Lock()
        done.acquire()
        heard = True

        def tell(_: Entry) -> bool:
            done.release()
            return heard

        entry.tell = tell
        self.put(entry)
        try:
            done.acquire()
        except BaseException:
            heard = False
            raise
        return entry.outcome()

    def submit(self, rows: Sequence[NewRow]) -> Future[int]:
        """Queue `rows`; the future resolves to the id of the last when they are durable. Cannot be cancelled."""
        future = Future[int]()
        future.set_running_or_notify_cancel()
        holder: list[Future[int]] = [future]  # the only reference the queue keeps
        self.put(Entry(rows, partial(_resolve, holder)))
        return future

    def put(self, entry: Entry) -> None:
        """Queue `entry`, waiting for room; `QueueFullError` after `timeout` seconds without."""
        deadline = time.monotonic() + self.timeout
        while True:
            gate = threading.Lock()
            gate.acquire()
            if self.offer(entry, gate.release):
                return
            if not gate.acquire(timeout=max(0.0, deadline - time.monotonic())):
                raise self.full()

    def offer(self, entry: Entry, when_room: Callable[[], None]) -> bool:
        """Queue `entry` if there is room; else call `when_room` once when there may be. Never blocks."""
        with self._mutex:
            self._check()
            if self._depth >= self._capacity and entry.rows:
                self._room.append(when_room)
                return False
            self._queue.append(entry)
            self._depth += len(entry.rows)
            awake = self._wake_thread()
        if not awake:
            self._drain()
        return True

    def full(self) -> QueueFullError:
        return QueueFullError(f"{self.path}: {self._capacity} events are queued, and none was committed in {self.timeout} s")

    def check(self) -> None:
        """Raise if this log cannot be used here: closed, forked, or telling its sink on this very thread."""
        with self._mutex:
            self._check()

    def _check(self) -> None:
        if self._refusal is not None:
            raise self._refusal(f"{self.path}: {_REFUSALS[self._refusal]}")
        if self._committing is not None and self._committing == threading.get_ident():
            raise OrchEventsError(f"{self.path}: called from inside its own commit; a sink may not write to its log")

    # -------------------------------------------------------------------------------------------- committing

    def _commit(self, batch: Sequence[Entry]) -> None:
        """Commit `batch` in one transaction; every entry leaves with its `last_id` or its `error`."""
        rows = batch[0].rows
        if len(batch) > 1:
            rows = [row for entry in batch for row in entry.rows]
        if not rows:
            return
        connection, deadline = self._connection, time.monotonic() + self.timeout
        try:
            last = retry_transient(lambda: insert_rows(connection, rows), deadline)
        except Exception as error:
            if len(batch) > 1 and not is_transient(error) and primary_code(error) not in _ENVIRONMENT:
                for entry in batch:
                    self._commit((entry,))
                return
            for entry in batch:
                entry.error = self._failure(error)
            return
        for entry in reversed(batch):
            entry.last_id = last
            last -= len(entry.rows)

    def _failure(self, error: BaseException) -> Exception:
        failure = translate(WriteError, self.path, "not written", error)
        failure.__cause__ = error
        return failure

    def _tell_sink(self, batch: Sequence[Entry]) -> None:
        if self._sink is None:
            return
        for entry in batch:
            for task_id, task_item_id, event_type, text, *_ in entry.rows if entry.error is None else ():
                payload: JsonValue = parse_or_none(text)  # what was stored, whatever became of the caller's object
                try:
                    self._sink.emit(task_id, task_item_id, event_type, payload if isinstance(payload, dict) else {})
                except Exception:
                    if not self._sink_failed:  # once, not for each of a million events
                        _logger.exception("the sink of %s failed; its events are recorded all the same", self.path)
                    self._sink_failed = True
                else:
                    self._sink_failed = False

    def _process(self, batch: list[Entry]) -> None:
        self._committing = threading.get_ident()
        try:
            self._commit(batch)
            self._tell_sink(batch)
        except BaseException as error:  # whatever it is, nobody may be left waiting
            for entry in batch:
                if not entry.last_id and entry.error is None and entry.rows:
                    entry.error = self._failure(error)
        finally:
            self._settle(batch)
            self._committing = None
            self._owner = None

    def _settle(self, batch: list[Entry]) -> None:
        loops: dict[Loop, list[Entry]] = {}
        for entry in batch:
            if entry.loop is not None:
                loops.setdefault(entry.loop, []).append(entry)
            elif entry.tell is not None and not entry.tell(entry) and entry.error is not None:
                self.unheard(entry.error)
        for loop, entries in loops.items():
            tell_all = entries[0].tell_all
            try:
                if tell_all is not None:
                    loop.call_soon_threadsafe(tell_all, entries)
            except RuntimeError:  # the loop was closed with appends in flight
                for entry in entries:
                    if entry.error is not None:
                        self.unheard(entry.error)

    def unheard(self, error: Exception) -> None:
        """Nobody holds the future of a failed write: log it, and keep it for `flush` and `close` to raise."""
        _logger.error("an event was lost and nobody was waiting for it: %s", error)
        self._unheard_count += 1
        if self._unheard is None:
            self._unheard = error

    def raise_unheard(self) -> None:
        """Raise the first failure that nobody heard of since the last call."""
        error, self._unheard = self._unheard, None
        count, self._unheard_count = self._unheard_count, 0
        if error is not None:
            if count > 1:
                error.add_note(f"and {count - 1} more events were lost")
            raise error

    # ------------------------------------------------------------------------------------------------ thread

    def _ring(self) -> None:
        self._asleep = False
        self._bell.put(None)

    def _wake_thread(self) -> bool:
        """With the mutex held: see to it that a thread looks at the queue. ``False`` when none can be started."""
        if self._thread is None:
            thread = threading.Thread(target=self._work, name="orch_events writer", daemon=False)
            try:
                thread.start()
            except RuntimeError:  # the interpreter is ending (https://github.com/python/cpython/issues/113964)
                return False
            self._thread = thread
        elif self._asleep:
            self._ring()
        return True

    def _take(self, owner: object) -> list[Entry]:
        """With the mutex held: own the connection and take what one commit can hold; empty if there is nothing to do."""
        batch: list[Entry] = []
        if self._owner is not None or not self._queue:
            return batch
        self._owner = owner
        rows = 0
        while self._queue and (not batch or rows + len(self._queue[0].rows) <= CHUNK):
            batch.append(self._queue.popleft())
            rows += len(batch[-1].rows)
        self._depth -= rows
        return batch

    def _let_in(self) -> None:
        """Wake as many of those who wait for room as there is room for."""
        for _ in range(min(len(self._room), max(0, self._capacity - self._depth))):
            self._room.popleft()()

    def _work(self) -> None:
        """The life of the writer thread."""
        idle_since = time.monotonic()
        main = threading.main_thread()
        while True:
            with self._mutex:
                batch = self._take(self)
                if not batch:
                    idle = time.monotonic() - idle_since > LINGER or self._refusal is not None or not main.is_alive()
                    if idle and not self._queue:
                        self._thread = None
                        return
                    self._asleep = True
            if batch:
                self._let_in()
                self._process(batch)
                idle_since = time.monotonic()
            else:
                try:
                    self._bell.get(timeout=_NAP)
                except Empty:
                    pass

    def _drain(self) -> None:
        """Do the thread's work here, when the interpreter lets no thread start: until the queue is empty."""
        owner = object()
        while True:
            with self._mutex:
                batch = self._take(owner)
                if not self._queue and not batch:
                    return
            if batch:
                self._let_in()
                self._process(batch)
            else:
                time.sleep(0.001)

    # ------------------------------------------------------------------------------------------------ ending

    def flush(self) -> None:
        """Wait until everything accepted so far is durable; raise a failure that nobody heard of."""
        self.append(())
        self.raise_unheard()

    def close(self) -> None:
        """Commit what was accepted, end the thread, close the connection. A second call waits for the first."""
        with self._mutex:
            if self._refusal is not LogClosedError:
                self._check()
                self._refusal = LogClosedError
        with self._closing:
            if self._open:
                self._finish()
                self._open = False
        self.raise_unheard()

    def _finish(self) -> None:
        with self._mutex:
            awake = not self._queue or self._wake_thread()
            thread = self._thread
        if not awake:
            self._drain()
        if thread is not None and thread is not threading.current_thread():
            self._ring()
            thread.join()
        owner = object()
        while self._owner is not owner:  # the last leader may still be committing
            with self._mutex:
                if self._owner is None:
                    self._owner = owner
            if self._owner is not owner:
                time.sleep(0.001)
        while self._room:
            self._room.popleft()()
        self._connection.close()

    def forked(self) -> None:
        self._refusal = ForkedError

    def exiting(self) -> None:
        try:
            self.close()
        except OrchEventsError:
            pass  # `unheard` has logged it


_REFUSALS: Final[dict[type[OrchEventsError], str]] = {
    LogClosedError: "this log is closed",
    ForkedError: "this log was opened before a fork; open a new one in the child",
}
