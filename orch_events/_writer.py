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
import os
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from queue import Empty, SimpleQueue
from typing import Final

from ._connection import is_transient, primary_code, retry_transient, translate
from ._entry import Entry, LazyFuture, Post, tell_future
from ._errors import ForkedError, LogClosedError, OrchEventsError, QueueFullError, WriteError
from ._lifetime import register
from ._payload import parse_or_none
from ._rows import CHUNK, NewRow, insert_rows, without_triggers
from ._sinks import EventSink
from ._wakeup import committed

_logger = logging.getLogger(__name__.rpartition(".")[0])

LINGER: Final = 0.25
"""Seconds without work after which the writer thread ends. Starting it anew takes 0.1 ms."""

_NAP: Final = 0.02
"""Longest sleep of the writer thread, in seconds: how long the interpreter's end may have to wait for it."""

# Errors of the file or the machine: what failed for one entry would fail for its neighbours. Any other error may be
# the fault of a single row (a trigger or constraint of the host's, a payload too big), so each is tried by itself.
_ENVIRONMENT: Final = {
    *(sqlite3.SQLITE_PERM, sqlite3.SQLITE_NOMEM, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_IOERR),
    *(sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_FULL, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_NOTADB),
}


class Writer:
    """Accepts entries from any thread and commits them to one connection."""

    def __init__(
        self, connection: sqlite3.Connection, path: str, sink: EventSink | None, capacity: int, timeout: float
    ) -> None:
        self.path = path
        self.timeout = timeout
        self._key = os.path.realpath(path)
        self._connection = connection
        connection.set_authorizer(without_triggers)
        self._sink = sink
        self._sink_failed = False
        self._capacity = capacity
        self._mutex = threading.Lock()
        self._queue: deque[Entry] = deque()
        self._depth = 0
        """Rows in the queue."""
        self._room: deque[Callable[[], None]] = deque()
        """Called, once each, when there is room in the queue."""
        self._owner: object | None = None
        self._committing: int | None = None
        """The thread that is committing, which must not come back for more: it would wait for itself."""
        self._thread: threading.Thread | None = None
        self._asleep = False
        self._bell: SimpleQueue[None] = SimpleQueue()
        self._refusal: OrchEventsError | None = None
        self._closing = threading.Lock()
        self._open = True
        self._dropped = False
        self._unheard: list[Exception] = []
        register(self)

    # ------------------------------------------------------------------------------------------------ accepting

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
            return entry.outcome()
        finally:
            # A KeyboardInterrupt may arrive anywhere above, so who owns is read off, not remembered; and no byte code
            # between the test and the stores runs signal handlers.
            if self._owner is entry:
                self._committing = self._owner = None
                if self._queue:
                    self._ring()

    def _append_by_thread(self, entry: Entry) -> int:
        done, heard = threading.Lock(), True
        done.acquire()

        def tell(_: list[Entry]) -> bool:
            done.release()
            return heard

        entry.tell = tell
        self._put(entry)
        try:
            done.acquire()
        except BaseException:
            heard = False
            raise
        return entry.outcome()

    def submit(self, rows: Sequence[NewRow]) -> Future[int]:
        """Queue `rows`; the future resolves to the id of the last when they are durable."""
        future = LazyFuture()
        self._put(Entry(rows, tell_future, future=future))
        return future

    def _put(self, entry: Entry) -> None:
        if self.offer(entry):
            return
        deadline = time.monotonic() + self.timeout
        gate = threading.Lock()
        gate.acquire()
        try:
            while not self.offer(entry, gate.release):
                if not gate.acquire(timeout=max(0.0, deadline - time.monotonic())):
                    raise self.full()
        finally:
            self.leave(gate.release)

    def offer(self, entry: Entry, when_room: Callable[[], None] | None = None) -> bool:
        """Queue `entry` if there is room; else call `when_room` once when there may be. Never blocks."""
        with self._mutex:
            self._check()
            if self._depth >= self._capacity and entry.rows:
                if when_room is not None:
                    self._room.append(when_room)
                return False
            self._queue.append(entry)
            self._depth += len(entry.rows)
            served = self._wake_thread()
        if not served:
            self._work()
        return True

    def leave(self, when_room: Callable[[], None]) -> None:
        """Wait for room no longer. Whoever waits behind gets the place, should it have been granted already."""
        with self._mutex:
            if when_room in self._room:
                self._room.remove(when_room)
            else:
                self._let_in()

    def full(self) -> QueueFullError:
        return QueueFullError(f"{self.path}: {self._capacity} events are waiting; no room came within {self.timeout} s")

    def _check(self) -> None:
        if self._refusal is not None:
            raise type(self._refusal)(str(self._refusal))  # a new one: several threads may raise it at once
        if self._committing is not None:
            self.check_outside()

    def check_outside(self) -> None:
        """Raise in a sink or callback of a commit, which would wait for itself."""
        if self._committing == threading.get_ident():
            raise OrchEventsError(f"{self.path}: called from inside its own commit; a sink may not write to its log")

    # ----------------------------------------------------------------------------------------------- committing

    def _commit(self, batch: Sequence[Entry]) -> None:
        """Commit `batch` in one transaction and tell the sink; every entry leaves with its `last_id` or `error`."""
        rows: Sequence[NewRow] = batch[0].rows
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
            else:
                for entry in batch:
                    entry.error = translate(WriteError, self.path, "not written", error)
            return
        for entry in reversed(batch):
            entry.last_id = last
            last -= len(entry.rows)
        committed(self._key)
        if self._sink is not None:
            for row in rows:
                self._tell_sink(self._sink, row)

    def _tell_sink(self, sink: EventSink, row: NewRow) -> None:
        payload = parse_or_none(row[3])  # what was stored, whatever became of the caller's object since
        had_failed, self._sink_failed = self._sink_failed, False
        try:
            sink.emit(row[0], row[1], row[2], payload if isinstance(payload, dict) else {})
        except Exception:
            self._sink_failed = True
            if not had_failed:  # once, not for each of a million events
                with suppress(Exception):  # a handler may fail too, by writing to this log for one
                    _logger.exception("%s: the sink failed; events are recorded all the same", self.path)

    def _process(self, batch: list[Entry]) -> None:
        self._owner = self  # begun: see the end of `_work`
        self._committing = threading.get_ident()
        try:
            self._commit(batch)
        except BaseException as error:  # whatever it is, nobody may be left waiting
            for entry in batch:
                if entry.rows and not entry.last_id and entry.error is None:
                    entry.error = translate(WriteError, self.path, "not written", error)
        finally:
            try:
                self._settle(batch)
            finally:
                self._committing = self._owner = None

    def _settle(self, batch: list[Entry]) -> None:
        loops: dict[Post, list[Entry]] = {}
        for entry in batch:
            if entry.post is not None:
                loops.setdefault(entry.post, []).append(entry)
            else:
                self._tell(entry)
        for post, entries in loops.items():
            try:
                if (tell := entries[0].tell) is not None:
                    post(partial(tell, entries))
            except RuntimeError:  # the loop was closed with appends in flight
                self.unheard(entries)

    def _tell(self, entry: Entry) -> None:
        heard = True
        with suppress(BaseException):  # what a callback of the user's raises must not keep the next from hearing
            heard = entry.tell is None or entry.tell([entry])
        if not heard:
            self.unheard([entry])

    def unheard(self, entries: list[Entry]) -> None:
        """Nobody holds the future of these: log their failures, and keep them for `flush` and `close` to raise."""
        for entry in entries:
            if entry.error is not None:
                self._unheard.append(entry.error)
                with suppress(Exception):
                    _logger.error("an event was lost and nobody was waiting for it: %s", entry.error)

    def raise_unheard(self) -> None:
        """Raise the first failure that nobody heard of since the last call."""
        errors, self._unheard = self._unheard, list[Exception]()
        if errors:
            if len(errors) > 1:
                errors[0].add_note(f"and {len(errors) - 1} more events were lost")
            raise errors[0]

    # --------------------------------------------------------------------------------------------------- thread

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
        elif self._asleep and self._owner is None:  # an owner rings when it has done
            self._ring()
        return True

    def _take(self) -> list[Entry]:
        """With the mutex held: own the connection and take what one commit can hold; empty if nothing is to be done."""
        batch: list[Entry] = []
        if self._owner is None and self._queue:
            self._owner, rows = batch, 0
            while self._queue and (not batch or rows + len(self._queue[0].rows) <= CHUNK):
                batch.append(self._queue.popleft())
                rows += len(batch[-1].rows)
            self._depth -= rows
            self._let_in()
        return batch

    def _work(self) -> None:
        """Commit what is queued until nothing has come for a while: the life of the writer thread.

        When no thread can be started, the caller does this himself, and then without waiting for more.
        """
        busy_until, main = time.monotonic() + LINGER, threading.main_thread()
        batch: list[Entry] = []
        try:
            while True:
                with self._mutex:
                    batch = self._take()
                    if not batch and not self._queue:
                        if self._thread is not threading.current_thread():
                            break
                        if time.monotonic() > busy_until or self._refusal is not None or not main.is_alive():
                            self._thread = None
                            break
                    self._asleep = not batch
                if batch:
                    self._process(batch)
                    busy_until = time.monotonic() + LINGER
                else:
                    with suppress(Empty):
                        self._bell.get(timeout=_NAP)
        finally:
            with self._mutex:
                if self._owner is batch:  # taken and not begun
                    self._owner = None
                    self._queue.extendleft(reversed(batch))
                    self._depth += sum(len(entry.rows) for entry in batch)
                if self._thread is threading.current_thread():  # killed, by `PyThreadState_SetAsyncExc` for one
                    self._thread = None
                    if self._queue:
                        self._wake_thread()
        if self._dropped:
            self.exiting()

    def _let_in(self) -> None:
        """With the mutex held: wake as many of those who wait for room as there is room for."""
        for _ in range(min(len(self._room), self._capacity - self._depth)):
            self._room.popleft()()

    # --------------------------------------------------------------------------------------------------- ending

    def flush(self) -> None:
        """Wait until everything accepted so far is durable; raise a failure that nobody heard of."""
        self.append(())
        self.raise_unheard()

    def close(self) -> None:
        """Commit what was accepted, end the thread, close the connection. A second call waits for the first."""
        with self._mutex:
            self.check_outside()
            if not isinstance(self._refusal, LogClosedError):
                self._check()
                self._refusal = LogClosedError(f"{self.path}: this log is closed")
            served = not self._queue or self._wake_thread()
            thread = self._thread
        if not served:
            self._work()
        elif thread is not None and thread is not threading.current_thread():
            self._ring()
            thread.join()
        with self._closing:
            while self._open:
                with self._mutex:
                    if self._owner is None and not self._queue:
                        self._owner = self._closing
                if self._owner is self._closing:
                    while self._room:  # they will hear that the log is closed
                        self._room.popleft()()
                    self._connection.close()
                    self._open = False
                else:  # a leader is still committing; or the thread is, after a KeyboardInterrupt broke off the join
                    time.sleep(0.001)
        self.raise_unheard()

    def drop(self) -> None:
        """`close`, for the garbage collector: not waiting for the thread, which may wait for a lock we hold."""
        self._refusal = LogClosedError(f"{self.path}: this log is closed")
        self._dropped = True
        if self._thread is not None:
            self._ring()
        elif self._committing != threading.get_ident():
            self.close()

    def forked(self) -> list[sqlite3.Connection]:
        self._mutex = threading.Lock()  # another thread of the parent may have held it
        self._refusal = ForkedError(f"{self.path}: this log was opened before a fork; open a new one in the child")
        return [self._connection]

    def exiting(self) -> None:
        with suppress(OrchEventsError):  # `unheard` has logged it
            self.close()
