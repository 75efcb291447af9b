# SPDX-License-Identifier: MIT
"""What waits in the writer's queue: rows to be committed together, and how their outcome is told.

Knows nothing of the queue, of SQLite or of asyncio.
"""

import weakref
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from threading import RLock
from typing import Final, TypeAlias, cast

from ._rows import NewRow

Tell: TypeAlias = Callable[[list["Entry"]], bool]
Post: TypeAlias = Callable[[Callable[[], object]], object]


class Entry:
    """Rows to be committed together, and how to tell the outcome. A barrier has no rows."""

    __slots__ = ("error", "future", "last_id", "post", "rows", "tell")

    def __init__(
        self, rows: Sequence[NewRow], tell: Tell | None = None, post: Post | None = None,
        future: "LazyFuture | None" = None,
    ) -> None:
        self.rows = rows
        self.last_id = 0
        """The id of the last row, once committed."""
        self.error: Exception | None = None
        self.tell = tell
        """Delivers the outcome of entries with the same `post`; ``False`` when nobody was there to hear it."""
        self.post = post
        """Has `tell` called on an event loop: once for all the entries of a commit that are awaited there."""
        self.future = future
        """For `tell_future`. Once that was told, nobody but the caller refers to it."""

    def outcome(self) -> int:
        if self.error is not None:
            raise self.error
        return self.last_id


def tell_future(entries: list[Entry]) -> bool:
    (entry,) = entries
    future, entry.future = entry.future, None
    if future is None:
        return True
    future.tell(entry.error or entry.last_id)
    held = weakref.ref(future)
    del future
    return entry.error is None or held() is not None


class LazyFuture(Future[int]):
    """A future whose fields are made when somebody first looks at one of them, which hardly anybody does.

    With its condition a `Future` is eleven objects for the garbage collector to walk over, again and again while they
    wait: submitting 100,000 events took twice as long.
    """

    def __init__(self) -> None:  # and not that of `Future`
        self._guard = RLock()  # since a signal handler or a finalizer may look in the midst of a look
        self._made = False
        self._outcome: int | Exception | None = None

    def tell(self, outcome: int | Exception) -> None:
        with self._guard:
            self._outcome = outcome
            if not self._made:
                return
        _resolve(self, outcome)

    def __getattr__(self, name: str) -> object:
        if name not in _FIELDS:
            raise AttributeError(f"a future has no {name!r}")
        mine = cast("dict[str, object]", vars(self))
        with self._guard:
            if not self._made:
                # The fields come all at once, or a KeyboardInterrupt might leave some; and from a future that nobody
                # else knows: the condition of this one might be held by somebody who waits here for the next field.
                future = Future[int]()
                future.set_running_or_notify_cancel()  # what was accepted cannot be cancelled
                if self._outcome is not None:
                    _resolve(future, self._outcome)
                made = {**cast("dict[str, object]", vars(future)), "_made": True}
                if not self._made:
                    mine.update(made)
        return mine[name]


_FIELDS: Final = frozenset(cast("dict[str, object]", vars(Future[int]())))


def _resolve(future: Future[int], outcome: int | Exception) -> None:
    if isinstance(outcome, Exception):
        future.set_exception(outcome)
    else:
        future.set_result(outcome)
