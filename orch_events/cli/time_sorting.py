# SPDX-License-Identifier: MIT
"""The lines of events in the order of their times, however many there are.

Runs of them are sorted in memory and written to temporary files, which are merged in the end. Lines of one time keep
their order; those that tell none come first, so that they are complained of before anything is done.
"""

from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from heapq import merge
from tempfile import TemporaryFile
from typing import IO, Final, TypeAlias

from .._values.archive_lines import recorded_at

__all__ = ["in_order_of_time"]

_RUN_BYTES: Final = 64 << 20

_LINE_COST: Final = 200
"""Bytes that a line takes in memory besides its own."""

_Line: TypeAlias = tuple[str, int, bytes]
"""Its time in UTC, its number, its bytes."""


def in_order_of_time(
    lines: Iterable[bytes | None], run_bytes: int = _RUN_BYTES
) -> Iterator[tuple[int, bytes]]:
    """Each line with its number, from 1 on. ``None`` is no line."""
    with ExitStack() as files:
        runs: list[Iterable[_Line]] = []
        run: list[_Line] = []
        size = 0
        given = (line for line in lines if line is not None)
        for number, line in enumerate(given, 1):
            run.append((_time(line), number, line))
            size += len(line) + _LINE_COST
            if size > run_bytes:
                runs.append(_written(sorted(run), files.enter_context(TemporaryFile())))
                run = []
                size = 0
        for _, number, line in merge(*runs, sorted(run)):
            yield number, line


def _time(line: bytes) -> str:
    try:
        moment = recorded_at(line)
    except ValueError:  # it will be complained of when it is recorded
        return ""
    return moment.isoformat(timespec="microseconds")


def _written(run: list[_Line], file: IO[bytes]) -> Iterator[_Line]:
    file.writelines(b"%s\t%d\t%s\n" % (time.encode(), number, line) for time, number, line in run)
    file.seek(0)
    return map(_read, file)


def _read(text: bytes) -> _Line:
    time, number, line = text[:-1].split(b"\t", 2)
    return time.decode(), int(number), line
