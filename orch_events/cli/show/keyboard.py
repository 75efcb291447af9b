# SPDX-License-Identifier: MIT
"""The keys typed while a screen is drawn: each comes as it is typed, without an echo.

The keyboard is the terminal on standard input. Where there is none, or while this process is in its background, in
which it must not touch it, no key comes. What ends or stops a program, such as Ctrl-C, still does.
"""

import os
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from select import select

__all__ = ["Keyboard"]


class Keyboard:
    """Between `acquire` and `release`, `wake` is called by a thread when there are keys to take."""

    def __init__(self, wake: Callable[[], None]) -> None:
        self._wake = wake
        self._give_back: Callable[[], None] | None = None
        """Gives the terminal the modes in which it was found; ``None`` while it has them."""
        self._looked = threading.Event()
        self._thread: threading.Thread | None = None

    def acquire(self) -> None:
        """Have keys come one by one, and not line by line; in the background, `typed` does so once that has ended."""
        if sys.platform != "win32" and _is_in_foreground():
            import termios
            import tty

            modes = termios.tcgetattr(0)
            self._give_back = partial(termios.tcsetattr, 0, termios.TCSADRAIN, modes)
            tty.setcbreak(0, termios.TCSADRAIN)
            if self._thread is None:
                self._thread = threading.Thread(target=self._notice_keys, daemon=True)
                # If none can be started, keys are seen when the next frame is drawn.
                with suppress(RuntimeError):
                    self._thread.start()

    def release(self) -> None:
        """Leave the terminal as it was found."""
        if self._give_back is not None and _is_in_foreground():
            self._give_back()
        self._give_back = None

    def typed(self) -> str:
        """The characters typed since the last call; nothing if any other key was among them. Never waits."""
        keys = b""
        if self._give_back is None:
            self.acquire()
        if self._give_back is not None and _is_in_foreground() and select([0], [], [], 0)[0]:
            keys = os.read(0, 1024)
        self._looked.set()
        if b"\x1b" in keys:  # what an arrow or function key sends
            return ""
        return keys.decode(errors="replace")

    def _notice_keys(self) -> None:
        while True:
            is_typed_to = self._give_back is not None and _is_in_foreground()
            if is_typed_to and select([0], [], [])[0]:
                self._looked.clear()
                self._wake()
                self._looked.wait()
            else:
                time.sleep(1.0)


def _is_in_foreground() -> bool:
    if sys.platform == "win32":
        return False
    else:
        try:
            return os.tcgetpgrp(0) == os.getpgrp()
        except OSError:  # standard input is no terminal of ours
            return False
