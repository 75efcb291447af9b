# SPDX-License-Identifier: MIT
"""``stats``: the figures of a log, and a chart of its last days."""

import json
from argparse import ArgumentParser
from collections.abc import Iterator, Mapping
from typing import Final

from ... import EventReader, Stats
from ..._values.byte_amount import amount
from ..._values.timestamps import instant
from ..arguments import Options, count
from ..show.colours import tinted
from ..show.local_time import full_time
from ..show.machine_output import print_json
from ..show.table import (
    Column,
    print_table,
    screen_width,
)
from ..show.terminal_text import (
    cut,
    drawn,
    printable,
)

__all__ = ["stats"]

_LONGEST_BAR: Final = 40
"""Columns of the longest bar."""

_SHORT: Final = 4
"""Columns below which a bar would show nothing."""

_GAP: Final = "  "

_ASCII: Final = str.maketrans("█▏≈", "#|~")


class _Options(Options):
    days: int = 14
    json: bool = False


def stats(parser: ArgumentParser, words: list[str]) -> int:
    """Show event counts and file size."""
    parser.add_argument(
        "--days",
        metavar="N",
        type=count,
        default=14,
        help="of how many days (default: %(default)s)",
    )
    parser.add_argument("--json", action="store_true", help="one JSON object")
    options = parser.parse_args(words, _Options())
    with EventReader(options.db) as reader:
        found = reader.stats(days=min(options.days, 3660))
    if options.json:
        members: dict[str, object] = found._asdict()
        print_json([json.dumps(members, ensure_ascii=False)])
        return 0
    width = screen_width()
    for name, value in _figures(found):
        print(cut(f"{name:<8}  {value}", width))
    _print_counts("status", "tasks", found.tasks)
    about = ""
    if found.sampled < found.events:
        about = drawn("≈ ", _ASCII)
    _print_counts("type", "events", found.event_types, about)
    _print_days(found.days)
    return 0


def _figures(found: Stats) -> Iterator[tuple[str, str]]:
    yield "events", f"{found.events:,}"
    yield "tasks", f"{sum(found.tasks.values()):,}"
    yield "oldest", _time(found.oldest)
    yield "newest", _time(found.newest)
    yield "file", f"{amount(found.file_bytes)}, and {amount(found.wal_bytes)} of -wal"
    yield "an event", f"{amount(found.event_bytes)} on the average, indexes included"


def _time(stored: str | None) -> str:
    at = instant(stored or "")
    if at is None:
        return printable(stored or "-")
    return full_time(at)


def _print_counts(
    title: str,
    what: str,
    counts: Mapping[str, int],
    about: str = "",
) -> None:
    if not counts:
        return
    print()
    columns = (Column(title, least=8), Column(what))
    print_table(columns, ((name, f"{about}{number:,}") for name, number in counts.items()))


def _print_days(days: Mapping[str, int]) -> None:
    most = max(days.values(), default=0)
    if not most:
        return
    number_width = max(len(f"{number:,}") for number in days.values())
    bar_width = _bar_width(number_width)
    print()
    print(cut("day (UTC), with what was deleted since", screen_width()))
    for day, number in days.items():
        parts = [day]
        if bar_width:
            bar = _bar(number, most, bar_width)
            parts.append(tinted(bar, "completed") + " " * (bar_width - len(bar)))
        parts.append(f"{number:>{number_width},}")
        print(_GAP.join(parts))


def _bar_width(number_width: int) -> int:
    """Columns for the bars between the days and the numbers; 0 if there is too little room."""
    columns = screen_width() or 80
    left = columns - len("2000-01-01") - number_width - 2 * len(_GAP)
    if left < _SHORT:
        return 0
    return min(_LONGEST_BAR, left)


def _bar(number: int, most: int, width: int) -> str:
    full = number * width // most
    if full:
        return drawn("█" * full, _ASCII)
    return drawn("▏", _ASCII) if number else ""
