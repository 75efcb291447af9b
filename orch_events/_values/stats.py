# SPDX-License-Identifier: MIT
"""The figures of a log. A public value, and so not part of the maintenance that may be deleted."""

from collections.abc import Mapping
from typing import NamedTuple


class Stats(NamedTuple):
    """Figures of a log at one moment (nearly: they are read one after the other)."""

    events: int
    tasks: Mapping[str, int]
    """Tasks by status: ``running``, ``paused``, ``completed``, ``failed``, ``cancelled``, what else a ``task_control``
    event says, or ``unknown``. Events of no task (``""``) are none."""
    event_types: Mapping[str, int]
    """Events by type, the most frequent first; estimated if `sampled` is less than `events`."""
    sampled: int
    """How many events were looked at for their type."""
    oldest: str | None
    newest: str | None
    """When the first and the last event were recorded, as stored."""
    file_bytes: int
    wal_bytes: int
    event_bytes: float
    """What an event takes in the file on the average, indexes included."""
    days: Mapping[str, int]
    """Events of each of the last days, in UTC, by the ids of its first and last: with those pruned in between."""
