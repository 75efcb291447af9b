# SPDX-License-Identifier: MIT
"""Reading pages of rows, each in one step of one statement.

A function takes an open connection, does one thing with it and leaves no transaction and no half-read cursor behind.
"""

import json
import sqlite3
from collections.abc import Sequence
from typing import Final, cast

from ..._values.events import StepLogPaths
from ..._values.joined_texts import SEPARATOR
from ..._values.json_text import parse_or_none
from ..._values.step_fields import step_log_paths
from ..._values.task_status import UNKNOWN_STATUS
from ..._values.task_summary import SummaryFields, TaskSummary
from ..interface import Page, Selection
from .connections import PAGE_BYTES
from .error_codes import primary_code
from .interruptible import Cell
from .page_text import JoinedPayloads
from .schema import LOG_PATH_TYPES, sql_list
from .statements import (
    any_length,
    fetch_all,
    id_list,
    require_ascending,
    scalar,
)
from .task_status import STATUS, asking_status

_HAS_PREFIX: Final = (
    " AND substr(CAST(event_type AS BLOB), 1, length(CAST(? AS BLOB))) = CAST(? AS BLOB)"
)
"""Not LIKE, where ``_`` and ``%`` are wildcards; as bytes, because a text may hold NUL."""

SELECTED_IDS: Final = "(SELECT value FROM json_each(?))"
"""The ids in a JSON array."""

WAS_PRUNED: Final = (
    "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'orch_events_pruned'"
)
"""Whether events were ever pruned from the log. What the table holds is decided in `pruned_table`."""


def _conditions(selection: Selection, only_ids: Sequence[int] | None) -> tuple[str, list[Cell]]:
    """What a selection adds to the conditions on the id, with its parameters."""
    where = ""
    parameters: list[Cell] = []
    if selection.event_types is not None:
        # With a "+", so that no index of a host's on the type is chosen: the order of ids comes from ours.
        where += f" AND +event_type IN ({sql_list(sorted(selection.event_types))})"
    if selection.task_id is not None:
        where += " AND task_id = ?"
        parameters.append(selection.task_id)
    if selection.event_type_prefix is not None:
        where += _HAS_PREFIX
        parameters += [selection.event_type_prefix, selection.event_type_prefix]
    if only_ids is not None:
        where += f" AND events.id IN {SELECTED_IDS}"
        parameters.append(id_list(only_ids))
    return where, parameters


# What is not text in a foreign or damaged file is read as its text, and a NULL that must not be one as "".
_PAGE: Final = """
SELECT json_group_array(id), json_group_array(task_id), json_group_array(task_item_id), json_group_array(event_type),
    json_group_array(created_at), json_group_array(step), json_group_array(step_scope), group_concat(payload_json, ?),
    ({pruned})
FROM (
    SELECT id, coalesce(CAST(task_id AS TEXT), '') AS task_id, CAST(task_item_id AS TEXT) AS task_item_id,
        coalesce(CAST(event_type AS TEXT), '') AS event_type, coalesce(CAST(created_at AS TEXT), '') AS created_at,
        CAST(step AS TEXT) AS step, CAST(step_scope AS TEXT) AS step_scope,
        coalesce(CAST(payload_json AS TEXT), '') AS payload_json
    FROM events WHERE id > ? AND id <= ?{where} ORDER BY events.id LIMIT ?
)
"""


def read_page(
    connection: sqlite3.Connection,
    selection: Selection,
    after_id: int,
    up_to: int,
    limit: int,
    only_ids: Sequence[int] | None = None,
) -> Page:
    """At most `limit` rows with ``after_id < id <= up_to``, fewer if they do not fit into `PAGE_BYTES`.

    One step of SQLite and one run of the parser. Row by row, the GIL would change hands at each: beside a
    busy thread 1,500 rows/s instead of 40,000.
    """
    where, wanted = _conditions(selection, only_ids)
    sql = _PAGE.format(where=where, pruned=WAS_PRUNED)
    try:
        rows = fetch_all(connection, sql, (SEPARATOR, after_id, up_to, *wanted, limit))
    except sqlite3.DataError as error:
        longest = connection.getlimit(sqlite3.SQLITE_LIMIT_LENGTH)
        if primary_code(error) != sqlite3.SQLITE_TOOBIG or longest > PAGE_BYTES:
            raise
        if limit > 1:
            fewer = max(1, limit // 8)
            return read_page(
                connection,
                selection,
                after_id,
                up_to,
                fewer,
                only_ids,
            )
        with any_length(connection):
            return read_page(
                connection,
                selection,
                after_id,
                up_to,
                1,
                only_ids,
            )
    *columns, payloads, was_pruned = rows[0]
    ids, task_ids, items, types, times, steps, scopes = map(_parsed, columns)
    page_ids = cast("list[int]", ids)
    page = Page(
        ids=page_ids,
        task_ids=cast("list[str]", task_ids),
        task_item_ids=cast("list[str | None]", items),
        event_types=cast("list[str]", types),
        created_ats=cast("list[str]", times),
        steps=cast("list[str | None]", steps),
        step_scopes=cast("list[str | None]", scopes),
        payloads=JoinedPayloads(str(payloads or ""), len(page_ids)),
        was_pruned=was_pruned == 1,
        limit=limit,
    )
    if page.ids:
        require_ascending(after_id, page.ids[-1])
    return page


def _parsed(cell: Cell) -> object:
    return cast("object", json.loads(str(cell)))


def read_last_id(connection: sqlite3.Connection) -> int:
    """The newest row's id; 0 in an empty log."""
    last_id = scalar(connection, "SELECT max(id) FROM events")
    if not isinstance(last_id, int):
        return 0
    return last_id


def read_latest_log_paths(connection: sqlite3.Connection, task_id: str) -> StepLogPaths | None:
    """The log paths that the task's newest spawned or started event names."""
    sql = f"""SELECT CAST(payload_json AS TEXT) FROM events
        WHERE task_id = ? AND event_type IN ({LOG_PATH_TYPES}) ORDER BY id DESC LIMIT 1"""
    with any_length(connection):
        text = scalar(connection, sql, (task_id,))
    if not isinstance(text, str):
        return None
    return step_log_paths(parse_or_none(text))


def read_tasks(
    connection: sqlite3.Connection,
    before_id: int,
    limit: int,
) -> list[TaskSummary]:
    """At most `limit` tasks with a newest event before that id, the most recently active first.

    Reads the index of tasks, and three rows for each task that it gives.
    """
    tasks = f"""
SELECT coalesce(CAST(t.task_id AS TEXT), ''), t.events,
    first.id, coalesce(CAST(first.created_at AS TEXT), ''),
    last.id, coalesce(CAST(last.event_type AS TEXT), ''), coalesce(CAST(last.created_at AS TEXT), ''),
    coalesce(CASE WHEN t.task_id <> '' THEN {STATUS} END, '{UNKNOWN_STATUS}')
FROM (
    SELECT task_id, count(*) AS events, min(id) AS first_id, max(id) AS last_id
    FROM events GROUP BY task_id HAVING max(id) < ? ORDER BY max(id) DESC LIMIT ?) t
JOIN events first ON first.id = t.first_id
JOIN events last ON last.id = t.last_id
ORDER BY t.last_id DESC"""
    with asking_status(connection):
        found = fetch_all(connection, tasks, (before_id, limit))
    return [TaskSummary(*cast("SummaryFields", row)) for row in found]


def read_task_names(
    connection: sqlite3.Connection,
    shortest: int,
    longest: int,
    limit: int,
) -> list[str]:
    """At most `limit` task names with that many characters. Reads the index of tasks alone."""
    names = "SELECT DISTINCT task_id FROM events WHERE length(task_id) BETWEEN ? AND ? LIMIT ?"
    found = fetch_all(connection, names, (shortest, longest, limit))
    return [name for (name,) in found if isinstance(name, str)]  # no blob: it cannot be asked for


def read_latest_task(connection: sqlite3.Connection) -> str | None:
    """The task of the newest event that has one."""
    latest = "SELECT task_id FROM events WHERE task_id <> '' ORDER BY id DESC LIMIT 1"
    text = scalar(connection, latest)
    if not isinstance(text, str):
        return None
    return text
