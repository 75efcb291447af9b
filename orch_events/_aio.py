# SPDX-License-Identifier: MIT
"""Awaiting the writer: acks and room in the queue, for coroutines. Imported by the first ``…_async`` call.

An append waiting for its ack holds no thread: the writer delivers all the acks of a commit in one call into the loop.
"""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from typing import cast

from ._entry import Entry, Loop
from ._rows import NewRow
from ._writer import Writer


class _Awaited(Entry):
    """An entry whose outcome a task of an event loop awaits."""

    __slots__ = ("waiter", "writer")

    def __init__(self, writer: Writer, rows: Sequence[NewRow], loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(rows, _tell, cast("Loop", loop))  # which it is, but ty does not see it
        self.writer = writer
        self.waiter: asyncio.Future[int] = loop.create_future()


def _tell(entries: list[Entry]) -> bool:
    for entry in entries:
        if not isinstance(entry, _Awaited):
            continue
        if entry.waiter.done():  # cancelled: whether the event is in the log is decided, but an error must not get lost
            entry.writer.unheard([entry])
        elif entry.error is not None:
            entry.waiter.set_exception(entry.error)
        else:
            entry.waiter.set_result(entry.last_id)
    return True


async def append(writer: Writer, rows: Sequence[NewRow]) -> int:
    """`Writer.append` for coroutines."""
    entry = _Awaited(writer, rows, asyncio.get_running_loop())
    if not writer.offer(entry):
        await _wait_for_room(writer, entry)
    return await entry.waiter


async def _wait_for_room(writer: Writer, entry: _Awaited) -> None:
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


async def flush(writer: Writer) -> None:
    """`Writer.flush` for coroutines."""
    await append(writer, ())
    writer.raise_unheard()
