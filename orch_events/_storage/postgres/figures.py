# SPDX-License-Identifier: MIT
"""How many events, of which types, and how much room they take."""

from collections.abc import Sequence
from typing import Final, cast

from ..._values.task_status import UNKNOWN_STATUS
from ..interface import Moment, StatusTotal
from .driver import Connection, Row
from .task_status import read_status_events

_COUNTS: Final = "SELECT task_id, count(*) FROM {schema}.events GROUP BY task_id"

_TYPES: Final = """
SELECT event_type, count(*) FROM {schema}.events{sample} GROUP BY 1 ORDER BY 2 DESC, 1"""

_OLDEST: Final = """
SELECT id, created_at FROM {schema}.events WHERE id >= %s ORDER BY id LIMIT 1"""

_NEWEST: Final = "SELECT id, created_at FROM {schema}.events ORDER BY id DESC LIMIT 1"

_COUNT: Final = "SELECT count(*) FROM {schema}.events"

_SIZE: Final = """
SELECT pg_total_relation_size('{schema}.events'), coalesce(n_live_tup, 0), coalesce(n_dead_tup, 0)
FROM pg_catalog.pg_stat_all_tables WHERE relid = '{schema}.events'::regclass"""

_SAMPLED_SHARE: Final = " TABLESAMPLE SYSTEM ({percent})"

_SAMPLED_EVENTS: Final = 10_000


def read_totals(connection: Connection, schema: str) -> Sequence[StatusTotal]:
    """For each status, or ``"unknown"``: the tasks, and their events; among these, those of no task."""
    counts = connection.execute(_COUNTS.format(schema=schema)).fetchall()
    statuses = read_status_events(connection, schema, [str(row[0]) for row in counts])
    tasks = dict[str, int]()
    events = dict[str, int]()
    for task_id, count in counts:
        _, status = statuses.get(str(task_id), (0, UNKNOWN_STATUS))
        tasks[status] = tasks.get(status, 0) + (0 if task_id == "" else 1)
        events[status] = events.get(status, 0) + cast("int", count)
    return [StatusTotal(status, tasks[status], events[status]) for status in sorted(tasks)]


def read_types(connection: Connection, schema: str) -> dict[str, int]:
    """The events of each type. Reads all of them."""
    return _types(connection, schema, "")


def sample_types(connection: Connection, schema: str) -> dict[str, int]:
    """The types in a sample of pages, of some 10,000 events."""
    events = count_events(connection, schema)
    percent = min(100.0, 100.0 * _SAMPLED_EVENTS / max(1, events))
    return _types(connection, schema, _SAMPLED_SHARE.format(percent=f"{percent:.6f}"))


def _types(connection: Connection, schema: str, sample: str) -> dict[str, int]:
    rows = connection.execute(_TYPES.format(schema=schema, sample=sample)).fetchall()
    return {str(kind): cast("int", count) for kind, count in rows}


def count_events(connection: Connection, schema: str) -> int:
    """How many events there are."""
    ((count,),) = connection.execute(_COUNT.format(schema=schema)).fetchall()
    return cast("int", count)


def read_oldest(connection: Connection, schema: str, from_id: int) -> Moment | None:
    """The oldest event with an id of `from_id` or more."""
    return _moment(connection.execute(_OLDEST.format(schema=schema), (from_id,)).fetchall())


def read_newest(connection: Connection, schema: str) -> Moment | None:
    """The newest event."""
    return _moment(connection.execute(_NEWEST.format(schema=schema)).fetchall())


def _moment(rows: Sequence[Row]) -> Moment | None:
    if not rows:
        return None
    event_id, created_at = rows[0]
    return Moment(cast("int", event_id), str(created_at))


def read_size(connection: Connection, schema: str) -> tuple[int, int]:
    """Bytes of the table with its indexes, and about how many of them are of deleted rows.

    PostgreSQL uses these again, and as a rule gives them back to the file system only in a VACUUM FULL.
    """
    ((total, live, dead),) = connection.execute(_SIZE.format(schema=schema)).fetchall()
    rows = cast("int", live) + cast("int", dead)
    if not rows:
        return cast("int", total), 0
    return cast("int", total), cast("int", total) * cast("int", dead) // rows
