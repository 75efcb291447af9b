# SPDX-License-Identifier: MIT
"""Tables and headings as wide as the screen.

The first `_SAMPLE` rows decide a table's layout; the rest stream through, so a million rows are listed in bounded
memory. Where there is little room, columns that can be spared are left out until the others can be read; then the
widest are cut.
"""

import os
import shutil
from collections.abc import (
    Collection,
    Iterable,
    Iterator,
    Sequence,
)
from itertools import chain, islice
from typing import Final, NamedTuple

from .colours import (
    BOLD,
    COLOURS,
    has_colour,
    paint,
    tinted,
)
from .terminal_text import (
    cut,
    printable,
    text_width,
)

__all__ = ["Column", "heading", "layout", "print_table", "screen_width", "table"]

_SAMPLE: Final = 500

_GAP: Final = "  "

_READABLE: Final = 12
"""Columns of a title that are kept before any fact beyond the first."""


class Column(NamedTuple):
    """A column of a table, and what becomes of it where there is little room."""

    title: str
    spare: int = 0
    """The column with the highest is left out first; with 0 it stays."""
    least: int | None = None
    """Columns of the screen to which it may be cut; ``None``: it is whole or not there."""


def screen_width() -> int | None:
    """Columns of the terminal; ``None`` when stdout is none, and nothing need be cut."""
    if not os.isatty(1):
        return None
    return shutil.get_terminal_size().columns


def print_table(
    columns: Sequence[Column], rows: Iterable[Sequence[str]], like: Sequence[Sequence[str]] = ()
) -> None:
    """Print a table, as wide as the screen at most; if `like` gives its layout, each row as soon as it comes."""
    for line in table(columns, rows, screen_width(), like):
        print(line, flush=bool(like))


def table(
    columns: Sequence[Column],
    rows: Iterable[Sequence[str]],
    width: int | None,
    like: Sequence[Sequence[str]] = (),
    widths: Sequence[int] = (),
) -> Iterator[str]:
    """The lines of a table, `width` columns wide at most. Escapes every cell; aligns numbers to the right.

    Its layout is that of `widths`, or follows from the rows of `like`, or else from the first of its own.
    """
    limit = _visible(width)
    cells = ([printable(cell[:limit]) for cell in row] for row in rows)
    first = [] if like else list(islice(cells, _SAMPLE))
    sample = first or like
    if not widths:
        is_whole = not like and len(first) < _SAMPLE
        widths = layout(columns, sample, width, is_whole)
    shape = _Shape(widths, sample, width)
    colours = COLOURS if has_colour() else {}
    title_colour = BOLD if colours else None
    yield shape.line([column.title for column in columns], [title_colour] * len(columns))
    for row in chain(first, cells):
        yield shape.line(row, [colours.get(cell) for cell in row])


class _Shape:
    """Which columns of a table are shown, how wide, and which are aligned to the right."""

    def __init__(
        self,
        widths: Sequence[int],
        sample: Sequence[Sequence[str]],
        width: int | None,
    ) -> None:
        self._widths = list(widths)
        self._is_cut = width is not None
        self._shown = [index for index, wide in enumerate(widths) if wide]
        self._right = {
            index for index in self._shown if all(row[index].isdecimal() for row in sample)
        }
        last = self._shown[-1]
        if width is not None and last not in self._right:  # rows beyond the sample may need more
            self._widths[last] += max(0, width - _total(widths, self._shown))

    def line(self, row: Sequence[str], colours: Sequence[str | None]) -> str:
        """One line of the table."""
        parts = list[str]()
        for index in self._shown:
            text = row[index]
            if self._is_cut:
                text = cut(text, self._widths[index])
            space = " " * (self._widths[index] - text_width(text))
            painted = paint(text, colours[index])
            parts.append(space + painted if index in self._right else painted + space)
        return _GAP.join(parts).rstrip(" ")


def layout(
    columns: Sequence[Column],
    sample: Sequence[Sequence[str]],
    width: int | None,
    is_whole: bool = True,
) -> list[int]:
    """How wide to make each column of a table of these rows, or, if they are a mere sample, of rows like them.

    0 is a column that is left out.
    """
    limit = _visible(width)
    rows = [[column.title for column in columns]]
    rows += [[printable(cell[:limit]) for cell in row] for row in sample]
    indexes = range(len(columns))
    needs = [max(text_width(row[index]) for row in rows) for index in indexes]
    if width is None:
        return needs
    empty = list[int]()
    if is_whole:
        empty = [index for index in indexes if not any(row[index] for row in sample)]
    return _fit(columns, needs, width, empty)


def _visible(width: int | None) -> int | None:
    """Characters of a cell, which may have megabytes, that are looked at."""
    if width is None:
        return None
    return width + 1


def _total(widths: Sequence[int], shown: Collection[int]) -> int:
    return sum(widths[index] for index in shown) + len(_GAP) * max(0, len(shown) - 1)


def _fit(
    columns: Sequence[Column],
    needs: Sequence[int],
    width: int,
    empty: Collection[int],
) -> list[int]:
    """How wide to make each column so that all fit into `width`; of those to spare, the `empty` are left out first."""
    least = list[int]()
    for column, need in zip(columns, needs, strict=True):
        least.append(need if column.least is None else min(need, column.least))
    shown = list(range(len(columns)))
    spare = [index for index in shown if columns[index].spare]
    ranks = [(index in empty, column.spare) for index, column in enumerate(columns)]
    spare.sort(key=ranks.__getitem__, reverse=True)
    for index in spare:
        if _total(least, shown) > width:
            shown.remove(index)
    while len(shown) > 1 and _total([1] * len(columns), shown) > width:
        shown.pop()
    widths = [need if index in shown else 0 for index, need in enumerate(needs)]
    for _ in range(_total(widths, shown) - width):
        spacious = [index for index in shown if widths[index] > least[index]]
        widest = max(spacious or shown, key=widths.__getitem__)
        widths[widest] = max(1, widths[widest] - 1)
    return widths


def heading(title: str, facts: Sequence[str], width: int | None) -> str:
    """A title and some facts in one line. Where there is little room the first fact stays, and some of the title."""
    limit = _visible(width)
    title = printable(title[:limit])
    kept = [printable(fact[:limit]) for fact in facts]
    if width is not None:
        readable = min(text_width(title), _READABLE)
        while len(kept) > 1 and readable + _facts_width(kept) > width:
            kept.pop()
        kept[0] = cut(kept[0], max(1, width // 2))
        room = width - _facts_width(kept)
        if room < 1:
            return cut(title, width)
        title = cut(title, room)
    return _GAP.join([title, *map(tinted, kept)])


def _facts_width(facts: Sequence[str]) -> int:
    """Columns that facts take behind a title."""
    return sum(len(_GAP) + text_width(fact) for fact in facts)
