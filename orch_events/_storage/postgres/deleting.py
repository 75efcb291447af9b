# SPDX-License-Identifier: MIT
"""Deletes what was selected, one short transaction at a time.

The transaction holds the log's lock, so no event is committed meanwhile: a task that has begun again since it was
selected is noticed.
"""

import time
from collections.abc import Sequence
from typing import Final, cast

from ..._values.task_status import ENDED
from ..interface import Deleted, RetentionRules
from .driver import Connection
from .location import Location
from .log_lock import lock_log
from .prunable import still_silent
from .pruned_table import ADD_TO_TOTAL, REMEMBER
from .reading import read_last_id
from .schema import STATUS_TYPES
from .task_status import read_status_events

_SINCE: Final = f"""
SELECT DISTINCT event_type IN ({STATUS_TYPES}), task_id FROM {{schema}}.events
WHERE id > %s AND (event_type IN ({STATUS_TYPES}) OR %s)"""
"""Of which tasks events came: those that may have begun again, or any."""

_TASKS_OF: Final = "SELECT DISTINCT task_id FROM {schema}.events WHERE id = ANY(%s)"

_OF_TASKS: Final = "SELECT id FROM {schema}.events WHERE id = ANY(%s) AND task_id = ANY(%s)"

_ALONE: Final = f"""
SELECT e.id FROM {{schema}}.events e
WHERE e.id = ANY(%s) AND (
    e.event_type NOT IN ({STATUS_TYPES})
    OR NOT EXISTS (SELECT 1 FROM {{schema}}.events o WHERE o.task_id = e.task_id AND o.id <> e.id))"""
"""The event that gives a task its status, if nothing else of the task is left."""

_DELETE: Final = "DELETE FROM {schema}.events WHERE id = ANY(%s)"


def delete_selected(
    connection: Connection,
    location: Location,
    ids: Sequence[int],
    last_ids: Sequence[int],
    no_restart_up_to: int | None,
    rules: RetentionRules,
    timeout: float,
) -> Deleted:
    """Within a transaction, delete what of `ids`, and then of `last_ids`, may still go."""
    schema = location.schema
    lock_log(connection, location, timeout)
    began = time.perf_counter()
    no_restart_up_to = _look_for_restarts(connection, schema, no_restart_up_to, rules)
    going = list(ids)
    last_going = list(last_ids)
    if no_restart_up_to is None:
        ended = _ended_tasks(connection, schema, [*ids, *last_ids], rules)
        going = _ids(connection, _OF_TASKS.format(schema=schema), going, ended)
        last_going = _ids(connection, _OF_TASKS.format(schema=schema), last_going, ended)
    events = _delete(connection, schema, going)
    last_going = _ids(connection, _ALONE.format(schema=schema), last_going)
    tasks = _delete(connection, schema, last_going)
    if events + tasks:
        largest = max([*going, *last_going])
        connection.execute(ADD_TO_TOTAL.format(schema=schema), (largest, events + tasks))
    return Deleted(events + tasks, tasks, time.perf_counter() - began, no_restart_up_to)


def _look_for_restarts(
    connection: Connection,
    schema: str,
    known: int | None,
    rules: RetentionRules,
) -> int | None:
    """Up to which id no ended task has begun again; ``None`` if some may have."""
    if known is None:
        return None
    rows = connection.execute(
        _SINCE.format(schema=schema), (known, bool(rules.abandoned))
    ).fetchall()
    # Any event of an abandoned task shows that it was not.
    if any(is_status or task_id in rules.abandoned for is_status, task_id in rows):
        return None
    return max(known, read_last_id(connection, schema))


def _ended_tasks(
    connection: Connection,
    schema: str,
    ids: list[int],
    rules: RetentionRules,
) -> list[str]:
    rows = connection.execute(_TASKS_OF.format(schema=schema), (ids,)).fetchall()
    task_ids = [str(row[0]) for row in rows]
    statuses = read_status_events(connection, schema, task_ids)
    silent = still_silent(connection, schema, rules, rules.abandoned.intersection(task_ids))
    return [
        task_id
        for task_id in task_ids
        if not task_id or statuses.get(task_id, (0, ""))[1] in ENDED or task_id in silent
    ]


def _ids(connection: Connection, sql: str, *parameters: object) -> list[int]:
    return [cast("int", row[0]) for row in connection.execute(sql, parameters).fetchall()]


def _delete(connection: Connection, schema: str, ids: list[int]) -> int:
    """How many were deleted, and are remembered."""
    if not ids:
        return 0
    connection.execute(REMEMBER.format(schema=schema), (ids,))
    return connection.execute(_DELETE.format(schema=schema), (ids,)).rowcount
