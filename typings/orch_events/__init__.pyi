# SPDX-License-Identifier: MIT
"""The public contract of orch_events on one page. ``tests/test_contract.py`` holds the source to it, word by word.

Names with a leading underscore do not exist at run time: they only spare repetition here.
"""

import logging
import os
import sqlite3
import threading
from collections.abc import (
    AsyncIterator,
    Callable,
    Collection,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from concurrent.futures import Future
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from types import MappingProxyType
from typing import Final, Literal, NamedTuple, Protocol, Self, TypeAlias

__version__: str

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

# ------------------------------------------------------------------------------------------------------------ the log

# What an EventLog and an EventReader answer alike, from any thread; each ``…_async`` twin without blocking the event
# loop. Raise ReadError.
class _Queries:
    def query_step_events(self, task_id: str, *, after_id: int = 0) -> list[StepEvent]: ...
    async def query_step_events_async(
        self, task_id: str, *, after_id: int = 0
    ) -> list[StepEvent]: ...

    # Where the task's newest step writes its output; None if it does not say.
    def query_latest_step_log_paths(self, task_id: str) -> StepLogPaths | None: ...
    async def query_latest_step_log_paths_async(self, task_id: str) -> StepLogPaths | None: ...

    # Events of one task, or of all, in id order; streamed by pages.
    def query_events(
        self,
        task_id: str | None = None,
        *,
        event_type_prefix: str | None = None,
        after_id: int = 0,
        limit: int | None = None,
    ) -> Iterator[Event]: ...
    def query_events_async(
        self,
        task_id: str | None = None,
        *,
        event_type_prefix: str | None = None,
        after_id: int = 0,
        limit: int | None = None,
    ) -> AsyncIterator[Event]: ...

    # Events as they are committed, by this process or any other, each once and in id order. Ends when `stop` is set,
    # when none came for `timeout` seconds, or with the task's end.
    def follow_step_events(
        self,
        task_id: str,
        *,
        after_id: int = 0,
        stop: threading.Event | None = None,
        timeout: float | None = None,
        until_finished: bool = False,
    ) -> Iterator[StepEvent]: ...
    def follow_step_events_async(
        self,
        task_id: str,
        *,
        after_id: int = 0,
        timeout: float | None = None,
        until_finished: bool = False,
    ) -> AsyncIterator[StepEvent]: ...
    def follow_events(
        self,
        task_id: str | None = None,
        *,
        after_id: int = 0,
        stop: threading.Event | None = None,
        timeout: float | None = None,
        until_finished: bool = False,
    ) -> Iterator[Event]: ...
    def follow_events_async(
        self,
        task_id: str | None = None,
        *,
        after_id: int = 0,
        timeout: float | None = None,
        until_finished: bool = False,
    ) -> AsyncIterator[Event]: ...

    # The tasks, the most recently active first: those with a status, or with an event since a moment or within an age.
    def query_tasks(
        self,
        *,
        status: str | None = None,
        since: timedelta | datetime | None = None,
        limit: int | None = None,
    ) -> list[TaskSummary]: ...
    async def query_tasks_async(
        self,
        *,
        status: str | None = None,
        since: timedelta | datetime | None = None,
        limit: int | None = None,
    ) -> list[TaskSummary]: ...

    # Figures: by an index and a sample, so within a second of millions of events.
    def stats(self, *, days: int = 14) -> Stats: ...
    async def stats_async(self, *, days: int = 14) -> Stats: ...

# (task_id, task_item_id, event_type, payload)
_NewEvent: TypeAlias = tuple[str, str | None, str, Mapping[str, object]]

# The log opened for writing and reading. Raises LogNotFoundError, SchemaError, WriteError; a ValueError for an option
# that cannot be. After close every method but close raises LogClosedError, in the child of a fork ForkedError.
class EventLog(_Queries):
    def __init__(
        self,
        path: str | os.PathLike[str] | PostgresDatabase,
        *,
        sink: EventSink | None = None,
        durability: Literal["full", "normal"] = "full",
        queue_capacity: int = 10_000,
        busy_timeout: float = 10.0,
    ) -> None: ...

    # One event; its id, once it is durable. Raise PayloadError, QueueFullError, WriteError.
    def insert_event(
        self,
        task_id: str,
        task_item_id: str | None,
        event_type: str,
        payload: Mapping[str, object] = MappingProxyType({}),
    ) -> int: ...
    async def insert_event_async(
        self,
        task_id: str,
        task_item_id: str | None,
        event_type: str,
        payload: Mapping[str, object] = MappingProxyType({}),
    ) -> int: ...

    # Many events in one transaction, all or none; their ids.
    def insert_events(self, events: Iterable[_NewEvent]) -> list[int]: ...
    async def insert_events_async(self, events: Iterable[_NewEvent]) -> list[int]: ...

    # One event, without waiting for it: the future resolves to its id.
    def submit_event(
        self,
        task_id: str,
        task_item_id: str | None,
        event_type: str,
        payload: Mapping[str, object] = MappingProxyType({}),
    ) -> Future[int]: ...

    # A block of code as a step: its start, its end however it ends, heartbeats if wanted. `as` gives the dictionary that
    # is added to the end's payload.
    def step(
        self,
        task_id: str,
        step: str,
        *,
        item: str | None = None,
        agent: str | None = None,
        payload: Mapping[str, object] = MappingProxyType({}),
        heartbeat: float | None = None,
    ) -> AbstractContextManager[dict[str, object]]: ...
    def step_async(
        self,
        task_id: str,
        step: str,
        *,
        item: str | None = None,
        agent: str | None = None,
        payload: Mapping[str, object] = MappingProxyType({}),
        heartbeat: float | None = None,
    ) -> AbstractAsyncContextManager[dict[str, object]]: ...

    # Everything accepted so far is durable, or this raises what failed.
    def flush(self) -> None: ...
    async def flush_async(self) -> None: ...

    # Delete old events beside live writers, archived first if wanted, and give their space back. Raise ValueError,
    # WriteError, OSError.
    def cleanup(
        self,
        *,
        older_than: timedelta | datetime | None = None,
        keep_last: int | None = None,
        max_bytes: int | None = None,
        only_finished: bool = True,
        dry_run: bool = False,
        batch: int = 5000,
        archive: str | os.PathLike[str] | None = None,
        gzip: bool = False,
        abandoned: Collection[
            str
        ] = (),  # tasks that count as ended once all their events are so old
        output: str | os.PathLike[str] | Iterable[str | os.PathLike[str]] = (),  # folders of `run`
        archive_output: bool = False,
        progress: Callable[[Cleanup], object] | None = None,
    ) -> Cleanup: ...

    # Drain, then close; idempotent.
    def close(self) -> None: ...
    async def aclose(self) -> None: ...
    def __enter__(self) -> Self: ...
    def __exit__(self, _kind: object, error: BaseException | None, _traceback: object) -> None: ...
    async def __aenter__(self) -> Self: ...
    async def __aexit__(
        self, _kind: object, error: BaseException | None, _traceback: object
    ) -> None: ...
    def __del__(self) -> None: ...  # closes, with a ResourceWarning

# The log opened for reading only: creates nothing, writes nothing. Raises LogNotFoundError, SchemaError, ReadError.
class EventReader(_Queries):
    def __init__(
        self,
        path: str | os.PathLike[str] | PostgresDatabase,
        *,
        busy_timeout: float = 10.0,
        must_exist: bool = True,
    ) -> None: ...
    def close(self) -> None: ...
    async def aclose(self) -> None: ...
    def __enter__(self) -> Self: ...
    def __exit__(self, _kind: object, error: BaseException | None, _traceback: object) -> None: ...
    async def __aenter__(self) -> Self: ...
    async def __aexit__(
        self, _kind: object, error: BaseException | None, _traceback: object
    ) -> None: ...
    def __del__(self) -> None: ...  # closes, with a ResourceWarning

# One query on a path, which is opened and closed for it.
def query_step_events(
    db_path: str | os.PathLike[str] | PostgresDatabase, task_id: str
) -> list[StepEvent]: ...
def query_latest_step_log_paths(
    db_path: str | os.PathLike[str] | PostgresDatabase, task_id: str
) -> StepLogPaths | None: ...

# The text of a step's output file and what is written to it, as `tail -F` shows it, until `stop` is set.
def follow_log_file(
    path: str | os.PathLike[str], *, lines: int | None = None, stop: threading.Event | None = None
) -> Iterator[str]: ...

# One event in the caller's own transaction, on the caller's own connection; its id.
def insert_event_with_conn(
    conn: sqlite3.Connection | PostgresConnection,
    task_id: str,
    task_item_id: str | None,
    event_type: str,
    payload: Mapping[str, object] = MappingProxyType({}),
    *,
    schema: str = "orch_events",
) -> int: ...

# ------------------------------------------------------------------------------------------------------------- values

JsonValue: TypeAlias = bool | int | float | str | list[JsonValue] | dict[str, JsonValue] | None
JsonObject: TypeAlias = dict[str, JsonValue]

# A log in PostgreSQL, instead of a URL: with connections that the host makes, of psycopg 3 or psycopg2.
@dataclass(frozen=True, slots=True)
class PostgresDatabase:
    connect: Callable[[], PostgresConnection]
    schema: str = "orch_events"

class PostgresConnection(Protocol):
    def cursor(self) -> PostgresCursor: ...
    def close(self) -> None: ...

class PostgresCursor(Protocol):
    def execute(self, query: bytes, params: Sequence[object], /) -> object: ...
    def fetchall(self) -> Sequence[object]: ...

# The well-known types. Every call takes plain str, so other types work as well.
#
# ============================  ===============================  =========================================
# event types                   members of the payload           what reads them
# ============================  ===============================  =========================================
# task_started                  goal, name                       the status; what ``tasks`` says it is about
# task_completed task_failed    reason, else error               the status, and why; the end of following
# task_cancelled task_paused    reason                           the status
# task_control                  status                           the status is that word
# cycle_started                 cycle                            the cycle of the steps that follow
# every step_… event            step (or phase), step_scope,     `StepEvent`; every view of a step
#                               cycle, agent_id, parent_step
# step_started step_spawned     stdout_path, stderr_path, host   ``logs``; `query_latest_step_log_paths`
# step_started step_spawned     pid, heartbeat_secs, command,    ``watch``, ``trace``: what runs, and when it is
#                               reason                           lost; ``tasks``: what it is about
# step_started                  traceparent, span_id             ``trace --format otlp``
# step_heartbeat                elapsed_secs, pid, pid_alive,    `StepEvent`; ``watch``, ``trace``: that it
#                               stdout_bytes, stderr_bytes,      lives, what it prints, what is odd
#                               stdout_delta_bytes,
#                               stderr_delta_bytes,
#                               stagnant_heartbeats,
#                               output_state
# step_finished                 success, else exit_code;         `StepEvent`; ``watch``, ``trace``: how it ended,
#                               duration_ms, confidence,         and why
#                               timed_out, restart, reason,
#                               else error; error_type
# step_skipped step_timeout     reason, else error               the same
# step_stall_killed
# sandbox_denied                step, reason                     incidents in ``watch`` and ``trace``
# sandbox_resource_exceeded
# sandbox_network_blocked
# daemon_pid_kill_blocked
# auto_rollback_failed
# item_blocked_consecutive_failures
# chain_step_started            parent_step                      as step_…, inside that step
# chain_step_finished
# dynamic_step_started          step_id                          as step_…, named by it
# dynamic_step_finished
# dynamic_node_ready            node_id, scope                   as step_…, named by it
# dynamic_node_started
# dynamic_node_finished
# dynamic_node_skipped
# ============================  ===============================  =========================================
class EventType(StrEnum):
    TASK_STARTED = "task_started"
    TASK_PAUSED = "task_paused"
    TASK_COMPLETED = "task_completed"
    TASK_FAILED = "task_failed"
    TASK_CANCELLED = "task_cancelled"
    TASK_CONTROL = "task_control"
    CYCLE_STARTED = "cycle_started"
    STEP_STARTED = "step_started"
    STEP_SPAWNED = "step_spawned"
    STEP_HEARTBEAT = "step_heartbeat"
    STEP_FINISHED = "step_finished"
    STEP_SKIPPED = "step_skipped"
    STEP_TIMEOUT = "step_timeout"
    STEP_STALL_KILLED = "step_stall_killed"
    SANDBOX_DENIED = "sandbox_denied"
    SANDBOX_RESOURCE_EXCEEDED = "sandbox_resource_exceeded"
    SANDBOX_NETWORK_BLOCKED = "sandbox_network_blocked"
    DAEMON_PID_KILL_BLOCKED = "daemon_pid_kill_blocked"
    AUTO_ROLLBACK_FAILED = "auto_rollback_failed"
    CHAIN_STEP_STARTED = "chain_step_started"
    CHAIN_STEP_FINISHED = "chain_step_finished"
    DYNAMIC_STEP_STARTED = "dynamic_step_started"
    DYNAMIC_STEP_FINISHED = "dynamic_step_finished"
    DYNAMIC_NODE_READY = "dynamic_node_ready"
    DYNAMIC_NODE_STARTED = "dynamic_node_started"
    DYNAMIC_NODE_FINISHED = "dynamic_node_finished"
    DYNAMIC_NODE_SKIPPED = "dynamic_node_skipped"
    ITEM_BLOCKED_CONSECUTIVE_FAILURES = "item_blocked_consecutive_failures"

# The eleven that query_step_events selects.
STEP_EVENT_TYPES: Final[frozenset[str]]

class ObservedStepScope(StrEnum):
    TASK = "task"
    ITEM = "item"

def observed_step_scope_from_payload(payload: object) -> ObservedStepScope | None: ...
def observed_step_scope_label(scope: ObservedStepScope | None) -> str: ...

# A row as stored. `event_id` is a safe cursor: it increases in commit order and is never reused.
@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    event_id: int
    task_id: str
    task_item_id: str | None
    event_type: str
    payload_json: str
    created_at: str

    @property
    def payload(self) -> JsonValue: ...  # None where the text is not JSON

# A step's event, parsed. A field is None when the payload lacks it, or has it with another type or out of range.
@dataclass(frozen=True, slots=True, kw_only=True)
class StepEvent:
    event_id: int
    event_type: str
    step: str | None
    step_scope: ObservedStepScope | None
    task_item_id: str | None
    agent_id: str | None
    success: bool | None
    duration_ms: int | None
    confidence: float | None
    reason: str | None
    elapsed_secs: int | None
    stdout_bytes: int | None
    stderr_bytes: int | None
    stdout_delta_bytes: int | None
    stderr_delta_bytes: int | None
    stagnant_heartbeats: int | None
    pid: int | None
    pid_alive: bool | None
    output_state: str | None
    created_at: str

class StepLogPaths(NamedTuple):
    phase: str
    stdout_path: str
    stderr_path: str

# What a cleanup did, or in a dry run would do.
class Cleanup(NamedTuple):
    events: int = 0
    tasks: int = 0  # of which nothing is left
    bytes_freed: int = 0
    bytes_reusable: int = 0  # free inside the file
    archived: tuple[str, ...] = ()
    too_large: tuple[int, ...] = ()  # ids that stay, since no line of an archive can hold them
    output_files: int = 0  # of `orch-events run`, that went with their tasks
    output_missing: int = 0  # named by their events, and not found in `output`
    found: int = 0  # events that may go; ahead of `events`

# What a log knows of a task. Times are as they are stored.
@dataclass(frozen=True, slots=True)
class TaskSummary:
    task_id: str
    events: int
    first_event_id: int
    first_created_at: str
    last_event_id: int
    last_event_type: str
    last_created_at: str
    status: str

# `event_types` is estimated when `sampled` is less than `events`; `days` counts ids, by UTC date.
class Stats(NamedTuple):
    events: int
    tasks: Mapping[str, int]
    event_types: Mapping[str, int]
    sampled: int
    oldest: str | None
    newest: str | None
    file_bytes: int
    wal_bytes: int
    event_bytes: float
    days: Mapping[str, int]

# -------------------------------------------------------------------------------------------------------------- sinks

# Hears of every event once it is durable, in id order, on the thread that committed it.
class EventSink(Protocol):
    def emit(
        self,
        task_id: str,
        task_item_id: str | None,
        event_type: str,
        payload: Mapping[str, object],
        /,
    ) -> None: ...

class NoopSink:
    def emit(
        self,
        task_id: str,
        task_item_id: str | None,
        event_type: str,
        payload: Mapping[str, object],
        /,
    ) -> None: ...

# Forwards to `logging`.
class TracingEventSink:
    def __init__(
        self, logger: logging.Logger | None = None, *, levels: Mapping[str, int] | None = None
    ) -> None: ...
    def emit(
        self,
        task_id: str,
        task_item_id: str | None,
        event_type: str,
        payload: Mapping[str, object],
        /,
    ) -> None: ...

# Tells several.
class FanoutSink:
    def __init__(self, sinks: Iterable[EventSink]) -> None: ...
    def emit(
        self,
        task_id: str,
        task_item_id: str | None,
        event_type: str,
        payload: Mapping[str, object],
        /,
    ) -> None: ...

# Keeps what it hears, for tests.
class RecordingSink:
    events: list[_NewEvent]
    def __init__(self) -> None: ...
    def emit(
        self,
        task_id: str,
        task_item_id: str | None,
        event_type: str,
        payload: Mapping[str, object],
        /,
    ) -> None: ...

# ------------------------------------------------------------------------------------------------------------- errors

class OrchEventsError(Exception): ...

# Refused before it was queued; nothing of it, nor of its batch, was written.
class PayloadError(OrchEventsError, ValueError):
    key_path: str
    def __init__(self, message: str, key_path: str = "") -> None: ...

class QueueFullError(OrchEventsError): ...
class LogClosedError(OrchEventsError): ...
class ForkedError(OrchEventsError): ...
class LogNotFoundError(OrchEventsError, FileNotFoundError): ...
class SchemaError(OrchEventsError): ...

# Their __cause__ is the sqlite3 error.
class _DatabaseError(OrchEventsError):
    path: str
    sqlite_errorname: str  # such as SQLITE_FULL; empty when SQLite was not the cause
    def __init__(self, message: str, path: str = "", sqlite_errorname: str = "") -> None: ...

class WriteError(_DatabaseError): ...
class ReadError(_DatabaseError): ...

# The events that came next were pruned; what is left begins with `first_available_id`.
class PrunedError(OrchEventsError):
    first_available_id: int
    def __init__(self, message: str, first_available_id: int = 1) -> None: ...
