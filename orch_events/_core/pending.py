# SPDX-License-Identifier: MIT
"""What waits in the commit queue: rows to be committed together, and how their outcome reaches the caller.

Knows nothing of the queue or of a storage engine. The entries of coroutines are in `loop_acks`.
"""

import threading
from collections.abc import Sequence

from .._values.new_events import NewRow
from .lazy_future import LazyFuture


class Entry:
    """Rows to be committed together. A barrier has no rows.

    One of this very class is committed by its own caller, which reads the outcome itself.
    """

    __slots__ = ("error", "from_sink", "is_settled", "last_id", "rows")

    def __init__(self, rows: Sequence[NewRow]) -> None:
        self.rows = rows
        self.last_id = 0
        """The id of the last row, once committed."""
        self.error: Exception | None = None
        self.from_sink = False
        """Whether it was accepted while the sink was being called: from there, or from what interrupted it."""
        self.is_settled = False
        """Whether the outcome is known, and on its way to the caller."""

    def outcome(self) -> int:
        if self.error is not None:
            raise self.error
        return self.last_id


class BlockingEntry(Entry):
    """An entry with a caller that waits for it in its own thread."""

    __slots__ = ("_done", "is_abandoned")

    def __init__(self, rows: Sequence[NewRow]) -> None:
        super().__init__(rows)
        self.is_abandoned = False
        """Whether the caller waits no longer."""
        self._done = threading.Lock()
        self._done.acquire()

    def wait(self, seconds: float) -> bool:
        """Wait for the outcome; whether it is known."""
        return self._done.acquire(timeout=seconds) or self.is_settled

    def wake_caller(self) -> None:
        self._done.release()


class FutureEntry(Entry):
    """An entry with a caller that has a future."""

    __slots__ = ("_future",)

    def __init__(self, rows: Sequence[NewRow], future: LazyFuture) -> None:
        super().__init__(rows)
        self._future: LazyFuture | None = future

    def resolve_future(self) -> None:
        """Resolve it, the first time. From then on only the caller refers to it: dropped, it reports a failure.

        It is forgotten last: where an exception breaks this off, another call resolves it.
        """
        future = self._future
        if future is not None:
            future.tell(self.error or self.last_id)
        self._future = None
