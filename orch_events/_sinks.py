# SPDX-License-Identifier: MIT
"""Listeners in the same process: the `EventSink` protocol and the four sinks every program needs.

A sink hears of an event once it is durable and never decides whether it is. Nothing here knows of files or threads.
"""

import json
import logging
from collections.abc import Iterable, Mapping
from typing import Final, Protocol

from ._events import EventType


class EventSink(Protocol):
    """Hears of every event a log has recorded, in id order, one at a time.

    Called on whichever thread committed the event, before the call that recorded it returns: a slow sink slows its
    log. The payload is parsed from the stored text. What a sink raises is logged and otherwise ignored. A sink that
    writes to the log that is calling it, or closes it, gets an `OrchEventsError`; one that waits for another thread to
    do so waits for ever.
    """

    def emit(self, task_id: str, task_item_id: str | None, event_type: str, payload: Mapping[str, object], /) -> None:
        """Hear of one event. Must not call the log back."""


class NoopSink:
    """Does nothing."""

    def emit(self, task_id: str, task_item_id: str | None, event_type: str, payload: Mapping[str, object], /) -> None:
        """Do nothing."""


_LEVELS: Final[Mapping[str, int]] = {
    EventType.TASK_FAILED: logging.ERROR,
    EventType.STEP_TIMEOUT: logging.WARNING,
    EventType.AUTO_ROLLBACK_FAILED: logging.WARNING,
    EventType.STEP_STARTED: logging.INFO,
    EventType.STEP_FINISHED: logging.INFO,
    EventType.TASK_COMPLETED: logging.INFO,
    EventType.TASK_PAUSED: logging.INFO,
}
"""The level of an event in a log; every other type is DEBUG."""


class TracingEventSink:
    """Forwards events to `logging`, at the reference's levels.

    The logger is named after the package (``orch_events``, or whatever the vendored copy is called) unless given. Each
    record carries `task_id`, `task_item_id`, `event_type` and `payload` (a mapping) as attributes, for structured
    formatters; control characters are escaped in the message, so an event cannot forge a log line.
    """

    def __init__(self, logger: logging.Logger | None = None) -> None:
        self._logger = logger or logging.getLogger(__name__.rpartition(".")[0])

    def emit(self, task_id: str, task_item_id: str | None, event_type: str, payload: Mapping[str, object], /) -> None:
        """Log one event."""
        level = _LEVELS.get(event_type, logging.DEBUG)
        if self._logger.isEnabledFor(level):
            place = task_id if task_item_id is None else f"{task_id}/{task_item_id}"
            shown = json.dumps(dict[str, object](payload), ensure_ascii=False, default=str)
            message = "workflow event %s %s %s"
            extra = {"task_id": task_id, "task_item_id": task_item_id, "event_type": event_type, "payload": payload}
            self._logger.log(level, message, *map(_printable, (event_type, place, shown)), extra=extra)


def _printable(text: str) -> str:
    """`text` with whatever could end a line or drive a terminal written as an escape."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


class FanoutSink:
    """Tells several sinks, in order. Each hears of the event whatever others raise; then the first error is raised."""

    def __init__(self, sinks: Iterable[EventSink]) -> None:
        self._sinks = tuple(sinks)

    def emit(self, task_id: str, task_item_id: str | None, event_type: str, payload: Mapping[str, object], /) -> None:
        """Tell every sink."""
        first: Exception | None = None
        for sink in self._sinks:
            try:
                sink.emit(task_id, task_item_id, event_type, payload)
            except Exception as error:
                first = first or error
        if first is not None:
            raise first


class RecordingSink:
    """Keeps what it hears, for tests."""

    def __init__(self) -> None:
        self.events: list[tuple[str, str | None, str, Mapping[str, object]]] = []
        """Every event so far, oldest first, as the tuple of `emit`'s arguments."""

    def emit(self, task_id: str, task_item_id: str | None, event_type: str, payload: Mapping[str, object], /) -> None:
        """Keep the event."""
        self.events.append((task_id, task_item_id, event_type, payload))
