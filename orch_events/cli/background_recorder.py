# SPDX-License-Identifier: MIT
"""Records what ``run`` has to say without ever holding up the command.

A thread opens the log, waits for it while it is locked or its server away, and records what is in a queue. The first
event that cannot be recorded is named on standard error; none stops anything. Where no thread can be had, everything is
recorded when the command has ended.
"""

import threading
from collections import deque
from collections.abc import Mapping
from concurrent.futures import Future
from contextlib import suppress
from queue import SimpleQueue
from typing import Final

from .. import EventType, WriteError
from .._queries import BUSY_TIMEOUT
from .._storage.open_store import open_store, shown_location
from .._values.new_events import NewRow, new_row
from .._values.timestamps import timestamp
from .backlog_log import BacklogLog
from .show.messages import error_text, say

__all__ = ["BackgroundRecorder"]

_FIRST_PAUSE: Final = 0.5
_LONGEST_PAUSE: Final = 15.0
"""Between two tries to open the log, in seconds. It doubles, since a wrong password looks as if the server were away."""

_LAST_WAIT: Final = 2 * BUSY_TIMEOUT + 5
"""Longest wait for the log when the command has ended, in seconds: to open it, to commit, and some to spare."""

_MOST_WAITING: Final = 10_000
"""Events that wait for the log; beyond that, heartbeats are left out."""


class BackgroundRecorder:
    """Records the events of one step, and of its task. No method raises or waits, but `close`, which waits."""

    def __init__(
        self,
        db: str,
        task_id: str,
        step: str,
        parent_step: str | None,
        item_id: str | None,
        agent_id: str | None,
    ) -> None:
        self.task_id = task_id
        self.step_name = step
        self._db = db
        self._item_id = item_id
        self._fields: dict[str, object] = {
            "step": step,
            "phase": step,
            "step_scope": "task" if item_id is None else "item",
        }
        if parent_step is not None:
            self._fields["parent_step"] = parent_step
        if agent_id is not None:
            self._fields["agent_id"] = agent_id
        self._rows = SimpleQueue[NewRow | None]()
        """What is to be recorded, in order; ``None`` is the end."""
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None
        self._has_complained = False

    def start(self) -> None:
        """Begin to record what is queued, and what will be."""
        try:
            # A daemon: the process is not to wait for it longer than `close` does.
            thread = threading.Thread(target=self._work, daemon=True)
            thread.start()
            self._thread = thread
        except (RuntimeError, MemoryError) as error:
            say(f"events are recorded when the command has ended: {error_text(error)}")

    def step(self, event_type: str, payload: Mapping[str, object]) -> None:
        """Record an event of the step."""
        self._record(self._item_id, event_type, {**self._fields, **payload})

    def spawned(self, pid: int, payload: Mapping[str, object]) -> None:
        """Record that the step's process runs. Each later event names it: a step of the same name may run beside."""
        self._fields["pid"] = pid
        self.step(EventType.STEP_SPAWNED, payload)

    def heartbeat(self, payload: Mapping[str, object]) -> None:
        """Record a heartbeat, unless too many events are waiting."""
        if self._rows.qsize() < _MOST_WAITING:
            self.step(EventType.STEP_HEARTBEAT, payload)
        else:
            self._complain(f"{_MOST_WAITING} events are waiting for {shown_location(self._db)}")

    def task(self, event_type: str, payload: Mapping[str, object]) -> None:
        """Record an event of the task."""
        self._record(None, event_type, payload)

    def close(self) -> None:
        """Wait until everything is recorded, or cannot be."""
        self._ended.set()
        self._rows.put(None)
        if self._thread is None:
            self._work()
            return
        self._thread.join(_LAST_WAIT)
        if self._thread.is_alive():
            self._complain(f"{shown_location(self._db)} does not answer")

    def _record(
        self,
        item_id: str | None,
        event_type: str,
        payload: Mapping[str, object],
    ) -> None:
        try:
            self._rows.put(new_row((self.task_id, item_id, event_type, payload), timestamp()))
        except Exception as error:
            self._complain(error)

    def _complain(self, error: object) -> None:
        if not self._has_complained:
            self._has_complained = True
            say(f"not everything is recorded: {error_text(error)}")

    # No exception may escape from the thread: there may be no memory and no descriptors.

    def _work(self) -> None:
        try:
            log = self._open()
        except Exception as error:
            self._has_complained = True
            say(f"nothing is recorded: {error_text(error)}")
            return
        try:
            self._pass_on(log)
        except Exception as error:
            self._complain(error)
        finally:
            with suppress(Exception):  # the complaint has been made
                log.close()

    def _open(self) -> BacklogLog:
        pause = _FIRST_PAUSE
        has_said_why = False
        while True:
            is_last_try = self._ended.is_set()
            try:
                return BacklogLog(self._db)
            except WriteError as error:
                if is_last_try or not open_store(self._db).may_pass(error):
                    raise
                if not has_said_why and not self._ended.is_set():
                    has_said_why = True
                    say(f"events wait for the log: {error_text(error)}")
            self._ended.wait(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)

    def _pass_on(self, log: BacklogLog) -> None:
        """Submit each row to the log, until the end."""
        pending = deque[Future[int]]()
        while True:
            row = self._rows.get()
            if row is None:
                break
            try:
                pending.append(log.submit_row(row))
            except Exception as error:
                self._complain(error)
            while pending and pending[0].done():
                self._check(pending.popleft())
        for future in pending:
            self._check(future)

    def _check(self, future: Future[int]) -> None:
        error = future.exception()
        if error is not None:
            self._complain(error)
