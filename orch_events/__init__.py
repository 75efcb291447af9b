# SPDX-License-Identifier: MIT
"""An event log for workflow and agent orchestrators, in one SQLite file, without dependencies.

`EventLog` records what tasks and steps do, durably, from threads, coroutines and processes at once;
`EventReader` and the queries read it back. Everything public is in ``__all__``; everything else may
change.

The package is laid out in layers. Each imports only what stands above it here:

==================  ==============================================================================
``_values``         plain values and what they mean: errors, JSON text, event types, events, rows
``_storage``        where rows live: ``interface`` is the seam; engines: ``sqlite``, ``postgres``
``_core``           knows no engine: the commit queue, acks for coroutines, paging, following
``_maintenance``    retention, archive, figures; may be deleted
front files         ``_event_log``, ``_event_reader``, ``_recorded_step``, ``_sinks`` and others
``cli``             the command line: commands, the model of a task, what is shown; may be deleted
==================  ==============================================================================

An event goes one way: the front checks its call, `new_row` makes a row of it, the commit queue gives
the row to a session of the store. And back: a session reads a page of rows, paging sees to gaps, and
the page becomes `Event` or `StepEvent` values.

The package re-imagines one module of an orchestrator written in Rust, and either program opens the
other's file:

=================================================  =================================================
Rust                                               here
=================================================  =================================================
``ObservedStepScope`` and its two functions        the same
``EventSink``, ``NoopSink``, ``TracingEventSink``  the same; ``tracing`` is `logging`
``insert_event(&state, …).await``                  `EventLog.insert_event_async`, `EventLog.insert_event`
``StepEvent``                                      `StepEvent`, with `event_id`
``query_step_events(path, task)``, ``…_async``     `query_step_events`, `EventLog.query_step_events_async`
``query_latest_step_log_paths(path, task)``        the same → `StepLogPaths`
=================================================  =================================================

Different on purpose: `pid` and `stagnant_heartbeats` keep 64 bits instead of wrapping at 32, floats
are correctly rounded, and a database error is raised, never turned into "no rows".
"""

from ._core.sink_delivery import EventSink
from ._event_log import EventLog
from ._event_reader import (
    EventReader,
    query_latest_step_log_paths,
    query_step_events,
)
from ._outbox import insert_event_with_conn
from ._output_tail import follow_log_file
from ._sinks import (
    FanoutSink,
    NoopSink,
    RecordingSink,
    TracingEventSink,
)
from ._values.cleanup import Cleanup
from ._values.errors import (
    ForkedError,
    LogClosedError,
    LogNotFoundError,
    OrchEventsError,
    PayloadError,
    PrunedError,
    QueueFullError,
    ReadError,
    SchemaError,
    WriteError,
)
from ._values.event_types import (
    STEP_EVENT_TYPES,
    EventType,
    ObservedStepScope,
    observed_step_scope_from_payload,
    observed_step_scope_label,
)
from ._values.events import (
    Event,
    StepEvent,
    StepLogPaths,
)
from ._values.json_text import JsonObject, JsonValue
from ._values.postgres_database import (
    PostgresConnection,
    PostgresCursor,
    PostgresDatabase,
)
from ._values.stats import Stats
from ._values.task_summary import TaskSummary

__version__ = "0.1.0"

__all__ = [
    "STEP_EVENT_TYPES",
    "Cleanup",
    "Event",
    "EventLog",
    "EventReader",
    "EventSink",
    "EventType",
    "FanoutSink",
    "ForkedError",
    "JsonObject",
    "JsonValue",
    "LogClosedError",
    "LogNotFoundError",
    "NoopSink",
    "ObservedStepScope",
    "OrchEventsError",
    "PayloadError",
    "PostgresConnection",
    "PostgresCursor",
    "PostgresDatabase",
    "PrunedError",
    "QueueFullError",
    "ReadError",
    "RecordingSink",
    "SchemaError",
    "Stats",
    "StepEvent",
    "StepLogPaths",
    "TaskSummary",
    "TracingEventSink",
    "WriteError",
    "follow_log_file",
    "insert_event_with_conn",
    "observed_step_scope_from_payload",
    "observed_step_scope_label",
    "query_latest_step_log_paths",
    "query_step_events",
]


# Errors, reprs and `help` name the front door, also where the package was vendored under another name.
for _public in (
    Cleanup,
    Event,
    EventLog,
    EventReader,
    EventSink,
    EventType,
    FanoutSink,
    ForkedError,
    LogClosedError,
    LogNotFoundError,
    NoopSink,
    ObservedStepScope,
    OrchEventsError,
    PayloadError,
    PostgresConnection,
    PostgresCursor,
    PostgresDatabase,
    PrunedError,
    QueueFullError,
    ReadError,
    RecordingSink,
    SchemaError,
    Stats,
    StepEvent,
    StepLogPaths,
    TaskSummary,
    TracingEventSink,
    WriteError,
    follow_log_file,
    insert_event_with_conn,
    observed_step_scope_from_payload,
    observed_step_scope_label,
    query_latest_step_log_paths,
    query_step_events,
):
    _public.__module__ = __name__
