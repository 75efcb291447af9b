# SPDX-License-Identifier: MIT
"""A trace as JSON: what ``trace --json`` prints. Only new members are ever added.

- ``task_id``, ``status`` (running, paused, completed, failed, cancelled, what else a ``task_control`` event says, or
  unknown if no event says one), ``lost`` (whether all that should run is lost), ``reason`` (why its status is that,
  unless it runs: of a failure its ``reason``, else its ``error``, else what else it says), ``finished`` (if not, this
  is the trace so far), ``events``, ``last_event_id``, ``pruned`` (how many events of the task a cleanup has deleted:
  what they said is missing here);
- ``started_at``, ``ended_at``, ``duration_ms`` of the task, of each cycle and of each step: times as RFC 3339 in UTC;
  ``ended_at`` is null until the end; the duration then goes up to now, or to the newest event;
- ``cycles``, each with ``cycle`` (null for what ran in none) and ``steps``, the runs in the order they began: ``step``,
  ``parent_step`` (that inside which it ran), ``scope``, ``item`` (null if its scope is the task, even if its
  events carry one), ``agent``, ``status`` (succeeded, failed, skipped, running, lost, and finished if nothing says how),
  ``exit_code``, ``timed_out`` (then it has failed), ``restart`` (it ended in a planned restart of the orchestrator, and
  has succeeded: it did what it was for), ``reason``, ``incident``, ``pid``, and of the latest heartbeat
  ``stdout_bytes`` and ``stderr_bytes``;
- ``anomalies``, the worst first, each with ``name``, ``severity`` (error: intervene; warning: needs attention; info: a
  notice), ``step``, ``item``, ``cycle``, ``at``, ``explanation``.
"""

from datetime import (
    UTC,
    datetime,
    timedelta,
)
from typing import Final

from ... import JsonObject, observed_step_scope_label
from .anomalies import Anomaly, anomalies
from .step_run import StepRun
from .task_trace import Cycle, Trace

__all__ = ["describe_run", "document", "moment"]

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


def document(trace: Trace, now: float) -> JsonObject:
    """The whole trace."""
    task = trace.task
    begin, end = trace.extent(now)
    return {
        "task_id": trace.task_id,
        "status": task.status_name,
        "reason": task.reason,
        "lost": task.is_lost(now),
        "finished": task.finished,
        **_times(begin, end, task.finished),
        "events": trace.events,
        "last_event_id": task.last_id,
        "pruned": trace.pruned,
        "cycles": [_describe_cycle(trace, cycle, now) for cycle in trace.cycles],
        "anomalies": [_describe_anomaly(anomaly) for anomaly in anomalies(trace, now)],
    }


def _describe_cycle(trace: Trace, cycle: Cycle, now: float) -> JsonObject:
    has_ended = all(run.outcome for run in cycle.runs) and not trace.is_open(cycle)
    return {
        "cycle": cycle.number,
        **_times(cycle.started, trace.cycle_end(cycle, now), has_ended),
        "steps": [describe_run(trace, run, now) for run in cycle.runs],
    }


def describe_run(trace: Trace, run: StepRun, now: float) -> JsonObject:
    """One run, as in the document."""
    task = trace.task
    reports = trace.reports[run]
    return {
        "step": run.step,
        "parent_step": run.parent_step,
        "scope": observed_step_scope_label(run.scope),
        "item": run.item,
        "agent": run.agent,
        "status": task.run_state(run, now),
        **_times(run.started, task.ended(run, now), run.outcome is not None),
        "duration_ms": round(1000 * task.duration(run, now)),
        "exit_code": run.exit_code,
        "timed_out": run.timed_out,
        "restart": run.restart,
        "reason": run.why,
        "incident": run.incident,
        "pid": run.pid,
        "stdout_bytes": reports.stdout_bytes,
        "stderr_bytes": reports.stderr_bytes,
    }


def _describe_anomaly(anomaly: Anomaly) -> JsonObject:
    return {
        "name": anomaly.name,
        "severity": anomaly.severity,
        "step": anomaly.step,
        "item": anomaly.item,
        "cycle": anomaly.cycle,
        "at": _timestamp(anomaly.at),
        "explanation": anomaly.explanation,
    }


def _times(started: float, ended: float, has_ended: bool) -> JsonObject:
    return {
        "started_at": _timestamp(started),
        "ended_at": _timestamp(ended) if has_ended else None,
        "duration_ms": round(1000 * max(0.0, ended - started)),
    }


def _timestamp(time: float) -> str | None:
    at = moment(time)
    return None if at is None else at.isoformat(timespec="microseconds")


def moment(time: float) -> datetime | None:
    """A time as a date in UTC; ``None`` if it is none, or beyond the years that dates have."""
    try:
        return _EPOCH + timedelta(seconds=time)
    except (ValueError, OverflowError):
        return None
