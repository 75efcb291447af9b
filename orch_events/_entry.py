# SPDX-License-Identifier: MIT
"""What waits in the writer's queue: rows to be committed together, and how their outcome is told.

Knows nothing of the queue, of SQLite or of asyncio.
"""

import weakref
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Protocol, TypeAlias

from ._rows import NewRow

Tell: TypeAlias = Callable[[list["Entry"]], bool]


class Loop(Protocol):
    """What the writer knows of an event loop."""

    def call_soon_threadsafe(self, callback: Callable[[], object], /) -> object:
        """Call `callback` on the loop's own thread."""
        ...


class Entry:
    """Rows to be committed together, and how to tell the outcome. A barrier has no rows."""

    __slots__ = ("error", "last_id", "loop", "rows", "tell")

    def __init__(self, rows: Sequence[NewRow], tell: Tell | None = None, loop: Loop | None = None) -> None:
        self.rows = rows
        self.last_id = 0
        """The id of the last row, once committed."""
        self.error: Exception | None = None
        self.tell = tell
        """Delivers the outcome of entries with the same `loop`; ``False`` when nobody was there to hear it."""
        self.loop = loop
        """Where `tell` must run: one call delivers all the entries of a commit that are awaited on one loop."""

    def outcome(self) -> int:
        if self.error is not None:
            raise self.error
        return self.last_id


def resolve(holder: list[Future[int]], entries: list[Entry]) -> bool:
    """Resolve the future in `holder`; ``False`` if that was a failure and nobody else holds the future."""
    future, error = holder.pop(), entries[0].error
    if error is None:
        future.set_result(entries[0].last_id)
        return True
    future.set_exception(error)
    held = weakref.ref(future)
    del future
    return held() is not None
