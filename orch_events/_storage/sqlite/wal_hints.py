# SPDX-License-Identifier: MIT
"""Sleeping until woken, or until the ``-wal`` file is written or the database replaced.

The second needs inotify, through `ctypes`: it opens nothing, wakes in 0.2 ms and costs nothing while idle.
Where there is none, only `wake` ends a sleep early.
"""

import contextlib
import os
import sys
import time
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Final

_MODIFY: Final = 0x2
_ATTRIB: Final = 0x4
_DELETE_SELF: Final = 0x400
_MOVE_SELF: Final = 0x800


class HintedSleep:
    """Used by one thread; only `wake` may be called from any."""

    def __init__(self, path: str) -> None:
        # Put to from anywhere, a signal handler or a finalizer too: a `SimpleQueue` cannot block.
        self._woken: SimpleQueue[None] = SimpleQueue()
        self._hints: int = -1
        """Descriptor of inotify; negative without."""
        self._add_watch: Callable[[int, bytes, int], int]
        self._wait: Callable[[float], object]
        real = os.path.realpath(path)  # SQLite puts the ``-wal`` file beside what a link leads to
        self._watched = ((f"{real}-wal", _MODIFY), (real, _ATTRIB | _DELETE_SELF | _MOVE_SELF))

    @property
    def has_hints(self) -> bool:
        return self._hints >= 0

    def open(self) -> None:
        """Ask for hints, if there are any: inotify may be missing or used up, and so may `ctypes`."""
        if sys.platform == "linux":
            with contextlib.suppress(OSError, AttributeError, ImportError):
                import ctypes  # takes 5 ms to import; only followers need it
                import select

                libc = ctypes.CDLL(None)
                init: Callable[[int], int] = libc.inotify_init1
                self._add_watch = libc.inotify_add_watch
                poll = select.poll()
                self._wait = poll.poll
                self._hints = init(os.O_CLOEXEC | os.O_NONBLOCK)
                if self._hints >= 0:  # or too many exist already
                    poll.register(self._hints, select.POLLIN)

    def sleep(self, seconds: float) -> bool:
        """Wait; ``True`` when woken or given a hint."""
        if self._hints < 0:
            with contextlib.suppress(Empty):
                self._woken.get(timeout=seconds)
                return True
        elif seconds < 0.001:  # `poll` counts in milliseconds
            time.sleep(seconds)
        else:
            for name, mask in self._watched:  # again each time: SQLite may have made the file anew
                self._add_watch(self._hints, os.fsencode(name), mask)
            self._wait(seconds * 1000)
        woken = not self._woken.empty()
        while not self._woken.empty():
            self._woken.get()
        if self._hints >= 0:
            with contextlib.suppress(BlockingIOError):
                woken = bool(os.read(self._hints, 4096)) or woken
        return woken

    def wake(self) -> None:
        """End the sleep. Does not interrupt a `poll`: the commit wakes that by itself."""
        self._woken.put(None)

    def close(self) -> None:
        """Close the descriptor of inotify."""
        hints = self._hints
        self._hints = -1  # so that a second call closes nobody else's
        if hints >= 0:
            os.close(hints)
