# SPDX-License-Identifier: MIT
"""An event log for workflow and agent orchestrators, in one SQLite file, without dependencies.

`EventLog` records what tasks and steps do, durably, from threads, coroutines and processes at once; `EventReader`
and the queries read it back. Everything public is in ``__all__``; everything else may change.
"""

from ._errors import ForkedError, LogClosedError, LogNotFoundError, OrchEventsError, PayloadError, PrunedError
from ._errors import QueueFullError, ReadError, SchemaError, WriteError
from ._events import STEP_EVENT_TYPES, Event, EventType, ObservedStepScope, StepEvent, StepLogPaths
from ._events import observed_step_scope_from_payload, observed_step_scope_label
from ._log import EventLog, insert_event_with_conn
from ._payload import JsonObject, JsonValue
from ._reader import EventReader, query_latest_step_log_paths, query_step_events
from ._retention import Cleanup, Stats
from ._sinks import EventSink, FanoutSink, NoopSink, RecordingSink, TracingEventSink
from ._tail import follow_log_file

__version__ = "0.1.0"

__all__ = [
    "STEP_EVENT_TYPES", "Cleanup", "Event", "EventLog", "EventReader", "EventSink", "EventType", "FanoutSink",
    "ForkedError", "JsonObject", "JsonValue", "LogClosedError", "LogNotFoundError", "NoopSink", "ObservedStepScope",
    "OrchEventsError", "PayloadError", "PrunedError", "QueueFullError", "ReadError", "RecordingSink", "SchemaError",
    "Stats", "StepEvent", "StepLogPaths", "TracingEventSink", "WriteError", "follow_log_file",
    "insert_event_with_conn", "observed_step_scope_from_payload", "observed_step_scope_label",
    "query_latest_step_log_paths", "query_step_events",
]

# Errors, reprs and `help` name the front door, whatever this package is called where it was vendored.
for _public in (
    Cleanup, Event, EventLog, EventReader, EventSink, EventType, FanoutSink, ForkedError, LogClosedError,
    LogNotFoundError, NoopSink, ObservedStepScope, OrchEventsError, PayloadError, PrunedError, QueueFullError,
    ReadError, RecordingSink, SchemaError, Stats, StepEvent, StepLogPaths, TracingEventSink, WriteError,
    follow_log_file, insert_event_with_conn, observed_step_scope_from_payload, observed_step_scope_label,
    query_latest_step_log_paths, query_step_events,
):
    _public.__module__ = __name__
