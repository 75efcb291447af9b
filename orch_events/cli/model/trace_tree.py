# SPDX-License-Identifier: MIT
"""The runs of a trace as a tree: the cycles, in them the steps, in those their runs if there are several.

A run stands inside the run of its parent step. Where the beginning of that one is not in the log, the runs stand below
a row that has only the parent step's name.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from .step_run import StepRun
from .task_trace import Trace

__all__ = ["Row", "rows"]


class Row(NamedTuple):
    """A line of the tree: a run, or a step with several runs, or a cycle."""

    prefix: str
    """The branches before the label, three columns a level."""
    label: str
    started: float
    ended: float
    run: StepRun | None = None
    is_cycle: bool = False

    def place(self, extent: tuple[float, float]) -> tuple[float, float]:
        """Where it begins and ends in the time of the whole, from 0 to 1."""
        begin, end = extent
        whole = max(end - begin, 1e-6)
        first = min(1.0, max(0.0, (self.started - begin) / whole))  # in this order NaN becomes 0
        last = min(1.0, max(0.0, (self.ended - begin) / whole))
        return first, max(first, last)


@dataclass(slots=True, eq=False)
class _Branch:
    """A step, or one of its runs, and what ran inside it."""

    row: Row
    below: list["_Branch"] = field(default_factory=list["_Branch"])


def rows(trace: Trace, now: float) -> Iterator[Row]:
    """The tree of a trace, from top to bottom."""
    for cycle in trace.cycles:
        branches = _branches(trace, cycle.runs, now)
        if cycle.number is not None:
            ended = trace.cycle_end(cycle, now)
            yield Row(
                "",
                f"cycle {cycle.number}",
                cycle.started,
                ended,
                is_cycle=True,
            )
            yield from _lines(branches, "")
        else:
            for branch in branches:
                yield branch.row
                yield from _lines(branch.below, "")


def _lines(branches: list[_Branch], indent: str) -> Iterator[Row]:
    """The rows of branches that hang from one row."""
    for branch in branches:
        fork, deeper = ("├─ ", "│  ")
        if branch is branches[-1]:
            fork, deeper = ("└─ ", "   ")
        yield branch.row._replace(prefix=indent + fork)
        yield from _lines(branch.below, indent + deeper)


def _branches(trace: Trace, runs: list[StepRun], now: float) -> list[_Branch]:
    """The steps of a cycle, and in each run those that ran inside it."""
    top = list[StepRun]()
    inside = dict[StepRun, list[StepRun]]()
    without_parent = dict[str, list[StepRun]]()
    here = set(runs)
    for run in runs:
        if run.parent in here:
            inside.setdefault(run.parent, []).append(run)
        elif run.parent_step is None:
            top.append(run)
        else:
            without_parent.setdefault(run.parent_step, []).append(run)
    found = _steps(trace, top, inside, now)
    for step, children in without_parent.items():
        found.append(_group(step, _steps(trace, children, inside, now)))
    return found


def _steps(
    trace: Trace,
    runs: list[StepRun],
    inside: Mapping[StepRun, list[StepRun]],
    now: float,
) -> list[_Branch]:
    """A branch for each step, with one for each of its runs if there are several."""
    by_step = dict[str, list[StepRun]]()
    for run in runs:
        by_step.setdefault(run.step, []).append(run)
    found = list[_Branch]()
    for step, its_runs in by_step.items():
        branches = list[_Branch]()
        for number, run in enumerate(its_runs, 1):
            if len(its_runs) == 1:
                label = step if run.item is None else f"{step} {run.item}"
            else:
                label = f"run {number}" if run.item is None else run.item
            row = Row(
                "",
                label,
                run.started,
                trace.task.ended(run, now),
                run,
            )
            below = _steps(trace, inside.get(run, []), inside, now)
            branches.append(_Branch(row, below))
        if len(branches) == 1:
            found += branches
        else:
            found.append(_group(step, branches))
    return found


def _group(step: str, branches: list[_Branch]) -> _Branch:
    started = min(branch.row.started for branch in branches)
    ended = max(branch.row.ended for branch in branches)
    return _Branch(Row("", step, started, ended), branches)
