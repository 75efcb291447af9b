# SPDX-License-Identifier: MIT
"""Awaiting the writer. The only module that imports `asyncio`, and itself imported by the first ``…_async`` call.

An append waiting for its ack holds no thread: the writer delivers all the acks of a commit in one call into the loop.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import ParamSpec, TypeVar

from ._rows import NewRow
from ._writer import Entry, Writer

__all__: list[str] = []

P = ParamSpec("P")
T = TypeVar("T")


class _Awaited(Entry):
    """An entry whose outcome a task of an event loop awaits."""

    __slots__ = ("waiter", "writer")

    def __init__(self, writer: Writer, rows: Sequence[NewRow], loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(rows, loop=loop, tell_all=_tell_all)
        self.writer = writer
        self.waiter: asyncio.Future[int] = loop.create_future()


def _tell_all(entries: list[Entry]) -> None:
    for entry in entries:
        if not isinstance(entry, _Awaited):
            continue
        if entry.waiter.done():  # cancelled; the event is in the log or it is not, and an error must not get lost
            if entry.error is not None:
                entry.writer.unheard(entry.error)
        elif entry.error is not None:
            entry.waiter.set_exception(entry.error)
        else:
            entry.waiter.set_result(entry.last_id)


async def append(writer: Writer, rows: Sequence[NewRow]) -> int:
    """`Writer.append` for coroutines."""
    loop = asyncio.get_running_loop()
    entry = _Awaited(writer, rows, loop)
    deadline = time.monotonic() + writer.timeout
    while True:
        room = asyncio.Event()
        if writer.offer(entry, _from_thread(loop, room.set)):
            return await entry.waiter
        try:
            async with asyncio.timeout(deadline - time.monotonic()):
                await room.wait()
        except TimeoutError:
            raise writer.full() from None


def _from_thread(loop: asyncio.AbstractEventLoop, callback: Callable[[], None]) -> Callable[[], None]:
    def call() -> None:
        with suppress(RuntimeError):  # the loop is closed: nobody is waiting any more
            loop.call_soon_threadsafe(callback)

    return call


async def flush(writer: Writer) -> None:
    """`Writer.flush` for coroutines."""
    await append(writer, ())
    writer.raise_unheard()


async def in_thread(function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
    """Run something that blocks in a thread, so that the loop goes on."""
    return await asyncio.to_thread(function, *args, **kwargs)
