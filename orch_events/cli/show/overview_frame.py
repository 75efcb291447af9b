# SPDX-License-Identifier: MIT
"""The picture of many tasks that ``watch --all`` draws: a line a task."""

from collections.abc import Sequence
from typing import Final

from ..model.step_run import StepRun
from ..model.task_state import TaskState
from .table import Column, heading, table
from .terminal_text import cut
from .units import span
from .watch_frame import problems

__all__ = ["overview_frame"]

_COLUMNS: Final = (
    Column("task", least=12),
    Column("status"),
    Column("took", spare=1),
    Column("failed", spare=4),
    Column("running", spare=5),
    Column("step", spare=2, least=10),
    Column("attention", spare=3, least=12),
)

_OTHER_LINES: Final = 3
"""The heading, the titles, and what is left out."""


def overview_frame(
    tasks: Sequence[tuple[str, TaskState]],
    now: float,
    columns: int | None,
    lines: int | None = None,
) -> list[str]:
    """The picture at the time `now`, in a window of that size if there is one."""
    states = [state.task_state(now) for _, state in tasks]
    room = len(tasks)
    if lines is not None:
        room = max(0, lines - _OTHER_LINES)
    picture = [heading("all tasks", [f"{states.count('running')} running"], columns)]
    if tasks:
        rows = (_row(task_id, state, now) for task_id, state in tasks[:room])
        picture += table(_COLUMNS, rows, columns)
    if len(tasks) > room:
        picture.append(cut(f"… {len(tasks) - room} more", columns))
    return picture[:lines]


def _row(task_id: str, task: TaskState, now: float) -> tuple[str, ...]:
    running = [run for run in task.runs if task.run_state(run, now) == "running"]
    failed = sum(run.outcome == "failed" for run in task.runs)
    return (
        task_id,
        task.task_state(now),
        span(int(task.elapsed(now))),
        str(failed or ""),
        str(len(running) or ""),
        _newest_label(running),
        "; ".join(problems(task, now)) or task.reason or "",
    )


def _newest_label(runs: Sequence[StepRun]) -> str:
    if not runs:
        return ""
    return runs[-1].label
