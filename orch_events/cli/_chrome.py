# SPDX-License-Identifier: MIT
"""A trace in the Trace Event Format, which https://ui.perfetto.dev and ``chrome://tracing`` open.

The rule: what of that format we write is decided here. The task is the process; its cycles, and each item with its
agent, are the threads. Runs are complete events (``X``), the output that heartbeats tell of counters (``C``), failures
and incidents instants (``i``). Counters are written while events are read, so memory is that of the runs.
Format: https://docs.google.com/document/d/1CvAClvFfyA5R-PhYUmn5OOQtYMH4h6I0nSsKchNAySU
"""

import heapq
import json
from collections.abc import Callable, Iterable, Iterator
from typing import Final

from .. import Event, EventType, JsonObject, JsonValue
from ._steps import INCIDENTS, Run
from ._timeline import Row, Trace

__all__ = ["chrome"]

_PID: Final = 1  # not 0, which viewers take for the kernel's idle process
_LATEST: Final = 2.0**53 - 1
_FAILED: Final = "step_failed"
_STRIKES: Final = {*INCIDENTS, _FAILED, EventType.STEP_TIMEOUT, EventType.STEP_STALL_KILLED, EventType.TASK_FAILED}
_COLOURS: Final = {"succeeded": "good", "failed": "terrible", "lost": "bad", "skipped": "grey"}
"""Names of colours that ``chrome://tracing`` knows; Perfetto chooses its own."""


def chrome(trace: Trace, events: Iterable[Event], clock: Callable[[], float]) -> Iterator[str]:
    """The lines of the file. Folds `events` into `trace`; `clock` tells when that is done."""
    yield '{"displayTimeUnit":"ms","traceEvents":['
    yield _line("M", "process_name", args={"name": f"task {trace.task_id}"})
    struck = list[tuple[str, float, Run | None]]()
    for event in events:
        run, kind = trace.fold(event), event.event_type
        if run is not None and run.outcome == "failed" and kind == EventType.STEP_FINISHED:
            kind = _FAILED
        if kind in _STRIKES:
            struck.append((kind, trace.steps.seen, run))
        elif run is not None and kind == EventType.STEP_HEARTBEAT and run.latest.event_id == event.event_id:
            sizes = {"stdout": run.latest.stdout_bytes, "stderr": run.latest.stderr_bytes}
            series: JsonObject = {name: size for name, size in sizes.items() if size is not None}
            if series:
                yield "," + _line("C", f"output of {run.label}", trace.steps.seen, args=series)
    tids, now = dict[Run, int](), clock()
    for row, track, tid in _placed(trace.rows(now)):
        if track is not None:
            yield "," + _line("M", "thread_name", tid=tid, args={"name": track})
            yield "," + _line("M", "thread_sort_index", tid=tid, args={"sort_index": tid})
        took = max(0, _micros(row.ended) - _micros(row.started))
        if row.run is None:
            yield "," + _line("X", row.label, row.started, tid, cat="cycle", dur=took)
            continue
        tids[row.run], about = tid, trace.describe(row.run, now)
        state = trace.steps.state(row.run, now)
        colour: JsonObject = {"cname": _COLOURS[state]} if state in _COLOURS else {}
        yield "," + _line("X", row.run.label, row.started, tid, cat=state, dur=took, args=about, **colour)
    for kind, at, run in struck:
        whole: JsonObject = {"s": "p"} if run is None else {"s": "t", "args": {"step": run.label, "reason": run.reason}}
        yield "," + _line("i", kind, at, 1 if run is None else tids[run], cat="incident", **whole)
    yield "]" + (f',"otherData":{{"gap":{json.dumps(trace.gap)}}}' if trace.gap else "") + "}"


def _placed(rows: Iterable[Row]) -> Iterator[tuple[Row, str | None, int]]:
    """Every cycle and run, its thread, and that thread's name when it is the first there.

    What overlaps is put on threads of its own: on one, slices may nest, but not cross (https://perfetto.dev/docs/faq).
    """
    busy, free, tids = dict[str, list[tuple[int, int]]](), dict[str, list[int]](), dict[tuple[str, int], int]()
    found = list[tuple[str, Row]]()
    for row in rows:
        if row.run is not None:
            found.append((", ".join(name for name in (row.run.item, row.run.agent) if name) or "task", row))
        elif row.cycle:
            found.append(("cycles", row))
    found.sort(key=_start)
    for track, row in found:
        # Heaps, of the lanes in use by their ends and of the others: thousands of runs may go on at once. Times are in
        # microseconds, as in the file: rounding makes nothing overlap.
        ends, left, start = busy.setdefault(track, []), free.setdefault(track, []), _micros(row.started)
        while ends and ends[0][0] <= start:
            heapq.heappush(left, heapq.heappop(ends)[1])
        lane = heapq.heappop(left) if left else len(ends)
        heapq.heappush(ends, (max(start, _micros(row.ended)), lane))
        new = (track, lane) not in tids
        tid = tids.setdefault((track, lane), len(tids) + 1)
        yield row, (track if lane == 0 else f"{track} ({lane + 1})") if new else None, tid


def _start(placed: tuple[str, Row]) -> int:
    return _micros(placed[1].started)


def _micros(time: float) -> int:
    """What viewers can place: nothing before 1970, nothing beyond the integers that doubles hold, no NaN."""
    return round(min(max(0.0, time * 1e6), _LATEST))  # in this order NaN becomes 0


def _line(phase: str, name: str, at: float = 0.0, tid: int = 1, **more: JsonValue) -> str:
    event: JsonObject = {"ph": phase, "name": name, "ts": _micros(at), "pid": _PID, "tid": tid, **more}
    return json.dumps(event, separators=(",", ":"))
