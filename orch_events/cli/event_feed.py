# SPDX-License-Identifier: MIT
"""Events for a command that has other things to do between them: tick a clock, look at files.

A thread follows the log and puts the events into a queue; the command takes them from there.
"""

import errno
import threading
import time
from collections.abc import Iterator
from queue import Empty, SimpleQueue
from typing import (
    Final,
    NamedTuple,
    Self,
)

from .. import Event, EventReader

__all__ = ["EventFeed"]

_BURST: Final = 0.05
"""Seconds in which events that follow one another are taken together: twenty pictures a second are enough."""

_READ_AHEAD: Final = 4096
"""Events in the queue at most, so that a long history is read in bounded memory."""

_FULL_PAUSE: Final = 0.005
"""Seconds between two looks whether the queue has room again."""


class _End(NamedTuple):
    error: BaseException | None


class EventFeed:
    """The events of a task with an id above `after_id`, as they are committed, until the task's end; or of all tasks."""

    def __init__(
        self,
        reader: EventReader,
        task_id: str | None,
        after_id: int = 0,
    ) -> None:
        self.ended = False
        self._reader = reader
        self._task_id = task_id
        self._after_id = after_id
        self._stop = threading.Event()
        # A signal handler may call its `put` at any time. `None` means: wake up.
        self._queue = SimpleQueue[Event | _End | None]()
        self._thread = threading.Thread(target=self._follow, daemon=True)
        try:
            self._thread.start()
        except RuntimeError as error:
            message = "the log cannot be followed: no thread can be started"
            raise OSError(errno.EAGAIN, message) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(1.0)  # it may be waiting for a locked file

    def _follow(self) -> None:
        error = None
        try:
            self._read()
        except BaseException as raised:
            error = raised
        self._queue.put(_End(error))

    def _read(self) -> None:
        events = self._reader.follow_events(
            self._task_id,
            after_id=self._after_id,
            stop=self._stop,
            until_finished=self._task_id is not None,
        )
        for event in events:
            self._queue.put(event)
            while self._queue.qsize() > _READ_AHEAD and not self._stop.is_set():
                self._stop.wait(_FULL_PAUSE)
            if self._stop.is_set():
                return

    def take(self, timeout: float) -> Iterator[Event]:
        """The events in the queue, and those that come soon after.

        The first is waited for `timeout` seconds, or until `wake` is called. Raises what following the log raised.
        """
        deadline = time.monotonic() + min(timeout, threading.TIMEOUT_MAX)
        while not self.ended:
            left = max(0.0, deadline - time.monotonic())
            try:
                item = self._queue.get(timeout=min(left, threading.TIMEOUT_MAX))
            except Empty:
                return
            if item is None:
                return
            if isinstance(item, _End):
                self.ended = True
                if item.error is not None:
                    raise item.error
                return
            yield item
            now = time.monotonic()
            deadline = min(deadline, now + _BURST)
            if now >= deadline:
                return

    def wake(self) -> None:
        """End the waiting. May be called by a signal handler."""
        self._queue.put(None)
