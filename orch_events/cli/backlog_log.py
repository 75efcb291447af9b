# SPDX-License-Identifier: MIT
"""A log that also takes rows which bring their time with them."""

from collections.abc import Sequence
from concurrent.futures import Future

from .. import EventLog
from .._values.new_events import NewRow

__all__ = ["BacklogLog"]


class BacklogLog(EventLog):
    """An `EventLog` that also records what happened before, at the time when it happened."""

    def submit_row(self, row: NewRow) -> Future[int]:
        return self._queue.submit((row,))

    def insert_rows(self, rows: Sequence[NewRow]) -> int:
        """In one transaction; the id of the last."""
        return self._queue.append(rows)
