# SPDX-License-Identifier: MIT
"""One commit: a batch of entries becomes a transaction, and every entry learns its true outcome."""

import time
from collections.abc import Sequence

from .._storage.interface import AppendError, WriteSession
from .._values.errors import ForkedError, WriteError
from .._values.new_events import NewRow
from .commit_watcher import committed
from .pending import Entry
from .sink_delivery import SinkDelivery


class Committer:
    """Commits on one write session. Used by the owner of the connection only."""

    def __init__(
        self,
        session: WriteSession,
        path: str,
        key: str,
        sink: SinkDelivery | None,
        timeout: float,
    ) -> None:
        self._session = session
        self._path = path
        self._key = key
        self._sink = sink
        self._timeout = timeout
        self._refusal: ForkedError | None = None

    def commit(self, batch: Sequence[Entry]) -> None:
        """Commit `batch` in one transaction and call the sink; every entry leaves with its `last_id` or `error`.

        An exception that is not the store's, such as a signal handler's, is raised when it is known what became of the
        rows.
        """
        if self._refusal is not None:
            self._fail(batch, self._refusal)
            return
        rows: Sequence[NewRow] = batch[0].rows
        if len(batch) > 1:
            rows = [row for entry in batch for row in entry.rows]
        if not rows:
            return
        try:
            last_id = self._session.append(rows, time.monotonic() + self._timeout)
            self._assign_ids(batch, last_id)
        except AppendError as error:
            if len(batch) == 1 or error.affects_all:
                for entry in batch:
                    self._fail((entry,), error.make_error())
            else:  # it may be the fault of a single row
                for entry in batch:
                    self.commit((entry,))
            return
        except BaseException as error:
            self._find_outcome(batch, rows, error)
            raise
        self._announce(batch)

    def refuse(self, refusal: ForkedError) -> None:
        """Commit nothing any more."""
        self._refusal = refusal

    def _find_outcome(
        self,
        batch: Sequence[Entry],
        rows: Sequence[NewRow],
        interruption: BaseException,
    ) -> None:
        """After an exception of the host's, which may have been raised before the commit or after it.

        Another one in here leaves entries without an outcome: to `CommitQueue` these are perhaps not written.
        """
        last_id = self._session.find_interrupted(rows)
        if last_id is None:
            reason = f"interrupted by {type(interruption).__name__}: {interruption}"
            not_written = WriteError(f"{self._path}: not written: {reason}", self._path)
            not_written.__cause__ = interruption
            self._fail(batch, not_written)
            return
        self._assign_ids(batch, last_id)
        self._announce(batch)

    def _fail(self, batch: Sequence[Entry], error: Exception) -> None:
        for entry in batch:
            if entry.rows:  # a barrier has lost nothing
                entry.error = error

    def _assign_ids(self, batch: Sequence[Entry], last_id: int) -> None:
        for entry in reversed(batch):
            entry.error = None
            entry.last_id = last_id
            last_id -= len(entry.rows)

    def _announce(self, batch: Sequence[Entry]) -> None:
        committed(self._key)
        if self._sink is not None:
            self._sink.deliver(batch)
