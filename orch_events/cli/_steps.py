# SPDX-License-Identifier: MIT
"""What the events of a task amount to: the task's state, and each run of each of its steps.

The rule: what an event means is decided here, what it looks like is not. Events go in, in id order; the time of day is
an argument; nothing is read and nothing printed. Nor is the operating system asked whether a ``pid`` lives: a log does
not say on which machine or in which container it was written, and process ids are used again. Heartbeats tell.
"""

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from .. import Event, EventType, ObservedStepScope, StepEvent, StepLogPaths
from .._events import TASK_STATUS, TERMINAL_EVENT_TYPES, instant, promoted_columns, step_event, step_log_paths

__all__ = ["INCIDENTS", "Run", "Steps"]

_BEGINS: Final = {EventType.STEP_STARTED, EventType.STEP_SPAWNED, EventType.STEP_SKIPPED}
"""The events that, once a run has ended, are about another one."""
_ENDS: Final[Mapping[str, str]] = {
    EventType.STEP_FINISHED: "finished",
    EventType.STEP_SKIPPED: "skipped",
    EventType.STEP_TIMEOUT: "failed",
    EventType.STEP_STALL_KILLED: "failed",
}
"""The events that end a run, and its state then, unless they tell of ``success``."""
_SUCCESS: Final = {True: "succeeded", False: "failed"}
INCIDENTS: Final = {
    *(EventType.SANDBOX_DENIED, EventType.SANDBOX_RESOURCE_EXCEEDED, EventType.SANDBOX_NETWORK_BLOCKED),
    *(EventType.DAEMON_PID_KILL_BLOCKED, EventType.AUTO_ROLLBACK_FAILED),
}
_TOLD_OF_STEPS: Final = {*_BEGINS, *_ENDS, *INCIDENTS, EventType.STEP_HEARTBEAT}

_BEATS_MISSED: Final = 3
"""So many intervals without a heartbeat, and a run counts as lost."""
_USUAL_INTERVAL: Final = 10.0
"""Seconds between heartbeats until a run has told: the default of ``run``, or what the task has had at most."""
_AT_ONCE: Final = 1.0
"""A first heartbeat sooner than this after the start, in seconds, tells nothing of the interval."""
_FORGET: Final = 0.7
"""An interval counts as long as the longest of late, so that one late heartbeat alarms nobody; each shrinks that."""


@dataclass(slots=True, eq=False)
class Run:
    """One run of a step: for one item, in one cycle. Times are seconds since the epoch."""

    step: str
    item: str | None
    cycle: int | None
    started: float
    seen: float
    """When it was last heard of."""
    latest: StepEvent
    """The newest event that tells how it is."""
    interval: float = 0.0
    """Seconds between its heartbeats; 0 before the first, unless promised by ``heartbeat_secs``."""
    scope: ObservedStepScope | None = None
    agent: str | None = None
    pid: int | None = None
    paths: StepLogPaths | None = None
    outcome: str | None = None
    """How it ended, once it has."""
    exit_code: int | None = None
    reason: str | None = None
    incident: str | None = None

    @property
    def label(self) -> str:
        """The step's name, and the item's if there is one."""
        return self.step if self.item is None else f"{self.step} {self.item}"


class Steps:
    """The state of one task."""

    def __init__(self) -> None:
        self.runs: list[Run] = []
        """In the order they began."""
        self.last_id = 0
        self.cycle: int | None = None
        self.incident: str | None = None
        """The latest that is no step's own."""
        self.status: str | None = None
        """As the newest ``task_…`` event has it."""
        self.finished = False
        self.seen = math.nan
        """When it was last heard of."""
        self._started = math.nan
        self._interval = _USUAL_INTERVAL
        self._newest: dict[tuple[str, str | None], Run] = {}
        """Of each step and item, the run that began last."""
        self._going: dict[tuple[str, str | None, int | str | None], list[Run]] = {}
        """Of each step and item, the runs of each process, those still without one (``None``), and all (``""``), the
        latest last. Who has left is removed when it comes to light: a step may have thousands without an end."""

    def fold(self, event: Event) -> Run | None:
        """Take in the next event; the run it is about, if any."""
        payload = event.payload
        fields = payload if isinstance(payload, dict) else {}
        self.last_id, self.seen = event.event_id, _time(event.created_at, self.seen)
        self.cycle = cycle if (cycle := promoted_columns(fields)[2]) is not None else self.cycle
        if math.isnan(self._started) or event.event_type == EventType.TASK_STARTED:
            self._started, self.incident = self.seen, None
        if event.event_type in TASK_STATUS:
            self.status, self.finished = TASK_STATUS[event.event_type], event.event_type in TERMINAL_EVENT_TYPES
        told = step_event(event.event_id, event.event_type, event.task_item_id, event.created_at, None, None, payload)
        run = self._run_of(told)
        if event.event_type in INCIDENTS:
            struck: Steps | Run = self if run is None else run
            struck.incident = event.event_type
        elif run is not None:
            run.scope = told.step_scope or run.scope
            run.agent = told.agent_id or run.agent
            run.reason = told.reason or run.reason
            if told.pid not in (None, run.pid):
                run.pid = told.pid
                self._going.setdefault((run.step, run.item, run.pid), []).append(run)
            run.exit_code = code if type(code := fields.get("exit_code")) is int else run.exit_code
            if event.event_type in _BEGINS:
                run.paths = step_log_paths(payload) or run.paths
                promised = fields.get("heartbeat_secs")
                if isinstance(promised, (int, float)) and promised > 0:
                    run.interval = promised
            if event.event_type in _ENDS:
                run.outcome = _ENDS[event.event_type] if told.success is None else _SUCCESS[told.success]
            elif event.event_type == EventType.STEP_HEARTBEAT:  # the first comes an interval after the start
                gap = self.seen - run.seen
                usual = run.interval * _FORGET if run.interval else 0.0 if gap >= _AT_ONCE else self._interval
                run.interval = max(gap, usual)
                self._interval = max(self._interval, run.interval)
            if run.outcome is None or event.event_type in _ENDS:
                run.latest, run.seen = told, self.seen
        return run

    def _run_of(self, event: StepEvent) -> Run | None:
        """The run an event is about: one that goes on, best with its process; or the one just ended; or a new one."""
        if event.step is None or event.event_type not in _TOLD_OF_STEPS:
            return None
        about = event.step, event.task_item_id
        for pid in () if event.event_type == EventType.STEP_STARTED else (event.pid, None, ""):
            going = self._going.get((*about, pid), [])
            while going and (going[-1].outcome is not None or pid not in ("", going[-1].pid)):
                going.pop()
            if going:
                return going[-1]
        # Within a cycle, a late heartbeat, or the end that follows a timeout, is about the run that has just ended.
        newest = self._newest.get(about)
        if newest is not None and newest.cycle == self.cycle and event.event_type not in _BEGINS:
            return newest
        if event.event_type in INCIDENTS:
            return None
        began = self.seen
        if event.event_type in _ENDS and event.duration_ms is not None:  # its start is not in the log
            task = self._started if self.status == "running" else -math.inf
            began = max(began - event.duration_ms / 1000, -math.inf if newest is None else newest.seen, task)
        run = self._newest[about] = Run(*about, self.cycle, began, self.seen, event)
        self.runs.append(run)
        for pid in (None, ""):
            self._going.setdefault((*about, pid), []).append(run)
        return run

    # -------------------------------------------------------------------------------------------- as of some moment

    def state(self, run: Run, now: float) -> str:
        """How it ended, ``"running"``, or ``"lost"``: nothing tells that it has ended, and nothing will."""
        return run.outcome or ("lost" if self.finished or now >= self._lost_at(run) else "running")

    def _lost_at(self, run: Run) -> float:
        """When a silent run counts as lost. One with neither process nor heartbeat so far has promised none."""
        if run.pid is None and not run.interval:
            return math.inf
        return run.seen + _BEATS_MISSED * (run.interval or self._interval)

    def changes_in(self, now: float) -> float:
        """Seconds until the next run counts as lost, should no event come."""
        going = (run for run in self.runs if run.outcome is None)
        return min((at - now for at in map(self._lost_at, going) if at > now), default=math.inf)

    def problem(self, run: Run, now: float) -> str | None:
        """What about a run needs attention, if anything."""
        if run.outcome is not None or self.finished:
            return None
        if self.state(run, now) == "lost":
            return "no heartbeat"
        if run.latest.pid_alive is False:
            return "process dead"
        return "low output" if run.latest.output_state == "low_output" else None

    def duration(self, run: Run, now: float) -> float:
        """Seconds it took or takes; of a lost run, until it was last heard of."""
        if run.outcome is not None and run.latest.duration_ms is not None:
            return run.latest.duration_ms / 1000
        return max(0.0, (now if self.state(run, now) == "running" else run.seen) - run.started)

    def counts(self, now: float) -> Counter[str]:
        """How many runs are in which state."""
        return Counter(self.state(run, now) for run in self.runs)

    def task_state(self, now: float) -> str:
        """Its status; ``"lost"`` when all is that should run; ``"running"`` or ``"idle"`` when no event tells."""
        if self.status not in (None, "running"):
            return str(self.status)
        counts = self.counts(now)
        return "running" if counts["running"] else "lost" if counts["lost"] else self.status or "idle"

    def elapsed(self, now: float) -> float:
        """Seconds since the task was last started, until its end or whatever else was last heard of it."""
        return max(0.0, (now if self.task_state(now) == "running" else self.seen) - self._started)


def _time(text: str, otherwise: float) -> float:
    """A stored time in seconds since the epoch; `otherwise` if it is none."""
    return otherwise if (at := instant(text)) is None else at.timestamp()
