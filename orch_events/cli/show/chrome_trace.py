# SPDX-License-Identifier: MIT
"""A trace in the Trace Event Format, which https://ui.perfetto.dev and ``chrome://tracing`` open.

The task is the process; its cycles, and each item with its agent, are the threads. Runs are complete events (``X``), the
output that heartbeats report counters (``C``), failures and incidents instants (``i``). Counters are written while
events are read, so memory is that of the runs.
Format: https://docs.google.com/document/d/1CvAClvFfyA5R-PhYUmn5OOQtYMH4h6I0nSsKchNAySU
"""

import heapq
import json
from collections.abc import (
    Callable,
    Iterable,
    Iterator,
)
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from ... import (
    Event,
    EventType,
    JsonObject,
    JsonValue,
)
from ..model.event_meaning import INCIDENTS, step_kind
from ..model.step_run import StepRun
from ..model.task_trace import Trace
from ..model.trace_document import describe_run
from ..model.trace_tree import Row, rows

__all__ = ["trace_event_lines"]

_PID: Final = 1
"""Not 0, which viewers take for the kernel's idle process."""

_LARGEST_TIME: Final = 2.0**53 - 1

_FAILED: Final = "step_failed"

_INSTANTS: Final = {
    *INCIDENTS,
    _FAILED,
    EventType.STEP_TIMEOUT,
    EventType.STEP_STALL_KILLED,
    EventType.TASK_FAILED,
}

_COLOURS: Final = {"succeeded": "good", "failed": "terrible", "lost": "bad", "skipped": "grey"}
"""Names of colours that ``chrome://tracing`` knows; Perfetto chooses its own."""


class _Instant(NamedTuple):
    kind: str
    at: float
    run: StepRun | None


def trace_event_lines(
    trace: Trace, events: Iterable[Event], clock: Callable[[], float]
) -> Iterator[str]:
    """The lines of the file. Applies `events` to `trace`; `clock` gives the time when that is done."""
    yield '{"displayTimeUnit":"ms","traceEvents":['
    yield _line("M", "process_name", args={"name": f"task {trace.task_id}"})
    instants = list[_Instant]()
    for event in events:
        run = trace.apply(event)
        kind = step_kind(event.event_type)
        if kind == EventType.STEP_FINISHED and run is not None and run.outcome == "failed":
            kind = _FAILED
        if kind in _INSTANTS:
            instants.append(_Instant(kind, trace.task.seen, run))
        elif kind == EventType.STEP_HEARTBEAT:
            yield from _counters(run, event, trace.task.seen)
    now = clock()
    threads = dict[StepRun, int]()
    for slice_ in _slices(rows(trace, now)):
        if slice_.row.run is not None:
            threads[slice_.row.run] = slice_.thread
        yield from _slice_lines(trace, slice_, now)
    for instant in instants:
        yield "," + _instant_line(instant, threads)
    gap = ""
    if trace.gap:
        gap = f',"otherData":{{"gap":{json.dumps(trace.gap)}}}'
    yield f"]{gap}}}"


def _counters(run: StepRun | None, event: Event, at: float) -> Iterator[str]:
    """What a heartbeat reports, unless the run had ended before."""
    if run is None or run.latest.event_id != event.event_id:
        return
    series: JsonObject = {}
    if run.latest.stdout_bytes is not None:
        series["stdout"] = run.latest.stdout_bytes
    if run.latest.stderr_bytes is not None:
        series["stderr"] = run.latest.stderr_bytes
    if series:
        yield "," + _line("C", f"output of {run.label}", at, args=series)


def _instant_line(instant: _Instant, threads: dict[StepRun, int]) -> str:
    run = instant.run
    if run is None:
        return _line(
            "i",
            instant.kind,
            instant.at,
            cat="incident",
            s="p",
        )
    args: JsonObject = {"step": run.label, "reason": run.why}
    return _line(
        "i",
        instant.kind,
        instant.at,
        threads[run],
        cat="incident",
        s="t",
        args=args,
    )


class _Slice(NamedTuple):
    """A cycle or a run, and where it is shown."""

    row: Row
    thread: int
    new_thread: str | None
    """The thread's name, if this is the first there."""


def _slice_lines(trace: Trace, slice_: _Slice, now: float) -> Iterator[str]:
    row, thread, name = slice_
    if name is not None:
        yield "," + _line("M", "thread_name", thread=thread, args={"name": name})
        yield "," + _line("M", "thread_sort_index", thread=thread, args={"sort_index": thread})
    duration = max(0, _microseconds(row.ended) - _microseconds(row.started))
    run = row.run
    if run is None:
        yield "," + _line(
            "X",
            row.label,
            row.started,
            thread,
            cat="cycle",
            dur=duration,
        )
        return
    more: JsonObject = {"args": describe_run(trace, run, now)}
    state = trace.task.run_state(run, now)
    if state in _COLOURS:
        more["cname"] = _COLOURS[state]
    yield "," + _line(
        "X",
        run.label,
        row.started,
        thread,
        cat=state,
        dur=duration,
        **more,
    )


@dataclass(slots=True)
class _Track:
    """What is shown on threads of one name: on one, slices may nest, but not cross (https://perfetto.dev/docs/faq).

    So what overlaps is put on lanes, each a thread. Both lists are heaps: thousands of runs may go on at once.
    """

    busy: list[tuple[int, int]] = field(default_factory=list[tuple[int, int]])
    """The end and the lane of what was put on each lane in use."""
    free: list[int] = field(default_factory=list[int])
    threads: list[int] = field(default_factory=list[int])
    """By lane."""

    def lane(self, start: int, end: int) -> int:
        """The lowest lane that is free at that time. Times are in whole microseconds, as in the file."""
        while self.busy and self.busy[0][0] <= start:
            _, lane = heapq.heappop(self.busy)
            heapq.heappush(self.free, lane)
        lane = heapq.heappop(self.free) if self.free else len(self.busy)
        heapq.heappush(self.busy, (max(start, end), lane))
        return lane


def _slices(tree: Iterable[Row]) -> Iterator[_Slice]:
    """Every cycle and run, with its thread."""
    tracks = dict[str, _Track]()
    threads = 0
    shown = [row for row in tree if row.run is not None or row.is_cycle]
    shown.sort(key=_start)
    for row in shown:
        name = _track_name(row)
        track = tracks.setdefault(name, _Track())
        lane = track.lane(_microseconds(row.started), _microseconds(row.ended))
        if lane < len(track.threads):
            yield _Slice(row, track.threads[lane], None)
        else:
            threads += 1
            track.threads.append(threads)
            yield _Slice(row, threads, name if lane == 0 else f"{name} ({lane + 1})")


def _start(row: Row) -> int:
    return _microseconds(row.started)


def _track_name(row: Row) -> str:
    if row.run is None:
        return "cycles"
    return ", ".join(name for name in (row.run.item, row.run.agent) if name) or "task"


def _microseconds(time: float) -> int:
    """What viewers can place: nothing before 1970, nothing beyond the integers that doubles hold, no NaN."""
    return round(min(max(0.0, time * 1e6), _LARGEST_TIME))  # in this order NaN becomes 0


def _line(phase: str, name: str, at: float = 0.0, thread: int = 1, **more: JsonValue) -> str:
    event: JsonObject = {
        "ph": phase,
        "name": name,
        "ts": _microseconds(at),
        "pid": _PID,
        "tid": thread,
        **more,
    }
    return json.dumps(event, separators=(",", ":"))
