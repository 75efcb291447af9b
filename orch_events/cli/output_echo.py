# SPDX-License-Identifier: MIT
"""Echoes what a command writes to its files on our own stdout and stderr, byte for byte, as it comes.

This has a thread of its own, so a reader that stops reading delays nothing else.
"""

import contextlib
import errno
import os
import select
import sys
import threading
import time
from typing import Final

from .._output_tail import Tail
from .child_process import ChildProcess
from .output_files import OutputFiles
from .show.messages import error_text, say

__all__ = ["OutputEcho"]

_PAUSE: Final = 0.03
"""Seconds between two looks at the output: below what an eye notices, and 0.1 % of a core."""

_NO_ROOM_PAUSE: Final = 0.01
"""Seconds between two tries to write where there is no room."""


class OutputEcho:
    """The echo of one command's output. Where no thread can be had for it, it copies everything at the end."""

    def __init__(self, output: OutputFiles) -> None:
        self._output = output
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None
        try:
            # A daemon, since a reader that has stopped reading may block it for ever.
            thread = threading.Thread(target=self._work, daemon=True)
            thread.start()
            self._thread = thread
        except (RuntimeError, MemoryError) as error:
            say(f"its output is shown when it has ended: {error_text(error)}")

    def finish(self, child: ChildProcess) -> bool:
        """The command has ended: wait until everything it wrote is copied; ``False`` if a signal came meanwhile."""
        self._ended.set()
        if self._thread is None:
            child.release()
            self._work()
            return True
        while self._thread.is_alive():
            if child.is_hurried():
                _say_unless_blocked("the rest of its output is not shown")
                return False
            self._thread.join(0.1)
        return True

    def _work(self) -> None:
        try:
            self._copy()
        except Exception as error:
            say(f"the output is no longer shown: {error_text(error)}")

    def _copy(self) -> None:
        output = self._output
        with (
            Tail(output.stdout_path, descriptor=output.stdout_reader) as stdout,
            Tail(output.stderr_path, descriptor=output.stderr_reader) as stderr,
        ):
            copies = list[_Copy]()
            # A stream is None when we were started with its descriptor closed: there is no reader.
            if sys.__stdout__ is not None:
                copies.append(_Copy(stdout, sys.__stdout__.fileno()))
            if sys.__stderr__ is not None:
                copies.append(_Copy(stderr, sys.__stderr__.fileno()))
            has_ended = False
            while copies and not has_ended:
                # Asked before reading, so that the last round misses nothing.
                has_ended = self._ended.wait(_PAUSE)
                copies = [copy for copy in copies if copy.go_on()]


class _Copy:
    """One of the two streams."""

    def __init__(self, tail: Tail, descriptor: int) -> None:
        self._tail = tail
        self._descriptor = descriptor

    def go_on(self) -> bool:
        """Copy what is new; ``False`` if the stream takes no more."""
        return all(_write(self._descriptor, data) for data in self._tail.rest())


def _write(descriptor: int, data: bytes) -> bool:
    """Write all of `data`; whether that went well."""
    rest = memoryview(data)
    while rest:
        try:
            rest = rest[os.write(descriptor, rest) :]
        except BlockingIOError:  # another program that shares the terminal has made it non-blocking
            time.sleep(_NO_ROOM_PAUSE)
        except OSError as error:
            if error.errno != errno.EPIPE:  # with which `head` says that it has seen enough
                say(f"the output is no longer shown: {error.strerror}")
            return False
    return True


def _say_unless_blocked(message: str) -> None:
    """Say it, unless that could take for ever, because what reads stderr has stopped reading."""
    with contextlib.suppress(OSError, ValueError):
        if sys.platform == "win32" or select.select([], [2], [], 0)[1]:
            say(message)
