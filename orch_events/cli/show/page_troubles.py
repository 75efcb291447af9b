# SPDX-License-Identifier: MIT
"""The list on a page of what needs a look: the task's failure, the runs that failed, and the anomalies.

Many of one kind are summed up in one entry that unfolds.
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Final, NamedTuple

from ..model.anomalies import anomalies
from ..model.step_run import StepRun
from ..model.task_trace import Trace
from ..model.trace_tree import Row, rows
from .excerpt import Excerpt
from .html_text import html_text
from .row_cells import cells, row_notes

__all__ = ["STATUSES", "troubles_section"]

STATUSES: Final = {"running", "paused", "completed", "failed", "cancelled"}
"""The statuses of a task that have a colour."""

_ALIKE: Final = 3
"""Entries of one kind above which they are summed up."""

_SUMMED_UP: Final = "missing end"
"""The kind that is summed up even of two: when a machine dies, all that ran on it is lost."""

_NAMED: Final = 5
"""Places named of those summed up."""


class _Trouble(NamedTuple):
    colour: str
    word: str
    kind: str
    """What it has in common with others."""
    where: str
    text: str
    output: Excerpt | None = None
    """The end of what it printed."""


def troubles_section(
    trace: Trace,
    now: float,
    outputs: Mapping[StepRun, Excerpt],
) -> str:
    """The list, or nothing."""
    alike = dict[tuple[str, str, str], list[_Trouble]]()
    for trouble in _troubles(trace, now, outputs):
        alike.setdefault((trouble.colour, trouble.word, trouble.kind), []).append(trouble)
    if not alike:
        return ""
    entries = "".join(_entries(troubles) for troubles in alike.values())
    return f"<ul>{entries}</ul>"


def _troubles(
    trace: Trace,
    now: float,
    outputs: Mapping[StepRun, Excerpt],
) -> Iterator[_Trouble]:
    task = trace.task
    if task.reason or task.incident:
        status = task.status_name
        colour = "unknown"
        if status in STATUSES:
            colour = status
        text = ", ".join(text for text in (task.reason, task.incident) if text)
        yield _Trouble(
            colour,
            html_text(status),
            "task",
            "task",
            text,
        )
    for row in rows(trace, now):
        yield from _trouble_of_run(trace, row, now, outputs)
    for anomaly in anomalies(trace, now):
        name = anomaly.name.replace("_", " ")
        text = f"{name}: {anomaly.explanation}"
        yield _Trouble(
            anomaly.severity,
            anomaly.severity,
            name,
            anomaly.where,
            text,
        )


def _trouble_of_run(
    trace: Trace,
    row: Row,
    now: float,
    outputs: Mapping[StepRun, Excerpt],
) -> Iterator[_Trouble]:
    run = row.run
    if run is None or (run.outcome != "failed" and run.incident is None):
        return
    told = cells(trace, row, now)
    facts = (row_notes(told), told["agent"], told["took"])
    text = " · ".join(fact for fact in facts if fact)
    if run.outcome == "failed":
        yield _Trouble(
            "failed",
            "failed",
            run.step,
            trace.where(run),
            text,
            outputs.get(run),
        )
    else:
        yield _Trouble(
            "warning",
            "incident",
            str(run.incident),
            trace.where(run),
            text,
        )


def _entries(troubles: Sequence[_Trouble]) -> str:
    """One entry for each, or one for all."""
    first = troubles[0]
    begin = f'<li><b class="{first.colour}">{first.word}</b> '
    texts = [_text(trouble) for trouble in troubles]
    limit = _ALIKE
    if first.kind == _SUMMED_UP:
        limit = 1
    if len(troubles) <= limit:
        return "".join(f"{begin}<div>{text}</div></li>" for text in texts)
    title = html_text(f"{first.kind}, {len(troubles):,} times")
    inner = "".join(f"<div>{text}</div>" for text in texts)
    return (
        f'{begin}<details><summary><em class="fold">{title}</em>'
        f" <span>{html_text(_places(troubles))}</span></summary>{inner}</details></li>"
    )


def _text(trouble: _Trouble) -> str:
    text = f"<em>{html_text(trouble.where)}</em> <span>{html_text(trouble.text)}</span>"
    if trouble.output is None:
        return text
    lines = "\n".join(map(html_text, trouble.output.lines))
    return f"{text}<pre><span>{html_text(trouble.output.path)}</span>\n{lines}</pre>"


def _places(troubles: Sequence[_Trouble]) -> str:
    """Where they are, each place once, the first few by name."""
    places = dict[str, None]()
    for trouble in troubles:
        places[trouble.where] = None
    named = "; ".join(islice(places, _NAMED))
    if len(places) <= _NAMED:
        return named
    return f"{named} and {len(places) - _NAMED:,} more"
