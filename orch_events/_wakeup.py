# SPDX-License-Identifier: MIT
"""Who is told of a commit, and how soon: one watcher for each log file that is being followed in this process.

The truth is ``PRAGMA data_version`` on a connection of the watcher's own, which moves when anybody else commits. It is
looked at after a hint, then at doubling intervals up to `TICK`. Hints come from this process's own commits and, on
Linux, from inotify on the ``-wal`` file, which opens nothing. A hint may come before its commit is visible, twice, or
never: it only makes the next looks come sooner.
"""

import contextlib
import os
import sqlite3
import sys
import threading
import time
from collections.abc import Callable, Generator
from queue import Empty, SimpleQueue
from typing import Final

from ._connection import data_version, open_for_reading
from ._errors import ForkedError, LogNotFoundError, OrchEventsError, ReadError
from ._lifetime import register

TICK: Final = 0.1
"""Longest time between two looks, in seconds: the worst case where there are no hints. Costs 0.3 % of a core."""

_LOOK: Final = 0.0002
"""Seconds between looks for `_PATIENCE` seconds after a hint: inotify reports the write, one `fsync` too early."""

_PATIENCE: Final = 0.002

_LOOK_UNHINTED: Final = 0.001
"""Seconds to the next look after a commit where there is no inotify; always that often would cost 3 % of a core."""

_MODIFY, _ATTRIB, _DELETE_SELF, _MOVE_SELF = 0x2, 0x4, 0x400, 0x800


class _Sleeper:
    """Sleeps until woken; where there is inotify, also until the ``-wal`` file is written or the database replaced."""

    def __init__(self, path: str) -> None:
        self._woken: SimpleQueue[None] = SimpleQueue()  # may be put to from a finalizer, in the midst of anything
        self._hints: int = -1
        self._add_watch: Callable[[int, bytes, int], int]
        self._wait: Callable[[float], object]
        self._watched = ((f"{path}-wal", _MODIFY), (path, _ATTRIB | _DELETE_SELF | _MOVE_SELF))
        if sys.platform == "linux":
            with contextlib.suppress(OSError, AttributeError):
                import ctypes  # takes 5 ms to import; only followers need it
                import select

                libc = ctypes.CDLL(None)
                init: Callable[[int], int] = libc.inotify_init1
                self._add_watch = libc.inotify_add_watch
                self._hints = init(os.O_CLOEXEC | os.O_NONBLOCK)
                poll = select.poll()
                if self._hints >= 0:  # or there are too many of them already
                    poll.register(self._hints, select.POLLIN)
                self._wait = poll.poll
        self.pause = _LOOK_UNHINTED if self._hints < 0 else _LOOK

    def sleep(self, seconds: float) -> bool:
        """Wait; ``True`` when woken or given a hint."""
        if self._hints < 0:
            with contextlib.suppress(Empty):
                self._woken.get(timeout=seconds)
                return True
        elif seconds < 0.001:  # `poll` counts in milliseconds
            time.sleep(seconds)
        else:
            for name, mask in self._watched:  # again each time, in case SQLite made the file anew
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
        """End the sleep. One that inotify ends by itself is left alone."""
        self._woken.put(None)

    def close(self) -> None:
        """Release what it holds."""
        if self._hints >= 0:
            os.close(self._hints)


_MUTEX: Final = threading.RLock()
"""Guards every watcher's bells and descriptors; held for microseconds. Re-entered when the garbage collector finds a
follower in the midst of it."""


class Watcher:
    """Rings the bells of everybody who follows one file, on a thread of its own, while there is anybody."""

    def __init__(self, path: str, key: str) -> None:
        self.bells: dict[Callable[[], object], threading.Event | None] = {}
        self._path = path
        self._key = key
        self._error: OrchEventsError | None = None
        self._ending = False
        self._connection = open_for_reading(path, 0.0)
        self._identity = self._stat()
        self._version: object = None
        with contextlib.suppress(sqlite3.Error):  # busy: then the first look that succeeds finds a change
            self._version = data_version(self._connection)
        self._sleeper = _Sleeper(path)
        self._thread = threading.Thread(target=self._watch, name="orch_events watcher", daemon=True)
        register(self)

    def start(self) -> None:
        try:
            self._thread.start()
        except RuntimeError:  # no thread can be started; the next follower tries again
            self.bells.clear()
            self._wanted()
            raise

    @property
    def failed(self) -> bool:
        """Whether the file that is followed is no longer there, or this is the child of a fork."""
        if self._error is None and self._stat() != self._identity:
            self._error = self.gone()
        return self._error is not None

    def check(self) -> None:
        """Raise if `failed`."""
        if self.failed and self._error is not None:
            raise self._error

    def gone(self) -> ReadError:
        return ReadError(f"{self._path}: deleted or replaced while being followed", self._path)

    def wake(self) -> None:
        """With the mutex held: look now."""
        if _WATCHERS.get(self._key) is self:
            self._sleeper.wake()

    def _stat(self) -> tuple[int, int] | None:
        with contextlib.suppress(OSError):
            status = os.stat(self._path)
            return status.st_dev, status.st_ino
        return None

    def _watch(self) -> None:
        pause, hint = TICK, 0.0
        while self._wanted():
            hinted, changed = self._sleeper.sleep(pause), False
            with contextlib.suppress(sqlite3.Error):  # busy: the version seen last still stands, so nothing is missed
                version = data_version(self._connection)
                changed, self._version = version != self._version, version
            failed = self.failed
            for bell, stop in self.bells.copy().items():
                if changed or failed or (stop is not None and stop.is_set()):
                    try:
                        bell()
                    except RuntimeError:  # its event loop is closed, and nobody will ever take the bell away
                        self.bells.pop(bell, None)
            hint = 0.0 if changed else time.monotonic() if hinted else hint
            recent = hinted or changed or time.monotonic() - hint < _PATIENCE
            pause = self._sleeper.pause if recent else min(pause * 2, TICK)

    def _wanted(self) -> bool:
        with _MUTEX:
            if self.bells and not self._ending:
                return True
            if _WATCHERS.get(self._key) is self:
                del _WATCHERS[self._key]
            self._connection.close()
            self._sleeper.close()
            return False

    def forked(self) -> list[sqlite3.Connection]:
        _WATCHERS.clear()
        self._error = ForkedError(f"{self._path}: followed since before a fork")
        return [self._connection]

    def exiting(self) -> None:
        with _MUTEX:
            self._ending = True  # whoever still comes to follow
            self.wake()
        if self._thread.is_alive():
            self._thread.join()


_WATCHERS: Final[dict[str, Watcher]] = {}
if sys.platform != "win32":
    os.register_at_fork(before=_MUTEX.acquire, after_in_parent=_MUTEX.release, after_in_child=_MUTEX.release)


@contextlib.contextmanager
def watching(
    path: str, bell: Callable[[], object], stop: threading.Event | None = None
) -> Generator[Watcher, None, None]:
    """Within the body, `bell` is called after every commit to the file, and once it is gone or `stop` is set."""
    key, new = os.path.realpath(path), False
    with _MUTEX:
        watcher = _WATCHERS.get(key)
        if watcher is None or watcher.failed:  # a new file may stand where the old one was
            watcher, new = Watcher(path, key), True
            _WATCHERS[key] = watcher
        watcher.bells[bell] = stop
    if new:  # not with the mutex held: the new thread may find followers to collect before it has started
        watcher.start()
    try:
        yield watcher
    except LogNotFoundError:  # the body came to read before we came to look
        raise watcher.gone() from None
    finally:
        with _MUTEX:
            watcher.bells.pop(bell, None)
            watcher.wake()


def committed(key: str) -> None:
    """Hint that this process has committed to the file whose real path is `key`."""
    if _WATCHERS:
        with _MUTEX:
            if (watcher := _WATCHERS.get(key)) is not None:
                watcher.wake()
