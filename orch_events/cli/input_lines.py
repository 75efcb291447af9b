# SPDX-License-Identifier: MIT
"""The lines of a file or of standard input, plain or compressed, as they come.

Lines that are there must not wait for lines that are yet to come, nor be lost to a signal. So a pause of the input is
reported, and a signal ends the input, behind the lines that have been read, instead of breaking off what is being done with
them.
"""

import os
import select
import signal
import sys
import threading
import zlib
from collections.abc import Iterable, Iterator
from itertools import chain
from types import FrameType
from typing import Final

__all__ = ["LineReader"]

_CHUNK: Final = 1 << 18
"""Bytes that are read, or decompressed, in one step: 10 kB of gzip may be 10 MB of text."""

_LOOK_SECONDS: Final = 0.5
"""The longest that a signal is unheeded that comes at the worst moment."""

_GZIP: Final = b"\x1f\x8b"

_ENDING: Final = [one for one in signal.Signals if one.name in ("SIGINT", "SIGTERM", "SIGHUP")]


class LineReader:
    """Reads the lines of an open file. While it is entered, a signal that would end the process ends the input.

    A second signal is not held back. One that is ignored, as `nohup` has it, stays ignored.
    """

    def __init__(self, descriptor: int, longest: int) -> None:
        self.stopped: int | None = None
        """The signal that ended the input, if one did."""
        self.failure: Exception | None = None
        """Why the input could not be read further, if so."""
        self._descriptor = descriptor
        self._longest = longest
        self._waiting = False
        self._handlers: dict[int, object] = {}

    def __enter__(self) -> "LineReader":
        if threading.current_thread() is threading.main_thread():
            for number in _ENDING:
                if signal.getsignal(number) is not signal.SIG_IGN:
                    self._handlers[number] = signal.signal(number, self._stop)
        return self

    def __exit__(self, *_: object) -> None:
        self._let_go()

    def _let_go(self) -> None:
        handlers = self._handlers
        self._handlers = {}
        for number, handler in handlers.items():
            if callable(handler) or isinstance(handler, int):
                signal.signal(number, handler)

    def _stop(self, number: int, _: FrameType | None) -> None:
        self.stopped = number
        self._let_go()
        if self._waiting:
            raise KeyboardInterrupt

    def lines(self) -> Iterator[bytes | None]:
        """Each line, without its end; ``None`` before the next is waited for. Of one that is too long, the beginning."""
        try:
            yield from self._lines(self._plain(self._chunks()))
        except (OSError, EOFError, zlib.error) as error:
            self.failure = error

    def _lines(self, chunks: Iterable[bytes | None]) -> Iterator[bytes | None]:
        begun: list[bytes] = []
        size = 0
        for chunk in chunks:
            if chunk is None:
                yield None
                continue
            *ends, rest = chunk.split(b"\n")
            for end in ends:
                if size <= self._longest:
                    begun.append(end)
                yield b"".join(begun)
                begun = []
                size = 0
            if rest and size <= self._longest:
                begun.append(rest)
                size += len(rest)
        if begun and self.stopped is None:
            yield b"".join(begun)

    def _plain(self, chunks: Iterator[bytes | None]) -> Iterator[bytes | None]:
        """`chunks`, decompressed if they begin as gzip does, however little the first read gave."""
        head = b""
        for chunk in chunks:
            if chunk is None:
                yield None
                continue
            head += chunk
            if not _GZIP.startswith(head):
                break
        if head.startswith(_GZIP):
            yield from self._decompressed(chain([head], chunks))
        else:
            yield head
            yield from chunks

    def _decompressed(self, chunks: Iterable[bytes | None]) -> Iterator[bytes | None]:
        member = zlib.decompressobj(31)
        for chunk in chunks:
            if chunk is None:
                yield None
                continue
            data, pending = chunk, False
            while data or pending:
                if member.eof:
                    data = data.lstrip(b"\0")  # which may pad the file
                    if not data:
                        break
                    member = zlib.decompressobj(31)
                piece = member.decompress(data, _CHUNK)
                data = member.unconsumed_tail
                if member.eof:
                    data = member.unused_data
                pending = len(piece) == _CHUNK and not member.eof
                if piece:
                    yield piece
        if not member.eof and self.stopped is None:
            raise EOFError("it ends in the middle")

    def _chunks(self) -> Iterator[bytes | None]:
        """What can be read at once; ``None`` where that is nothing, before more is waited for."""
        while self.stopped is None:
            if not self._readable(0):
                yield None
                self._wait()
                continue
            try:
                data = os.read(self._descriptor, _CHUNK)
            except BlockingIOError:
                continue
            if not data:
                return
            yield data

    def _wait(self) -> None:
        """Until there is something to read, or a signal ends the input."""
        try:
            self._waiting = True
            # Not without end: a signal that comes just before the system call does not break that off.
            while self.stopped is None and not self._readable(_LOOK_SECONDS):
                pass
            self._waiting = False
        except KeyboardInterrupt:
            self._waiting = False
            if self.stopped is None:
                raise

    def _readable(self, timeout: float) -> bool:
        if sys.platform == "win32":  # only sockets can be asked there
            return True
        else:
            # And not `select`, which knows no numbers from 1024 on: so many files may have been inherited.
            poll = select.poll()
            poll.register(self._descriptor, select.POLLIN)
            return bool(poll.poll(timeout * 1000))
