# SPDX-License-Identifier: MIT
"""The newest status of a task. The rule itself is `task_status` in the values; what a ``task_control`` says is decided
there too, in Python, since ``jsonb`` refuses texts that are JSON to us.
"""

from collections.abc import Iterable
from typing import Final

from ..._values.event_types import EventType
from ..._values.json_text import parse_or_none
from ..._values.task_status import task_status
from ..interface import MAX_ID
from .driver import Connection, Row
from .schema import STATUS_TYPES

_SAYS_STATUS: Final = f"""
SELECT id, event_type, CASE event_type WHEN '{EventType.TASK_CONTROL}' THEN payload_json END
FROM {{schema}}.events
WHERE task_id = %s AND event_type IN ({STATUS_TYPES}) AND id BETWEEN %s AND %s
ORDER BY id DESC LIMIT 1"""
"""The newest event that may say the status; nearly always it does."""

_SAY_STATUSES: Final = f"""
SELECT t.task_id, s.id, s.event_type,
    CASE s.event_type WHEN '{EventType.TASK_CONTROL}' THEN s.payload_json END
FROM unnest(%s::text[]) AS t(task_id)
CROSS JOIN LATERAL (
    SELECT id, event_type, payload_json FROM {{schema}}.events
    WHERE task_id = t.task_id AND event_type IN ({STATUS_TYPES})
    ORDER BY id DESC LIMIT 1
) s"""
"""The same, of many tasks."""


def read_task_status(
    connection: Connection,
    schema: str,
    task_id: str,
    after_id: int = 0,
) -> str | None:
    """The task's status, by the events with an id above `after_id`; ``None`` if none says one."""
    found = read_status_event(
        connection,
        schema,
        task_id,
        after_id,
        MAX_ID,
    )
    if found is None:
        return None
    _, status = found
    return status


def read_status_event(
    connection: Connection,
    schema: str,
    task_id: str,
    after_id: int,
    up_to: int,
) -> tuple[int, str] | None:
    """The id of the newest event that gives the task a status, and the status."""
    sql = _SAYS_STATUS.format(schema=schema)
    while True:
        rows = connection.execute(sql, (task_id, after_id + 1, up_to)).fetchall()
        if not rows:
            return None
        event_id, status = _read_status(rows[0])
        if status is not None:
            return event_id, status
        up_to = event_id - 1


def read_status_events(
    connection: Connection,
    schema: str,
    task_ids: Iterable[str],
) -> dict[str, tuple[int, str]]:
    """The same for each of these tasks that has a status. Events of no task have none."""
    found = dict[str, tuple[int, str]]()
    named = [task_id for task_id in task_ids if task_id]
    sql = _SAY_STATUSES.format(schema=schema)
    for task_id, *rest in connection.execute(sql, (named,)).fetchall():
        event_id, status = _read_status(tuple(rest))
        if status is not None:
            found[str(task_id)] = event_id, status
            continue
        earlier = read_status_event(
            connection,
            schema,
            str(task_id),
            0,
            event_id - 1,
        )
        if earlier is not None:
            found[str(task_id)] = earlier
    return found


def _read_status(row: Row) -> tuple[int, str | None]:
    event_id, event_type, payload = row
    payload_value = parse_or_none(str(payload or ""))
    return int(event_id or 0), task_status(str(event_type), payload_value)
