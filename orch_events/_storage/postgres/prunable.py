# SPDX-License-Identifier: MIT
"""Which of the next rows a cleanup may delete. Takes no lock.

Events of a task that has ended may go, in the order of their ids. The event that gives a task its status goes last, when
nothing else of the task is left. Whether a time is old is decided in Python: the form in which this package writes it
sorts as text, any other is parsed.
"""

from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Final, cast

from ..._values.task_status import ENDED
from ..._values.timestamps import instant
from ..interface import (
    MAX_ID,
    Prunable,
    RetentionRules,
)
from .driver import Connection
from .task_status import read_status_events

_WINDOW: Final = """
SELECT id, task_id, created_at FROM {schema}.events WHERE id > %s ORDER BY id LIMIT %s"""

_FIRST_KEPT: Final = """
SELECT t.task_id, k.id FROM unnest(%s::text[]) AS t(task_id)
CROSS JOIN LATERAL (
    SELECT id FROM {schema}.events WHERE task_id = t.task_id AND id <= %s
    ORDER BY id DESC LIMIT 1 OFFSET %s
) k"""
"""The oldest of the events of each task that are kept."""

_LAST_IDS: Final = """
SELECT task_id, max(id) FROM {schema}.events WHERE task_id = ANY(%s) GROUP BY task_id"""

_TIMES: Final = "SELECT DISTINCT created_at FROM {schema}.events WHERE task_id = %s"


def select_prunable(
    connection: Connection,
    schema: str,
    rules: RetentionRules,
    after_id: int,
    count: int,
) -> Prunable:
    """What of the next `count` rows may go."""
    window = connection.execute(_WINDOW.format(schema=schema), (after_id, count)).fetchall()
    if not window:
        return Prunable([], [], MAX_ID)
    end = cast("int", window[-1][0])
    old = [
        (cast("int", event_id), str(task_id))
        for event_id, task_id, created_at in window
        if _is_old(str(created_at), rules.cutoff)
    ]
    task_ids = sorted({task_id for _, task_id in old})
    statuses = read_status_events(connection, schema, task_ids)
    ended = {
        task_id
        for task_id in task_ids
        if not rules.only_finished or not task_id or statuses.get(task_id, (0, ""))[1] in ENDED
    }
    silent = still_silent(connection, schema, rules, rules.abandoned.intersection(task_ids))
    ended.update(
        task_id for task_id in silent - ended if _all_old(connection, schema, rules, task_id)
    )
    first_kept = _first_kept(connection, schema, rules, ended)
    last_old = {task_id: event_id for event_id, task_id in old}
    whole = _whole_tasks(
        connection,
        schema,
        rules,
        ended,
        last_old,
    )
    ids = list[int]()
    last_ids = list[int]()
    for task_id in sorted(whole):
        status_id, _ = statuses.get(task_id, (whole[task_id], ""))
        last_ids.append(status_id)
    kept_apart = {statuses[task_id][0] for task_id in task_ids if task_id in statuses}
    kept_apart.update(last_ids)
    for event_id, task_id in old:
        if task_id not in ended or event_id in kept_apart:
            continue
        if event_id < first_kept.get(task_id, MAX_ID):
            ids.append(event_id)
    return Prunable(ids, last_ids, end)


def still_silent(
    connection: Connection,
    schema: str,
    rules: RetentionRules,
    task_ids: Collection[str],
) -> set[str]:
    """Those of `task_ids` of which no event came since the cleanup has begun."""
    if not task_ids:
        return set()
    rows = connection.execute(_LAST_IDS.format(schema=schema), (list(task_ids),)).fetchall()
    return {str(task_id) for task_id, last_id in rows if cast("int", last_id) <= rules.up_to}


def _is_old(created_at: str, cutoff: datetime | None) -> bool:
    if cutoff is None:
        return True
    at = instant(created_at)
    return at is not None and at < cutoff


def _first_kept(
    connection: Connection,
    schema: str,
    rules: RetentionRules,
    task_ids: Collection[str],
) -> dict[str, int]:
    if rules.keep_last == 0 or not task_ids:
        return {}
    sql = _FIRST_KEPT.format(schema=schema)
    rows = connection.execute(sql, (list(task_ids), rules.up_to, rules.keep_last - 1)).fetchall()
    kept = dict.fromkeys(task_ids, 0)  # fewer than that: all of them stay
    kept.update((str(task_id), cast("int", event_id)) for task_id, event_id in rows)
    return kept


def _whole_tasks(
    connection: Connection,
    schema: str,
    rules: RetentionRules,
    task_ids: Collection[str],
    last_old: dict[str, int],
) -> dict[str, int]:
    """The tasks of which everything goes with this window, each with its last id."""
    named = [task_id for task_id in task_ids if task_id]
    if rules.keep_last > 0 or not named:
        return {}
    whole = dict[str, int]()
    rows = connection.execute(_LAST_IDS.format(schema=schema), (named,)).fetchall()
    for task_id, last_id in rows:
        if last_old.get(str(task_id)) == last_id and _all_old(
            connection, schema, rules, str(task_id)
        ):
            whole[str(task_id)] = cast("int", last_id)
    return whole


def _all_old(
    connection: Connection,
    schema: str,
    rules: RetentionRules,
    task_id: str,
) -> bool:
    if rules.cutoff is None:
        return True
    times: Sequence[tuple[object, ...]]
    times = connection.execute(_TIMES.format(schema=schema), (task_id,)).fetchall()
    return all(_is_old(str(row[0]), rules.cutoff) for row in times)
