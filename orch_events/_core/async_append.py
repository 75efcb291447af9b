# SPDX-License-Identifier: MIT
"""Appending from a coroutine: offer the rows to the commit queue, wait for room if need be, await the outcome.

`asyncio` is imported when a coroutine appends: it would be half of the import time of programs without coroutines.
"""

from collections.abc import Sequence
from contextlib import suppress

from .._values.new_events import NewRow
from .commit_queue import CommitQueue
from .loop_acks import LoopEntry


async def append(queue: CommitQueue, rows: Sequence[NewRow]) -> int:
    """`CommitQueue.append` for coroutines."""
    import asyncio

    queue.check(rows)
    queue.refuse_inside_commit()
    entry = LoopEntry(rows, asyncio.get_running_loop(), queue.lost)
    if not queue.try_enqueue(entry):
        await _wait_for_room(queue, entry)
    waiter = entry.waiter
    try:
        return await waiter
    except asyncio.CancelledError:
        # It may have come in the very turn of the loop in which a failure arrived.
        if waiter.done() and not waiter.cancelled() and waiter.exception() is not None:
            queue.lost.report(entry.error)
        raise


async def _wait_for_room(queue: CommitQueue, entry: LoopEntry) -> None:
    import asyncio

    loop = asyncio.get_running_loop()
    room = asyncio.Event()

    def when_room() -> None:
        with suppress(RuntimeError):  # the loop is closed: no task waits any more
            loop.call_soon_threadsafe(room.set)

    try:
        async with asyncio.timeout(queue.timeout):
            while not queue.try_enqueue(entry, when_room):
                await room.wait()
                room.clear()
    except TimeoutError:
        raise queue.queue_full_error() from None
    finally:
        queue.stop_waiting(when_room)
