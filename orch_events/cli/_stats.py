# SPDX-License-Identifier: MIT
"""``stats``: the figures of a log, and a chart of its last days."""

import json
from argparse import ArgumentParser
from collections.abc import Iterator, Mapping
from typing import Final

from .. import EventReader, Stats
from ._arguments import Options, count
from ._render import amount, drawn, print_table, printable, screen_width, tinted

__all__ = ["stats"]

_BAR: Final = 40
"""Columns of the longest bar."""

_ASCII: Final = str.maketrans("█▏≈", "#|~")


class _Options(Options):
    days: int = 14
    json: bool = False


def stats(parser: ArgumentParser, words: list[str]) -> int:
    """Show how much there is of what."""
    parser.add_argument("--days", metavar="N", type=count, default=14, help="of how many days (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="one JSON object")
    options = parser.parse_args(words, _Options())
    with EventReader(options.db) as reader:
        found = reader.stats(days=min(options.days, 3660))
    if options.json:
        members: dict[str, object] = found._asdict()
        print(json.dumps(members))
        return 0
    about = drawn("≈ ", _ASCII) if found.sampled < found.events else ""
    for name, value in _figures(found):
        print(f"{name:<8}  {value}")
    _print_counts("status", "tasks", found.tasks, "")
    _print_counts("type", "events", found.event_types, about)
    _print_days(found.days)
    return 0


def _figures(found: Stats) -> Iterator[tuple[str, str]]:
    yield "events", f"{found.events:,}"
    yield "tasks", f"{sum(found.tasks.values()):,}"
    yield "oldest", printable(found.oldest or "-")
    yield "newest", printable(found.newest or "-")
    yield "file", f"{amount(found.file_bytes)}, and {amount(found.wal_bytes)} of -wal"
    yield "an event", f"{amount(found.event_bytes)} on the average, indexes included"


def _print_counts(title: str, what: str, counts: Mapping[str, int], about: str) -> None:
    if counts:
        print()
        print_table((title, what), ((name, f"{about}{number:,}") for name, number in counts.items()))


def _print_days(days: Mapping[str, int]) -> None:
    most, width = max(days.values(), default=0), max(1, min(_BAR, (screen_width() or 80) - 25))
    if most:
        print("\nday (UTC)")
    for day, number in days.items() if most else ():
        bar = drawn("█" * (number * width // most) or "▏" * (number > 0), _ASCII)
        print(f"{day}  {tinted(bar, 'completed')}{' ' * (width - len(bar))}  {number:>10,}".rstrip())
