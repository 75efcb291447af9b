# SPDX-License-Identifier: MIT
"""The table that remembers what was pruned, so that a reader that comes to a gap gets an error.

Table `orch_events_pruned`, made by the first cleanup, has a row for each task that lost events: the newest
of them, and how many. Of tasks that are gone altogether, the last `_REMEMBERED` are known by name. Older
ones are merged into one row without a name, with a negated id so that no other row takes its place. So
the table stays small however many tasks come and go. Row 0 counts all events that were ever pruned. Versions
of this package share the table: its form stays as it is.
"""

import sqlite3
from typing import Final, cast

from ..interface import PrunedEvents
from .lock_retries import run_with_lock_retry
from .reading import WAS_PRUNED
from .statements import (
    fetch_all,
    id_list,
    scalar,
    transaction,
)

_REMEMBERED: Final = 10_000
_MERGED_AT_ONCE: Final = 500

CREATE_PRUNED: Final = """
CREATE TABLE IF NOT EXISTS orch_events_pruned(
    last_id INTEGER PRIMARY KEY, task_id TEXT UNIQUE, events INTEGER NOT NULL)"""

_ADD_TO_TOTAL: Final = """
INSERT INTO orch_events_pruned(last_id, task_id, events) VALUES (0, NULL, :events)
ON CONFLICT(last_id) DO UPDATE SET events = events + excluded.events"""

_FORGOTTEN: Final = """
SELECT last_id FROM orch_events_pruned p
WHERE task_id IS NOT NULL AND NOT EXISTS (SELECT 1 FROM events e WHERE e.task_id = p.task_id)
ORDER BY last_id DESC LIMIT -1 OFFSET :remembered"""

_MERGE: Final = """
UPDATE OR REPLACE orch_events_pruned
SET task_id = NULL, last_id = -last_id,
    events = (SELECT events FROM orch_events_pruned WHERE last_id = 0)
WHERE last_id IN (SELECT value FROM json_each(:ids))"""

_KEEP_NEWEST_MERGED: Final = """
DELETE FROM orch_events_pruned
WHERE task_id IS NULL AND last_id <> 0 AND abs(last_id) < (
    SELECT max(abs(last_id)) FROM orch_events_pruned WHERE task_id IS NULL)"""

_PRUNED_OF_ALL: Final = """
SELECT
    max(
        (SELECT max(last_id) FROM orch_events_pruned),
        -(SELECT min(last_id) FROM orch_events_pruned)),
    (SELECT events FROM orch_events_pruned WHERE last_id = 0)"""

_PRUNED_OF_TASK: Final = """
SELECT last_id, events FROM orch_events_pruned WHERE task_id = :task_id
UNION ALL
SELECT abs(last_id), events FROM orch_events_pruned
WHERE task_id IS NULL AND last_id <> 0
    AND NOT EXISTS (SELECT 1 FROM events WHERE task_id = :task_id AND id <= :after_id)
LIMIT 1"""
"""A task without a row may be one of the merged ones, but not if it has earlier events."""


def remember_statement(condition: str) -> str:
    """Remembers the events ``e`` that meet `condition`, before they are deleted."""
    return f"""
INSERT OR REPLACE INTO orch_events_pruned(last_id, task_id, events)
SELECT
    max(max(e.id), coalesce(max(p.last_id), 0)), e.task_id, count(*) + coalesce(max(p.events), 0)
FROM events e LEFT JOIN orch_events_pruned p ON p.task_id = e.task_id
WHERE {condition} GROUP BY e.task_id"""


def add_to_total(connection: sqlite3.Connection, events: int) -> None:
    connection.execute(_ADD_TO_TOTAL, {"events": events})


def merge_forgotten_tasks(connection: sqlite3.Connection, timeout: float) -> None:
    """Merge the oldest of too many tasks that are gone."""
    if not has_pruned(connection):
        return
    rows = fetch_all(connection, _FORGOTTEN, {"remembered": _REMEMBERED})
    forgotten = [cast("int", last_id) for (last_id,) in rows]
    for start in range(0, len(forgotten), _MERGED_AT_ONCE):
        some = forgotten[start : start + _MERGED_AT_ONCE]
        with transaction(connection):
            run_with_lock_retry(connection, timeout, "BEGIN IMMEDIATE")
            connection.execute(_MERGE, {"ids": id_list(some)})
            connection.execute(_KEEP_NEWEST_MERGED)


def has_pruned(connection: sqlite3.Connection) -> bool:
    """Whether events were ever pruned."""
    return scalar(connection, WAS_PRUNED) == 1


def read_pruned(connection: sqlite3.Connection, task_id: str | None, after_id: int) -> PrunedEvents:
    """What is remembered of a task, or of all, for a reader that is at `after_id`."""
    if task_id is None:
        rows = fetch_all(connection, _PRUNED_OF_ALL)
    else:
        rows = fetch_all(connection, _PRUNED_OF_TASK, {"task_id": task_id, "after_id": after_id})
    if not rows:
        return PrunedEvents(0, 0)
    last_id, events = cast("tuple[int | None, int | None]", rows[0])
    return PrunedEvents(last_id or 0, events or 0)
