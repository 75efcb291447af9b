# SPDX-License-Identifier: MIT
"""The four sinks that every program needs. The protocol, `EventSink`, stands with the code that
calls it.

A sink gets an event once it is durable and never decides whether it is. Nothing here knows files or
threads.
"""

import json
import logging
from collections.abc import Iterable, Mapping
from typing import Final

from ._core.sink_delivery import EventSink
from ._values.event_types import EventType


class NoopSink:
    """Does nothing."""

    def emit(
        self,
        task_id: str,
        task_item_id: str | None,
        event_type: str,
        payload: Mapping[str, object],
        /,
    ) -> None:
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
    """Forwards events to `logging`, at the levels of the reference.

    To the reference a failed step is INFO and a denied sandbox DEBUG. `levels` gives a type another
    level: ``levels={"sandbox_denied": logging.WARNING}``. The logger is named after the package
    (``orch_events``, or the name of the vendored copy) unless one is given. Each record carries
    `task_id`, `task_item_id`, `event_type` and `payload` (a mapping) as attributes, for structured
    formatters; control characters are escaped in the message, so an event cannot forge a log line.
    """

    def __init__(
        self, logger: logging.Logger | None = None, *, levels: Mapping[str, int] | None = None
    ) -> None:
        self._logger = logger or logging.getLogger(__name__.rpartition(".")[0])
        self._levels: Mapping[str, int] = {**_LEVELS, **(levels or {})}

    def emit(
        self,
        task_id: str,
        task_item_id: str | None,
        event_type: str,
        payload: Mapping[str, object],
        /,
    ) -> None:
        """Log one event."""
        level = self._levels.get(event_type, logging.DEBUG)
        if self._logger.isEnabledFor(level):
            place = task_id
            if task_item_id is not None:
                place = f"{task_id}/{task_item_id}"
            text = json.dumps(dict[str, object](payload), ensure_ascii=False, default=str)
            extra = {
                "task_id": task_id,
                "task_item_id": task_item_id,
                "event_type": event_type,
                "payload": payload,
            }
            self._logger.log(
                level,
                "workflow event %s %s %s",
                _escape_controls(event_type),
                _escape_controls(place),
                _escape_controls(text),
                extra=extra,
            )


def _escape_controls(text: str) -> str:
    """`text` with each character that could end a line or drive a terminal written as an escape."""
    if text.isprintable():
        return text
    parts: list[str] = []
    for char in text:
        if char.isprintable():
            parts.append(char)
        else:
            parts.append(char.encode("unicode_escape").decode())
    return "".join(parts)


class FanoutSink:
    """Calls several sinks, in order. Every sink gets the event, even if another raises.

    The first error is raised when all have been called.
    """

    def __init__(self, sinks: Iterable[EventSink]) -> None:
        self._sinks = tuple(sinks)

    def emit(
        self,
        task_id: str,
        task_item_id: str | None,
        event_type: str,
        payload: Mapping[str, object],
        /,
    ) -> None:
        """Call every sink."""
        first: Exception | None = None
        for sink in self._sinks:
            try:
                sink.emit(task_id, task_item_id, event_type, payload)
            except Exception as error:
                if first is None:
                    first = error
        if first is not None:
            raise first


class RecordingSink:
    """Keeps every event, for tests."""

    def __init__(self) -> None:
        self.events: list[tuple[str, str | None, str, Mapping[str, object]]] = []
        """Every event so far, oldest first, as the tuple of `emit`'s arguments."""

    def emit(
        self,
        task_id: str,
        task_item_id: str | None,
        event_type: str,
        payload: Mapping[str, object],
        /,
    ) -> None:
        """Keep the event."""
        self.events.append((task_id, task_item_id, event_type, payload))
