# SPDX-License-Identifier: MIT
"""The state of a task, and of each run of each of its steps, derived from its events.

Events go in, in id order; the time of day is an argument; nothing is read and nothing printed. What an event means is
decided here and in `event_meaning`, what it looks like is not. The operating system is not asked whether a ``pid``
lives: a log does not say on which machine or in which container it was written, and process ids are used again.
Heartbeats show it.

Rules:

- a run begins with its first event and ends with an event of `ENDS`; an event is about the running run of its process,
  else of its step, item and cycle, else about the one that has just ended (`RunIndex`);
- a run without an end is lost when its heartbeats stay away, or when the task has ended or begun again;
- a step with the scope of the task has no item, even if its events carry one.
"""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

from ... import (
    Event,
    EventType,
    JsonObject,
    ObservedStepScope,
    StepEvent,
    observed_step_scope_from_payload,
)
from ..._values.step_event import step_event
from ..._values.step_fields import promoted_columns, step_log_paths
from ..._values.task_status import (
    ENDED,
    UNKNOWN_STATUS,
    task_status,
)
from ..._values.timestamps import instant
from .event_meaning import (
    ABOUT_STEPS,
    BEGINS,
    ENDS,
    INCIDENTS,
    STARTS,
    exit_code,
    failure_facts,
    reason,
    run_end,
    step_kind,
    step_of,
    text_field,
)
from .heartbeat_interval import MISSED, USUAL_INTERVAL
from .run_index import ANY, RunIndex
from .step_run import StepRun

__all__ = ["TaskState"]

_DEEPEST: Final = 8
"""Levels of steps inside steps that are distinguished."""

_LONGEST_RUN_MS: Final = 100 * 366 * 86_400_000
"""A duration longer than this, in milliseconds, does not show when a run began."""


class _Subject(NamedTuple):
    """Which step an event is about, by what it says itself."""

    step: str
    item: str | None
    parent_step: str | None
    cycle: int | None


class TaskState:
    """The state of one task. Times are seconds since the epoch."""

    def __init__(self) -> None:
        self.runs: list[StepRun] = []
        """In the order they began."""
        self.last_id = 0
        self.cycle: int | None = None
        self.incident: str | None = None
        """The latest that concerns no step."""
        self.status: str | None = None
        """By the newest event that says one."""
        self.reason: str | None = None
        """Why the status is that, unless the task runs."""
        self.finished = False
        self.seen = math.nan
        """The time of the newest event."""
        self._started = math.nan
        self._attempt = 0
        """How often the task went on after it had ended or paused."""
        self._interval = USUAL_INTERVAL
        """The longest heartbeat interval of the task: assumed for a run that has shown none."""
        self._slowest: StepRun | None = None
        """The run with that interval."""
        self._scopes: dict[str, ObservedStepScope] = {}
        """The newest scope of each step, for the events that do not say it."""
        self._index = RunIndex()

    # ------------------------------------------------------------------------------------------- taking in events

    def apply_all(self, events: Iterable[Event]) -> None:
        """`apply` each of them."""
        for event in events:
            self.apply(event)

    def apply(self, event: Event) -> StepRun | None:
        """Take in the next event; returns the run it is about, if any."""
        payload = event.payload
        fields: JsonObject = payload if isinstance(payload, dict) else {}
        kind = step_kind(event.event_type)
        cycle = promoted_columns(fields)[2]
        self.last_id = event.event_id
        at = instant(event.created_at)
        if at is not None:
            self.seen = at.timestamp()
        self._apply_to_task(event.event_type, fields)
        self._apply_to_cycle(kind, cycle)
        if kind not in ABOUT_STEPS:
            return None
        step = step_event(
            event.event_id,
            event.event_type,
            event.task_item_id,
            event.created_at,
            None,
            None,
            payload,
        )
        run = self._run_about(kind, step, fields, cycle)
        if run is not None:
            run.attempt = self._attempt
        if kind in INCIDENTS:
            if run is None:
                self.incident = kind
            else:
                run.incident = kind
        elif run is not None:
            self._apply_to_run(run, kind, step, fields)
        return run

    def _apply_to_task(self, event_type: str, fields: JsonObject) -> None:
        status = task_status(event_type, fields)
        begins_again = self.finished and status == "running"
        if status == "running" and self.status not in (None, "running"):
            self._attempt += 1
        if math.isnan(self._started) or event_type == EventType.TASK_STARTED or begins_again:
            self._started = self.seen
            self.incident = None
        if status is None:
            return
        self.status = status
        self.finished = status in ENDED
        self.reason = None
        if status != "running":
            self.reason = reason(fields)
        if status == "failed" and self.reason is None:
            self.reason = failure_facts(fields)

    def _apply_to_cycle(self, kind: str, cycle: int | None) -> None:
        if cycle is None:
            return
        is_newer = self.cycle is None or cycle > self.cycle  # a late end may be of an earlier one
        if kind == EventType.CYCLE_STARTED or (is_newer and kind in ABOUT_STEPS):
            self.cycle = cycle

    def _apply_to_run(
        self,
        run: StepRun,
        kind: str,
        step: StepEvent,
        fields: JsonObject,
    ) -> None:
        run.scope = self._scopes.get(run.step) or run.scope
        run.agent = step.agent_id or run.agent
        if step.pid is not None and step.pid != run.pid:
            run.pid = step.pid
            self._index.add_process(run)
        code = exit_code(fields)
        if code is not None:
            run.exit_code = code
        if kind in STARTS:
            run.start_reason = reason(fields) or run.start_reason
        else:
            run.reason = reason(fields) or run.reason
        if kind in BEGINS:
            run.paths = step_log_paths(fields) or run.paths
            run.host = text_field(fields, "host") or run.host
            run.traceparent = text_field(fields, "traceparent") or run.traceparent
            run.span_id = text_field(fields, "span_id") or run.span_id
            run.heartbeats.promise(fields.get("heartbeat_secs"))
        if kind in ENDS:
            run.error_type = text_field(fields, "error_type")
            _end(run, kind, fields)
        elif kind == EventType.STEP_HEARTBEAT:
            self._apply_heartbeat(run)
        if run.outcome is None or kind in ENDS:
            run.latest = step
            run.seen = self.seen

    def _apply_heartbeat(self, run: StepRun) -> None:
        run.heartbeats.heartbeat(self.seen - run.seen, self._interval)
        interval = run.heartbeats.seconds
        if run is self._slowest or interval >= self._interval:
            self._slowest = run
            self._interval = max(USUAL_INTERVAL, interval)

    # --------------------------------------------------------------------------------- which run an event is about

    def _run_about(
        self,
        kind: str,
        event: StepEvent,
        fields: JsonObject,
        cycle: int | None,
    ) -> StepRun | None:
        """The run an event is about, a new one if need be; ``None`` for an incident of no run."""
        subject = self._subject(event, fields, cycle)
        if subject is None:
            return None
        step, item, parent_step, cycle = subject
        parents: Sequence[str | None] = (parent_step,)
        if parent_step is None:
            parents = (None, ANY)  # best a run outside any step
        run_cycle = self.cycle if cycle is None else cycle
        if kind != EventType.STEP_STARTED:
            run = self._index.running(
                step,
                item,
                parents,
                event.pid,
                cycle,
            )
            if run is not None:
                return run
            # Within a cycle, a late heartbeat, or the end that follows a timeout, is about the run that has just ended.
            run = self._index.newest(step, item, parents, run_cycle)
            if run is not None and (run.outcome is None or kind not in BEGINS):
                return run
        if kind in INCIDENTS:
            return None
        began = self.seen
        if kind in ENDS:
            before = self._index.newest(step, item, parents, ANY)
            began = self._start_before(event, before)
        run = StepRun(
            step,
            item,
            run_cycle,
            began,
            self.seen,
            event,
            parent_step,
        )
        self._add(run)
        return run

    def _add(self, run: StepRun) -> None:
        run.parent = self._parent_of(run)
        if run.parent is not None:
            run.depth = run.parent.depth + 1
        self.runs.append(run)
        self._index.add(run)

    def _subject(
        self,
        event: StepEvent,
        fields: JsonObject,
        cycle: int | None,
    ) -> _Subject | None:
        step = step_of(event.event_type, fields)
        if step is None:
            return None
        scope = observed_step_scope_from_payload(fields)
        if scope is None and text_field(fields, "node_id"):
            scope = observed_step_scope_from_payload({"step_scope": fields.get("scope")})
        if scope is ObservedStepScope.TASK and self._scopes.get(step) is None:
            self._drop_item(step, event.task_item_id)
        if scope is not None:
            self._scopes[step] = scope
        # A step that runs once for the task is recorded with some item all the same: it is not that item's.
        item = event.task_item_id
        if self._scopes.get(step) is ObservedStepScope.TASK:
            item = None
        parent_step = text_field(fields, "parent_step")
        return _Subject(step, item, parent_step, cycle)

    def _drop_item(self, step: str, item: str | None) -> None:
        """A step turns out to run once for the task, after it has begun with an item."""
        run = self._index.newest(step, item, (ANY,), ANY)
        if item is not None and run is not None and run.outcome is None:
            run.item = None
            self._index.add(run)

    def _start_before(self, end: StepEvent, before: StepRun | None) -> float:
        """When a run began of which only the end is in the log; `before` is the last run of the same step and item."""
        if end.duration_ms is None or end.duration_ms > _LONGEST_RUN_MS:
            return self.seen
        began = self.seen - end.duration_ms / 1000
        if before is not None:
            began = max(began, before.seen)
        if self.status == "running":
            began = max(began, self._started)
        return began

    def _parent_of(self, run: StepRun) -> StepRun | None:
        """The run inside which it is: of the same item, or of the task, or of the item that its event carries."""
        if run.parent_step is None:
            return None
        for item in (run.item, None, run.latest.task_item_id):
            parent = self._index.newest(run.parent_step, item, (ANY,), run.cycle)
            if parent is not None:
                while parent.depth >= _DEEPEST and parent.parent is not None:
                    parent = parent.parent
                return parent
        return None

    # -------------------------------------------------------------------------------------- as of a point in time

    def run_state(self, run: StepRun, now: float) -> str:
        """How a run ended; else ``"running"``, or ``"lost"`` if no event shows its end and none will."""
        if run.outcome is not None:
            return run.outcome
        if self.left_behind(run) or now >= self._lost_at(run):
            return "lost"
        return "running"

    def left_behind(self, run: StepRun) -> bool:
        """Whether the task has ended, or begun again, without an event that shows how the run ended."""
        return run.outcome is None and (self.finished or run.attempt < self._attempt)

    def _lost_at(self, run: StepRun) -> float:
        """When a silent run counts as lost: never, if it has shown neither process nor heartbeat."""
        interval = run.heartbeats.seconds
        if run.pid is None and not interval:
            return math.inf
        return run.seen + MISSED * (interval or self._interval)

    def changes_in(self, now: float) -> float:
        """Seconds until the next run counts as lost, if no event comes."""
        lost_at = [self._lost_at(run) for run in self.runs if run.outcome is None]
        return min((at - now for at in lost_at if at > now), default=math.inf)

    def problem(self, run: StepRun, now: float) -> str | None:
        """What about a run needs attention, if anything."""
        if run.outcome is not None or self.left_behind(run):
            return None
        if self.run_state(run, now) == "lost":
            return "no heartbeat"
        if run.latest.pid_alive is False:
            return "process dead"
        if run.latest.output_state == "low_output":
            return "low output"
        return None

    def duration(self, run: StepRun, now: float) -> float:
        """Seconds it took or takes; of a lost run, until its newest event."""
        if run.outcome is not None and run.latest.duration_ms is not None:
            return run.latest.duration_ms / 1000
        return max(0.0, self._until(run, now) - run.started)

    def ended(self, run: StepRun, now: float) -> float:
        """When a run ended; now while it is running; of a lost run, the time of its newest event."""
        return max(run.started, self._until(run, now))

    def _until(self, run: StepRun, now: float) -> float:
        if self.run_state(run, now) == "running":
            return now
        return run.seen

    def counts(self, now: float) -> Counter[str]:
        """How many runs are in which state."""
        return Counter(self.run_state(run, now) for run in self.runs)

    @property
    def status_name(self) -> str:
        """The task's status by the name that every command has for it."""
        if self.status is None:
            return UNKNOWN_STATUS
        return self.status

    def is_lost(self, now: float) -> bool:
        """Whether the task should run, by its events, but every run that should go on is lost."""
        return self.task_state(now) == "lost"

    def task_state(self, now: float) -> str:
        """Its status; ``"lost"`` if all that should run is; ``"running"`` or ``"idle"`` if no event says one."""
        if self.status is not None and self.status != "running":
            return self.status
        counts = Counter(self.run_state(run, now) for run in self.runs if not self.left_behind(run))
        if counts["running"]:
            return "running"
        if counts["lost"]:
            return "lost"
        return self.status or "idle"

    def elapsed(self, now: float) -> float:
        """Seconds since the task was last started, until its end or its newest event."""
        until = self.seen
        if self.task_state(now) == "running":
            until = now
        return max(0.0, until - self._started)


def _end(run: StepRun, kind: str, fields: JsonObject) -> None:
    end = run_end(kind, fields)
    run.restart = end.restart
    run.outcome = end.outcome
    if run.outcome != "failed":
        run.timed_out = False
    elif end.says_timeout or kind == EventType.STEP_TIMEOUT:
        run.timed_out = True
    run.note = None
    if run.restart:
        run.note = "planned restart"
    elif run.timed_out and (end.says_timeout or run.reason is None):
        run.note = "timeout"
