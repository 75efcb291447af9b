# SPDX-License-Identifier: MIT
"""What is odd about the runs of a task: the table of anomalies, and a function that finds each.

A new one is a row of `_ANOMALIES` and a generator in `anomalies`.
"""

import math
from collections.abc import Iterator
from statistics import median
from typing import Final, NamedTuple

from ..show.units import span
from .step_run import StepRun
from .task_trace import Trace

__all__ = ["Anomaly", "anomalies"]

_ANOMALIES: Final = {
    "duplicate_runner": ("error", "{}"),
    "missing_end": ("error", "no event says how it ended; the last came after {}"),
    "overlapping_cycles": ("error", "began {} before the end of cycle {}"),
    "overlapping_runs": (
        "error",
        "began {} before the end of another run of the same step and item",
    ),
    "degenerate_loop": ("error", "failed {} times in a row"),
    "nonzero_exit": ("warning", "counts as succeeded, but its exit code is {}"),
    "sandbox_denied": ("warning", "{}"),
    "empty_cycle": ("warning", "no step ran in it"),
    "low_output": ("warning", "alive, but next to no output for long: {} of {} heartbeats say so"),
    "long_running": ("info", "took {}, where {} would be long"),
}
"""The severity of each (error: intervene; warning: needs attention; info: a notice), worst first, and what it means."""

_STARTED_AGAIN: Final = (
    "the task began again before it had ended: by a second runner, or after a crash"
)

_TWO_PROCESSES: Final = "process {} while process {} had not ended"

_LONG: Final = 600.0
"""Seconds after which a run is long, where too few runs of the step have ended."""

_ENOUGH_RUNS: Final = 4
"""Ended runs of a step from which on a run is long by comparison: three times their median, and ten seconds at least."""

_LOOP: Final = 3
"""Failures of a step and item in a row that make a loop."""


class Anomaly(NamedTuple):
    """Something odd, about a run, a step, a cycle, or the task as a whole."""

    name: str
    severity: str
    where: str
    at: float
    explanation: str
    step: str | None = None
    item: str | None = None
    cycle: int | None = None


def anomalies(trace: Trace, now: float) -> list[Anomaly]:
    """What is odd, the worst first."""
    found = [
        *_second_starts(trace),
        *_second_processes(trace),
        *_odd_runs(trace, now),
        *_overlapping_runs(trace, now),
        *_loops(trace),
        *_overlapping_cycles(trace, now),
        *_denials(trace),
        *_empty_cycles(trace),
    ]
    return [anomaly for name in _ANOMALIES for anomaly in found if anomaly.name == name]


def _of_task(name: str, at: float, *facts: str) -> Anomaly:
    severity, text = _ANOMALIES[name]
    return Anomaly(
        name,
        severity,
        "task",
        at,
        text.format(*facts),
    )


def _of_step(name: str, at: float, step: str, *facts: str) -> Anomaly:
    return _of_task(name, at, *facts)._replace(where=step, step=step)


def _of_cycle(name: str, at: float, cycle: int, *facts: str) -> Anomaly:
    return _of_task(name, at, *facts)._replace(where=f"cycle {cycle}", cycle=cycle)


def _of_run(name: str, trace: Trace, run: StepRun, at: float, *facts: str) -> Anomaly:
    return _of_task(name, at, *facts)._replace(
        where=trace.where(run), step=run.step, item=run.item, cycle=run.cycle
    )


def _second_starts(trace: Trace) -> Iterator[Anomaly]:
    for at in trace.second_starts:
        yield _of_task("duplicate_runner", at, _STARTED_AGAIN)


def _second_processes(trace: Trace) -> Iterator[Anomaly]:
    """The runs of which two processes reported at once."""
    for run in trace.task.runs:
        reports = trace.reports[run]
        if reports.second_pid is not None:
            text = _TWO_PROCESSES.format(reports.second_pid, reports.first_pid)
            yield _of_run(
                "duplicate_runner",
                trace,
                run,
                reports.second_at,
                text,
            )


def _odd_runs(trace: Trace, now: float) -> Iterator[Anomaly]:
    """What is odd about a run by itself."""
    task = trace.task
    limits = _duration_limits(trace, now)
    for run in task.runs:
        if task.run_state(run, now) == "lost":
            yield _of_run(
                "missing_end",
                trace,
                run,
                run.seen,
                span(max(0.0, run.seen - trace.begin)),
            )
        if run.outcome == "succeeded" and run.exit_code and not run.restart:
            yield _of_run(
                "nonzero_exit",
                trace,
                run,
                run.seen,
                str(run.exit_code),
            )
        reports = trace.reports[run]
        if reports.low_output:
            counts = str(reports.low_output), str(reports.heartbeats)
            yield _of_run(
                "low_output",
                trace,
                run,
                run.started,
                *counts,
            )
        seconds = task.duration(run, now)
        limit = limits.get(run.name, _LONG)
        if seconds > limit:
            yield _of_run(
                "long_running",
                trace,
                run,
                run.started,
                span(seconds),
                span(limit),
            )


def _duration_limits(trace: Trace, now: float) -> dict[str, float]:
    """Seconds beyond which a run is long, for each step with enough ended runs."""
    durations: dict[str, list[float]] = {}
    for run in trace.task.runs:
        if run.outcome not in (None, "skipped"):
            durations.setdefault(run.name, []).append(trace.task.duration(run, now))
    return {
        step: max(10.0, 3 * median(seconds))
        for step, seconds in durations.items()
        if len(seconds) >= _ENOUGH_RUNS
    }


def _overlapping_runs(trace: Trace, now: float) -> Iterator[Anomaly]:
    """Runs of one step and item at the same time: each beside the earlier one that ends last."""
    last_to_end: dict[tuple[str, str | None], StepRun] = {}
    for run in trace.task.runs:
        key = (run.name, run.item)
        earlier = last_to_end.setdefault(key, run)
        if earlier is run:
            continue
        ended = trace.task.ended(earlier, now)
        if ended > run.started:
            overlap = span(ended - run.started)
            yield _of_run(
                "overlapping_runs",
                trace,
                run,
                run.started,
                overlap,
            )
            if None not in (run.pid, earlier.pid) and run.pid != earlier.pid:
                text = _TWO_PROCESSES.format(run.pid, earlier.pid)
                yield _of_run(
                    "duplicate_runner",
                    trace,
                    run,
                    run.started,
                    text,
                )
        if trace.task.ended(run, now) >= ended:
            last_to_end[key] = run


def _loops(trace: Trace) -> Iterator[Anomaly]:
    """Each time that a step failed again and again for an item, even with other steps in between."""
    failed = dict[tuple[str, str | None], list[StepRun]]()
    for run in trace.task.runs:
        key = (run.name, run.item)
        if run.outcome == "failed":
            failed.setdefault(key, []).append(run)
        elif run.outcome not in (None, "skipped"):
            yield from _loop(trace, failed.pop(key, []))
    for runs in failed.values():
        yield from _loop(trace, runs)


def _loop(trace: Trace, runs: list[StepRun]) -> Iterator[Anomaly]:
    if len(runs) >= _LOOP:
        latest = runs[-1]
        yield _of_run(
            "degenerate_loop",
            trace,
            latest,
            latest.seen,
            str(len(runs)),
        )


def _overlapping_cycles(trace: Trace, now: float) -> Iterator[Anomaly]:
    """The cycles that began before an earlier one had ended."""
    last_end = -math.inf
    last_number: int | None = None
    for cycle in trace.cycles:
        if cycle.number is None:
            continue
        if cycle.has_start and last_end > cycle.started and last_number != cycle.number:
            overlap = span(last_end - cycle.started)
            facts = overlap, str(last_number)
            yield _of_cycle("overlapping_cycles", cycle.started, cycle.number, *facts)
        ended = trace.cycle_end(cycle, now)
        if ended > last_end:
            last_end = ended
            last_number = cycle.number


def _denials(trace: Trace) -> Iterator[Anomaly]:
    """What a sandbox denied, summed for each step."""
    for step, denials in trace.denials.items():
        counts = list[str]()
        for kind, count in sorted(denials.counts.items()):
            counts.append(f"{kind} once" if count == 1 else f"{kind} {count} times")
        text = ", ".join(counts)
        if step is None:
            yield _of_task("sandbox_denied", denials.latest, text)
        else:
            yield _of_step("sandbox_denied", denials.latest, step, text)


def _empty_cycles(trace: Trace) -> Iterator[Anomaly]:
    for cycle in trace.cycles:
        if not cycle.runs and cycle.number is not None and not trace.is_open(cycle):
            yield _of_cycle("empty_cycle", cycle.started, cycle.number)
