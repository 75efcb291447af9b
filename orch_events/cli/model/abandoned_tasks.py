# SPDX-License-Identifier: MIT
"""Which tasks will never say that they have ended.

A task is abandoned if it has been silent for a long time, by its events it should be running, and each of its runs has
ended or is lost: a run that is alive would have shown a heartbeat since. One that has shown neither a process nor a
heartbeat may be alive all the same, so its task is not abandoned; nor is a task that somebody has paused.
"""

from collections.abc import Iterator
from datetime import datetime

from ... import EventReader
from ..._values.task_status import UNKNOWN_STATUS
from ..._values.timestamps import instant
from .task_state import TaskState

__all__ = ["abandoned_tasks"]


def abandoned_tasks(reader: EventReader, silent_since: datetime, now: float) -> Iterator[str]:
    """Those of which no event is newer than `silent_since`."""
    for task in reader.query_tasks():
        last = instant(task.last_created_at)
        if last is None or last >= silent_since:
            continue
        if task.status in ("running", UNKNOWN_STATUS) and not _may_be_alive(
            reader, task.task_id, now
        ):
            yield task.task_id


def _may_be_alive(reader: EventReader, task_id: str, now: float) -> bool:
    try:
        events = reader.query_events(task_id)
    except ValueError:  # its name, which another program has given it, is not Unicode
        return True
    state = TaskState()
    state.apply_all(events)
    return state.counts(now)["running"] > 0
