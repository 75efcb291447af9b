# SPDX-License-Identifier: MIT
"""A trace as data: a task's cycles, the runs of its steps in them, and what is odd about those.

The rule: what a trace says is decided here, what it looks like is not. Events go in, in id order; of the heartbeats
only what the latest told is kept, so memory grows with the runs alone. Times are seconds since the epoch; whatever
still runs goes on until ``now``.

`Trace.document` is what ``--json`` prints, and stays as it is but for new members:

- ``task_id``, ``status``, ``reason``, ``finished`` (if not, this is the trace so far), ``events``, ``last_event_id``,
  ``pruned`` (how many events of the task a cleanup has deleted: what they told is missing here);
- ``started_at``, ``ended_at``, ``duration_ms`` of the task, of each cycle and of each step: times as RFC 3339 in UTC;
  ``ended_at`` is null until the end; the duration then goes up to now, or to when it was last heard of;
- ``cycles``, each with ``cycle`` (null for what ran in none) and ``steps``, the runs in the order they began: ``step``,
  ``scope``, ``item``, ``agent``, ``status`` (succeeded, failed, finished, skipped, running, lost), ``exit_code``,
  ``reason``, ``incident``, ``pid``, and of the latest heartbeat ``stdout_bytes`` and ``stderr_bytes``;
- ``anomalies``, the worst first, each with ``name``, ``severity`` (error, warning, info), ``step``, ``item``,
  ``cycle``, ``at``, ``explanation``.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from statistics import median
from typing import Final, NamedTuple

from .. import Event, EventType, JsonObject, JsonValue, observed_step_scope_label
from .._events import TERMINAL_EVENT_TYPES
from ._render import span
from ._steps import Run, Steps

__all__ = ["Row", "Trace", "moment", "told"]

_LONG: Final = 600.0
"""Seconds after which a run is long, if nothing tells what is usual."""
_USUAL: Final = 4
"""So many ended runs of a step tell it: a run is long that took three times their median, and ten seconds at least."""
_ANOMALIES: Final = {
    "duplicate_runner": ("error", "{}"),
    "missing_end": ("error", "nothing tells how it ended; last heard of after {}"),
    "overlapping_runs": ("warning", "began {} before the end of another run of the same step and item"),
    "empty_cycle": ("warning", "no step ran in it"),
    "low_output": ("warning", "alive, but next to no output for long: {} of {} heartbeats say so"),
    "long_running": ("info", "took {}, where {} would be long"),
}
"""Of each anomaly how bad it is, worst first, and what it means."""
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=timezone.utc)


class _Anomaly(NamedTuple):
    name: str
    where: str
    at: float
    cycle: int | None
    run: Run | None
    severity: str
    explanation: str


def _anomaly(name: str, at: float, about: Run | int | None, *facts: str) -> _Anomaly:
    """About a run, a cycle, or the task as a whole."""
    run, cycle = (about, about.cycle) if isinstance(about, Run) else (None, about)
    where = "task" if cycle is None else f"cycle {cycle}"  # of a run, `Trace.where` tells
    severity, text = _ANOMALIES[name]
    return _Anomaly(name, where, at, cycle, run, severity, text.format(*facts))


@dataclass(slots=True, eq=False)
class _Cycle:
    number: int | None
    started: float
    runs: list[Run] = field(default_factory=list[Run])


@dataclass(slots=True, eq=False)
class _Beats:
    """What a run's events told, beyond its state."""

    heard: int = 0
    low: int = 0
    out: int | None = None
    err: int | None = None
    pid: int | None = None
    """Its process, unless that is known to be dead."""
    twice: bool = False
    """Whether there were two at once."""


class Row(NamedTuple):
    """A line of the tree: a run, or a step with several runs, or a cycle."""

    prefix: str
    """The branches before the label, three columns a level."""
    label: str
    started: float
    ended: float
    run: Run | None = None
    cycle: bool = False

    def place(self, extent: tuple[float, float]) -> tuple[float, float]:
        """Where it begins and ends in the time of the whole, from 0 to 1."""
        begin, end = extent
        whole = max(end - begin, 1e-6)
        first = min(1.0, max(0.0, (self.started - begin) / whole))  # in this order NaN becomes 0
        return first, max(first, min(1.0, max(0.0, (self.ended - begin) / whole)))


class Trace:
    """What happened in one task."""

    def __init__(self, task_id: str, pruned: int = 0) -> None:
        self.task_id = task_id
        self.pruned = pruned
        """How many of its events were deleted."""
        self.steps = Steps()
        self.reason: str | None = None
        """Why the task ended as it did."""
        self._events = 0
        self._begin, self._end = math.inf, -math.inf
        self._cycles: list[_Cycle] = []
        self._latest: dict[int | None, _Cycle] = {}
        self._beats: dict[Run, _Beats] = {}
        self._twice: list[_Anomaly] = []

    def fold(self, event: Event) -> Run | None:
        """Take in the next event; the run it is about, if any."""
        steps, was, known = self.steps, self.steps.status, len(self.steps.runs)
        run, kind, at = steps.fold(event), event.event_type, steps.seen
        self._events += 1
        self._begin, self._end = min(self._begin, at), max(self._end, at)  # in this order they do not take NaN
        if kind == EventType.TASK_STARTED and was == "running":
            text = "the task began again before it had ended: by a second runner, or after a crash"
            self._twice.append(_anomaly("duplicate_runner", at, None, text))
        if kind == EventType.TASK_STARTED or kind in TERMINAL_EVENT_TYPES:
            reason = payload.get("reason") if isinstance(payload := event.payload, dict) else None
            self.reason = reason if isinstance(reason, str) else None
        began = at if run is None else run.started  # of a run without a start in the log, before now
        self._begin = min(self._begin, began)
        if kind == EventType.CYCLE_STARTED or (len(steps.runs) > known and steps.cycle not in self._latest):
            self._latest[steps.cycle] = _Cycle(steps.cycle, began)
            self._cycles.append(self._latest[steps.cycle])
        if run is not None:
            if len(steps.runs) > known:
                self._latest[run.cycle].runs.append(run)
            self._hear(run, event)
        return run

    def _hear(self, run: Run, event: Event) -> None:
        beats, told = self._beats.setdefault(run, _Beats()), run.latest
        if told.event_id != event.event_id or run.outcome is not None:
            return  # it had ended before, or has now
        if told.pid is not None:
            if beats.pid not in (None, told.pid) and not beats.twice:
                beats.twice = True
                text = f"process {told.pid} while process {beats.pid} had not ended"
                self._twice.append(_anomaly("duplicate_runner", self.steps.seen, run, text))
            beats.pid = None if told.pid_alive is False else told.pid
        if event.event_type == EventType.STEP_HEARTBEAT:
            beats.heard += 1
            beats.low += told.output_state == "low_output"
            beats.out, beats.err = told.stdout_bytes, told.stderr_bytes

    # ------------------------------------------------------------------------------------------------ as of some moment

    @property
    def begin(self) -> float:
        """When it all began."""
        return self._begin if self._begin < math.inf else 0.0

    @property
    def gap(self) -> str | None:
        """What to say of deleted events, if there were any."""
        many = "1 earlier event was" if self.pruned == 1 else f"{self.pruned} earlier events were"
        return f"{many} deleted by a cleanup" if self.pruned else None

    def where(self, run: Run) -> str:
        """A run's name, and its cycle if there are several."""
        return run.label if run.cycle is None or len(self._cycles) == 1 else f"{run.label}, cycle {run.cycle}"

    def extent(self, now: float) -> tuple[float, float]:
        """When it all began, and when it ended, or was last heard of, or now. Looks at every run."""
        begin = self.begin
        return begin, max(begin, self._end, now if self.steps.task_state(now) == "running" else begin)

    def _over(self, run: Run, now: float) -> float:
        """When a run ended, or was last heard of, or now."""
        return max(run.started, now if self.steps.state(run, now) == "running" else run.seen)

    def rows(self, now: float) -> Iterator[Row]:
        """The tree: the cycles, in them the steps, in those their runs if there are several."""
        for cycle in self._cycles:
            each = [Row("", run.label, run.started, self._over(run, now), run) for run in cycle.runs]
            steps, inner = dict[str, list[Row]](), cycle.number is not None
            for row, run in zip(each, cycle.runs, strict=True):
                steps.setdefault(run.step, []).append(row)
            newest = next(reversed(steps), None)
            if inner:
                ended = max((row.ended for row in each), default=cycle.started)
                yield Row("", f"cycle {cycle.number}", cycle.started, ended, cycle=True)
            for step, rows in steps.items():
                last = inner * (step == newest)
                prefix, below = ("", "") if not inner else ("└─ ", "   ") if last else ("├─ ", "│  ")
                if len(rows) == 1:
                    yield rows[0]._replace(prefix=prefix)
                    continue
                yield Row(prefix, step, min(row.started for row in rows), max(row.ended for row in rows))
                for number, row in enumerate(rows, 1):
                    item = None if row.run is None else row.run.item
                    branch = "└─ " if number == len(rows) else "├─ "
                    yield row._replace(prefix=below + branch, label=f"run {number}" if item is None else item)

    def cells(self, row: Row, now: float) -> dict[str, str]:
        """What a table says of a row, by column. Start and end are counted from the task's beginning."""
        run = row.run
        start, end = (span(max(0.0, at - self.begin)) for at in (row.started, row.ended))
        if run is None:
            return {"start": start, "end": end, "took": span(max(0.0, row.ended - row.started))}
        state, cycle, code = self.steps.state(run, now), run.cycle, run.exit_code
        timeout = "timeout" if run.latest.event_type == EventType.STEP_TIMEOUT and not run.reason else None
        details = ", ".join(text for text in (run.reason, run.incident, timeout) if text)
        return {
            **{"step": run.step, "item": run.item or "", "cycle": "" if cycle is None else str(cycle)},
            **{"agent": run.agent or "", "status": state, "start": start},
            **{"end": {"running": "", "lost": "?"}.get(state, end), "took": span(self.steps.duration(run, now))},
            **{"exit": "" if code is None else str(code), "details": details},
        }

    def anomalies(self, now: float) -> list[_Anomaly]:
        """What is odd, the worst first."""
        found = [*self._twice, *self._odd(now)]
        for cycle in self._cycles:
            if not cycle.runs and cycle.number is not None and (self.steps.finished or cycle is not self._cycles[-1]):
                found.append(_anomaly("empty_cycle", cycle.started, cycle.number))
        found = [one if one.run is None else one._replace(where=self.where(one.run)) for one in found]
        return [one for name in _ANOMALIES for one in found if one.name == name]

    def _odd(self, now: float) -> Iterator[_Anomaly]:
        steps, took, before = self.steps, dict[str, list[float]](), dict[tuple[str, str | None], Run]()
        for run in steps.runs:
            if run.outcome not in (None, "skipped"):
                took.setdefault(run.step, []).append(steps.duration(run, now))
        limits = {step: max(10.0, 3 * median(times)) for step, times in took.items() if len(times) >= _USUAL}
        for run in steps.runs:
            beats, seconds, limit = self._beats[run], steps.duration(run, now), limits.get(run.step, _LONG)
            if steps.state(run, now) == "lost":
                yield _anomaly("missing_end", run.seen, run, span(max(0.0, run.seen - self.begin)))
            if beats.low:
                yield _anomaly("low_output", run.started, run, str(beats.low), str(beats.heard))
            if seconds > limit:
                yield _anomaly("long_running", run.started, run, span(seconds), span(limit))
            other = before.get((run.step, run.item))
            if other is not None and (over := self._over(other, now)) > run.started:
                yield _anomaly("overlapping_runs", run.started, run, span(over - run.started))
                if None not in (run.pid, other.pid) and run.pid != other.pid:
                    text = f"process {run.pid} while process {other.pid} had not ended"
                    yield _anomaly("duplicate_runner", run.started, run, text)
            if other is None or self._over(run, now) >= self._over(other, now):
                before[run.step, run.item] = run

    # ---------------------------------------------------------------------------------------------------------- as JSON

    def document(self, now: float) -> JsonObject:
        """The whole trace; see above."""
        steps, cycles = self.steps, list[JsonValue]()
        for cycle in self._cycles:
            ended = max((self._over(run, now) for run in cycle.runs), default=cycle.started)
            done = all(run.outcome for run in cycle.runs) and (steps.finished or cycle is not self._cycles[-1])
            runs: list[JsonValue] = [self.describe(run, now) for run in cycle.runs]
            cycles.append({"cycle": cycle.number, **_times(cycle.started, ended, done), "steps": runs})
        return {
            **{"task_id": self.task_id, "status": steps.task_state(now), "reason": self.reason},
            **{"finished": steps.finished, **_times(*self.extent(now), steps.finished)},
            **{"events": self._events, "last_event_id": steps.last_id, "pruned": self.pruned, "cycles": cycles},
            "anomalies": [
                {
                    **{"name": one.name, "severity": one.severity, "step": None if one.run is None else one.run.step},
                    **{"item": None if one.run is None else one.run.item, "cycle": one.cycle, "at": _at(one.at)},
                    "explanation": one.explanation,
                }
                for one in self.anomalies(now)
            ],
        }

    def describe(self, run: Run, now: float) -> JsonObject:
        """A run, as in `document`."""
        steps, beats, scope = self.steps, self._beats[run], observed_step_scope_label(run.scope)
        return {
            **{"step": run.step, "scope": scope, "item": run.item, "agent": run.agent, "status": steps.state(run, now)},
            **_times(run.started, self._over(run, now), run.outcome is not None),
            **{"duration_ms": round(1000 * steps.duration(run, now)), "exit_code": run.exit_code},
            **{"reason": run.reason, "incident": run.incident, "pid": run.pid},
            **{"stdout_bytes": beats.out, "stderr_bytes": beats.err},
        }


def _times(started: float, ended: float, over: bool) -> JsonObject:
    took = round(1000 * max(0.0, ended - started))
    return {"started_at": _at(started), "ended_at": _at(ended) if over else None, "duration_ms": took}


def _at(time: float) -> str | None:
    return None if (at := moment(time)) is None else at.isoformat(timespec="microseconds")


def moment(time: float) -> datetime | None:
    """A time as a date in UTC; ``None`` if it was none, or is beyond the years that dates have."""
    try:
        return _EPOCH + timedelta(seconds=time)
    except (ValueError, OverflowError):
        return None


def told(cells: Mapping[str, str]) -> str:
    """What more there is to say of a row: a bad exit code, and the details."""
    code = cells.get("exit", "")
    return ", ".join(text for text in (f"exit {code}" if code not in ("", "0") else "", cells.get("details")) if text)
