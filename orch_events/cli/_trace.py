# SPDX-License-Identifier: MIT
"""``trace``: what happened in a task, and when, as a tree with a timeline; as JSON, for trace viewers, or as a page.

The rule: the command and its tree are here; what a trace says is decided in `_timeline`.
"""

import json
import os
import secrets
import sys
import time
from argparse import ArgumentParser
from collections.abc import Iterator
from contextlib import suppress
from itertools import chain
from typing import Final

from .._upkeep import has_pruned, read_pruned
from ._arguments import Options, Reader, is_log, text
from ._chrome import chrome
from ._html import page
from ._render import cut, drawn, printable, say, screen_width, span, table, tinted
from ._timeline import Row, Trace, moment, told

__all__ = ["trace"]

_BAR: Final = (12, 48)
"""Columns of the timeline, at least and at most."""
_DETAILS: Final = 24
"""Columns that details keep at most, when there is not room for all."""
_TITLES: Final = ("step", "agent", "status", "start", "end", "took", "details")
_SPARE: Final = ("end", "start", "agent")
"""What a narrow terminal has to do without, in this order."""
_FILLS: Final = {"lost": "░", "running": "▒", "skipped": "·"}
_ASCII: Final = str.maketrans("├┤└│─█░▒·…", "||`|-#?>.~")
"""For a terminal without those."""
_TINTS: Final = {"error": "failed", "warning": "paused"}


class _Options(Options):
    task: str
    format: str = "text"
    html: str | None = None


def trace(parser: ArgumentParser, words: list[str]) -> int:
    """Show what happened in a task."""
    parser.epilog = (
        "Start and end are counted from the task's beginning. In the timeline, ▒ is a step that still runs, ░ one that"
        " nothing is heard of any more, · one that was skipped. Below it stands what is odd, if anything. A task that"
        " has not ended is shown as it is so far."
    )
    parser.add_argument("task", metavar="TASK", type=text)
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", dest="format", action="store_const", const="json", help="one JSON object")
    formats = ("text", "json", "chrome")
    form.add_argument("--format", choices=formats, help="chrome: what ui.perfetto.dev and chrome://tracing open")
    form.add_argument("--html", metavar="FILE", help="write one page that needs nothing else, with timeline and tables")
    options = parser.parse_args(words, _Options())
    if options.html is not None and is_log(options.html, options.db):
        parser.error("that FILE is the log")
    with Reader(options.db) as reader:
        events = reader.query_events(options.task)
        first = next(events, None)
        if first is None:
            say(f"no events of task {options.task!r}")
            return 1
        last, events = first.event_id, chain((first,), events)
        _, gone = reader.ask(lambda db: read_pruned(db, options.task, last) if has_pruned(db) else (0, 0))
        seen = Trace(options.task, gone)
        if options.format == "chrome":
            for line in chrome(seen, events, time.time):
                print(line)
            return 0
        for event in events:
            seen.fold(event)
    now = time.time()
    if options.html is not None:
        _write(options.html, page(seen, now))
    elif options.format == "json":
        print(json.dumps(seen.document(now), separators=(",", ":")))
    else:
        for line in _text(seen, now, screen_width()):
            print(drawn(line, _ASCII))
    return 0


def _write(file: str, content: str) -> None:
    """Write a file such that whoever looks sees the old one or the whole new one."""
    if os.path.exists(file) and not os.path.isfile(file):  # a pipe or a device is written, not replaced
        with open(file, "w", encoding="utf-8") as stream:
            stream.write(content)
        return
    path = os.path.realpath(file)
    draft = f"{path}.{secrets.token_hex(4)}.tmp"
    try:
        with open(draft, "x", encoding="utf-8", newline="\n") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(draft, path)
    except BaseException:
        with suppress(OSError):
            os.unlink(draft)
        raise


# ------------------------------------------------------------------------------------------------------------- the tree


def _text(seen: Trace, now: float, columns: int | None) -> Iterator[str]:
    width = sys.maxsize if columns is None else columns
    steps, extent = seen.steps, seen.extent(now)
    begin, end = extent
    state, at = steps.task_state(now), moment(begin)
    took = span(end - begin) + ("" if steps.finished else " so far")
    name = cut(printable(f"task {seen.task_id}"), max(1, width - len(f"  {state}  {took}")))
    yield f"{name}  {tinted(state)}  {took}"
    since = list[str]() if at is None else [f"since {at:%Y-%m-%d %H:%M:%S} UTC"]
    yield cut(", ".join([*since, *(f"{count} {state}" for state, count in sorted(steps.counts(now).items()))]), width)
    for note in (seen.reason, seen.gap):
        if note:
            yield cut(printable(note), width)
    yield ""
    tree = list(seen.rows(now))
    cells = [seen.cells(row, now) for row in tree]
    for cell, row in zip(cells, tree, strict=True):
        cell.update(step=row.prefix + row.label, details=told(cell))
    lengths = {title: max((len(cell.get(title, "")) for cell in cells), default=0) for title in _TITLES}
    shown = [title for title in _TITLES if lengths[title]]  # no column that nobody has
    room = width - min(lengths["details"], _DETAILS)
    while (left := room - sum(2 + max(len(title), lengths[title]) for title in shown if title != "details")) < _BAR[0]:
        if not (spare := [title for title in _SPARE if title in shown]):
            break
        shown.remove(spare[0])
    bar = max(_BAR[0], min(_BAR[1], left - 2))
    for cell, row in zip(cells, tree, strict=True):
        cell["timeline"] = _bar(seen, now, row, extent, bar)
    shown.insert(-1 if "details" in shown else len(shown), "timeline")
    if cells:
        yield from table(shown, ([cell.get(title, "") for title in shown] for cell in cells), columns)
    for number, odd in enumerate(seen.anomalies(now)):
        if number == 0:
            yield ""
        line = cut(printable(f"! {odd.severity}: {odd.name}: {odd.where}: {odd.explanation}"), width)
        yield tinted(line, like=_TINTS.get(odd.severity))


def _bar(seen: Trace, now: float, row: Row, extent: tuple[float, float], columns: int) -> str:
    """Where a row stands in the time of the whole, in so many columns."""
    first, last = (min(columns - 1, int(columns * part)) for part in row.place(extent))
    middle = last - first - 1
    if row.run is None:
        return " " * first + (f"├{'─' * middle}┤" if middle >= 0 else "│")
    return " " * first + _FILLS.get(seen.steps.state(row.run, now), "█") * (middle + 2)
