# SPDX-License-Identifier: MIT
"""Deletes what `prunable` has selected, one short transaction at a time, and gives the space back.

Between the selection and the deletion a task may have begun again. A status event that came since shows
that; only then is each task looked at once more, which doubles the time.
"""

import sqlite3
import time
from collections.abc import Sequence
from typing import Final

from ..interface import Deleted, RetentionRules
from .interruptible import Cell
from .lock_retries import run_with_lock_retry
from .prunable import HAS_ENDED, IS_ABANDONED
from .pruned_table import (
    CREATE_PRUNED,
    add_to_total,
    remember_statement,
)
from .reading import read_last_id
from .schema import STATUS_TYPES
from .statements import (
    data_version,
    fetch_all,
    id_list,
    scalar,
    transaction,
)
from .task_status import asking_status

_PAUSE: Final = 0.02
"""Seconds for which other writers are left alone: of a hundred commits one has to wait. The p99 of their
acks rose 1.3 to 3 times beside a cleanup; with 5 ms, 5 times."""

_VACUUM_PAGES: Final = 100
"""Pages given back in one commit: 3 ms."""

_SELECTED: Final = "e.id IN (SELECT value FROM json_each(:ids))"

_STILL_MAY_GO: Final = f"""{_SELECTED} AND (:is_sure OR e.task_id IN (
    SELECT t.task_id FROM (
        SELECT DISTINCT task_id FROM events WHERE id IN (SELECT value FROM json_each(:ids))) t
    WHERE {HAS_ENDED} OR {IS_ABANDONED}))"""
"""Events of tasks that have still ended."""

_LAST_STILL_MAY_GO: Final = f"""{_STILL_MAY_GO} AND (
    e.event_type NOT IN ({STATUS_TYPES})
    OR NOT EXISTS (SELECT 1 FROM events o WHERE o.task_id = e.task_id AND o.id <> e.id))"""
"""The event that gives a task its status, if nothing else of the task is left."""

_RESTART_SINCE: Final = f"""
SELECT 1 FROM events WHERE id > :id
    AND (+event_type IN ({STATUS_TYPES}) OR orch_events_abandoned(CAST(task_id AS BLOB))) LIMIT 1"""
"""Any event of an abandoned task shows that it was not."""


def delete_selected(
    connection: sqlite3.Connection,
    ids: Sequence[int],
    last_ids: Sequence[int],
    no_restart_up_to: int | None,
    rules: RetentionRules,
    timeout: float,
) -> Deleted:
    """Delete in one transaction what of `ids`, and then of `last_ids`, may still go.

    No ended task has begun again up to the id `no_restart_up_to`; ``None``: some may have.
    """
    with asking_status(connection), transaction(connection):
        run_with_lock_retry(connection, timeout, "BEGIN IMMEDIATE")
        began = time.perf_counter()
        connection.execute(CREATE_PRUNED)
        no_restart_up_to = _look_for_restarts(connection, no_restart_up_to)
        is_sure = no_restart_up_to is not None
        selected: dict[str, Cell] = {"is_sure": is_sure, "up_to": rules.up_to}
        events = _delete(connection, _STILL_MAY_GO, ids, selected)
        tasks = _delete(connection, _LAST_STILL_MAY_GO, last_ids, selected)
        add_to_total(connection, events + tasks)
    locked_seconds = time.perf_counter() - began
    return Deleted(events + tasks, tasks, locked_seconds, no_restart_up_to)


def _look_for_restarts(connection: sqlite3.Connection, known: int | None) -> int | None:
    """Up to which id no ended task has begun again; ``None`` if some may have."""
    if known is None or scalar(connection, _RESTART_SINCE, {"id": known}) is not None:
        return None
    return max(known, read_last_id(connection))


def _delete(
    connection: sqlite3.Connection,
    condition: str,
    ids: Sequence[int],
    selected: dict[str, Cell],
) -> int:
    """How many were deleted, and are remembered."""
    if not ids:
        return 0
    parameters = {"ids": id_list(ids), **selected}
    connection.execute(remember_statement(condition), parameters)
    return connection.execute(f"DELETE FROM events AS e WHERE {condition}", parameters).rowcount


def give_back(connection: sqlite3.Connection, timeout: float) -> None:
    """Give some free pages back to the file system, in one commit."""
    run_with_lock_retry(connection, timeout, f"PRAGMA incremental_vacuum({_VACUUM_PAGES})")


def checkpoint(connection: sqlite3.Connection) -> None:
    """Copy what the ``-wal`` holds into the database, as far as that hinders no other connection."""
    fetch_all(connection, "PRAGMA wal_checkpoint(PASSIVE)")


def let_others_write(connection: sqlite3.Connection, seconds: float) -> None:
    """Pause for as long as the last commit took, and longer if another writer has used the pause.

    SQLite's busy handler tries again after 1, 2 and 5 ms, so a waiting writer gets the lock after one commit.
    """
    before = data_version(connection)
    time.sleep(seconds)
    if data_version(connection) != before:
        time.sleep(_PAUSE)
