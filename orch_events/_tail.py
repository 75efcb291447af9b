# SPDX-License-Identifier: MIT
"""Following a step's output file: one growing file, by path, with what ``tail -F`` users expect.

Knows files and bytes, nothing of events, steps or SQLite, and keeps one block of a file in memory at most. Only regular
files are opened: the paths come from payloads, and a read from a pipe or a device might never return. Never point it at
a log's database: closing it would drop SQLite's locks (https://sqlite.org/howtocorrupt.html, section 2.2.1).
"""

import codecs
import contextlib
import os
import stat
import threading
from collections.abc import Iterator
from io import FileIO
from typing import Final, Self

BLOCK: Final = 64 << 10
"""Bytes of one read at most."""
_MARK: Final = 16
"""Bytes before the position that must still be there: a truncated file may be longer than before when looked at."""

_POLL: Final = 0.1
"""Seconds between two looks: a file has no other way to tell that works everywhere. One costs 4 µs."""


def follow_log_file(
    path: str | os.PathLike[str], *, lines: int | None = None, stop: threading.Event | None = None
) -> Iterator[str]:
    """The text of a step's output file, then what is written to it, as ``tail -F`` shows it; ends after `stop` is set.

    Yields text as it comes (UTF-8, with U+FFFD for what is not), from the beginning or from the last `lines` lines, and
    what was written before `stop` was set to its last character. Waits for a file that is not there; starts again with
    one that was truncated or replaced. Looks ten times a second and holds 64 kB at most. For one thread at a time.
    """
    stop = stop or threading.Event()
    with Tail(path, lines=lines) as tail:
        while True:
            last = stop.is_set()
            for data in tail.rest() if last else iter(tail.read, b""):
                if text := tail.decode(data):
                    yield text
            if last:
                if text := tail.decode(b"", final=True):
                    yield text
                return
            stop.wait(_POLL)


class Tail:
    """Reads what is new in the file at `path`, from its beginning or from its last `lines` lines.

    A file that is not there yet is waited for. One that was truncated is read from its beginning again; one that was
    replaced (rotated) is finished to its last byte first. For one thread. Close it, or use it as a context manager.
    """

    def __init__(self, path: str | os.PathLike[str], *, lines: int | None = None) -> None:
        self.path = os.fspath(path)
        self.restarts = 0
        """How often the file was found truncated or replaced."""
        self._file: FileIO | None = None
        self._position, self._mark = 0, b""
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._broken_off = ""
        if (file := self._open()) is not None and lines is not None:
            self._position = _start_of_last_lines(file, lines)

    def read(self) -> bytes:
        """The next bytes, a block at most; ``b""`` when there is nothing new now."""
        if self._file is None and self._open() is None:
            return b""
        data = self._read_on()
        if not data and self._replacement() is not None:
            data = self._read_on()  # again, because the old file may have grown between the read and its replacement
            if not data and self._open() is not None:
                self._restart()
                data = self._read_on()
        return data

    def rest(self) -> Iterator[bytes]:
        """Everything written before this call, in blocks. Ends even if the file grows faster than it is read."""
        if self._file is None and self._open() is None:
            return
        other = self._replacement()
        unread = self._unread() + (0 if other is None else other.st_size)
        while unread > 0 and (data := self.read()):
            unread -= len(data)
            yield data

    def decode(self, data: bytes, *, final: bool = False) -> str:
        """The text of `data`, just read: UTF-8, with U+FFFD for what is not.

        A character split between two reads comes out once, with the second. `final` gives up on an unfinished one.
        """
        before, self._broken_off = self._broken_off, ""
        return before + self._decoder.decode(data, final)

    def close(self) -> None:
        """Close the file. Idempotent."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _open(self) -> FileIO | None:
        """Open whatever file is at the path now; keep what is open if there is none."""
        try:
            if not stat.S_ISREG(os.stat(self.path).st_mode):
                return None
            file = open(self.path, "rb", buffering=0)
        except (OSError, ValueError):  # not there, not ours to read, or no path at all (a NUL in it)
            return None
        self.close()
        self._file, self._position, self._mark = file, 0, b""
        return file

    def _read_on(self) -> bytes:
        if self._file is None or self._unread() == 0:
            return b""
        self._file.seek(self._position)
        data = self._file.read(BLOCK) or b""
        self._position += len(data)
        self._mark = (self._mark + data)[-_MARK:]
        return data

    def _unread(self) -> int:
        """Bytes to be read of the open file; restarts if it is not what has been read so far."""
        if self._file is None:
            return 0
        size = os.fstat(self._file.fileno()).st_size
        self._file.seek(self._position - len(self._mark))
        mark: bytes = self._file.read(len(self._mark))
        if size < self._position or mark != self._mark:
            self._restart()
        return size - self._position

    def _restart(self) -> None:
        self.restarts += 1
        self._position, self._mark = 0, b""
        self._broken_off += self._decoder.decode(b"", True)

    def _replacement(self) -> os.stat_result | None:
        """Another file that is at the path now. The one we hold open keeps its inode number from being reused."""
        with contextlib.suppress(OSError):  # deleted, and nothing in its place yet
            there = os.stat(self.path)
            if self._file is not None and not os.path.samestat(there, os.fstat(self._file.fileno())):
                return there
        return None


def _start_of_last_lines(file: FileIO, lines: int) -> int:
    """Where the last `lines` lines of `file` begin, reading backwards no further than that."""
    end = start = file.seek(0, os.SEEK_END)
    if lines <= 0:
        return end
    while start > 0:
        start, stop = max(0, start - BLOCK), start
        file.seek(start)
        block: bytes = file.read(stop - start)
        newline = len(block)
        while (newline := block.rfind(b"\n", 0, newline)) >= 0:
            if start + newline + 1 < end:  # the newline that ends the file begins no line
                lines -= 1
            if lines == 0:
                return start + newline + 1
    return 0
