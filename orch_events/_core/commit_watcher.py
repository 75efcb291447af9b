# SPDX-License-Identifier: MIT
"""Rings the bells of all that follow a store in this process, when something was committed: one watcher for each store.

The truth is what the store's `Signal` says that it is. It is asked after a hint, then at doubling
intervals up to `TICK`. Hints come from this process's own commits, see `committed`, and from the signal. A
hint may come before its commit can be seen, or twice, or never: it only makes the next looks come sooner.
"""

import contextlib
import threading
import time
from collections.abc import Callable, Generator
from typing import Final, TypeAlias

from .._storage.interface import Store
from .._storage.process_hooks import register
from .._values.errors import (
    ForkedError,
    LogNotFoundError,
    OrchEventsError,
    ReadError,
)
from .._values.host_errors import is_from_host

Bell: TypeAlias = Callable[[], bool]
"""Called when there may be something new; ``False`` when nothing listens any more. May be called from anywhere."""

TICK: Final = 0.1
"""Longest time between two looks, in seconds: the worst case where there are no hints. Costs 0.3 % of a core."""

_PATIENCE: Final = 0.002
"""Seconds after a hint in which looks follow each other quickly."""


class Watcher:
    """Rings the bells of all that follow one file, on a thread of its own, while there are any.

    There is no lock, so a signal handler or a finalizer that follows, or stops following, in the middle of anything
    here waits for nothing. What is shared is changed by single operations on a dictionary or an attribute.
    """

    def __init__(self, store: Store, key: str) -> None:
        self.bells: dict[Bell, threading.Event | None] = {}
        self.ending = False
        """Whether it may be too late for a new bell. A follower looks after it has added its own; the thread, after it
        has set this, looks for bells again: so at least one of them sees the other."""
        self.ended = False
        """Whether its thread has ended, or could not be started: followers then look for themselves."""
        self._path = store.path
        self._key = key
        self._error: OrchEventsError | None = None
        self._begun = False
        self._unclaimed = [None]
        """See `_claim`."""
        self._exiting = False
        self._thread = threading.Thread(target=self._watch, name="orch_events watcher", daemon=True)
        self._signal = store.open_signal()
        try:
            register(self)
        except BaseException:
            self._signal.close()
            raise

    def start(self) -> None:
        """Begin to watch; if no thread can be started, end at once."""
        try:
            self._thread.start()
            self._begun = True
        except RuntimeError as error:
            if is_from_host(error, "threading"):
                raise
            self._end()

    def _claim(self) -> bool:
        """Whether this call is the first: of the thread when it begins, or of who has given up starting it."""
        with contextlib.suppress(IndexError):
            self._unclaimed.pop()
            return True
        return False

    @property
    def failed(self) -> bool:
        """Whether the file that is followed is no longer there, or this is the child of a fork."""
        if self._error is None and self._signal.is_gone():
            self._error = self.gone()
        return self._error is not None

    def check(self) -> None:
        """Raise if `failed`."""
        if self.failed and self._error is not None:
            raise self._error

    def gone(self) -> ReadError:
        return ReadError(f"{self._path}: deleted or replaced while being followed", self._path)

    def wake(self) -> None:
        """Look soon. Never blocks."""
        self._signal.wake()

    def leave(self, bell: Bell) -> None:
        """Ring `bell` no longer."""
        self.bells.pop(bell, None)
        self.wake()
        if (
            not self._begun and self._claim()
        ):  # an exception came before the thread had been started
            self._end()

    def _watch(self) -> None:
        if not self._claim():
            return
        try:
            self._signal.start()
            pause = TICK
            last_hint = 0.0
            while self._has_followers():
                is_hinted = self._signal.sleep(pause)
                has_changed = self._signal.has_changed()
                must_ring_all = has_changed or self.failed
                for bell, stop in self.bells.copy().items():
                    if must_ring_all or (stop is not None and stop.is_set()):
                        self._ring(bell)
                if has_changed:
                    last_hint = 0.0
                elif is_hinted:
                    last_hint = time.monotonic()
                is_recent = is_hinted or has_changed
                if is_recent or time.monotonic() - last_hint < _PATIENCE:
                    pause = self._signal.look_again_after
                else:
                    pause = min(pause * 2, TICK)
        finally:
            self._end()

    def _ring(self, bell: Bell) -> None:
        if not bell():  # nothing will ever take it away
            self.bells.pop(bell, None)

    def _has_followers(self) -> bool:
        if self._exiting:
            return False
        if not self.bells:
            self.ending = True
            self.ending = not self.bells
        return not self.ending

    def _end(self) -> None:
        self.ending = self.ended = True
        published = _WATCHERS.pop(self._key, None)
        if published is not None and published is not self:  # that of a file that came later
            _WATCHERS.setdefault(self._key, published)
        self._signal.close()
        for bell in self.bells.copy():
            self._ring(bell)

    def forked(self) -> None:
        _WATCHERS.clear()
        self._unclaimed.clear()  # nothing may close the signal
        self._error = ForkedError(f"{self._path}: followed since before a fork")

    def exiting(self) -> None:
        self._exiting = True  # also if more followers come
        self.wake()
        if self._thread.is_alive():
            self._thread.join()


_WATCHERS: Final[dict[str, Watcher]] = {}
"""By the key of the store that they watch."""


@contextlib.contextmanager
def watching(
    store: Store, bell: Bell, stop: threading.Event | None = None
) -> Generator[Watcher, None, None]:
    """Within the body, `bell` is called after every commit to the file, and once it is gone or `stop` is set.

    Unless the watcher has `ended`: then the body has to look for itself, every `TICK` seconds.
    """
    joined: list[
        Watcher
    ] = []  # before the bell is added, so that no exception in between leaves it there
    try:
        yield _join(store, bell, stop, joined)
    except LogNotFoundError:  # the body came to read before we came to look
        if not joined:
            raise
        raise joined[-1].gone() from None
    finally:
        for watcher in joined:
            try:
                watcher.leave(bell)
            except BaseException:  # of a signal handler, before it was done
                watcher.leave(bell)
                raise


def _join(
    store: Store,
    bell: Bell,
    stop: threading.Event | None,
    joined: list[Watcher],
) -> Watcher:
    """The watcher of the file, made if there is none, with `bell` added; each that it was added to is in `joined`."""
    key = store.key
    while True:
        known = _WATCHERS.get(key)
        usable = known is not None and not known.failed and not known.ending
        watcher = known if known is not None and usable else Watcher(store, key)
        joined.append(watcher)
        watcher.bells[bell] = stop
        if usable and not watcher.ending:
            return watcher
        if not usable:
            watcher.start()
            if known is not None or watcher.ended:
                # A new file may stand where the old one was. One without a thread serves its follower alone.
                if not watcher.ended:
                    _WATCHERS[key] = watcher
                return watcher
            if _WATCHERS.setdefault(key, watcher) is watcher:
                return watcher
        watcher.leave(bell)  # another thread was faster, or this one's has ended meanwhile
        joined.remove(watcher)


def committed(key: str) -> None:
    """Hint that this process has committed to the store with this key. Never blocks."""
    watcher = _WATCHERS.get(key)
    if watcher is not None:
        watcher.wake()
