# SPDX-License-Identifier: MIT
"""Brings the outcomes of appends to the coroutines that await them.

An append that waits holds no thread: all the outcomes of a commit go into an event loop in one call, and from there to
the tasks, some in each turn of the loop.
"""

from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final
from weakref import WeakKeyDictionary, ref

from .._values.new_events import NewRow
from .lost_failures import LostFailures
from .pending import Entry

if TYPE_CHECKING:
    import asyncio

_ACKS_PER_LOOP_TURN: Final = 256
"""Each lets a task run, for some 20 µs. With all 2,048 of a commit at once, other callbacks were 20 to 50 ms late."""


class LoopEntry(Entry):
    """An entry that a task of an event loop awaits."""

    __slots__ = ("is_received", "loop", "lost", "waiter")

    def __init__(
        self,
        rows: Sequence[NewRow],
        loop: "asyncio.AbstractEventLoop",
        lost: LostFailures,
    ) -> None:
        super().__init__(rows)
        self.loop = loop
        self.lost = lost
        self.is_received = False
        """Whether the outcome has come into the loop, or never can."""
        self.waiter: asyncio.Future[int] = loop.create_future()


_pending_acks: Final["WeakKeyDictionary[asyncio.AbstractEventLoop, ref[deque[LoopEntry]]]"] = (
    WeakKeyDictionary()
)
"""What each loop is still to pass on. Only the loop's next turn holds the deque: it goes when the loop drops that."""


def post_acks(loop: "asyncio.AbstractEventLoop", entries: list[LoopEntry]) -> None:
    """Bring the outcomes of `entries`, all of that loop, into it. Raises `RuntimeError` when it is closed.

    May be called again with the same entries, where an exception broke off the first call.
    """
    loop.call_soon_threadsafe(_receive, loop, entries)


def _receive(loop: "asyncio.AbstractEventLoop", entries: list[LoopEntry]) -> None:
    """On the loop: failures go to their tasks at once, ids behind those that are still to be passed on."""
    acks = deque[LoopEntry]()
    for entry in entries:
        if entry.is_received:
            continue
        entry.is_received = True
        if entry.error is None:
            acks.append(entry)
        elif entry.waiter.done():  # cancelled, but the error must not get lost
            entry.lost.report(entry.error)
        else:
            entry.waiter.set_exception(entry.error)
    if not acks:
        return
    known = _pending_acks.get(loop)
    pending = None if known is None else known()
    if pending is not None:
        pending.extend(acks)
    else:
        _pending_acks[loop] = ref(acks)
        _resolve_some(loop, acks)


def _resolve_some(loop: "asyncio.AbstractEventLoop", acks: deque[LoopEntry]) -> None:
    if not acks:
        return
    try:
        for _ in range(min(len(acks), _ACKS_PER_LOOP_TURN)):
            entry = acks.popleft()
            if not entry.waiter.done():
                entry.waiter.set_result(entry.last_id)
    finally:
        loop.call_soon(_resolve_some, loop, acks)
