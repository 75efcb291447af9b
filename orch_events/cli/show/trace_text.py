# SPDX-License-Identifier: MIT
"""A trace as text: a heading, the tree with its timeline, and below it what is odd."""

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Final

from ..model.anomalies import anomalies
from ..model.step_run import StepRun
from ..model.task_trace import Trace
from ..model.trace_document import moment
from ..model.trace_tree import Row, rows
from .colours import tinted
from .excerpt import Excerpt
from .local_time import full_time
from .row_cells import cells, row_notes
from .table import (
    Column,
    heading,
    layout,
    table,
)
from .terminal_text import cut, printable
from .units import span

__all__ = ["ASCII_FORMS", "trace_text"]

ASCII_FORMS: Final = str.maketrans("├┤└│─█░▒·…", "||`|-#?>.~")
"""For a terminal without the characters that draw the tree and the timeline."""

_TIMELINE_WIDTH: Final = 48
"""Columns of the timeline where there is room."""

_COLUMNS: Final = (
    Column("step", least=16),
    Column("agent", spare=5, least=6),
    Column("status"),
    Column("start", spare=6),
    Column("end", spare=7),
    Column("took", spare=1),
    Column("timeline", spare=2, least=12),
    Column("details", spare=3, least=8),
)

_FILLS: Final = {"lost": "░", "running": "▒", "skipped": "·"}

_EACH_SHOWN: Final = 5
"""Anomalies of one name that have a line of their own."""

_OUTPUTS_SHOWN: Final = 3
"""Failed runs of which the end of the output is shown."""

_TINTS: Final = {"error": "failed", "warning": "paused"}
"""The status that has the colour of a severity."""


def trace_text(
    trace: Trace,
    now: float,
    columns: int | None,
    outputs: Mapping[StepRun, Excerpt],
) -> Iterator[str]:
    """The lines, in a window that wide if there is one. In the end stand `outputs` of what failed last."""
    yield _heading(trace, now, columns)
    yield cut(_summary(trace, now), columns)
    for note in (trace.task.reason, trace.gap):
        if note:
            yield cut(printable(note), columns)
    yield ""
    yield from _tree(trace, now, columns)
    lines = list(_anomaly_lines(trace, now))
    if lines:
        yield ""
    for severity, line in lines:
        yield tinted(cut(printable(line), columns), like=_TINTS.get(severity))
    for run, output in list(outputs.items())[-_OUTPUTS_SHOWN:]:
        yield ""
        yield cut(printable(f"{trace.where(run)}: {output.path}"), columns)
        for line in output.lines:
            yield cut(f"  {line}", columns)


def _heading(trace: Trace, now: float, columns: int | None) -> str:
    task = trace.task
    begin, end = trace.extent(now)
    facts = [task.status_name]
    if task.is_lost(now):
        facts.append("lost")
    took = span(end - begin)
    facts.append(took if task.finished else f"{took} so far")
    return heading(f"task {trace.task_id}", facts, columns)


def _summary(trace: Trace, now: float) -> str:
    facts = list[str]()
    begin = moment(trace.begin)
    if begin is not None:
        facts.append(f"since {full_time(begin)}")
    for state, count in sorted(trace.task.counts(now).items()):
        facts.append(f"{count} {state}")
    return ", ".join(facts)


def _tree(trace: Trace, now: float, columns: int | None) -> Iterator[str]:
    tree = list(rows(trace, now))
    if not tree:
        return
    table_rows = list[dict[str, str]]()
    for row in tree:
        told = cells(trace, row, now)
        told["step"] = row.prefix + row.label
        told["details"] = row_notes(told)
        told["timeline"] = "█" * _TIMELINE_WIDTH  # for the layout
        table_rows.append(told)
    shown = [column for column in _COLUMNS if any(told.get(column.title) for told in table_rows)]
    titles = [column.title for column in shown]
    sample = [[told.get(title, "") for title in titles] for told in table_rows]
    widths = layout(shown, sample, columns)
    bar_width = widths[titles.index("timeline")]
    extent = trace.extent(now)
    for told, row in zip(table_rows, tree, strict=True):
        told["timeline"] = ""
        if bar_width:
            told["timeline"] = _bar(
                trace,
                row,
                extent,
                now,
                bar_width,
            )
    lines = ([told.get(title, "") for title in titles] for told in table_rows)
    yield from table(shown, lines, columns, widths=widths)


def _bar(
    trace: Trace,
    row: Row,
    extent: tuple[float, float],
    now: float,
    columns: int,
) -> str:
    """Where a row stands in the time of the whole, in so many columns."""
    begin, end = row.place(extent)
    first = min(columns - 1, int(columns * begin))
    last = min(columns - 1, int(columns * end))
    indent = " " * first
    if row.run is not None:
        fill = _FILLS.get(trace.task.run_state(row.run, now), "█")
        return indent + fill * (last - first + 1)
    if first == last:
        return indent + "│"
    return indent + f"├{'─' * (last - first - 1)}┤"


def _anomaly_lines(trace: Trace, now: float) -> Iterator[tuple[str, str]]:
    """The severity of each anomaly and a line about it; of many of one name, about the first few."""
    found = anomalies(trace, now)
    totals = Counter(anomaly.name for anomaly in found)
    counts = Counter[str]()
    for anomaly in found:
        name = anomaly.name
        counts[name] += 1
        begin = f"! {anomaly.severity}: {name}: "
        if counts[name] <= _EACH_SHOWN:
            yield anomaly.severity, f"{begin}{anomaly.where}: {anomaly.explanation}"
        elif counts[name] == _EACH_SHOWN + 1:
            yield anomaly.severity, f"{begin}{totals[name] - _EACH_SHOWN:,} more"
