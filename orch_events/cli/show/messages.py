# SPDX-License-Identifier: MIT
"""What a command says on standard error. It is lost if that cannot be written: it must not stop the command."""

import math
import os
import sys
import time
from contextlib import suppress
from typing import Final, cast

from .terminal_text import printable

__all__ = ["Progress", "error_text", "say"]

_PROGRESS_INTERVAL: Final = 0.1
"""Seconds between two updates of a progress line."""


def say(message: object) -> None:
    """Write one line: a text, or what an error says."""
    _write(f"orch-events: {printable(error_text(message))}\n")


def error_text(error: object) -> str:
    """What an error says to people: of one from the operating system, the file and what is wrong with it."""
    if not isinstance(error, OSError) or not error.strerror:
        return str(error) or type(error).__name__
    file = cast("object", error.filename)
    if file is None:
        return error.strerror
    return f"{file}: {error.strerror}"


class Progress:
    """A line that is written over as work goes on, where standard error is a terminal."""

    def __init__(self) -> None:
        self._due = 0.0 if os.isatty(2) else math.inf

    def show(self, text: str) -> None:
        """Show the text now, unless another was shown a moment ago."""
        now = time.monotonic()
        if now >= self._due:
            self._due = now + _PROGRESS_INTERVAL
            _write(f"\r{text}")

    def end(self) -> None:
        """Let what comes next stand in its place."""
        if os.isatty(2):
            _write("\r")


def _write(text: str) -> None:
    with suppress(OSError, ValueError):
        # In one piece, also beside other threads.
        print(text, end="", file=sys.stderr, flush=True)
