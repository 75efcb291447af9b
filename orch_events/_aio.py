# SPDX-License-Identifier: MIT
"""Awaiting the writer: acks and room in the queue, for coroutines.

An append waiting for its ack holds no thread: the writer delivers all the acks of a commit in one call into the loop.
`asyncio` is imported by who needs it, since programs without coroutines would pay for it with half of the import time.
"""

from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Final, cast
from weakref import WeakKeyDictionary, ref

from ._entry import Entry, Post
from ._rows import NewRow
from ._writer import Writer

if TYPE_CHECKING:
    import asyncio


class _Awaited(Entry):
    """An entry whose outcome a task of an event loop awaits."""

    __slots__ = ("waiter", "writer")

    def __init__(self, writer: Writer, rows: Sequence[NewRow], loop: "asyncio.AbstractEventLoop") -> None:
        super().__init__(rows, _tell, cast("Post", loop.call_soon_threadsafe))  # which it is, but ty does not see it
        self.writer = writer
        self.waiter: "asyncio.Future[int]" = loop.create_future()


# Acks that a loop gets in one turn: each lets a task run, for some 20 µs. With all 2,048 of a commit at once, other
# callbacks were 20 to 50 ms late.
_TURN: Final = 256
_DUE: Final["WeakKeyDictionary[asyncio.AbstractEventLoop, ref[deque[_Awaited]]]"] = WeakKeyDictionary()
"""What each loop has not got yet. Only the turn that is due there holds it, so it goes when that turn is lost: with the
loop, or by a KeyboardInterrupt."""


def _tell(entries: list[Entry]) -> bool:
    acks = deque[_Awaited]()
    for entry in entries:
        if not isinstance(entry, _Awaited):
            continue
        if entry.error is None:
            acks.append(entry)
        elif entry.waiter.done():  # cancelled, but the error must not get lost
            entry.writer.unheard([entry])
        else:
            entry.waiter.set_exception(entry.error)
    if acks:
        loop = acks[0].waiter.get_loop()
        if (known := _DUE.get(loop)) is not None and (due := known()) is not None:
            due.extend(acks)
        else:
            _DUE[loop] = ref(acks)
            _turn(loop, acks)
    return True


def _turn(loop: "asyncio.AbstractEventLoop", acks: deque[_Awaited]) -> None:
    if acks:
        try:
            for _ in range(min(len(acks), _TURN)):
                if not (entry := acks.popleft()).waiter.done():
                    entry.waiter.set_result(entry.last_id)
        finally:
            loop.call_soon(_turn, loop, acks)


async def append(writer: Writer, rows: Sequence[NewRow]) -> int:
    """`Writer.append` for coroutines."""
    import asyncio

    entry = _Awaited(writer, rows, asyncio.get_running_loop())
    if not writer.offer(entry):
        await _wait_for_room(writer, entry)
    try:
        return await entry.waiter
    except asyncio.CancelledError:  # it may have come in the very turn in which a failure was told
        if entry.waiter.done() and not entry.waiter.cancelled() and entry.waiter.exception() is not None:
            writer.unheard([entry])
        raise


async def _wait_for_room(writer: Writer, entry: _Awaited) -> None:
    import asyncio

    loop, room = asyncio.get_running_loop(), asyncio.Event()

    def when_room() -> None:
        with suppress(RuntimeError):  # the loop is closed: nobody is waiting any more
            loop.call_soon_threadsafe(room.set)

    try:
        async with asyncio.timeout(writer.timeout):
            while not writer.offer(entry, when_room):
                await room.wait()
                room.clear()
    except TimeoutError:
        raise writer.full() from None
    finally:
        writer.leave(when_room)
