# SPDX-License-Identifier: MIT
"""Awaiting the writer: acks and room in the queue, for coroutines. Imported by the first ``…_async`` call.

An append waiting for its ack holds no thread: the writer delivers all the acks of a commit in one call into the loop.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress

from ._reader import ReadPool
from ._rows import NewRow, Page, Selection
from ._wakeup import TICK, watching
from ._writer import Entry, Writer



class _Awaited(Entry):
    """An entry whose outcome a task of an event loop awaits."""

    __slots__ = ("waiter", "writer")

    def __init__(self, writer: Writer, rows: Sequence[NewRow], loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(rows, _tell, loop)
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


async def flush(writer: Writer) -> None:
    """`Writer.flush` for coroutines."""
    await append(writer, ())
    writer.raise_unheard()


async def follow(
    pool: ReadPool, selection: Selection, after_id: int, timeout: float | None, until_finished: bool
) -> AsyncIterator[Page]:
    """`ReadPool.follow` for coroutines."""
    loop, woken = asyncio.get_running_loop(), asyncio.Event()
    to_thread = asyncio.to_thread

    def bell() -> None:
        with suppress(RuntimeError):  # the loop is closed: nobody is following any more
            loop.call_soon_threadsafe(woken.set)

    deadline = None if timeout is None else loop.time() + timeout
    while not await to_thread(pool.exists):
        if deadline is not None and loop.time() >= deadline:
            return
        await asyncio.sleep(TICK)
    with watching(pool.path, bell) as watcher:
        while True:
            woken.clear()
            last = until_finished and await to_thread(pool.is_finished, selection.task_id)
            pages = pool.pages(selection, after_id)
            while page := await to_thread(next, pages, None):
                yield page
                after_id = page.ids[-1]
                deadline = None if timeout is None else loop.time() + timeout
            watcher.check()
            if last:
                return
            try:
                async with asyncio.timeout_at(deadline):
                    await woken.wait()
            except TimeoutError:
                return
