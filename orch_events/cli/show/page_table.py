# SPDX-License-Identifier: MIT
"""The table on a page: every run, with all that is known of it. A long one is divided into parts that unfold."""

from collections.abc import Iterator, Sequence
from math import ceil
from typing import Final

from ..model.task_trace import Trace
from ..model.trace_tree import rows
from .html_text import LARGE, html_text
from .row_cells import cells

__all__ = ["table_section"]

_PARTS: Final = 20
"""Into how many parts a long table is divided, at most."""

_COLUMNS: Final = {
    "step": "step",
    "item": "",
    "cycle": "short",
    "agent": "",
    "status": "short",
    "start": "n short",
    "end": "n short",
    "took": "n short",
    "exit": "n short",
    "details": "",
}
"""The columns, and the class of each."""


def table_section(trace: Trace, now: float) -> str:
    """The table, or nothing."""
    runs = [cells(trace, row, now) for row in rows(trace, now) if row.run is not None]
    columns = [title for title in _COLUMNS if any(run[title] for run in runs)]
    if not runs:
        return ""
    if len(runs) <= LARGE:
        return "".join(_table(columns, runs))
    return "".join(_parts(columns, runs))


def _parts(columns: Sequence[str], runs: Sequence[dict[str, str]]) -> Iterator[str]:
    size = max(LARGE, ceil(len(runs) / _PARTS))
    for first in range(0, len(runs), size):
        part = runs[first : first + size]
        title = f"{first + 1:,} to {first + len(part):,}, from {part[0]['start']} on"
        yield f'<details class="block"><summary><span class="fold">{title}</span></summary>'
        yield from _table(columns, part)
        yield "</details>\n"


def _table(columns: Sequence[str], runs: Sequence[dict[str, str]]) -> Iterator[str]:
    titles = "".join(f'<th class="{_COLUMNS[title]}">{title}</th>' for title in columns)
    yield f"<table><thead><tr>{titles}</tr></thead><tbody>\n"
    for run in runs:
        yield "<tr>"
        for title in columns:
            kind = _COLUMNS[title]
            if title == "status":
                kind = f"{kind} {run[title]}"
            yield f'<td class="{kind}" data-is="{title}">{html_text(run[title])}</td>'
        yield "</tr>\n"
    yield "</tbody></table>\n"
