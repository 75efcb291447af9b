# SPDX-License-Identifier: MIT
"""How many events, of which types, and how large the file is."""

import sqlite3
from collections.abc import Mapping, Sequence
from typing import Final, cast

from ..._values.task_status import UNKNOWN_STATUS
from .interruptible import Cell, Row
from .statements import fetch_all, scalar
from .task_status import STATUS, asking_status

_TOTALS: Final = f"""
SELECT status, sum(task_id <> ''), sum(events) FROM (
    SELECT t.task_id, t.events,
        coalesce(CASE WHEN t.task_id <> '' THEN {STATUS} END, '{UNKNOWN_STATUS}') AS status
    FROM (SELECT task_id, count(*) AS events FROM events GROUP BY task_id) t)
GROUP BY status"""

_TYPES: Final = """
SELECT coalesce(CAST(e.event_type AS TEXT), ''), count(*)
FROM {events} GROUP BY 1 ORDER BY 2 DESC, 1"""

_NEIGHBOURS: Final = 10
"""Events looked at in each place of a sample. They share a page of the file."""

_PLACES: Final = 1000
"""Places of a sample, spread evenly."""

_EVENTS_NEAR_PLACES: Final = f"""(
    WITH RECURSIVE places(number, first_id) AS (
        SELECT 0, NULL
        UNION ALL
        SELECT
            number + 1,
            :first_id + number * :distance + abs(random() % (:distance - {_NEIGHBOURS - 1}))
        FROM places WHERE number < {_PLACES})
    SELECT first_id FROM places)
CROSS JOIN events e ON e.id BETWEEN first_id AND first_id + {_NEIGHBOURS - 1}"""

_EVENTS_ANYWHERE: Final = """events e
WHERE e.id IN (SELECT id FROM events WHERE random() % :one_in = 0)"""

_ENOUGH: Final = 2500
"""Events of a sample that show the shares of types well."""

_OLDEST: Final = """
SELECT id, coalesce(CAST(created_at AS TEXT), '') FROM events
WHERE id >= ? ORDER BY id LIMIT 1"""

_NEWEST: Final = """
SELECT id, coalesce(CAST(created_at AS TEXT), '') FROM events
ORDER BY id DESC LIMIT 1"""


def read_size(connection: sqlite3.Connection) -> tuple[int, int]:
    """Bytes of the database, and how many of them are in pages that are free."""
    page_bytes = _pragma(connection, "page_size")
    pages = _pragma(connection, "page_count")
    free_pages = _pragma(connection, "freelist_count")
    return page_bytes * pages, page_bytes * free_pages


def _pragma(connection: sqlite3.Connection, name: str) -> int:
    return cast("int", scalar(connection, f"PRAGMA {name}"))


def count_events(connection: sqlite3.Connection) -> int:
    """How many events there are."""
    return cast("int", scalar(connection, "SELECT count(*) FROM events"))


def read_totals(connection: sqlite3.Connection) -> Sequence[tuple[str, int, int]]:
    """For each status, or ``"unknown"``: the tasks, and their events; among these, those of no task.

    Reads the index of tasks.
    """
    with asking_status(connection):
        return cast("Sequence[tuple[str, int, int]]", fetch_all(connection, _TOTALS))


def read_types(connection: sqlite3.Connection) -> dict[str, int]:
    """The events of each type. Reads all of them."""
    return _types(connection, "events e", {})


def sample_types(connection: sqlite3.Connection, events: int) -> dict[str, int]:
    """The types in a sample; `events` is how many there are.

    The sample is some neighbouring events in each of many random places. Where most of these are gone, it is some
    10,000 events from anywhere, for which an index is walked through.
    """
    oldest = read_oldest(connection)
    newest = read_newest(connection)
    if oldest is None or newest is None:
        return {}
    first_id, _ = oldest
    last_id, _ = newest
    distance = max(_NEIGHBOURS, (last_id - first_id) // _PLACES)
    types = _types(connection, _EVENTS_NEAR_PLACES, {"first_id": first_id, "distance": distance})
    if sum(types.values()) < _ENOUGH:
        types = _types(connection, _EVENTS_ANYWHERE, {"one_in": max(1, events // 10_000)})
    return types


def _types(
    connection: sqlite3.Connection, events: str, parameters: Mapping[str, Cell]
) -> dict[str, int]:
    rows = fetch_all(connection, _TYPES.format(events=events), parameters)
    return dict(cast("Sequence[tuple[str, int]]", rows))


def read_oldest(connection: sqlite3.Connection, from_id: int = 1) -> tuple[int, str] | None:
    """Id and time of the oldest event with an id of `from_id` or more."""
    return _first(fetch_all(connection, _OLDEST, (from_id,)))


def read_newest(connection: sqlite3.Connection) -> tuple[int, str] | None:
    """Id and time of the newest event."""
    return _first(fetch_all(connection, _NEWEST))


def _first(rows: Sequence[Row]) -> tuple[int, str] | None:
    if not rows:
        return None
    return cast("tuple[int, str]", rows[0])
