# SPDX-License-Identifier: MIT
"""The commit queue of one open log: what is accepted, which thread may commit it, and the writer thread.

Rule 1: the write connection is used by its owner only. `CommitQueue._commit_owner` names the claim that owns it and its
thread; it is set under the lock while it is ``None``, and cleared by the call that set it.

Rule 2: an entry is committed whole or not at all, in the order of acceptance, and its true outcome is passed on once.

Rule 3: nothing that can wait, fail or run foreign code is done under the lock. A signal handler, a finalizer or a trace
function may still run there, between any two byte codes, and call back; see `CommitQueue._change`.

How it works. A blocking caller that finds the queue empty and the connection without an owner becomes the *leader*: it
commits its own entry itself, at the price of plain `sqlite3`. Every other entry is queued for the writer thread, which
commits all that is queued as one transaction, never waiting to fill it. The thread is started when there is work and
ends when there has been none for a moment. It is not a daemon, so the interpreter's end, and that of a
`multiprocessing` child, waits for what was accepted and for nothing else; an idle log has no thread at all.

The commit itself is in `committing`, the kinds of entries in `pending` and `loop_acks`.
"""

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import (
    Final,
    TypeAlias,
    TypeVar,
)

from .._storage.interface import WriteSession
from .._storage.process_hooks import opened_before_fork, register
from .._storage.self_deadlock import WRITING
from .._values.errors import (
    LogClosedError,
    OrchEventsError,
    QueueFullError,
    WriteError,
)
from .._values.new_events import NewRow
from .committing import Committer
from .lazy_future import LazyFuture
from .loop_acks import LoopEntry, post_acks
from .lost_failures import LostFailures
from .pending import (
    BlockingEntry,
    Entry,
    FutureEntry,
)
from .sink_delivery import EventSink, SinkDelivery
from .thread_start import start_thread

LINGER: Final = 0.25
"""Seconds without work after which the writer thread ends. Starting it anew takes 0.1 ms."""

_LONGEST_SLEEP: Final = 0.02
"""Of the writer thread, in seconds: how long the interpreter's end may have to wait for it."""

_SUSPICION: Final = 0.5
"""Seconds after which a caller that waits looks for itself what has become of the queue; see `_keep_going`."""

_A = TypeVar("_A")

_R = TypeVar("_R")

_WhenRoom: TypeAlias = Callable[[], object]
"""Has a caller that waits for room in the queue try again. May be called more than once."""


class _Claim:
    """Ownership of the connection."""

    __slots__ = ("batch", "committed_at", "has_begun", "thread")

    def __init__(self, batch: Sequence[Entry], thread: int) -> None:
        self.batch = batch
        """What is being committed; nothing while the connection is closed."""
        self.thread = thread
        self.has_begun = False
        """Whether anything may have been written. Until then the batch can go back into the queue."""
        self.committed_at = math.inf
        """When (of `time.monotonic`) the outcomes were known, and the connection was no longer needed."""


class CommitQueue:
    """Accepts entries from any thread and commits them on one write session."""

    def __init__(
        self,
        session: WriteSession,
        path: str,
        key: str,
        sink: EventSink | None,
        capacity: int,
        timeout: float,
    ) -> None:
        self.path = path
        self.timeout = timeout
        self.lost = LostFailures()
        self.check = session.check
        """Refuses rows that cannot be stored, at the call."""
        self._key = key
        self._session = session
        self._sink = None if sink is None else SinkDelivery(sink, path)
        self._committer = Committer(
            session,
            path,
            key,
            self._sink,
            timeout,
        )
        self._capacity = capacity
        self._lock = threading.RLock()
        """Guards what follows; taken by `_change` alone. It knows its owner, and that nobody else can release it."""
        self._changing: set[int] = set()
        """The threads that have the lock or wait for it."""
        self._entries: deque[Entry] = deque()
        self._depth = 0
        """Rows in the queue."""
        self._waiting: deque[_WhenRoom] = deque()
        """The callers that wait for room in the queue, the first to be admitted first."""
        self._admitted: deque[_WhenRoom] = deque()
        """Those for which there is room now; called when the change that made it is over."""
        self._commit_owner: _Claim | None = None
        self._thread: threading.Thread | None = None
        """The writer thread while it runs; it sets and clears this itself."""
        self._started_thread: threading.Thread | None = None
        """The thread started last, which may not run yet, or any more."""
        self._is_asleep = False
        self._refusal: OrchEventsError | None = None
        """Why nothing is accepted any more."""
        self._interrupting: deque[Entry] = deque()
        """Accepted in the middle of a change, from a call that interrupted it; queued when that change is over."""
        self._alarm_clock: SimpleQueue[None] = SimpleQueue()
        self._is_open = True
        self._closing: set[int] = set()
        """The threads inside `close`."""
        self._is_dropped = False
        register(self)

    # -------------------------------------------------------------------------------------- state

    def _change(self, step: Callable[[_A], _R], argument: _A) -> _R | None:
        """What `step` returns, which changes the state of the queue while nothing else does.

        A signal handler, a finalizer or a trace function may interrupt a change and call back. Such a call would see
        half a change, and cannot wait for its end: `step` is not run, and ``None`` returned. It may append to
        `_interrupting`; those entries are queued when the interrupted change is over, however that ends.
        """
        thread = threading.get_ident()
        if thread in self._changing:
            return None
        try:
            self._changing.add(thread)
            # Not `with self._lock`: in Python 3.14 a signal handler may raise between its taking and the block, and it
            # would stay taken for ever (github.com/python/cpython/issues/148874). Nor `suppress`, in which it may too.
            try:
                self._lock.acquire()
                return step(argument)
            finally:
                try:  # noqa: SIM105
                    self._lock.release()
                except RuntimeError:  # it was not taken
                    pass
        finally:
            self._changing.discard(thread)
            while self._admitted:
                with suppress(IndexError, ValueError):  # another thread was faster
                    when_room = self._admitted[0]
                    when_room()  # where an exception breaks it off, another call does it again
                    self._admitted.remove(when_room)
            if self._interrupting:
                self._change(self._queue_interrupting, self._interrupting)
                self._ensure_thread()

    def _queue_interrupting(self, entries: deque[Entry]) -> None:
        while entries:
            self._append_entry(entries.popleft())

    def _append_entry(self, entry: Entry) -> None:
        self._entries.append(entry)
        self._depth += len(entry.rows)

    def _is_owner(self) -> bool:
        """Whether this thread owns the connection: it is inside a call that another one would wait for."""
        owner = self._commit_owner
        return owner is not None and owner.thread == threading.get_ident()

    def _check_accepting(self) -> None:
        if self._refusal is not None:  # a new one: several threads may raise it at once
            raise type(self._refusal)(str(self._refusal))

    def refuse_inside_commit(self) -> None:
        """Raise inside a commit by this thread, which a call that waits would wait for."""
        if self._is_owner() or (self._key, threading.get_ident()) in WRITING:
            raise self._self_deadlock_error()

    def _self_deadlock_error(self) -> OrchEventsError:
        return OrchEventsError(
            f"{self.path}: called in the middle of a commit or another call of this log by the same "
            + "thread, and would wait for it for ever; a sink, a signal handler or a finalizer may only "
            + "use submit_event"
        )

    # ---------------------------------------------------------------------------------- accepting

    def append(self, rows: Sequence[NewRow]) -> int:
        """Commit `rows` and return the id of the last; blocks until they are durable."""
        self.check(rows)
        entry = Entry(rows)
        claim = _Claim((entry,), threading.get_ident())
        mark = (self._key, claim.thread)
        if mark in WRITING:
            raise self._self_deadlock_error()
        try:
            leads = self._change(self._lead_if_idle, claim)
            if leads is None:
                raise self._self_deadlock_error()
            if not leads:
                return self._append_by_thread(rows)
            WRITING.add(mark)
            self._committer.commit(claim.batch)
            return entry.outcome()
        finally:
            # An exception of a signal handler may arrive above, and below after each call. So this asks
            # `self._commit_owner`, not a local flag, and gives the connection back without a call.
            if self._commit_owner is claim:
                self._commit_owner = None
            WRITING.discard(mark)
            if self._entries and self._commit_owner is None:
                self._ensure_thread()

    def _lead_if_idle(self, claim: _Claim) -> bool:
        if self._refusal is not None:
            self._check_accepting()
        owner = self._commit_owner
        if owner is None and not self._entries:
            self._commit_owner = claim
            return True
        if owner is not None and owner.thread == claim.thread:
            raise self._self_deadlock_error()
        return False

    def _append_by_thread(self, rows: Sequence[NewRow]) -> int:
        entry = BlockingEntry(rows)
        try:
            self._enqueue(entry)
            if self._thread is threading.current_thread():  # in a finalizer that it runs
                self._commit_here()
            while not entry.wait(_SUSPICION):
                self._keep_going()
        except BaseException:
            entry.is_abandoned = True
            raise
        return entry.outcome()

    def submit(self, rows: Sequence[NewRow]) -> Future[int]:
        """Queue `rows`; the future resolves to the id of the last when they are durable."""
        self.check(rows)
        future = LazyFuture(self)
        self._enqueue(FutureEntry(rows, future))
        return future

    def _enqueue(self, entry: Entry) -> None:
        """Queue `entry`, waiting for room if need be."""
        if self.try_enqueue(entry):
            return
        deadline = time.monotonic() + self.timeout
        gate = SimpleQueue[None]()  # and not a lock: it may be opened more than once

        def open_gate() -> None:
            gate.put(None)

        try:
            while not self.try_enqueue(entry, open_gate):
                left = deadline - time.monotonic()
                if left <= 0:
                    raise self.queue_full_error()
                try:
                    gate.get(timeout=min(left, _SUSPICION))
                except Empty:
                    self._keep_going()
        finally:
            self.stop_waiting(open_gate)

    def try_enqueue(self, entry: Entry, when_room: _WhenRoom | None = None) -> bool:
        """Queue `entry` if there is room; else call `when_room` when there may be. Never blocks."""
        if self._sink is not None:
            self._sink.admit(entry)
        self._check_accepting()
        accepted = self._change(self._accept, (entry, when_room))
        if accepted is None:
            self._interrupting.append(entry)
            self._withdraw_if_refused(entry)
            return True
        # Also if there is no room: an exception may have kept the caller that took it from doing this.
        self._ensure_thread()
        return accepted

    def _withdraw_if_refused(self, entry: Entry) -> None:
        """Raise if the log was closed just before `entry` was added to `_interrupting`, for which there is no lock.

        A call that closes it refuses first and then looks for entries: so at least one of the two sees the other.
        """
        if self._refusal is None:
            return
        try:
            self._interrupting.remove(entry)
        except ValueError:  # it was queued in time
            return
        self._check_accepting()

    def _accept(self, offered: tuple[Entry, _WhenRoom | None]) -> bool:
        self._check_accepting()
        entry, when_room = offered
        # What interrupts a commit by this thread gets in at once: no room would come before that goes on.
        if self._depth < self._capacity or not entry.rows or self._is_owner():
            self._append_entry(entry)
            return True
        if when_room is not None and when_room not in self._waiting:
            self._waiting.append(when_room)
        return False

    def stop_waiting(self, when_room: _WhenRoom) -> None:
        """Wait for room no longer. The next in line gets the place, should it have been granted already."""
        self._change(self._leave_line, when_room)

    def _leave_line(self, when_room: _WhenRoom) -> None:
        if when_room in self._waiting:
            self._waiting.remove(when_room)
        else:
            self._admit_waiting()

    def _admit_waiting(self) -> None:
        """Admit as many of the waiting callers as there is room for."""
        for _ in range(min(len(self._waiting), self._capacity - self._depth)):
            self._admitted.append(self._waiting.popleft())

    def queue_full_error(self) -> QueueFullError:
        return QueueFullError(
            f"{self.path}: {self._capacity} events are waiting; no room came within {self.timeout} s"
        )

    # --------------------------------------------------------------------------------- committing

    def _take_batch(self, thread: int) -> _Claim | None:
        """Own the connection and take what one commit can hold; ``None`` if nothing is to be done."""
        if self._commit_owner is not None or not self._entries:
            return None
        batch: list[Entry] = []
        self._commit_owner = claim = _Claim(batch, thread)
        most = self._session.rows_per_commit
        rows = 0
        while self._entries and (not batch or rows + len(self._entries[0].rows) <= most):
            batch.append(self._entries[0])
            rows += len(self._entries.popleft().rows)
        self._depth -= rows
        self._admit_waiting()
        return claim

    def _return_batch(self, claim: _Claim) -> None:
        """Undo a `_take_batch` that was not followed by a commit, because an exception came in between. Once."""
        if self._commit_owner is not claim:
            return
        if not claim.has_begun:
            taken = [entry for entry in claim.batch if entry not in self._entries]
            self._entries.extendleft(reversed(taken))
            self._depth = sum(len(entry.rows) for entry in self._entries)
        self._commit_owner = None

    def _release(self, claim: _Claim) -> None:
        if self._commit_owner is claim:
            self._commit_owner = None

    def _process(self, claim: _Claim) -> None:
        """Commit what was claimed and pass the outcomes on; give the claim back."""
        mark = (self._key, claim.thread)
        try:
            claim.has_begun = True
            WRITING.add(mark)
            self._committer.commit(claim.batch)
        finally:
            try:
                WRITING.discard(mark)
                claim.committed_at = time.monotonic()
                self._deliver(claim.batch)
            except BaseException:  # killed in the middle: the rest
                self._deliver(claim.batch)
                raise
            finally:
                if self._commit_owner is claim:
                    self._commit_owner = None

    def _deliver(self, batch: Sequence[Entry]) -> None:
        """Pass on the outcomes of `batch` to the callers that have not got theirs yet."""
        for entry in batch:
            if entry.rows and not entry.last_id and entry.error is None:
                unknown = f"{self.path}: interrupted, perhaps not written"
                entry.error = WriteError(unknown, self.path)
            entry.is_settled = True
        loop_entries: list[LoopEntry] = []
        for entry in batch:
            if isinstance(entry, LoopEntry):
                if not entry.is_received:
                    loop_entries.append(entry)
                continue
            # What a callback of the user's raises must not keep the others from their outcomes.
            # It may also be the thread that is killed here: the second call goes on where the first was broken off.
            try:
                self._notify(entry)
            except BaseException:
                with suppress(BaseException):
                    self._notify(entry)
        if loop_entries:
            self._notify_loops(loop_entries)

    def _notify(self, entry: Entry) -> None:
        if isinstance(entry, FutureEntry):
            entry.resolve_future()
        elif isinstance(entry, BlockingEntry):
            entry.wake_caller()
            if entry.is_abandoned:
                self.lost.report(entry.error)

    def _notify_loops(self, entries: list[LoopEntry]) -> None:
        for loop in {entry.loop for entry in entries}:
            its_entries = [entry for entry in entries if entry.loop is loop]
            try:
                post_acks(loop, its_entries)
            except RuntimeError:  # the loop was closed with appends in flight
                for entry in its_entries:
                    entry.is_received = True
                    self.lost.report(entry.error)

    def report_lost(self, error: Exception) -> None:
        """A future was dropped that nothing has asked for its failure."""
        self.lost.report(error)

    # ------------------------------------------------------------------------------------- thread

    def _ensure_thread(self) -> None:
        """Make sure that a thread looks at the queue; where none can be started, commit what is queued here.

        Several callers may start one each at the same moment: all but the first to run end at once.
        """
        if self._thread is not None:
            if (
                self._is_asleep and self._commit_owner is None
            ):  # an owner calls this when it has done
                self._wake_thread()
            return
        thread = threading.Thread(target=self._work, name="orch_events writer", daemon=False)
        self._started_thread = thread
        if not start_thread(thread, _SUSPICION):
            self._commit_here()

    def _keep_going(self) -> None:
        """Make sure that the queue goes on, even if the writer thread is dead or stuck.

        It may have been killed. Or it cannot deliver an outcome, because the future's own lock is held: by a call of
        the future's that this very call has interrupted, or by a callback that waits. It does not need the connection
        then, so that another thread can commit.
        """
        thread = self._thread  # which may end, and forget itself, at any moment
        if thread is not None and not thread.is_alive():
            self._change(self._forget_thread, thread)
        owner = self._commit_owner
        if owner is not None and owner.committed_at < time.monotonic() - _SUSPICION:
            self._change(self._release, owner)
            self._commit_here()
        elif self._entries:
            self._ensure_thread()

    def _forget_thread(self, thread: threading.Thread) -> None:
        if self._thread is thread:
            self._thread = None

    def _wake_thread(self) -> None:
        self._is_asleep = False
        self._alarm_clock.put(None)

    def _commit_here(self) -> None:
        """Commit what is queued, in this thread and now, unless another thread is doing so."""
        owner_before = self._commit_owner
        thread = threading.get_ident()
        try:
            while True:
                claim = self._change(self._take_batch, thread)
                if claim is None:
                    return
                self._process(claim)
        except BaseException:
            left = self._commit_owner
            if left is not None and left is not owner_before and left.thread == thread:
                try:
                    self._change(self._return_batch, left)
                except BaseException:  # a second signal handler's
                    self._change(self._return_batch, left)
                    raise
            if self._entries:  # their callers rely on this call
                self._ensure_thread()
            raise

    def _work(self) -> None:
        """The life of the writer thread: commit what is queued, until the queue was empty for a while."""
        me = threading.current_thread()
        try:
            if self._change(self._register_thread, me) is not True:
                return
            self._commit_until_idle(me)
        finally:  # also when it is killed, by `PyThreadState_SetAsyncExc` for one
            left = self._commit_owner
            if left is not None and left.thread == threading.get_ident():
                self._change(self._return_batch, left)
            if self._thread is me:
                self._thread = None
            if self._entries:
                self._ensure_thread()
        if self._is_dropped:
            self.exiting()

    def _commit_until_idle(self, me: threading.Thread) -> None:
        main = threading.main_thread()
        busy_until = time.monotonic() + LINGER
        while True:
            claim = self._change(self._take_or_sleep, threading.get_ident())
            if claim is not None:
                with suppress(BaseException):  # every caller has got its outcome
                    self._process(claim)
                if self._commit_owner is claim:  # or nothing has begun
                    self._change(self._return_batch, claim)
                busy_until = time.monotonic() + LINGER
                continue
            is_over = time.monotonic() > busy_until or self._refusal is not None
            may_retire = is_over or not main.is_alive()
            if may_retire and self._change(self._retire_thread, me) is True:
                return
            with suppress(Empty):
                self._alarm_clock.get(timeout=_LONGEST_SLEEP)

    def _register_thread(self, thread: threading.Thread) -> bool:
        registered = self._thread
        if registered is not None and registered.is_alive():
            return False
        if self._refusal is not None and not self._entries:
            return False
        self._thread = thread
        return True

    def _take_or_sleep(self, thread: int) -> _Claim | None:
        # Set before the look, since an owner gives the connection back without the lock and looks at this after it has.
        self._is_asleep = True
        claim = self._take_batch(thread)
        if claim is not None:
            self._is_asleep = False
        return claim

    def _retire_thread(self, thread: threading.Thread) -> bool:
        if self._entries or self._thread is not thread:
            return False
        self._thread = None
        return True

    # ------------------------------------------------------------------------------------- ending

    def flush(self) -> None:
        """Wait until everything accepted so far is durable; raise a failure not yet reported."""
        self.append(())
        self.lost.raise_first()

    def close(self, wait: bool = True) -> None:
        """Commit what was accepted, end the thread, close the connection. A second call waits for the first.

        One that interrupts the first, by a signal handler, returns at once, and the first goes on. `wait` for the
        thread's end too.
        """
        me = threading.get_ident()
        if me in self._closing:
            return
        self.refuse_inside_commit()
        claim = _Claim((), me)
        closed = LogClosedError(f"{self.path}: this log is closed")
        try:
            self._closing.add(me)
            if self._change(self._refuse, closed) is None:
                raise self._self_deadlock_error()
            if self._entries:
                self._ensure_thread()
            if wait:
                self._join()
            else:
                self._commit_here()
            while self._is_open:
                if self._change(self._claim_to_close, claim) is True:
                    if self._is_open:  # another call may have closed it since
                        self._session.close()
                    self._is_open = False
                else:  # a leader is committing; or the thread is, after an exception that broke off the join
                    self._keep_going()
                    time.sleep(0.001)
            if wait:
                self._join()  # one that was started before may have begun only now
        finally:
            if self._commit_owner is claim:
                self._commit_owner = None
            self._closing.discard(me)
        self.lost.raise_first()

    def _refuse(self, refusal: OrchEventsError) -> bool:
        if not isinstance(self._refusal, LogClosedError):
            self._check_accepting()
            self._refusal = refusal
        return True

    def _claim_to_close(self, claim: _Claim) -> bool:
        if self._commit_owner is not None or self._entries or self._interrupting:
            return False
        self._commit_owner = claim
        self._admitted.extend(self._waiting)  # they will get the error that the log is closed
        self._waiting.clear()
        return True

    def _join(self) -> None:
        """Wait until the writer thread has ended, but no longer than `timeout` if it is stuck; see `_keep_going`."""
        for thread in (self._thread, self._started_thread):
            if thread is None or thread.ident is None or thread is threading.current_thread():
                continue
            self._wake_thread()
            thread.join(_SUSPICION)
            while thread.is_alive():
                owner = self._commit_owner
                if owner is not None and owner.committed_at < time.monotonic() - self.timeout:
                    break
                thread.join(_SUSPICION)

    def close_from_finalizer(self) -> None:
        """`close`, for the garbage collector: does not wait for the thread, which may wait for a lock held here."""
        self._refusal = LogClosedError(f"{self.path}: this log is closed")
        self._is_dropped = True
        if self._thread is not None:
            self._wake_thread()
        elif not self._is_owner():
            self.close(wait=False)

    def forked(self) -> None:
        refusal = opened_before_fork(self.path)
        self._refusal = refusal
        self._lock = threading.RLock()  # another thread of the parent may have held it
        self._changing = set()
        # The parent commits what it has accepted. Here the sink may have forked, in the middle of a commit, called by a
        # thread that waits for a later one.
        for entry in (*self._entries, *self._interrupting):
            entry.error = refusal
            entry.is_settled = True
        self._entries.clear()
        self._interrupting.clear()
        self._waiting.clear()
        self._admitted.clear()
        self._commit_owner = None
        if self._thread is not threading.current_thread():
            self._thread = None
        self._started_thread = None
        self._is_open = False  # nothing may close the connection
        self._committer.refuse(refusal)

    def exiting(self) -> None:
        with suppress(OrchEventsError):  # `lost` has logged it
            self.close()
