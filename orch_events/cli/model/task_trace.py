# SPDX-License-Identifier: MIT
"""A task's history as data: its cycles, the runs of its steps in them, and what its heartbeats and sandbox reported.

Events go in, in id order. Of the heartbeats only the latest figures are kept, so memory grows with the number of runs
alone. What is odd about the runs is decided in `anomalies`, their order as a tree in `trace_tree`, the JSON in
`trace_document`. Times are seconds since the epoch; what still runs goes on until ``now``.
"""

import math
from collections import Counter
from dataclasses import dataclass, field

from ... import Event, EventType
from ..._values.task_status import STATUS_EVENT_TYPES, task_status
from .event_meaning import step_kind, step_of
from .step_run import StepRun
from .task_state import TaskState

__all__ = ["Cycle", "RunReports", "Trace"]

_DENIALS = {
    EventType.SANDBOX_DENIED,
    EventType.SANDBOX_RESOURCE_EXCEEDED,
    EventType.SANDBOX_NETWORK_BLOCKED,
}


@dataclass(slots=True, eq=False)
class Cycle:
    """A cycle, or what ran outside of any (`number` is ``None``)."""

    number: int | None
    started: float
    has_start: bool
    """Whether the log has its beginning, and not only events of its runs."""
    runs: list[StepRun] = field(default_factory=list[StepRun])


@dataclass(slots=True, eq=False)
class RunReports:
    """What the events of a run reported, beyond its state."""

    heartbeats: int = 0
    low_output: int = 0
    """Heartbeats that reported low output."""
    stdout_bytes: int | None = None
    stderr_bytes: int | None = None
    pid: int | None = None
    """Its process, unless that is known to be dead."""
    second_pid: int | None = None
    """Another process that reported while `first_pid` had not ended."""
    first_pid: int | None = None
    second_at: float = 0.0
    """When it did so first."""


@dataclass(slots=True, eq=False)
class Denials:
    """What a sandbox has denied one step."""

    counts: Counter[str] = field(default_factory=Counter[str])
    """By event type."""
    latest: float = 0.0


class Trace:
    """What happened in one task."""

    def __init__(self, task_id: str, pruned: int = 0) -> None:
        self.task_id = task_id
        self.pruned = pruned
        """How many of its events were deleted."""
        self.task = TaskState()
        self.events = 0
        self.cycles: list[Cycle] = []
        """In the order they began."""
        self.reports: dict[StepRun, RunReports] = {}
        self.denials: dict[str | None, Denials] = {}
        """By step; ``None`` for those that name no step."""
        self.second_starts: list[float] = []
        """When the task began again although it had not ended."""
        self._has_begun = False
        """Whether the task began, and no event since says that it may begin again."""
        self._begin = math.inf
        self._end = -math.inf
        self._latest_cycle: dict[int | None, Cycle] = {}

    # ------------------------------------------------------------------------------------------- taking in events

    def apply(self, event: Event) -> StepRun | None:
        """Take in the next event; returns the run it is about, if any."""
        runs_before = len(self.task.runs)
        run = self.task.apply(event)
        is_new = len(self.task.runs) > runs_before
        self.events += 1
        at = self.task.seen
        began = at
        if run is not None:
            began = run.started  # earlier, if its start is not in the log
        self._begin = min(self._begin, at, began)  # in this order NaN is left out
        self._end = max(self._end, at)
        self._apply_to_attempt(event, run)
        if event.event_type in _DENIALS:
            self._apply_denial(event, run)
        self._apply_to_cycle(event, run if is_new else None, began)
        if run is not None:
            self._apply_to_reports(run, event)
        return run

    def _apply_to_attempt(self, event: Event, run: StepRun | None) -> None:
        kind = event.event_type
        if kind == EventType.TASK_STARTED:
            if self._has_begun:
                self.second_starts.append(self.task.seen)
            self._has_begun = True
            return
        says_status = kind in STATUS_EVENT_TYPES and task_status(kind, event.payload) is not None
        if says_status or (run is not None and run.restart):
            self._has_begun = False

    def _apply_to_cycle(
        self,
        event: Event,
        new_run: StepRun | None,
        began: float,
    ) -> None:
        if event.event_type == EventType.CYCLE_STARTED:
            self._begin_cycle(self.task.cycle, began)
        if new_run is not None:
            if new_run.cycle not in self._latest_cycle:
                self._begin_cycle(new_run.cycle, began)
            self._latest_cycle[new_run.cycle].runs.append(new_run)

    def _begin_cycle(self, number: int | None, began: float) -> None:
        cycle = Cycle(number, began, has_start=began == self.task.seen)
        self.cycles.append(cycle)
        self._latest_cycle[number] = cycle

    def _apply_denial(self, event: Event, run: StepRun | None) -> None:
        step = None
        if run is not None:
            step = run.name
        elif isinstance(event.payload, dict):
            step = step_of(event.event_type, event.payload)
        denials = self.denials.setdefault(step, Denials())
        denials.counts[event.event_type] += 1
        denials.latest = self.task.seen

    def _apply_to_reports(self, run: StepRun, event: Event) -> None:
        reports = self.reports.get(run)
        if reports is None:
            reports = self.reports[run] = RunReports()
        latest = run.latest
        if latest.event_id != event.event_id or run.outcome is not None:
            return  # it had ended before, or has now
        if latest.pid is not None:
            if reports.pid not in (None, latest.pid) and reports.second_pid is None:
                reports.first_pid = reports.pid
                reports.second_pid = latest.pid
                reports.second_at = self.task.seen
            reports.pid = latest.pid
            if latest.pid_alive is False:
                reports.pid = None
        if step_kind(event.event_type) == EventType.STEP_HEARTBEAT:
            reports.heartbeats += 1
            if latest.output_state == "low_output":
                reports.low_output += 1
            reports.stdout_bytes = latest.stdout_bytes
            reports.stderr_bytes = latest.stderr_bytes

    # -------------------------------------------------------------------------------------- as of a point in time

    @property
    def begin(self) -> float:
        """The time of the first event or run."""
        if self._begin < math.inf:
            return self._begin
        return 0.0

    @property
    def gap(self) -> str | None:
        """A note on deleted events, if there were any."""
        if not self.pruned:
            return None
        many = f"{self.pruned} earlier events were"
        if self.pruned == 1:
            many = "1 earlier event was"
        return f"{many} deleted by a cleanup"

    def where(self, run: StepRun) -> str:
        """A run's name, and its cycle if there are several."""
        if run.cycle is None or len(self.cycles) == 1:
            return run.label
        return f"{run.label}, cycle {run.cycle}"

    def extent(self, now: float) -> tuple[float, float]:
        """When the task began, and when it ended, or its newest event, or now. Looks at every run."""
        end = max(self.begin, self._end)
        if self.task.task_state(now) == "running":
            end = max(end, now)
        return self.begin, end

    def cycle_end(self, cycle: Cycle, now: float) -> float:
        """When the last run of a cycle ended, or the cycle's start if nothing ran in it."""
        return max((self.task.ended(run, now) for run in cycle.runs), default=cycle.started)

    def is_open(self, cycle: Cycle) -> bool:
        """Whether more may run in a cycle: it is the latest of a task that has not ended."""
        return not self.task.finished and cycle is self.cycles[-1]
