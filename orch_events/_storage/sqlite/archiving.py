# SPDX-License-Identifier: MIT
"""Events by their ids, out to an archive and back from one."""

import contextlib
import sqlite3
from collections.abc import (
    Collection,
    Generator,
    Iterator,
    Sequence,
)
from typing import Final

from ..._values.events import Event
from ..interface import MAX_ID, Selection
from ..pages import page_events
from ..restoring import missing_events, step_columns
from .connections import PAGE_BYTES
from .interruptible import Cell
from .pruned_table import has_pruned
from .reading import SELECTED_IDS, read_page
from .statements import (
    id_list,
    scalar,
    transaction,
)

_EVENTS_AT_ONCE: Final = 2048
"""Events that one statement asks for by their ids."""


_INSERT_WITH_ID: Final = """
INSERT INTO events(
    id, task_id, task_item_id, event_type, payload_json, created_at, step, step_scope, cycle)
VALUES (
    ?, CAST(? AS TEXT), CAST(? AS TEXT), CAST(? AS TEXT), CAST(? AS TEXT), CAST(? AS TEXT),
    CAST(? AS TEXT), CAST(? AS TEXT), ?)"""
"""Texts are given as bytes, which need not be UTF-8."""

_FORGET_RESTORED: Final = """
UPDATE orch_events_pruned SET events = events - (
    SELECT count(*) FROM events e
    WHERE e.id IN (SELECT value FROM json_each(:ids)) AND e.task_id = orch_events_pruned.task_id)"""


@contextlib.contextmanager
def bounded_pages(connection: sqlite3.Connection) -> Generator[None, None, None]:
    """Read pages of bounded size in the body, on a connection that otherwise has no limit."""
    usual = connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, PAGE_BYTES)
    try:
        yield
    finally:
        connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, usual)


def read_events(
    connection: sqlite3.Connection,
    ids: Sequence[int],
    event_types: frozenset[str] | None = None,
) -> Iterator[Event]:
    """Those of `ids` that are there and of these types, in order: that of the ids."""
    selection = Selection(event_types=event_types)
    for start in range(0, len(ids), _EVENTS_AT_ONCE):
        some = ids[start : start + _EVENTS_AT_ONCE]
        after_id = 0
        while True:
            page = read_page(
                connection,
                selection,
                after_id,
                MAX_ID,
                len(some),
                some,
            )
            if not page.ids:
                break
            yield from page_events(page)
            after_id = page.ids[-1]


def count_present(connection: sqlite3.Connection, ids: Sequence[int]) -> int:
    """How many of `ids` are there."""
    found = 0
    for start in range(0, len(ids), _EVENTS_AT_ONCE):
        some = id_list(ids[start : start + _EVENTS_AT_ONCE])
        count = scalar(
            connection, f"SELECT count(*) FROM events WHERE id IN {SELECTED_IDS}", (some,)
        )
        if isinstance(count, int):
            found += count
    return found


def tasks_present(connection: sqlite3.Connection, task_ids: Collection[str]) -> set[str]:
    """Those of `task_ids` of which any event is there."""
    sql = "SELECT EXISTS (SELECT 1 FROM events WHERE task_id = ?)"
    return {task_id for task_id in task_ids if scalar(connection, sql, (task_id,)) == 1}


def restore(connection: sqlite3.Connection, events: Sequence[Event]) -> tuple[int, int]:
    """Insert `events` with their ids, in one transaction, up to the first with an id of another event.

    Returns how many there are up to that one, and how many of them were not there already.
    """
    with transaction(connection):
        connection.execute("BEGIN IMMEDIATE")
        with bounded_pages(connection):
            known_ids = [event.event_id for event in events]
            there = {event.event_id: event for event in read_events(connection, known_ids)}
        new, done = missing_events(events, there)
        connection.executemany(_INSERT_WITH_ID, map(_cells, new))
        if new and has_pruned(connection):
            restored = sorted({event.event_id for event in new})
            connection.execute(_FORGET_RESTORED, {"ids": id_list(restored)})
            connection.execute("DELETE FROM orch_events_pruned WHERE events <= 0")
    return done, len(new)


def _cells(event: Event) -> tuple[Cell, ...]:
    step, scope, cycle = step_columns(event)
    texts = (
        event.task_id,
        event.task_item_id,
        event.event_type,
        event.payload_json,
        event.created_at,
        step,
        scope,
    )
    return (event.event_id, *map(_encoded, texts), cycle)


def _encoded(text: str | None) -> bytes | None:
    """As it is stored: lone surrogates stand for bytes that are not UTF-8."""
    if text is None:
        return None
    return text.encode("utf-8", "surrogateescape")
