# SPDX-License-Identifier: MIT
"""A task's events for a command that has other things to do between them: tick a clock, look at files."""

import threading
import time
from collections.abc import Iterator
from queue import Empty, SimpleQueue
from typing import Final, NamedTuple, Self

from .. import Event, EventReader

__all__ = ["Feed"]

_BURST: Final = 0.05
"""Seconds in which events that follow one another are taken together: twenty pictures a second are enough."""
_AHEAD: Final = 4096
"""Events read ahead, so that a long history is read in bounded memory."""


class _End(NamedTuple):
    error: BaseException | None


class Feed:
    """The events of a task with an id above `after_id`, as they are committed, until the task's end."""

    def __init__(self, reader: EventReader, task_id: str, after_id: int = 0) -> None:
        self.ended = False
        self._stop = threading.Event()
        self._queue = SimpleQueue[Event | _End | None]()  # whose `put` a signal handler may call at any time
        self._thread = threading.Thread(target=self._work, args=(reader, task_id, after_id), daemon=True)
        self._thread.start()

    def _work(self, reader: EventReader, task_id: str, after_id: int) -> None:
        error = None
        try:
            for event in reader.follow_events(task_id, after_id=after_id, stop=self._stop, until_finished=True):
                self._queue.put(event)
                while self._queue.qsize() > _AHEAD and not self._stop.wait(0.005):
                    pass
                if self._stop.is_set():  # for nobody takes them any more
                    break
        except BaseException as raised:
            error = raised
        self._queue.put(_End(error))

    def take(self, timeout: float) -> Iterator[Event]:
        """What is there and what comes soon after; the first is waited for `timeout` seconds, or until woken."""
        until = time.monotonic() + timeout
        while not self.ended:
            try:
                news = self._queue.get(timeout=max(0.0, until - time.monotonic()))
            except Empty:
                return
            if isinstance(news, Event):
                yield news
            elif isinstance(news, _End):
                self.ended = True
                if news.error is not None:
                    raise news.error
            until = min(until, (now := time.monotonic()) + _BURST)
            if news is None or now >= until:
                return

    def wake(self) -> None:
        """End the waiting."""
        self._queue.put(None)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(1.0)  # it may be waiting for a locked file
