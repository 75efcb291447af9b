# SPDX-License-Identifier: MIT
"""The status of a task: which event types set it, and to what."""

from collections.abc import Mapping
from typing import Final

from .event_types import EventType
from .json_text import JsonValue

TASK_STATUS: Final[Mapping[str, str]] = {
    EventType.TASK_STARTED: "running",
    EventType.TASK_PAUSED: "paused",
    EventType.TASK_COMPLETED: "completed",
    EventType.TASK_FAILED: "failed",
    EventType.TASK_CANCELLED: "cancelled",
}
"""The status that an event of these types gives its task."""

STATUS_EVENT_TYPES: Final = (*TASK_STATUS, EventType.TASK_CONTROL)
"""The types of which an event may set a task's status; `task_status` says whether it does."""

ENDED: Final = frozenset({"completed", "failed", "cancelled"})
"""The statuses of a task that has ended."""

UNKNOWN_STATUS: Final = "unknown"
"""The status of a task that no event has given one."""


def task_status(event_type: str, payload: JsonValue) -> str | None:
    """The status that an event gives its task; ``None`` if it leaves that as it was.

    A task's status is what the newest event that sets one says. ``task_control`` sets the word that
    is in its payload's ``status``, also an unknown one; without such a word it sets nothing.
    """
    if event_type != EventType.TASK_CONTROL:
        return TASK_STATUS.get(event_type)
    if not isinstance(payload, dict):
        return None
    status = payload.get("status")
    if isinstance(status, str) and status.strip():
        return status
    return None
