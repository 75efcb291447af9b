# SPDX-License-Identifier: MIT
"""The timeline on a page: a bar for each row of the tree, below an axis of times.

Bars are SVG, placed in per cent, as wide as the window has room for. Where there are many rows, groups are folded and
each has an axis of its own.
"""

from collections.abc import Iterator, Sequence
from typing import Final

from ..model.task_trace import Trace
from .html_text import (
    LARGE,
    MARKS,
    html_text,
)
from .page_tree import (
    Node,
    blocks,
    leaves,
)
from .row_cells import cells, row_notes
from .time_scale import TimeScale
from .units import span

__all__ = ["timeline_section"]

_DEEPEST: Final = 6
"""Levels that are indented."""

_PARTS: Final = 6
"""Times that an axis shows, at most."""

_LAST_LABEL: Final = 0.93
"""Of the width: behind this there is no room for the label of a time."""

_TICKS: Final = (
    0.1,
    0.2,
    0.5,
    1,
    2,
    5,
    10,
    20,
    30,
    60,
    120,
    300,
    600,
    1200,
    1800,
    3600,
    7200,
    21600,
    43200,
    86400,
)
"""Seconds between the times of an axis in proportion."""

_THINNEST: Final = 0.004
"""Of the width: what took no time is to be seen too."""

_SELF_EVIDENT: Final = {"group", "succeeded", "finished"}
"""States that are not put in words beside a row."""


def timeline_section(
    trace: Trace,
    roots: Sequence[Node],
    shown_states: Sequence[str],
    now: float,
) -> str:
    """The timeline and its legend, or nothing."""
    if not roots:
        return ""
    is_large = sum(root.rows for root in roots) > LARGE
    timeline = _Timeline(trace, now, is_large)
    return "".join(timeline.lines(roots)) + _legend(shown_states)


def _legend(states: Sequence[str]) -> str:
    if not states:
        return ""
    entries = "".join(f'<span><i class="{state}"></i>{state}</span>' for state in states)
    return f'<p class="legend">{entries}</p>'


class _Timeline:
    def __init__(
        self,
        trace: Trace,
        now: float,
        is_large: bool,
    ) -> None:
        self._trace = trace
        self._now = now
        self._is_large = is_large

    def lines(self, roots: Sequence[Node]) -> Iterator[str]:
        begin, end = self._trace.extent(self._now)
        shown: Sequence[Node] = roots
        measured = leaves(roots)
        if self._is_large:
            shown = blocks(roots)
            measured = shown
        scale = TimeScale.of([node.row for node in measured], begin, end)
        yield from self._level(shown, scale, 0)

    def _level(
        self,
        nodes: Sequence[Node],
        scale: TimeScale,
        depth: int,
    ) -> Iterator[str]:
        """Some rows, below an axis."""
        tick = _tick(scale)
        note = ""
        if scale.is_stretched:
            note = "time is stretched where much happens"
        yield (
            f'<div style="--tick:{100 * tick:.3f}%"><div class="row axis">'
            f'<span class="name"><small>{note}</small></span>'
            f'<span class="bar"><svg>{self._axis(scale, tick)}</svg></span></div>\n'
        )
        yield from self._rows(nodes, scale, depth)
        yield "</div>\n"

    def _axis(self, scale: TimeScale, tick: float) -> str:
        before = max(0.0, scale.begin - self._trace.begin)
        labels = list[str]()
        for number in range(_PARTS):
            place = number * tick
            if place <= _LAST_LABEL:
                time = span(before + scale.time(place) - scale.begin)
                labels.append(f'<text x="{100 * place:.2f}%" y="11">{time}</text>')
        return "".join(labels)

    def _rows(
        self,
        nodes: Sequence[Node],
        scale: TimeScale,
        depth: int,
    ) -> Iterator[str]:
        """Some rows, and what is inside them."""
        for node in nodes:
            if not node.children:
                yield self._row(node, scale, depth, "div")
                continue
            yield "<details>" if self._is_large else "<details open>"
            yield self._row(node, scale, depth, "summary")
            if self._is_large:
                below = blocks(node.children)
                rows = [child.row for child in below]
                own_scale = TimeScale.of(rows, node.row.started, node.row.ended)
                yield from self._level(below, own_scale, depth + 1)
            else:
                yield from self._rows(node.children, scale, depth + 1)
            yield "</details>\n"

    def _row(
        self,
        node: Node,
        scale: TimeScale,
        depth: int,
        tag: str,
    ) -> str:
        row = node.row
        told = cells(self._trace, row, self._now)
        kind = told.get("status", "group")
        took = told["took"]
        notes = _notes(node, kind, told)
        title = f"{row.label}: {took}, from {told['start']} on"
        if notes:
            title += f", {notes}"
        mark = ""
        if kind in MARKS:
            mark = f'<i class="{kind}">{MARKS[kind]}</i> '
        fold = ""
        if node.children:
            fold = ' class="fold"'
        return (
            f'<{tag} class="row {kind}" style="--d:{min(depth, _DEEPEST)}">'
            f'<span class="name">{mark}<span{fold}>{html_text(row.label)}</span>'
            f" <small>{html_text(notes)}</small></span>"
            f'<span class="bar"><svg role="img"><title>{html_text(title)}</title>'
            f"{_bar(node, scale)}</svg></span>"
            f'<span class="took">{took}</span></{tag}>\n'
        )


def _tick(scale: TimeScale) -> float:
    """The part of the width between two times of the axis."""
    if scale.is_stretched:
        return 1 / _PARTS
    whole = scale.end - scale.begin
    for tick in _TICKS:
        if whole <= _PARTS * tick:
            return tick / whole
    return 1 / _PARTS


def _bar(node: Node, scale: TimeScale) -> str:
    first = scale.place(node.row.started)
    last = scale.place(node.row.ended)
    width = max(_THINNEST, last - first)
    first = min(first, 1 - _THINNEST)
    return f'<rect x="{100 * first:.3f}%" y="2" width="{100 * width:.3f}%" height="10" rx="2"/>'


def _notes(node: Node, kind: str, told: dict[str, str]) -> str:
    """What is said of a row beside its name."""
    notes = [told.get("agent", "")]
    more = row_notes(told)
    if more or kind not in _SELF_EVIDENT:
        notes += [kind, more]
    if node.children:
        inside = ", ".join(f"{count:,} {state}" for state, count in sorted(node.counts.items()))
        notes.append(inside if node.state is None else f"inside: {inside}")
    return " · ".join(note for note in notes if note)
