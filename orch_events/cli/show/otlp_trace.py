# SPDX-License-Identifier: MIT
"""A trace as one request of the OpenTelemetry protocol in JSON, for any collector: the task is the root span.

    orch-events trace TASK --format otlp | curl -d @- -H 'Content-Type: application/json' localhost:4318/v1/traces

Ids are those of the trace context that ``run`` found and passed on. Where there was none they are made from the task and
the run, so that the same trace has the same ids each time. A run that failed has the status ERROR; any other leaves it
UNSET, and one without an end says so in an attribute.
Format: https://opentelemetry.io/docs/specs/otlp/#json-protobuf-encoding; names of attributes:
https://opentelemetry.io/docs/specs/semconv/registry/attributes/cicd/
"""

import json
import re
from hashlib import blake2b
from typing import Final

from ... import JsonObject, JsonValue, __version__
from ..model.step_run import StepRun
from ..model.task_trace import Trace
from ..model.trace_context import TraceContext

__all__ = ["otlp_json"]

_INTERNAL: Final = 1
"""The kind of all spans."""

_ERROR: Final = 2
"""The status code of a failure."""

_LAST_NANOSECOND: Final = (1 << 63) - 1

_SPAN_ID: Final = re.compile(r"[0-9a-f]{16}")

_RUN_RESULTS: Final = {
    "succeeded": "success",
    "finished": "success",
    "failed": "failure",
    "skipped": "skip",
}
"""By the state of a run: ``cicd.pipeline.task.run.result``."""

_TASK_RESULTS: Final = {
    "completed": "success",
    "failed": "failure",
    "cancelled": "cancellation",
}
"""By the status of a task: ``cicd.pipeline.result``."""


def otlp_json(trace: Trace, now: float) -> str:
    """The body of a request to ``/v1/traces``, in one line."""
    spans = _Spans(trace, now)
    resource: JsonObject = {"service.name": "orch-events"}
    hosts = [run.host for run in trace.task.runs if run.host is not None]
    if hosts:
        resource["host.name"] = hosts[0]
    scope: JsonObject = {"name": "orch_events", "version": __version__}
    request: JsonObject = {
        "resourceSpans": [
            {
                "resource": {"attributes": _attributes(resource)},
                "scopeSpans": [{"scope": scope, "spans": spans.all()}],
            }
        ]
    }
    return json.dumps(request, ensure_ascii=False, separators=(",", ":"))


class _Spans:
    """The spans of one task."""

    def __init__(self, trace: Trace, now: float) -> None:
        self._trace = trace
        self._now = now
        self._begin, self._end = trace.extent(now)
        self._name = f"{trace.task_id}\0{self._begin!r}"
        self._trace_id = self._hex_id("trace", 16)
        self._root_id = self._hex_id("task", 8)
        self._caller = ""
        """The span within which the task was run, elsewhere."""
        self._ids = {run: self._run_id(run, number) for number, run in enumerate(trace.task.runs)}
        own = set(self._ids.values())
        for run in trace.task.runs:
            context = TraceContext.parse(run.traceparent or "")
            if context is not None:
                self._trace_id = context.trace_id
                if context.span_id not in own:
                    self._caller = context.span_id
                break

    def all(self) -> list[JsonValue]:
        spans: list[JsonValue] = [self._task_span()]
        spans.extend(map(self._run_span, self._trace.task.runs))
        return spans

    def _hex_id(self, name: str, size: int) -> str:
        text = f"{self._name}\0{name}".encode(errors="surrogatepass")
        return blake2b(text, digest_size=size).hexdigest()

    def _run_id(self, run: StepRun, number: int) -> str:
        recorded = run.span_id or ""
        if _SPAN_ID.fullmatch(recorded):
            return recorded
        return self._hex_id(f"run {number} {run.label}", 8)

    def _task_span(self) -> JsonObject:
        task = self._trace.task
        attributes: JsonObject = {
            "cicd.pipeline.run.id": self._trace.task_id,
            "cicd.pipeline.result": _TASK_RESULTS.get(task.status_name),
            "orch_events.status": task.status_name,
            "orch_events.unfinished": None if task.finished else True,
        }
        failure = None
        if task.status_name == "failed":
            failure = task.reason or "failed"
            attributes["error.type"] = "_OTHER"
        return self._span(
            self._root_id,
            self._caller,
            self._trace.task_id,
            self._begin,
            self._end,
            attributes,
            failure,
        )

    def _run_span(self, run: StepRun) -> JsonObject:
        task = self._trace.task
        state = task.run_state(run, self._now)
        attributes: JsonObject = {
            "cicd.pipeline.task.name": run.step,
            "cicd.pipeline.task.run.id": self._ids[run],
            "cicd.pipeline.task.run.result": _RUN_RESULTS.get(state),
            "orch_events.item": run.item,
            "orch_events.agent": run.agent,
            "orch_events.cycle": run.cycle,
            "orch_events.state": state,
            "orch_events.unfinished": None if run.outcome is not None else True,
            "process.pid": run.pid,
            "process.exit.code": run.exit_code,
        }
        failure = None
        if state == "failed":
            failure = run.why or state
            attributes["error.type"] = _error_type(run)
            if run.timed_out:
                attributes["cicd.pipeline.task.run.result"] = "timeout"
        parent_id = self._root_id
        if run.parent is not None:
            parent_id = self._ids[run.parent]
        return self._span(
            self._ids[run],
            parent_id,
            run.step,
            run.started,
            task.ended(run, self._now),
            attributes,
            failure,
        )

    def _span(
        self,
        span_id: str,
        parent_id: str,
        name: str,
        started: float,
        ended: float,
        attributes: JsonObject,
        failure: str | None,
    ) -> JsonObject:
        status: JsonObject = {}
        if failure is not None:
            status = {"code": _ERROR, "message": _text(failure)}
        return {
            "traceId": self._trace_id,
            "spanId": span_id,
            "parentSpanId": parent_id,
            "name": _text(name),
            "kind": _INTERNAL,
            "startTimeUnixNano": _nanoseconds(started),
            "endTimeUnixNano": _nanoseconds(max(started, ended)),
            "attributes": _attributes(attributes),
            "status": status,
        }


def _error_type(run: StepRun) -> str:
    """One of few words, as the conventions want it."""
    if run.timed_out:
        return "timeout"
    if run.error_type is not None:
        return run.error_type
    if run.exit_code is not None:
        return str(run.exit_code)
    return "_OTHER"


def _attributes(named: JsonObject) -> list[JsonValue]:
    """Those that have a value."""
    return [
        {"key": name, "value": _value(value)} for name, value in named.items() if value is not None
    ]


def _value(value: JsonValue) -> JsonObject:
    if isinstance(value, bool):
        return {"boolValue": value}
    if isinstance(value, int):
        return {"intValue": str(value)}  # 64 bits are a string in this encoding
    return {"stringValue": _text(str(value))}


def _text(text: str) -> str:
    """A text that can be UTF-8: bytes of a file that are not reach us as lone surrogates."""
    return text.encode(errors="backslashreplace").decode()


def _nanoseconds(time: float) -> str:
    """A time since the epoch, as exactly as it is known; 0 if it is none or before."""
    microseconds = round(max(0.0, time) * 1e6) if time < _LAST_NANOSECOND / 1e9 else 0
    return str(1000 * microseconds)
