# SPDX-License-Identifier: MIT
"""What one event says by itself: which kind it is, which step it names, and why.

Everything here is a pure function of one event, or a set of event types. What a series of events amounts to is decided
in `task_state`.
"""

import json
from collections.abc import Mapping
from typing import Final, NamedTuple

from ... import (
    EventType,
    JsonObject,
    JsonValue,
)
from ..._values.step_fields import bool_or_none, step_name

__all__ = [
    "ABOUT_STEPS",
    "BEGINS",
    "ENDS",
    "INCIDENTS",
    "STARTS",
    "exit_code",
    "failure_facts",
    "reason",
    "run_end",
    "step_kind",
    "step_of",
    "subject",
    "text_field",
]

STARTS: Final = {EventType.STEP_STARTED, EventType.STEP_SPAWNED}

BEGINS: Final = {*STARTS, EventType.STEP_SKIPPED}
"""Events that begin another run once a run has ended."""

ENDS: Final[Mapping[str, str]] = {
    EventType.STEP_FINISHED: "finished",
    EventType.STEP_SKIPPED: "skipped",
    EventType.STEP_TIMEOUT: "failed",
    EventType.STEP_STALL_KILLED: "failed",
}
"""Events that end a run, and the run's state then, unless they say more."""

INCIDENTS: Final = {
    EventType.SANDBOX_DENIED,
    EventType.SANDBOX_RESOURCE_EXCEEDED,
    EventType.SANDBOX_NETWORK_BLOCKED,
    EventType.DAEMON_PID_KILL_BLOCKED,
    EventType.AUTO_ROLLBACK_FAILED,
    EventType.ITEM_BLOCKED_CONSECUTIVE_FAILURES,
}

ABOUT_STEPS: Final = {*BEGINS, *ENDS, *INCIDENTS, EventType.STEP_HEARTBEAT}

_INNER_STEPS: Final = ("chain_step_", "dynamic_step_", "dynamic_node_")
"""Prefixes of types that say of an inner step what the same type with ``step_`` says of a step."""

_NO_FACTS: Final = {"status", "success", "duration_ms", "task_id"}
"""Members of a failure's payload that do not explain it."""

_PLANNED_RESTART: Final = 75
"""The exit code of a step that asks to be run again after a restart of the orchestrator."""

_FACTS: Final = 6
"""Members shown at most, where a failure gives no reason."""

_LONGEST_FACT: Final = 60
"""Characters of each."""


def step_kind(event_type: str) -> str:
    """The type of which an event is a variant, such as ``step_finished`` for ``chain_step_finished``; or its own."""
    for prefix in _INNER_STEPS:
        if event_type.startswith(prefix):
            return f"step_{event_type.removeprefix(prefix)}"
    return event_type


def step_of(event_type: str, fields: JsonObject) -> str | None:
    """The name of the step that an event is about; for a node of a graph, the node's."""
    node = text_field(fields, "node_id")
    if node is not None and event_type.startswith("dynamic_node_"):
        return node
    step = step_name(fields)
    return step or text_field(fields, "step_id") or node or step


def text_field(fields: JsonObject, key: str) -> str | None:
    """A member that is a string and not empty."""
    value = fields.get(key)
    if isinstance(value, str) and value:
        return value
    return None


def subject(fields: JsonObject) -> str | None:
    """What the start of a task or step says that it is about."""
    for key in ("goal", "name", "command"):
        said = text_field(fields, key)
        if said is not None:
            return said
    return None


def exit_code(fields: JsonObject) -> int | None:
    """The exit code, if it is one."""
    code = fields.get("exit_code")
    if type(code) is int and abs(code) < 1 << 32:
        return code
    return None


class RunEnd(NamedTuple):
    """How a run ended, by the event of its end."""

    outcome: str
    """``succeeded``, ``failed``, ``skipped``, or ``finished`` if nothing says how."""
    says_timeout: bool
    restart: bool
    """Whether it ended in a planned restart of the orchestrator: it did what it was for."""


def run_end(kind: str, fields: JsonObject) -> RunEnd:
    """What an event of `ENDS` says."""
    code = exit_code(fields)
    says_timeout = fields.get("timed_out") is True
    asks_for_restart = fields.get("restart") is True and code in (None, _PLANNED_RESTART)
    restart = asks_for_restart and not says_timeout
    return RunEnd(_outcome(kind, fields, code, says_timeout, restart), says_timeout, restart)


def _outcome(
    kind: str,
    fields: JsonObject,
    code: int | None,
    says_timeout: bool,
    restart: bool,
) -> str:
    if says_timeout:
        return "failed"
    if restart:
        return "succeeded"
    success = bool_or_none(fields.get("success"))
    if success is None and code is not None and kind == EventType.STEP_FINISHED:
        success = code == 0
    if success is None:
        return ENDS[kind]
    if success:
        return "succeeded"
    return "failed"


def reason(fields: JsonObject) -> str | None:
    """The member ``reason``, or else ``error``."""
    given = text_field(fields, "reason") or text_field(fields, "error")
    if given is not None:
        return given
    error = fields.get("error")
    if error in (0, False, True):
        return None
    return _fact(error)


def failure_facts(fields: JsonObject) -> str | None:
    """What else a failure says, where it gives no reason."""
    facts = list[str]()
    for key, value in fields.items():
        fact = _fact(value)
        if fact is not None and key not in _NO_FACTS:
            facts.append(f"{key} {fact}")
    return ", ".join(facts[:_FACTS]) or None


def _fact(value: JsonValue) -> str | None:
    """A value in a few words; ``None`` if it is empty."""
    if value in (None, "", [], {}):
        return None
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    if len(text) <= _LONGEST_FACT:
        return text
    return f"{text[: _LONGEST_FACT - 1]}…"
