# SPDX-License-Identifier: MIT
"""Follows a step's output file: one growing file, by path, as users of ``tail -F`` expect.

Knows files and bytes, nothing of events, steps or SQLite, and keeps at most a few blocks of a file
in memory. Only regular files are read: the paths come from payloads, and a read from a pipe or a
device might never return. Never use it on a log's database: closing that file would drop SQLite's
locks (https://sqlite.org/howtocorrupt.html, section 2.2.1).

A file that does not exist is waited for. Any other reason for which a file cannot be read is an
`OSError` that names it.
"""

import codecs
import errno
import os
import stat
import sys
import threading
import time
from binascii import crc32
from collections.abc import Container, Iterator
from io import FileIO
from typing import Final, Self

BLOCK: Final = 64 << 10
"""Bytes of one read at most."""

_MARK: Final = 4 << 10
"""Bytes at the beginning and at the end of what was read that are compared at the next look."""

_SUMMED: Final = 256 << 20
"""Bytes of what was read that are compared by a checksum when a file changed without growing: 0.2 s
of work.
"""

_POLL: Final = 0.1
"""Seconds between two looks, which cost 9 µs each. Nothing else works on every system."""


def _open_flags(through_links: bool) -> int:
    if sys.platform == "win32":
        return os.O_RDONLY | os.O_BINARY | os.O_NOINHERIT
    else:
        # A pipe may have taken the file's place: do not wait for its other end. A terminal must not
        # become ours.
        flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
        if not through_links:
            flags |= os.O_NOFOLLOW
        return flags


def follow_log_file(
    path: str | os.PathLike[str], *, lines: int | None = None, stop: threading.Event | None = None
) -> Iterator[str]:
    """The text of a step's output file, then what is written to it, as ``tail -F`` shows it; ends
    after `stop` is set.

    Yields text as it comes (UTF-8, with U+FFFD for what is not), from the beginning or from the
    last `lines` lines, and what was written before `stop` was set to its last character. Waits for
    a file that is not there; starts again with one that was truncated, rewritten or replaced. Looks
    ten times a second and holds 64 kB at most. For one thread at a time; a signal handler may set
    `stop`.

    Raises `OSError`, with the path as `filename`, when there is something else than a file that can
    be read, at the first ``next()`` or when it comes later: `PermissionError` for a file that may
    not be read, `IsADirectoryError` for a directory, and otherwise by its ``errno``: ``EINVAL`` for
    a pipe, a device or what cannot be a path, ``ENAMETOOLONG``, ``ELOOP``, ``EIO`` and so on.
    """
    with Tail(path, lines=lines) as tail:
        while True:
            is_stopped = stop is not None and stop.is_set()
            # After the stop, no further than what was written before it, however fast the file
            # grows.
            blocks = tail.rest() if is_stopped else iter(tail.read, b"")
            for data in blocks:
                text = tail.decode(data)
                if text:
                    yield text
            if is_stopped:
                text = tail.decode(b"", final=True)
                if text:
                    yield text
                return
            # Not `stop.wait()`: a signal handler that sets the event in this thread would wait for
            # a lock of this thread.
            time.sleep(_POLL)


class _File:
    """An open regular file. Its errors name its path."""

    def __init__(self, path: str, file: FileIO) -> None:
        self.path = path
        self._file = file

    def status(self) -> os.stat_result:
        return os.fstat(self._file.fileno())

    def read(self, position: int, size: int) -> bytes:
        """`size` bytes from `position` on, fewer only at the file's end."""
        parts: list[bytes] = []
        try:
            self._file.seek(position)
            while size > 0:
                data = self._file.read(size)
                if not data:
                    break
                parts.append(data)
                size -= len(data)
        except OSError as error:
            raise OSError(error.errno, error.strerror, self.path) from error
        return b"".join(parts)

    def hole_before(self, end: int) -> int:
        """About where the hole begins that ends at `end` in a sparse file; else `end`."""
        size = BLOCK
        while end > 0:
            start = max(0, end - size)
            if self._has_data(start, end):
                break
            end = start
            size *= 2
        return end

    def _has_data(self, start: int, end: int) -> bool:
        """Whether something was ever written there; ``True`` where the system cannot say."""
        if sys.platform != "linux":
            return True
        else:
            try:
                return os.lseek(self._file.fileno(), start, os.SEEK_DATA) < end
            except OSError as error:
                return error.errno != errno.ENXIO  # there is no data from `start` to the end

    def close(self) -> None:
        self._file.close()


def _check_kind(status: os.stat_result, path: str) -> None:
    if stat.S_ISDIR(status.st_mode):
        raise OSError(errno.EISDIR, os.strerror(errno.EISDIR), path)
    if stat.S_ISLNK(status.st_mode):
        raise OSError(errno.ELOOP, "a symbolic link, which may lead anywhere", path)
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, "not a regular file", path)


def _open(path: str, through_links: bool) -> _File | None:
    """The file at the path; ``None`` if there is none yet."""
    if not path:
        raise OSError(errno.EINVAL, "an empty path", path)
    flags = _open_flags(through_links)
    try:
        _check_kind(os.stat(path, follow_symlinks=through_links), path)
        file = FileIO(os.open(path, flags))
    except (
        FileNotFoundError,
        BlockingIOError,
    ):  # not there, or leased to another program for a moment
        return None
    except ValueError as error:
        why = "it cannot be encoded"
        if "\0" in path:
            why = "it holds a NUL"
        raise OSError(errno.EINVAL, f"not a path: {why}", path) from error
    try:
        _check_kind(os.fstat(file.fileno()), path)  # it may be another by now
    except BaseException:
        file.close()
        raise
    return _File(path, file)


def last_bytes(path: str, size: int, owners: Container[int]) -> bytes:
    """The end of a file that is there and belongs to one of `owners`; else nothing. Follows no symbolic link."""
    file = _open(path, through_links=False)
    if file is None:
        return b""
    try:
        status = file.status()
        if sys.platform != "win32" and status.st_uid not in owners:
            return b""
        return file.read(max(0, status.st_size - size), size)
    finally:
        file.close()


class _Reading:
    """An open file, what was read of it, and enough of that to tell later whether it still stands
    there.

    A file that was rewritten has the same inode, maybe the same size, and in the worst case the
    same beginning and end.
    """

    def __init__(self, file: _File, start: int) -> None:
        self.file = file
        self.end = 0
        """How far the file was read."""
        self._start = 0
        """From where on what was read is remembered."""
        self._first = b""
        self._last = b""
        self._sum = 0
        self._times: tuple[int, int] | None = None
        """When the file was last changed, if what was read is known to stand in it since then."""
        self.begin(start)

    def begin(self, start: int) -> None:
        """Read on from `start`."""
        self._start = max(0, start - _MARK)
        self.end = self._start
        self._first = b""
        self._last = b""
        self._sum = 0
        self._times = None
        self._add(self.file.read(self._start, start - self._start))
        self.end = start

    def more(self) -> bytes:
        """The next bytes, a block at most."""
        data = self.file.read(self.end, BLOCK)
        self._add(data)
        status = self.file.status()
        self._times = None
        if status.st_size == self.end:
            self._times = _times(status)
        return data

    def still_stands(self, status: os.stat_result) -> bool:
        """Whether the file, now of this status, still holds what was read."""
        if status.st_size < self.end:
            return False
        if self.file.read(self._start, len(self._first)) != self._first:
            return False
        if self.file.read(self.end - len(self._last), len(self._last)) != self._last:
            return False
        if status.st_size > self.end or _times(status) == self._times:
            return True
        self._times = _times(status)
        return self._sum_now() == self._sum

    def _add(self, data: bytes) -> None:
        if len(self._first) < _MARK:
            self._first = (self._first + data)[:_MARK]
        self._last = (self._last + data)[-_MARK:]
        unsummed = self._start + _SUMMED - self.end
        if unsummed > 0:
            self._sum = crc32(data[:unsummed], self._sum)
        self.end += len(data)

    def _sum_now(self) -> int:
        end = min(self.end, self._start + _SUMMED)
        total = 0
        for position in range(self._start, end, BLOCK):
            total = crc32(self.file.read(position, min(BLOCK, end - position)), total)
        return total


def _times(status: os.stat_result) -> tuple[int, int]:
    return status.st_mtime_ns, status.st_ctime_ns


class Tail:
    """Reads what is new in the file at `path`, from its beginning or from its last `lines` lines.

    A file that is not there yet is waited for. One that was truncated or rewritten is read from its
    beginning again; one that was replaced (rotated) is finished to its last byte first. Unless
    `through_links`, a symbolic link is no file. With an open `descriptor`, which stays open, that
    file is read, even if another one is at the path. Making a `Tail` and every reading raise
    `OSError` for what is at the path and cannot be read. For one thread. Close it, or use it as a
    context manager.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        lines: int | None = None,
        through_links: bool = True,
        descriptor: int | None = None,
    ) -> None:
        self.path = os.fspath(path)
        self.restarts = 0
        """How often the file was found truncated, rewritten or replaced."""
        self._through_links = through_links
        self._descriptor = descriptor
        self._reading: _Reading | None = None
        self._was_refused = False
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._broken_off = ""
        file = self._open()
        if file is not None:
            try:
                start = 0
                if lines is not None:
                    start = _start_of_last_lines(file, lines)
                self._reading = _Reading(file, start)
            except BaseException:
                file.close()
                raise

    def status(self) -> os.stat_result | None:
        """Of the file that is open; ``None`` if there has been none."""
        if self._reading is None:
            return None
        return self._reading.file.status()

    def read(self) -> bytes:
        """The next bytes, a block at most; ``b""`` when there is nothing new now."""
        if self._reading is None and not self._open_next():
            return b""
        data = self._read_on()
        if not data and self._replacement() is not None:
            # Again, because the old file may have grown between the read and its replacement.
            data = self._read_on()
            if not data and self._open_next():
                self._note_restart()
                data = self._read_on()
        return data

    def rest(self) -> Iterator[bytes]:
        """Everything written before this call, in blocks.

        Ends even if the file grows faster than it is read.
        """
        if self._reading is None and not self._open_next():
            return
        unread = self._unread()
        replacement = self._replacement()
        if replacement is not None:
            unread += replacement.st_size
        # One read more than needed: it raises if something stands in the file's place that cannot
        # be read.
        while data := self.read():
            unread -= len(data)
            yield data
            if unread <= 0:
                return

    def decode(self, data: bytes, *, final: bool = False) -> str:
        """The text of `data`, just read: UTF-8, with U+FFFD for what is not.

        A character split between two reads comes out once, with the second. `final` gives up on an
        unfinished one.
        """
        before = self._broken_off
        self._broken_off = ""
        return before + self._decoder.decode(data, final)

    def close(self) -> None:
        """Close the file. Idempotent."""
        if self._reading is not None:
            self._reading.file.close()
            self._reading = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _open(self) -> _File | None:
        if self._descriptor is not None:
            return _File(self.path, FileIO(self._descriptor, closefd=False))
        return _open(self.path, self._through_links)

    def _open_next(self) -> bool:
        """Go on with the file that is at the path now; with what is open if there is none."""
        try:
            file = self._open()
        except PermissionError:
            # A new file may be refused for a moment, until the program that rotates has given it to
            # its owner.
            if self._reading is None or self._was_refused:
                raise
            self._was_refused = True
            return False
        self._was_refused = False
        if file is None:
            return False
        self.close()
        self._reading = _Reading(file, 0)
        return True

    def _read_on(self) -> bytes:
        if self._reading is None or self._unread() == 0:
            return b""
        return self._reading.more()

    def _unread(self) -> int:
        """Bytes to be read of the open file; all of them if what was read no longer stands there."""
        if self._reading is None:
            return 0
        status = self._reading.file.status()
        if not self._reading.still_stands(status):
            self._reading.begin(0)
            self._note_restart()
        return status.st_size - self._reading.end

    def _note_restart(self) -> None:
        self.restarts += 1
        self._broken_off += self._decoder.decode(b"", True)

    def _replacement(self) -> os.stat_result | None:
        """The status of another file that is at the path now.

        The open file keeps its inode number from being reused.
        """
        if self._descriptor is not None:
            return None
        try:
            there = os.stat(self.path, follow_symlinks=self._through_links)
        except FileNotFoundError:  # deleted, and nothing in its place yet
            return None
        ours = self.status()
        if ours is None or os.path.samestat(there, ours):
            return None
        return there


def _start_of_last_lines(file: _File, lines: int) -> int:
    """Where the last `lines` lines of `file` begin, reading backwards no further than that."""
    end = file.status().st_size
    if lines <= 0:
        return end
    missing = lines
    start = end
    while True:
        stop = file.hole_before(start)
        if stop <= 0:
            return 0
        start = max(0, stop - BLOCK)
        block = file.read(start, stop - start)
        newline = block.rfind(b"\n")
        while newline >= 0:
            line_start = start + newline + 1
            if line_start < end:  # the newline that ends the file begins no line
                missing -= 1
            if missing == 0:
                return line_start
            newline = block.rfind(b"\n", 0, newline)
