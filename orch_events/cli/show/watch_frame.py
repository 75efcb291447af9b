# SPDX-License-Identifier: MIT
"""The picture of a task that ``watch`` draws. It follows from the task's state, the time and the window's size alone."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Final

from ... import observed_step_scope_label
from ..._values.byte_amount import amount
from ..model.step_run import StepRun
from ..model.task_state import TaskState
from .colours import tinted
from .excerpt import Excerpt
from .table import (
    Column,
    heading,
    table,
)
from .terminal_text import cut, printable
from .units import span

__all__ = ["frame", "problems", "select_runs"]

_COLUMNS: Final = (
    Column("step", least=12),
    Column("scope", spare=6),
    Column("item", spare=1, least=8),
    Column("agent", spare=5, least=6),
    Column("status"),
    Column("duration", spare=2),
    Column("details", spare=3, least=16),
)

_NO_OUTPUTS: Final[Mapping[StepRun, Excerpt]] = {}

_ALWAYS_COUNTED: Final = ("running", "succeeded", "failed", "skipped")
"""States that the header counts even if no run is in them."""


def frame(
    task_id: str,
    task: TaskState,
    now: float,
    columns: int | None,
    lines: int | None = None,
    outputs: Mapping[StepRun, Excerpt] = _NO_OUTPUTS,
) -> list[str]:
    """The picture of a task at the time `now`, in a window of that size if there is one.

    In the end stand `outputs` of what failed, the latest, where there is room.
    """
    if not task.last_id:
        return [cut(printable(f"waiting for task {task_id}"), columns)]
    header = _header(task_id, task, now, columns)
    room = len(task.runs)
    if lines is not None:
        room = max(0, lines - len(header) - 2)  # the table's titles, and what is left out
    shown = select_runs(task.runs, room)
    picture = header
    if shown:
        picture += table(_COLUMNS, (_row(task, run, now) for run in shown), columns)
    if len(shown) < len(task.runs):
        counts = task.counts(now)
        counts.subtract(task.run_state(run, now) for run in shown)
        left_out = len(task.runs) - len(shown)
        picture.append(cut(f"… {left_out} more: {_counts_text(+counts)}", columns))
    for run, output in list(outputs.items())[-1:]:
        shown_output = ["", cut(printable(f"{run.label}: {output.path}"), columns)]
        shown_output += [cut(f"  {line}", columns) for line in output.lines]
        if lines is None or len(picture) + len(shown_output) <= lines:
            picture += shown_output
    return picture[:lines]


def _header(
    task_id: str,
    task: TaskState,
    now: float,
    columns: int | None,
) -> list[str]:
    facts = [task.status_name]
    if task.is_lost(now):
        facts.append("lost")
    if task.cycle is not None:
        facts.append(f"cycle {task.cycle}")
    facts.append(span(int(task.elapsed(now))))
    header = [heading(f"task {task_id}", facts, columns)]
    header.append(cut(_counts_text(task.counts(now)), columns))
    if task.reason is not None:
        header.append(cut(printable(task.reason), columns))
    found = "; ".join(problems(task, now))
    if found:
        header.append(tinted(cut(f"! {found}", columns), like="failed"))
    return header


def _counts_text(counts: Counter[str]) -> str:
    others = sorted(state for state in counts if state not in _ALWAYS_COUNTED)
    return ", ".join(f"{counts[state]} {state}" for state in (*_ALWAYS_COUNTED, *others))


def problems(task: TaskState, now: float) -> list[str]:
    """What needs attention, each in a few words."""
    found = list[str]()
    if task.incident is not None:
        found.append(task.incident)
    for run in task.runs:
        problem = task.problem(run, now)
        if problem is not None:
            found.append(printable(f"{run.label}: {problem}"))
    return found


def select_runs(runs: Sequence[StepRun], room: int) -> list[StepRun]:
    """The runs to show in `room` lines: those that are running, but some room is kept for failed and latest ones."""
    if len(runs) <= room:
        return list(runs)
    kept = room // 6
    latest = list(reversed(runs))
    running = [run for run in latest if run.outcome is None]
    failed = [run for run in latest if run.outcome == "failed"]
    by_rank = [*running[: room - 2 * kept], *failed[:kept], *latest[:kept]]
    by_rank += [*running, *failed, *latest]
    shown = set[StepRun]()
    for run in by_rank:
        if len(shown) < room:
            shown.add(run)
    return [run for run in runs if run in shown]


def _row(task: TaskState, run: StepRun, now: float) -> tuple[str, ...]:
    state = task.run_state(run, now)
    duration = task.duration(run, now)
    if state == "running":
        duration = int(duration)
    return (
        run.name,
        observed_step_scope_label(run.scope),
        run.item or "",
        run.agent or "",
        state,
        span(duration),
        ", ".join(_details(task, run, state, now)),
    )


def _details(
    task: TaskState,
    run: StepRun,
    state: str,
    now: float,
) -> list[str]:
    latest = run.latest
    details = list[str]()
    if state == "lost":
        silence = f"no heartbeat for {span(int(now - run.seen))}"
        details.append("end not recorded" if task.left_behind(run) else silence)
    if latest.pid is not None and run.outcome is None:
        details.append(_process(latest.pid, latest.pid_alive if state == "running" else None))
    if latest.stdout_bytes is not None:
        details.append(_growth("out", latest.stdout_bytes, latest.stdout_delta_bytes))
    if latest.stderr_bytes is not None:
        details.append(_growth("err", latest.stderr_bytes, latest.stderr_delta_bytes))
    if state == "running" and latest.output_state not in (None, "active"):
        stagnant = ""
        if latest.stagnant_heartbeats:
            stagnant = f" ×{latest.stagnant_heartbeats}"
        details.append(f"{latest.output_state}{stagnant}")
    if latest.confidence is not None:
        details.append(f"confidence {latest.confidence:g}")
    if run.exit_code:
        details.append(f"exit {run.exit_code}")
    details += [detail for detail in (run.why, run.incident, run.note) if detail]
    return details


def _process(pid: int, is_alive: bool | None) -> str:
    if is_alive is None:
        return f"pid {pid}"
    if is_alive:
        return f"pid {pid} alive"
    return f"pid {pid} dead"


def _growth(stream: str, size: int, new: int | None) -> str:
    if not new:
        return f"{stream} {amount(size)}"
    return f"{stream} {amount(size)} +{amount(new)}"
