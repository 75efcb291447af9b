# SPDX-License-Identifier: MIT
"""Starts a thread from anywhere, also from a signal handler that has interrupted `threading` itself.

`Thread.start` waits for locks of `threading`. A signal handler may have interrupted a call that holds one, such as the
host's own `Thread.start`, and would wait for ever. And if a handler raises in the middle of it, the new thread dies
before it has run. So another thread, made by `_thread` without those locks, calls it: handlers run in the main thread
only, so that one waits until the locks are free, and the caller waits a bounded time for it.
"""

import _thread
import threading
from contextlib import suppress
from queue import Empty, SimpleQueue


def start_thread(thread: threading.Thread, patience: float) -> bool:
    """Start `thread`, waiting at most `patience` seconds; whether it runs."""
    started = SimpleQueue[None]()

    def start() -> None:
        # The interpreter may be ending (gh-113964), or there may be too many threads.
        with suppress(RuntimeError, MemoryError):
            thread.start()
        started.put(None)

    with suppress(RuntimeError, MemoryError, Empty):
        _thread.start_new_thread(start, ())
        started.get(timeout=patience)
    return thread.is_alive()
