# SPDX-License-Identifier: MIT
"""Reading pages of rows, each with one statement, which is one snapshot."""

from collections.abc import Sequence
from typing import Final, TypeAlias, cast

from ..._values.events import StepLogPaths
from ..._values.joined_texts import SEPARATOR, parse_many
from ..._values.json_text import JsonValue, parse_or_none
from ..._values.step_fields import step_log_paths
from ..._values.task_status import UNKNOWN_STATUS
from ..._values.task_summary import SummaryFields, TaskSummary
from ..interface import Page, Selection
from .driver import Connection
from .schema import LOG_PATH_TYPES, sql_list
from .task_status import read_status_events

_PAGE_BYTES: Final = 8 << 20
"""Longest payloads of one page, together, so that reading stays in bounded memory for payloads of any size."""

_SELECTED: Final = """
    SELECT id, task_id, task_item_id, event_type, created_at, step, step_scope, payload_json
    FROM {schema}.events WHERE {where} ORDER BY {order} LIMIT (SELECT %s::bigint)"""
"""A limit that the planner cannot see makes it prefer the order of an index. Else, where it expects few rows, as before
a table's first ANALYZE, it reads and sorts the whole rest of the log for each page: 100,000 rows in 3.5 s, not 0.7.
"""

_OF_ALL: Final = "id > %s AND id <= %s"

_OF_TASK: Final = "(task_id, id) > (%s, %s) AND (task_id, id) <= (%s, %s)"
"""One range of the index. With the task's equality it would expect too few rows, as above."""

_WAS_PRUNED: Final = "EXISTS (SELECT 1 FROM {schema}.pruned_total)"

_WHOLE_PAGE: Final = f"""
SELECT {_WAS_PRUNED}, page.*
FROM ({_SELECTED}) AS page
WHERE (SELECT sum(octet_length(payload_json)) FROM ({_SELECTED}) AS page) <= {_PAGE_BYTES}
ORDER BY page.id"""
"""All the rows, if there are any and they fit into a page."""

_BOUNDED_PAGE: Final = f"""
SELECT {_WAS_PRUNED}, bounded.*
FROM (SELECT) AS always
LEFT JOIN (
    SELECT id, task_id, task_item_id, event_type, created_at, step, step_scope, payload_json
    FROM (
        SELECT page.*,
            row_number() OVER (ORDER BY id) AS place,
            sum(octet_length(payload_json)) OVER (ORDER BY id) AS bytes
        FROM ({_SELECTED}) AS page
    ) AS measured
    WHERE place = 1 OR bytes <= {_PAGE_BYTES}
) AS bounded ON true
ORDER BY bounded.id"""
"""As many of them as fit, but at least one; without any, one row of NULLs. It takes twice as long."""

_LAST_ID: Final = "SELECT max(id) FROM {schema}.events"

_LOG_PATHS: Final = f"""
SELECT payload_json FROM {{schema}}.events
WHERE task_id = %s AND event_type IN ({LOG_PATH_TYPES}) ORDER BY id DESC LIMIT 1"""

_TASKS: Final = """
SELECT t.task_id, t.events, a.id, a.created_at, z.id, z.event_type, z.created_at
FROM (
    SELECT task_id, count(*) AS events, min(id) AS first_id, max(id) AS last_id
    FROM {schema}.events GROUP BY task_id
    HAVING max(id) < %s ORDER BY max(id) DESC LIMIT %s
) t
JOIN {schema}.events a ON a.id = t.first_id
JOIN {schema}.events z ON z.id = t.last_id
ORDER BY t.last_id DESC"""

_TASK_NAMES: Final = """
SELECT DISTINCT task_id FROM {schema}.events
WHERE char_length(task_id) BETWEEN %s AND %s LIMIT %s"""

_LATEST_TASK: Final = """
SELECT task_id FROM {schema}.events WHERE task_id <> '' ORDER BY id DESC LIMIT 1"""


_PageRow: TypeAlias = tuple[bool, int, str, str | None, str, str, str | None, str | None, str, int]
"""As `_PAGE` gives it."""


class _Payloads:
    """The payloads of a page."""

    def __init__(self, texts: list[str]) -> None:
        self._texts = texts

    def texts(self) -> list[str]:
        return self._texts

    def values(self) -> list[JsonValue]:
        return parse_many(SEPARATOR.join(self._texts), len(self._texts))


def read_page(
    connection: Connection,
    schema: str,
    selection: Selection,
    after_id: int,
    up_to: int,
    limit: int,
) -> Page:
    """At most `limit` rows with ``after_id < id <= up_to``, fewer if they do not fit into `_PAGE_BYTES`."""
    where = _OF_ALL
    order = "id"
    parameters: list[object] = [after_id, up_to]
    if selection.task_id is not None:
        where = _OF_TASK
        order = "task_id, id"
        parameters = [selection.task_id, after_id, selection.task_id, up_to]
    if selection.event_types is not None:
        where += f" AND event_type IN ({sql_list(sorted(selection.event_types))})"
    if selection.event_type_prefix is not None:
        where += " AND starts_with(event_type, %s)"
        parameters.append(selection.event_type_prefix)
    parameters.append(limit)
    sql = _WHOLE_PAGE.format(schema=schema, where=where, order=order)
    found = connection.execute(sql, (*parameters, *parameters)).fetchall()
    if not found:
        sql = _BOUNDED_PAGE.format(schema=schema, where=where, order=order)
        found = connection.execute(sql, parameters).fetchall()
        if found[0][1] is not None:
            limit = len(found)
    was_pruned = found[0][0] is True
    full = [row for row in found if row[1] is not None]
    rows = cast("Sequence[_PageRow]", full)
    return Page(
        ids=[row[1] for row in rows],
        task_ids=[row[2] for row in rows],
        task_item_ids=[row[3] for row in rows],
        event_types=[row[4] for row in rows],
        created_ats=[row[5] for row in rows],
        steps=[row[6] for row in rows],
        step_scopes=[row[7] for row in rows],
        payloads=_Payloads([row[8] for row in rows]),
        was_pruned=was_pruned,
        limit=limit,
    )


def read_last_id(connection: Connection, schema: str) -> int:
    """The newest row's id; 0 in an empty log."""
    ((last_id,),) = connection.execute(_LAST_ID.format(schema=schema)).fetchall()
    return cast("int | None", last_id) or 0


def read_latest_log_paths(
    connection: Connection,
    schema: str,
    task_id: str,
) -> StepLogPaths | None:
    """The log paths that the task's newest spawned or started event names."""
    rows = connection.execute(_LOG_PATHS.format(schema=schema), (task_id,)).fetchall()
    if not rows:
        return None
    return step_log_paths(parse_or_none(str(rows[0][0])))


def read_tasks(
    connection: Connection,
    schema: str,
    before_id: int,
    limit: int,
) -> list[TaskSummary]:
    """At most `limit` tasks with a newest event before that id, the most recently active first."""
    rows = connection.execute(_TASKS.format(schema=schema), (before_id, limit)).fetchall()
    statuses = read_status_events(connection, schema, [str(row[0]) for row in rows])
    tasks = list[TaskSummary]()
    for row in rows:
        _, status = statuses.get(str(row[0]), (0, UNKNOWN_STATUS))
        tasks.append(TaskSummary(*cast("SummaryFields", (*row, status))))
    return tasks


def read_task_names(
    connection: Connection,
    schema: str,
    shortest: int,
    longest: int,
    limit: int,
) -> list[str]:
    """At most `limit` task names with that many characters."""
    sql = _TASK_NAMES.format(schema=schema)
    return [str(row[0]) for row in connection.execute(sql, (shortest, longest, limit)).fetchall()]


def read_latest_task(connection: Connection, schema: str) -> str | None:
    """The task of the newest event that has one."""
    rows = connection.execute(_LATEST_TASK.format(schema=schema)).fetchall()
    if not rows:
        return None
    return str(rows[0][0])
