# SPDX-License-Identifier: MIT
"""What a log knows of one task."""

from dataclasses import dataclass
from typing import TypeAlias

SummaryFields: TypeAlias = tuple[str, int, int, str, int, str, str, str]
"""The fields of a `TaskSummary`, in their order, as an engine reads them."""


@dataclass(frozen=True, slots=True)
class TaskSummary:
    """One task, as `EventLog.query_tasks` gives it. Times are as they are stored: RFC 3339, in UTC."""

    task_id: str
    events: int
    """How many of its events are in the log."""
    first_event_id: int
    first_created_at: str
    last_event_id: int
    last_event_type: str
    last_created_at: str
    status: str
    """By the newest event that says one, such as ``running``, ``completed``, ``failed``; else ``unknown``."""
