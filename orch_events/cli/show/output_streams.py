# SPDX-License-Identifier: MIT
"""Standard output and standard error, whole: what a command prints arrives, or the command fails and says why.

Python's own are not. With PYTHONUNBUFFERED set they lose what the system does not take at once; where another program
has made the descriptor non-blocking they fail halfway; an error of the last flush comes after the exit status.
"""

import select
import sys
import time
from contextlib import suppress
from io import (
    BufferedWriter,
    RawIOBase,
    TextIOWrapper,
)
from typing import (
    Final,
    Self,
    TextIO,
    TypeGuard,
)

__all__ = ["Streams", "is_wrapper", "write_bytes"]

_PAUSE: Final = 0.01
"""Seconds between two tries to write, where the system cannot say when there is room."""


class _Writer:
    """The end of a standard stream that takes bytes: it takes all of them, and waits for room if it must.

    After an error it writes no more, for what came next would stand behind a hole.
    """

    def __init__(
        self,
        raw: RawIOBase,
        name: str,
        must_arrive: bool,
    ) -> None:
        self.name = name
        self.closed = False
        self.error: OSError | None = None
        self.discards = False
        """Whether what is still to come is thrown away."""
        self._raw = raw
        self._must_arrive = must_arrive

    def write(self, data: bytes, /) -> int:
        rest = memoryview(data)
        while rest and self.error is None and not self.discards:
            try:
                taken = self._raw.write(rest)
            except OSError as error:
                self.error = OSError(error.errno, error.strerror, self.name)
                if self._must_arrive:
                    raise self.error from None
            else:
                if taken is None:
                    _wait_for_room(self.fileno())
                else:
                    rest = rest[taken:]
        return len(data)

    def read(self, size: int = -1, /) -> bytes:
        return b""

    def truncate(self, size: int, /) -> int:
        return self._raw.truncate(size)

    def flush(self) -> None:
        """Nothing is held back here."""

    def close(self) -> None:
        """The descriptor stays open: it is the process's."""
        self.closed = True

    def fileno(self) -> int:
        return self._raw.fileno()

    def isatty(self) -> bool:
        return self._raw.isatty()

    def readable(self) -> bool:
        return False

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return False


def _wait_for_room(descriptor: int) -> None:
    if sys.platform == "win32":
        time.sleep(_PAUSE)
    else:
        # Not without end: a signal that comes just before the system call does not break that off.
        select.select((), (descriptor,), (), 0.5)


class Streams:
    """While this is entered, `sys.stdout` and `sys.stderr` are whole. Those that a host has replaced are left alone.

    Standard error must not stop a command: what it does not take is lost.
    """

    def __init__(self) -> None:
        self._stdout: _Writer | None = None
        self._before = sys.stdout, sys.stderr

    def __enter__(self) -> Self:
        if sys.stdout is sys.__stdout__:
            self._stdout = _writer(sys.__stdout__, "standard output", must_arrive=True)
            if self._stdout is not None and sys.__stdout__ is not None:
                sys.stdout = _text(self._stdout, sys.__stdout__)
        if sys.stderr is sys.__stderr__:
            stderr = _writer(sys.__stderr__, "standard error", must_arrive=False)
            if stderr is not None and sys.__stderr__ is not None:
                sys.stderr = _text(stderr, sys.__stderr__)
        return self

    def __exit__(self, *_: object) -> None:
        self.discard()
        sys.stdout, sys.stderr = self._before

    def finish(self) -> OSError | None:
        """Write what is still to be written; why not everything has arrived, if it has not."""
        if self._stdout is None:
            return None
        with suppress(OSError):
            sys.stdout.flush()
        return self._stdout.error

    def discard(self) -> None:
        """Write nothing more to standard output."""
        if self._stdout is not None:
            self._stdout.discards = True


# With these, type checkers know of what such a stream is made; of `isinstance` alone some say "of something".
def is_wrapper(stream: object) -> TypeGuard[TextIOWrapper]:
    """Whether there are bytes beneath a text stream."""
    return isinstance(stream, TextIOWrapper)


def _is_buffered(stream: object) -> TypeGuard[BufferedWriter]:
    return isinstance(stream, BufferedWriter)


def _writer(stream: TextIOWrapper | None, name: str, must_arrive: bool) -> _Writer | None:
    if stream is None:  # its descriptor was closed when the interpreter started
        return None
    with suppress(OSError):
        stream.flush()
    beneath: object = stream.buffer
    if _is_buffered(beneath):
        beneath = beneath.raw
    if isinstance(beneath, RawIOBase):
        return _Writer(beneath, name, must_arrive)
    return None


def _text(writer: _Writer, like: TextIOWrapper) -> TextIOWrapper:
    return TextIOWrapper(
        writer,
        encoding=like.encoding,
        errors="backslashreplace",  # what a terminal cannot show must not stop us
        line_buffering=like.line_buffering or like.write_through,
    )


def write_bytes(data: bytes) -> None:
    """Write to standard output as it is, behind what was printed before, and at once."""
    stream: TextIO | None = sys.stdout
    if is_wrapper(stream):
        stream.flush()
        stream.buffer.write(data)
        stream.buffer.flush()
    elif stream is not None:  # a host's own, that takes nothing but text
        stream.write(data.decode(errors="replace"))
