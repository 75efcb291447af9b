# SPDX-License-Identifier: MIT
"""The tables and indexes of a log file, and how a file from elsewhere becomes one.

It may be a host application's or the reference program's, so `events` has exactly the reference's columns, all else of
ours is named ``orch_events_…``, and ``user_version`` and ``application_id`` are left alone.
"""

import errno
import sqlite3
from collections.abc import Iterable
from typing import Final

from ._connection import Cell, check_order, enter_wal_mode, fetch_all, scalar
from ._errors import LogNotFoundError, SchemaError
from ._events import LOG_PATH_EVENT_TYPES, TASK_STATUS, promoted_columns
from ._payload import parse_or_none

VERSION: Final = 1
"""Raised when a file written by this version can no longer be used by the one before."""

_EVENTS: Final = """
CREATE TABLE events(id INTEGER PRIMARY KEY AUTOINCREMENT, task_id TEXT NOT NULL, task_item_id TEXT,
    event_type TEXT NOT NULL, payload_json TEXT NOT NULL, created_at TEXT NOT NULL,
    step TEXT, step_scope TEXT, cycle INTEGER)"""
_REQUIRED: Final = ("id", "task_id", "task_item_id", "event_type", "payload_json", "created_at")
_PROMOTED: Final = {"step": "TEXT", "step_scope": "TEXT", "cycle": "INTEGER"}


def sql_list(types: Iterable[str]) -> str:
    """SQL literals for event types. They stand in the text, not in parameters, so that partial indexes match."""
    return ", ".join(f"'{name}'" for name in types)


LOG_PATH_TYPES: Final = sql_list(LOG_PATH_EVENT_TYPES)
STATUS_TYPES: Final = sql_list(TASK_STATUS)

# Every index entry ends in the row id, so `(task_id)` alone answers "a task's events in id order"; the partial ones
# answer "latest spawned or started" and "latest task event" in O(log n) and cost nothing for other types.
_INDEXES: Final = {
    "orch_events_task": "",
    "orch_events_log_paths": f"WHERE event_type IN ({LOG_PATH_TYPES})",
    "orch_events_status": f"WHERE event_type IN ({STATUS_TYPES})",
}


def prepare(connection: sqlite3.Connection, path: str, busy_timeout: float) -> None:
    """Make the file a log of this version, in one transaction, or leave it untouched and raise `SchemaError`."""
    columns = _checked_columns(connection, path)
    names = {row[0] for row in fetch_all(connection, "SELECT name FROM sqlite_master")}
    enter_wal_mode(connection, path, busy_timeout)
    if columns >= {*_REQUIRED, *_PROMOTED} and names >= {*_INDEXES, "orch_events_schema"}:
        return  # the usual case, which takes no lock
    with connection:  # commits, or rolls back
        connection.execute("BEGIN IMMEDIATE")
        columns = _checked_columns(connection, path)
        if not columns:
            connection.execute(_EVENTS)
        elif missing := [name for name in _PROMOTED if name not in columns]:
            for name in missing:
                connection.execute(f"ALTER TABLE events ADD COLUMN {name} {_PROMOTED[name]}")
            _backfill(connection)
        for name, where in _INDEXES.items():
            connection.execute(f"CREATE INDEX IF NOT EXISTS {name} ON events(task_id) {where}")
        connection.execute("CREATE TABLE IF NOT EXISTS orch_events_schema(version INTEGER NOT NULL)")
        if scalar(connection, "SELECT version FROM orch_events_schema") is None:
            connection.execute("INSERT INTO orch_events_schema(version) VALUES (?)", (VERSION,))


def prepare_reading(connection: sqlite3.Connection, path: str) -> None:
    """Check that the file is a log, without writing to it."""
    # Asked first: between two statements another process may create the log.
    empty = scalar(connection, "SELECT count(*) FROM sqlite_master") == 0
    columns = _checked_columns(connection, path)
    if not columns and empty:
        raise LogNotFoundError(errno.ENOENT, "an empty database; no event log here yet", path)
    if not columns:
        raise SchemaError(f"{path}: has no table 'events'; not an event log")
    if not columns.issuperset(_PROMOTED):
        # A file from before the promoted columns. A temporary view (which lives outside the file) hides the difference:
        # unpromoted values come from the payload.
        cells = [name if name in columns else f"NULL AS {name}" for name in (*_REQUIRED, *_PROMOTED)]
        connection.execute(f"CREATE TEMP VIEW events AS SELECT {', '.join(cells)} FROM main.events")


def _checked_columns(connection: sqlite3.Connection, path: str) -> set[Cell]:
    """The columns of `events`, empty without such a table; `SchemaError` for a table or a file that is not ours."""
    # In whatever case: names are not case-sensitive in SQLite.
    kind = scalar(connection, "SELECT type FROM sqlite_master WHERE lower(name)='events' AND type IN ('table', 'view')")
    if isinstance(kind, str) and kind != "table":
        raise SchemaError(f"{path}: 'events' is a {kind}, not a table; not an event log")
    table = "SELECT lower(name), upper(type), pk FROM pragma_table_info('events')"
    info = fetch_all(connection, table) if kind == "table" else []
    columns = {name for name, _, _ in info}
    if columns and (missing := [name for name in _REQUIRED if name not in columns]):
        raise SchemaError(f"{path}: table 'events' lacks {', '.join(missing)}; not an event log")
    apart = scalar(connection, "SELECT 1 FROM pragma_index_list('events') WHERE origin = 'pk'")  # from the row's own id
    if columns and (apart == 1 or ("id", "INTEGER", 1) not in info):
        raise SchemaError(f"{path}: events.id is not INTEGER PRIMARY KEY; not an event log")
    version = schema_version(connection)
    if version is not None and version > VERSION:
        raise SchemaError(f"{path}: schema version {version} is newer than {VERSION}; a newer orch_events wrote it")
    return columns


def schema_version(connection: sqlite3.Connection) -> int | None:
    """The version of ours that the file was made for; ``None`` when only others have written to it."""
    if scalar(connection, "SELECT 1 FROM sqlite_master WHERE type='table' AND name='orch_events_schema'") != 1:
        return None
    version = scalar(connection, "SELECT max(version) FROM orch_events_schema")
    return version if isinstance(version, int) else None


def _backfill(connection: sqlite3.Connection) -> None:
    last = 0
    page = "SELECT id, CAST(payload_json AS TEXT) FROM events WHERE id > ? ORDER BY id LIMIT 1000"
    update = f"UPDATE events SET {', '.join(f'{name} = coalesce({name}, ?)' for name in _PROMOTED)} WHERE id = ?"
    while rows := fetch_all(connection, page, (last,)):
        values = [(parse_or_none(str(text)), row_id) for row_id, text in rows]
        promoted = [(*promoted_columns(value), row_id) for value, row_id in values if isinstance(value, dict)]
        connection.executemany(update, promoted)
        last = check_order(last, rows[-1][0])
