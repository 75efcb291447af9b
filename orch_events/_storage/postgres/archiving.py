# SPDX-License-Identifier: MIT
"""Events by their ids, out to an archive and back from one."""

from collections.abc import (
    Collection,
    Iterator,
    Sequence,
)
from typing import Final, cast

from ..._values.events import Event
from ..restoring import missing_events, step_columns
from .driver import Connection, Row
from .location import Location
from .log_lock import lock_log
from .pruned_table import forget_restored
from .schema import sql_list

_EVENTS_AT_ONCE: Final = 500

_BY_ID: Final = """
SELECT id, task_id, task_item_id, event_type, payload_json, created_at
FROM {schema}.events WHERE id = ANY(%s){of_types} ORDER BY id"""

_TASKS: Final = """
SELECT t.task_id FROM unnest(%s::text[]) AS t(task_id)
WHERE EXISTS (SELECT 1 FROM {schema}.events e WHERE e.task_id = t.task_id)"""

_COUNT: Final = "SELECT count(*) FROM {schema}.events WHERE id = ANY(%s)"

_INSERT_WITH_ID: Final = """
INSERT INTO {schema}.events (
    id, task_id, task_item_id, event_type, payload_json, created_at, step, step_scope, cycle)
VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s)"""

_RAISE_SEQUENCE: Final = """
SELECT setval('{schema}.events_id', greatest(%s, (SELECT last_value FROM {schema}.events_id)))"""


def read_events(
    connection: Connection,
    schema: str,
    ids: Sequence[int],
    event_types: frozenset[str] | None = None,
) -> Iterator[Event]:
    """Those of `ids` that are there and of these types, in order."""
    of_types = ""
    if event_types is not None:
        of_types = f" AND event_type IN ({sql_list(sorted(event_types))})"
    sql = _BY_ID.format(schema=schema, of_types=of_types)
    for start in range(0, len(ids), _EVENTS_AT_ONCE):
        some = list(ids[start : start + _EVENTS_AT_ONCE])
        for row in connection.execute(sql, (some,)).fetchall():
            yield _event(row)


def _event(row: Row) -> Event:
    event_id, task_id, task_item_id, event_type, payload_json, created_at = row
    return Event(
        event_id=cast("int", event_id),
        task_id=str(task_id),
        task_item_id=cast("str | None", task_item_id),
        event_type=str(event_type),
        payload_json=str(payload_json),
        created_at=str(created_at),
    )


def count_present(connection: Connection, schema: str, ids: Sequence[int]) -> int:
    """How many of `ids` are there."""
    ((count,),) = connection.execute(_COUNT.format(schema=schema), (list(ids),)).fetchall()
    return cast("int", count)


def tasks_present(connection: Connection, schema: str, task_ids: Collection[str]) -> set[str]:
    """Those of `task_ids` of which any event is there."""
    rows = connection.execute(_TASKS.format(schema=schema), (list(task_ids),)).fetchall()
    return {str(task_id) for (task_id,) in rows}


def restore(
    connection: Connection,
    location: Location,
    events: Sequence[Event],
    timeout: float,
) -> tuple[int, int]:
    """Within a transaction, insert `events` with their ids, up to the first with an id of another event.

    Returns how many there are up to that one, and how many of them were not there already.
    """
    schema = location.schema
    lock_log(connection, location, timeout)
    ids = [event.event_id for event in events]
    there = {event.event_id: event for event in read_events(connection, schema, ids)}
    new, done = missing_events(events, there)
    sql = _INSERT_WITH_ID.format(schema=schema)
    for event in new:
        connection.execute(sql, _cells(event))
    if new:
        restored = [event.event_id for event in new]
        connection.execute(_RAISE_SEQUENCE.format(schema=schema), (max(restored),))
        forget_restored(connection, schema, restored)
    return done, len(new)


def _cells(event: Event) -> tuple[object, ...]:
    return (
        event.event_id,
        event.task_id,
        event.task_item_id,
        event.event_type,
        event.payload_json,
        event.created_at,
        *step_columns(event),
    )
