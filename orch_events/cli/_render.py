# SPDX-License-Identifier: MIT
"""Everything between a command and the terminal: escaping, width, colour, tables, messages.

The rule: text from a log or a user reaches a terminal through here, since a payload may hold escape sequences. (JSON
is its own escaping; see `_listing`.)
"""

import contextlib
import math
import os
import shutil
import sys
import time
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice
from typing import Final, cast

__all__ = [
    "Progress", "amount", "cut", "drawn", "has_colour", "paint", "print_table", "printable", "printable_lines", "say",
    "screen_width", "silence_stdout", "span", "table", "tinted",
]

_SAMPLE: Final = 500
"""Rows that decide a table's layout; the rest stream through, so a million rows are listed in bounded memory."""
_GAP: Final = "  "
_BOLD, _RED, _GREEN, _YELLOW = "1", "31", "32", "33"
_COLOURS: Final = {
    **dict.fromkeys(("failed", "task_failed", "step_timeout", "step_stall_killed", "auto_rollback_failed"), _RED),
    "lost": _RED,
    **dict.fromkeys(("completed", "succeeded", "task_completed"), _GREEN),
    **dict.fromkeys(("cancelled", "paused", "task_cancelled", "task_paused", "sandbox_denied"), _YELLOW),
}
"""The colour of a cell that is a status or an event type."""


def screen_width() -> int | None:
    """Columns of the terminal; ``None`` when stdout is none, and nothing need be cut."""
    return shutil.get_terminal_size().columns if os.isatty(1) else None


def has_colour() -> bool:
    """Whether stdout may have colours (https://no-color.org)."""
    return os.isatty(1) and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def paint(text: str, colour: str | None) -> str:
    """`text` in `colour`, if any."""
    return text if colour is None else f"\x1b[{colour}m{text}\x1b[0m"


def tinted(text: str, like: str | None = None) -> str:
    """`text` in the colour of the status it is, or that it is `like`."""
    return paint(text, _COLOURS.get(like or text) if has_colour() else None)


def printable(text: str) -> str:
    r"""`text` with whatever could end a line or drive a terminal written as an escape, such as ``\x1b``."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def printable_lines(text: str) -> str:
    """`text` likewise, but for its line ends and tabs."""
    return "\n".join("\t".join(map(printable, line.split("\t"))) for line in text.split("\n"))


def span(seconds: float) -> str:
    """A duration in two units at most."""
    if seconds < 60:
        return f"{round(seconds, 1):g}s"
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes}m {rest:02}s" if minutes < 60 else f"{minutes // 60}h {minutes % 60:02}m"


def amount(count: float) -> str:
    """A number of bytes, in two digits or three."""
    unit, larger = "B", ["TB", "GB", "MB", "kB"]
    while count >= 999.5 and larger:
        count, unit = count / 1000, larger.pop()
    return f"{count:.0f} {unit}" if unit == "B" or count >= 9.95 else f"{count:.1f} {unit}"


def _columns(char: str) -> int:
    if unicodedata.category(char) in ("Mn", "Me"):  # combining
        return 0
    return 2 if unicodedata.east_asian_width(char) in "WF" else 1


def _width(text: str) -> int:
    return len(text) if text.isascii() else sum(map(_columns, text))


def cut(text: str, width: int) -> str:
    """Printable `text` in `width` columns, with an ellipsis if that loses anything."""
    if _width(text) <= width:
        return text
    used = 0
    for index, char in enumerate(text):
        used += _columns(char)
        if used >= width:
            return text[:index] + "…"
    return text


def table(
    titles: Sequence[str], rows: Iterable[Sequence[str]], width: int | None, like: Sequence[Sequence[str]] = ()
) -> Iterator[str]:
    """The lines of a table, `width` columns wide at most. Escapes every cell; aligns numbers to the right.

    Its layout follows from the rows of `like` if there are any, else from the first of its own.
    """
    limit = None if width is None else width + 1  # of a cell of megabytes only what can be shown is looked at
    cells = ([printable(cell[:limit]) for cell in row] for row in rows)
    first = [] if like else list(islice(cells, _SAMPLE))
    sample = first or [[printable(cell[:limit]) for cell in row] for row in like]
    widths = [max(_width(row[index]) for row in (titles, *sample)) for index in range(len(titles))]
    right = [all(row[index].isdecimal() for row in sample) for index in range(len(titles))]
    if width is not None:
        room = width - len(_GAP) * (len(widths) - 1)
        while sum(widths) > room and max(widths) > 1:
            widths[widths.index(max(widths))] -= 1
        widths[-1] += max(0, room - sum(widths))  # rows beyond the sample may need more

    def line(row: Sequence[str], colours: Sequence[str | None]) -> str:
        parts = list[str]()
        for cell, columns, colour, is_right in zip(row, widths, colours, right, strict=True):
            shown = cell if width is None else cut(cell, columns)
            space = " " * (columns - _width(shown))
            parts.append(space + paint(shown, colour) if is_right else paint(shown, colour) + space)
        return _GAP.join(parts).rstrip(" ")

    colours = _COLOURS if has_colour() else {}
    yield line(titles, [_BOLD if colours else None] * len(titles))
    for row in chain(first, cells):
        yield line(row, [colours.get(cell) for cell in row])


def print_table(titles: Sequence[str], rows: Iterable[Sequence[str]], like: Sequence[Sequence[str]] = ()) -> None:
    """Print a table, as wide as the screen at most; if `like` gives its layout, each row as soon as it comes."""
    for line in table(titles, rows, screen_width(), like):
        print(line, flush=bool(like))


def drawn(text: str, ascii_forms: dict[int, int]) -> str:
    """`text` with its drawing characters, or where stdout is not Unicode with what stands for them."""
    encoding = "utf-8" if sys.__stdout__ is None else sys.__stdout__.encoding
    return text if encoding.lower().startswith("utf") else text.translate(ascii_forms)


class Progress:
    """A line on stderr that is written over ten times a second, where that is a terminal."""

    def __init__(self) -> None:
        self._due = 0.0 if os.isatty(2) else math.inf

    def show(self, text: str) -> None:
        if (now := time.monotonic()) >= self._due:
            self._due = now + 0.1
            print(f"\r{text}", end="", file=sys.stderr, flush=True)

    def end(self) -> None:
        """Let what comes next stand in its place."""
        print(end="\r" if os.isatty(2) else "", file=sys.stderr)


def say(message: object) -> None:
    """One line on stderr, from us."""
    if isinstance(message, OSError) and message.strerror:
        file = cast("object", message.filename)
        message = message.strerror if file is None else f"{file}: {message.strerror}"
    with contextlib.suppress(OSError, ValueError):  # nobody may be there to read it
        print(f"orch-events: {printable(str(message))}", file=sys.stderr, flush=True)


def silence_stdout() -> None:
    """Stdout is broken or given up: let the flush at the interpreter's end go nowhere."""
    with contextlib.suppress(OSError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 1)
        os.close(nowhere)
