# SPDX-License-Identifier: MIT
"""The tables that remember what was pruned, so that a reader that comes to a gap gets an error.

`pruned` has a row for each task that lost events: the newest of them, and how many. `pruned_total` has one row once
events were pruned: the newest of all, how many, and the newest of the tasks that were merged. Of tasks that are gone
altogether, the last `_REMEMBERED` are known by name; older ones are merged.
"""

from typing import Final, cast

from ..interface import PrunedEvents
from .driver import Connection

_REMEMBERED: Final = 10_000

REMEMBER: Final = """
INSERT INTO {schema}.pruned AS p (task_id, last_id, events)
SELECT task_id, max(id), count(*) FROM {schema}.events WHERE id = ANY(%s) GROUP BY task_id
ON CONFLICT (task_id) DO UPDATE
SET last_id = greatest(p.last_id, excluded.last_id), events = p.events + excluded.events"""

ADD_TO_TOTAL: Final = """
INSERT INTO {schema}.pruned_total AS t (last_id, events) VALUES (%s, %s)
ON CONFLICT (is_only) DO UPDATE
SET last_id = greatest(t.last_id, excluded.last_id), events = t.events + excluded.events"""

_MERGE: Final = """
WITH forgotten AS (
    DELETE FROM {schema}.pruned WHERE task_id IN (
        SELECT task_id FROM {schema}.pruned p
        WHERE NOT EXISTS (SELECT 1 FROM {schema}.events e WHERE e.task_id = p.task_id)
        ORDER BY last_id DESC OFFSET %s)
    RETURNING last_id
)
UPDATE {schema}.pruned_total
SET merged_last_id = greatest(merged_last_id, (SELECT max(last_id) FROM forgotten))
WHERE EXISTS (SELECT 1 FROM forgotten)"""

_OF_ALL: Final = "SELECT last_id, events FROM {schema}.pruned_total"

_OF_TASK: Final = """
SELECT last_id, events FROM {schema}.pruned WHERE task_id = %s
UNION ALL
SELECT merged_last_id, events FROM {schema}.pruned_total
WHERE merged_last_id > 0 AND NOT EXISTS (
    SELECT 1 FROM {schema}.events WHERE task_id = %s AND id <= %s)
LIMIT 1"""
"""A task without a row may be one of the merged ones, but not if it has earlier events."""

_FORGET_RESTORED: Final = """
UPDATE {schema}.pruned p SET events = p.events - back.events
FROM (
    SELECT task_id, count(*) AS events FROM {schema}.events WHERE id = ANY(%s) GROUP BY task_id
) AS back
WHERE back.task_id = p.task_id"""

_DELETE_EMPTY: Final = "DELETE FROM {schema}.pruned WHERE events <= 0"


def read_pruned(
    connection: Connection,
    schema: str,
    task_id: str | None,
    after_id: int,
) -> PrunedEvents:
    """What is remembered of a task, or of all, for a reader that is at `after_id`."""
    if task_id is None:
        rows = connection.execute(_OF_ALL.format(schema=schema)).fetchall()
    else:
        sql = _OF_TASK.format(schema=schema)
        rows = connection.execute(sql, (task_id, task_id, after_id)).fetchall()
    if not rows:
        return PrunedEvents(0, 0)
    last_id, events = rows[0]
    return PrunedEvents(cast("int", last_id), cast("int", events))


def merge_forgotten_tasks(connection: Connection, schema: str) -> None:
    """Merge the oldest of too many tasks that are gone."""
    connection.execute(_MERGE.format(schema=schema), (_REMEMBERED,))


def forget_restored(connection: Connection, schema: str, ids: list[int]) -> None:
    """Within a transaction: these events are there again."""
    connection.execute(_FORGET_RESTORED.format(schema=schema), (ids,))
    connection.execute(_DELETE_EMPTY.format(schema=schema))
