# SPDX-License-Identifier: MIT
"""The terminal as a screen that is drawn anew again and again, and left as it was found.

The rule: everything that needs the terminal's own language, or must be undone at the end, is here. Frames are drawn on
the alternate screen, so what was on the other stays; at the end the last frame is written below that.
"""

import os
import signal
import sys
from collections.abc import Callable
from contextlib import ExitStack, suppress
from types import FrameType
from typing import (
    Final,
    Self,
    cast,
)

from .keyboard import Keyboard

__all__ = ["Screen"]

_ENTER: Final = "\x1b[?1049h\x1b[?25l\x1b[?7l"
"""The alternate screen, no cursor, and no wrapping of lines that the terminal finds longer than we do."""

_LEAVE: Final = "\x1b[?7h\x1b[?25h\x1b[?1049l"

_LINE_END: Final = "\x1b[K\r\n"
"""What was longer before is erased behind each line, not the screen ahead of them all: so nothing flickers."""


class Screen:
    """Draws frames while it is entered. `wake` is called when the next one should come at once.

    Signals are noted as they come and obeyed between two frames, so that none ends us halfway in or out. The key "q" is
    obeyed like a signal: it ends the program with exit code 1, since what was watched goes on.
    """

    def __init__(self, wake: Callable[[], None]) -> None:
        self._wake = wake
        self._lines: list[str] = []
        self._signals: list[int] = []
        self._restore = ExitStack()
        self._keyboard = Keyboard(wake)

    def __enter__(self) -> Self:
        if sys.platform != "win32":
            ending = (signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGHUP)
            for number in (*ending, signal.SIGTSTP, signal.SIGWINCH):
                if cast("object", signal.getsignal(number)) is not signal.SIG_IGN:
                    before = signal.signal(number, self._note)
                    self._restore.callback(signal.signal, number, before)
        self._restore.callback(self._keyboard.release)
        self._keyboard.acquire()
        _write(_ENTER)
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(OSError):  # the terminal itself is gone
            _write(_LEAVE + "".join(f"{line}\n" for line in self._lines))
        self._restore.close()

    def _note(self, number: int, _frame: FrameType | None) -> None:
        self._signals.append(number)
        self._wake()

    def size(self) -> tuple[int, int]:
        """Columns and lines to fill: not the last column, which erasing behind it erases, nor the prompt's line."""
        with suppress(OSError):
            # Not what $COLUMNS says, which stays when the window changes.
            columns, lines = os.get_terminal_size(1)
            if columns > 1 < lines:
                return columns - 1, lines - 1
        return 79, 23

    def draw(self, lines: list[str]) -> None:
        """Draw a frame in one write, unless a signal or a key has asked for our end."""
        if sys.platform != "win32":
            while self._signals:
                number = self._signals.pop(0)
                if number == signal.SIGTSTP:
                    _write(_LEAVE)
                    self._keyboard.release()
                    os.kill(os.getpid(), signal.SIGSTOP)
                    self._keyboard.acquire()
                    _write(_ENTER)
                elif number == signal.SIGINT:
                    raise KeyboardInterrupt
                elif number != signal.SIGWINCH:
                    raise SystemExit(128 + number)
        if "q" in self._keyboard.typed():
            raise SystemExit(1)
        self._lines = lines
        _write("\x1b[H" + _LINE_END.join(lines) + "\x1b[K\x1b[J")


def _write(text: str) -> None:
    print(end=text, flush=True)
