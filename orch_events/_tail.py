# SPDX-License-Identifier: MIT
"""Following a step's output file: one growing file, by path, with what ``tail -F`` users expect.

The rule of this module: it knows files and bytes, nothing of events, steps or SQLite, and keeps at most one block of a
file in memory whatever the file's size. Only regular files are opened, because the paths come from payloads and a
read from a pipe or a device might never return. Never point it at a log's database: closing a second descriptor of
that file would drop SQLite's locks (https://sqlite.org/howtocorrupt.html, section 2.2.1).
"""

import codecs
import os
import stat
from collections.abc import Iterator
from io import FileIO
from typing import Final, Self

__all__ = ["Tail"]

BLOCK: Final = 64 << 10
"""Bytes of one read at most."""


class Tail:
    """Reads what is new in the file at `path`, from its beginning or from its last `lines` lines.

    A file that does not exist yet is waited for, and then read from its beginning. One that was truncated is read from
    its beginning again; one that was replaced (rotated) is first finished to its last byte. For one thread. Close it,
    or use it as a context manager.
    """

    def __init__(self, path: str | os.PathLike[str], *, lines: int | None = None) -> None:
        self.path = os.fspath(path)
        self.restarts = 0
        """How often the file was found truncated or replaced."""
        self._file: FileIO | None = None
        self._position = 0
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._broken_off = ""
        if (file := self._open()) is not None and lines is not None:
            self._position = _start_of_last_lines(file, lines)

    def read(self) -> bytes:
        """The next bytes, a block at most; ``b""`` when there is nothing new now."""
        if self._file is None and self._open() is None:
            return b""
        if data := self._read_on():
            return data
        if self._size() < self._position:
            self._restart()
            return self._read_on()
        if self._replaced():
            # Read before switching: the old file may have grown between the read above and its replacement.
            if data := self._read_on():
                return data
            if self._open() is not None:
                self._restart()
                return self._read_on()
        return b""

    def rest(self) -> Iterator[bytes]:
        """Everything written before this call, in blocks. Ends even if the file grows faster than it is read."""
        if self._file is None and self._open() is None:
            return
        unread = self._size() - self._position if self._size() >= self._position else self._size()
        if self._replaced():
            unread += _size_of(self.path)
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
        self._file, self._position = file, 0
        return file

    def _read_on(self) -> bytes:
        if self._file is None:
            return b""
        self._file.seek(self._position)
        data = self._file.read(BLOCK) or b""
        self._position += len(data)
        return data

    def _restart(self) -> None:
        self.restarts += 1
        self._position = 0
        self._broken_off += self._decoder.decode(b"", True)

    def _size(self) -> int:
        return 0 if self._file is None else os.fstat(self._file.fileno()).st_size

    def _replaced(self) -> bool:
        """Whether another file is at the path now. The one we hold open keeps its inode number from being reused."""
        try:
            return self._file is not None and not os.path.samestat(os.stat(self.path), os.fstat(self._file.fileno()))
        except OSError:  # deleted, and nothing in its place yet
            return False


def _size_of(path: str) -> int:
    try:
        return os.stat(path).st_size
    except OSError:
        return 0


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
