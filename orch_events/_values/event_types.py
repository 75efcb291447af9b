# SPDX-License-Identifier: MIT
"""Event types and step scopes. What an event does to the status of its task stands in `task_status`."""

from collections.abc import Mapping
from enum import StrEnum
from typing import Final, cast


class ObservedStepScope(StrEnum):
    """Whether a step ran once for the task or once for each item."""

    TASK = "task"
    ITEM = "item"


_SCOPES: Final = {scope.value: scope for scope in ObservedStepScope}


class EventType(StrEnum):
    """The well-known event types. Any other string is as good: every call takes plain `str`.

    What is read of their payloads, where it is there and of the right JSON type; everything else is kept and shown:

    ============================  ===============================  =========================================
    event types                   members of the payload           what reads them
    ============================  ===============================  =========================================
    task_started                  goal, name                       the status; what ``tasks`` says it is about
    task_completed task_failed    reason, else error               the status, and why; the end of following
    task_cancelled task_paused    reason                           the status
    task_control                  status                           the status is that word
    cycle_started                 cycle                            the cycle of the steps that follow
    every step_… event            step (or phase), step_scope,     `StepEvent`; every view of a step
                                  cycle, agent_id, parent_step
    step_started step_spawned     stdout_path, stderr_path, host   ``logs``; `query_latest_step_log_paths`
    step_started step_spawned     pid, heartbeat_secs, command,    ``watch``, ``trace``: what runs, and when it is
                                  reason                           lost; ``tasks``: what it is about
    step_started                  traceparent, span_id             ``trace --format otlp``
    step_heartbeat                elapsed_secs, pid, pid_alive,    `StepEvent`; ``watch``, ``trace``: that it
                                  stdout_bytes, stderr_bytes,      lives, what it prints, what is odd
                                  stdout_delta_bytes,
                                  stderr_delta_bytes,
                                  stagnant_heartbeats,
                                  output_state
    step_finished                 success, else exit_code;         `StepEvent`; ``watch``, ``trace``: how it ended,
                                  duration_ms, confidence,         and why
                                  timed_out, restart, reason,
                                  else error; error_type
    step_skipped step_timeout     reason, else error               the same
    step_stall_killed
    sandbox_denied                step, reason                     incidents in ``watch`` and ``trace``
    sandbox_resource_exceeded
    sandbox_network_blocked
    daemon_pid_kill_blocked
    auto_rollback_failed
    item_blocked_consecutive_failures
    chain_step_started            parent_step                      as step_…, inside that step
    chain_step_finished
    dynamic_step_started          step_id                          as step_…, named by it
    dynamic_step_finished
    dynamic_node_ready            node_id, scope                   as step_…, named by it
    dynamic_node_started
    dynamic_node_finished
    dynamic_node_skipped
    ============================  ===============================  =========================================
    """

    TASK_STARTED = "task_started"
    TASK_PAUSED = "task_paused"
    TASK_COMPLETED = "task_completed"
    TASK_FAILED = "task_failed"
    TASK_CANCELLED = "task_cancelled"
    TASK_CONTROL = "task_control"
    """Sets the task's status to its payload's ``status``."""
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


STEP_EVENT_TYPES: Final[frozenset[str]] = frozenset(
    {
        EventType.STEP_STARTED,
        EventType.STEP_FINISHED,
        EventType.STEP_SKIPPED,
        EventType.STEP_HEARTBEAT,
        EventType.STEP_SPAWNED,
        EventType.STEP_TIMEOUT,
        EventType.CYCLE_STARTED,
        EventType.SANDBOX_DENIED,
        EventType.SANDBOX_RESOURCE_EXCEEDED,
        EventType.SANDBOX_NETWORK_BLOCKED,
        EventType.DAEMON_PID_KILL_BLOCKED,
    }
)
"""The types that `query_step_events` selects: those of the reference, no more."""

LOG_PATH_EVENT_TYPES: Final = (EventType.STEP_SPAWNED, EventType.STEP_STARTED)
"""The newest event of these types says where a task's output is being written."""


def observed_step_scope_from_payload(payload: object) -> ObservedStepScope | None:
    """The scope named by a parsed payload's ``step_scope``; ``None`` for anything else.

    Never raises.
    """
    if not isinstance(payload, Mapping):
        return None
    label = cast("Mapping[str, object]", payload).get("step_scope")
    return scope_of_label(label)


def scope_of_label(label: object) -> ObservedStepScope | None:
    if isinstance(label, str):
        return _SCOPES.get(label)
    return None


def observed_step_scope_label(scope: ObservedStepScope | None) -> str:
    """The stable label used in logs and tables: ``"task"``, ``"item"`` or ``"unspecified"``."""
    if scope is None:
        return "unspecified"
    return scope.value
