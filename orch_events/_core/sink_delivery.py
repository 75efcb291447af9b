# SPDX-License-Identifier: MIT
"""Listeners in the same process: the protocol, and how the events of a commit reach one."""

import logging
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Protocol

from .._values.errors import OrchEventsError
from .._values.json_text import JsonObject, parse_or_none
from .._values.new_events import NewRow
from .._values.package import PACKAGE
from .pending import Entry

_logger = logging.getLogger(PACKAGE)


class EventSink(Protocol):
    """Is called with every event that a log has recorded, in id order, one at a time.

    Called on whichever thread committed the event, before the call that recorded it returns: a slow sink slows its
    log. The payload is parsed from the stored text. What a sink raises is logged and otherwise ignored. A sink may
    record by `EventLog.submit_event` in the log that is calling it, and gets that event too, but may not answer it
    with another; any other call that writes to that log or closes it gets an `OrchEventsError`. One that waits for
    another thread to do so waits for ever.
    """

    def emit(
        self,
        task_id: str,
        task_item_id: str | None,
        event_type: str,
        payload: Mapping[str, object],
        /,
    ) -> None:
        """Receive one event. Of the log that calls it, it may call `submit_event` only."""


class SinkDelivery:
    """Calls the sink of one log. `deliver` is called by the owner of the write connection only."""

    def __init__(self, sink: EventSink, path: str) -> None:
        self._sink = sink
        self._path = path
        self._thread: int | None = None
        """The thread that is calling the sink."""
        self._current: Entry | None = None
        """The entry that the sink is being called with."""
        self._has_failed = False

    def deliver(self, entries: Sequence[Entry]) -> None:
        """Call the sink for each row."""
        self._thread = threading.get_ident()
        try:
            for entry in entries:
                self._current = entry
                for row in entry.rows:
                    self._emit(row)
        finally:
            self._thread = None
            self._current = None

    def _emit(self, row: NewRow) -> None:
        # The payload that was stored: the caller may have changed its object since.
        stored = parse_or_none(row[3])
        payload: JsonObject = {}
        if isinstance(stored, dict):
            payload = stored
        had_failed = self._has_failed
        self._has_failed = False
        try:
            self._sink.emit(row[0], row[1], row[2], payload)
        except Exception:
            self._has_failed = True
            if not had_failed:  # once, not for each of a million events
                with suppress(Exception):  # a handler may fail too, by writing to this log for one
                    _logger.exception(
                        "%s: the sink failed; events are recorded all the same", self._path
                    )

    def admit(self, entry: Entry) -> None:
        """Of each entry offered to the queue: refuse a sink that answers its own answers without end.

        The first answer is accepted, since it may be that of a signal handler which has interrupted the sink.
        """
        current = self._current
        if self._thread != threading.get_ident() or current is None:
            return
        if current.from_sink:
            raise OrchEventsError(f"{self._path}: a sink may not answer its own event with another")
        entry.from_sink = True
