# SPDX-License-Identifier: MIT
"""The values that users hold: a row of the log as stored, and a step's event parsed for display."""

from dataclasses import dataclass
from typing import NamedTuple

from .event_types import ObservedStepScope
from .json_text import JsonValue, parse_or_none


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One row of the log, as stored. Immutable, hashable, safe to share between threads."""

    event_id: int
    """Place in the log. Ids follow the order of commits and are never reused: a safe cursor."""
    task_id: str
    task_item_id: str | None
    """The item, for events of a step that runs once for each item."""
    event_type: str
    payload_json: str
    created_at: str
    """When it was recorded: RFC 3339 in UTC with microseconds. Order events by `event_id`
    instead.
    """

    @property
    def payload(self) -> JsonValue:
        """The parsed payload; ``None`` where the text is not JSON. Parsed anew at each access."""
        return parse_or_none(self.payload_json)


@dataclass(frozen=True, slots=True, kw_only=True)
class StepEvent:
    """A step's event, parsed for display. Immutable, hashable, safe to share between threads.

    A field is ``None`` when the payload lacks it, has it with another JSON type or out of range, or
    is not JSON at all; nothing is ever coerced and reading never raises. Unsigned fields take JSON
    integers from 0 to 2**64-1.
    """

    event_id: int
    event_type: str
    step: str | None
    """Step or phase name: the promoted column, else ``step``, else ``phase`` of the payload."""
    step_scope: ObservedStepScope | None
    """From the promoted column if there is one (an unknown label means ``None``), else from the
    payload.
    """
    task_item_id: str | None
    agent_id: str | None
    success: bool | None
    duration_ms: int | None
    confidence: float | None
    reason: str | None
    elapsed_secs: int | None
    """Seconds since the step started, at a heartbeat."""
    stdout_bytes: int | None
    """Bytes of output so far."""
    stderr_bytes: int | None
    stdout_delta_bytes: int | None
    """Growth since the previous heartbeat, in bytes."""
    stderr_delta_bytes: int | None
    stagnant_heartbeats: int | None
    """Heartbeats in a row with next to no new output."""
    pid: int | None
    pid_alive: bool | None
    output_state: str | None
    """``"active"``, ``"quiet"`` or ``"low_output"``."""
    created_at: str


class StepLogPaths(NamedTuple):
    """Where a step writes its output. Equal to the reference's triple."""

    phase: str
    stdout_path: str
    stderr_path: str
    """Empty when the step has no separate file for it."""
