# SPDX-License-Identifier: MIT
"""The tables and indexes of a log file, and how a file from elsewhere becomes one.

It may be a host application's or the reference program's, so `events` has exactly the reference's columns, all else of
ours is named ``orch_events_…``, and ``user_version`` and ``application_id`` are left alone.
"""

import errno
import sqlite3
from collections.abc import Iterable, Set
from typing import Final

from ..._values.errors import LogNotFoundError, SchemaError
from ..._values.event_types import LOG_PATH_EVENT_TYPES
from ..._values.json_text import parse_or_none
from ..._values.step_fields import promoted_columns
from ..._values.task_status import STATUS_EVENT_TYPES
from .connections import enter_wal_mode
from .interruptible import (
    Cell,
    Row,
    let_no_signals_in,
)
from .statements import (
    fetch_all,
    require_ascending,
    scalar,
    transaction,
)

VERSION: Final = 1
"""Raised when a file written by this version can no longer be used by the one before."""

_EVENTS: Final = """
CREATE TABLE events(id INTEGER PRIMARY KEY AUTOINCREMENT, task_id TEXT NOT NULL, task_item_id TEXT,
    event_type TEXT NOT NULL, payload_json TEXT NOT NULL, created_at TEXT NOT NULL,
    step TEXT, step_scope TEXT, cycle INTEGER)"""

_REQUIRED: Final = ("id", "task_id", "task_item_id", "event_type", "payload_json", "created_at")

_VERBATIM: Final = ("task_id", "task_item_id", "event_type")

_PROMOTED: Final = {"step": "TEXT", "step_scope": "TEXT", "cycle": "INTEGER"}


def sql_list(types: Iterable[str]) -> str:
    """SQL literals for event types. They stand in the text, not in parameters, so that partial indexes match."""
    return ", ".join(f"'{name}'" for name in types)


LOG_PATH_TYPES: Final = sql_list(LOG_PATH_EVENT_TYPES)

STATUS_TYPES: Final = sql_list(STATUS_EVENT_TYPES)

_KINDS: Final = """
SELECT lower(name), CASE WHEN sql LIKE 'CREATE VIRTUAL%' THEN 'virtual table' ELSE type END
FROM sqlite_master
WHERE type IN ('table', 'view')
    AND lower(name) IN ('events', 'orch_events_schema', 'orch_events_pruned')"""
"""In upper or lower case: names are not case-sensitive in SQLite."""

_COLUMNS: Final = "SELECT lower(name), upper(type), pk FROM pragma_table_xinfo('events')"
"""All columns, those that the table generates too."""

_HAS_OTHER_KEY: Final = "SELECT 1 FROM pragma_index_list('events') WHERE origin = 'pk'"
"""Whether the primary key is something else than the row's own id."""

_HAS_VERSION: Final = (
    "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'orch_events_schema'"
)

_PAYLOADS: Final = (
    "SELECT id, CAST(payload_json AS TEXT) FROM events WHERE id > ? ORDER BY id LIMIT 1000"
)

_PROMOTE: Final = """
UPDATE events
SET step = coalesce(step, ?), step_scope = coalesce(step_scope, ?), cycle = coalesce(cycle, ?)
WHERE id = ?"""

# Every index entry ends in the row id, so `(task_id)` alone answers "a task's events in id order"; the partial ones
# answer "latest spawned or started" and "latest task event" in O(log n) and cost nothing for other types. One that
# changes gets a new name, or existing files would keep the old one. Nothing drops that: versions of ours that know it
# would make it again whenever they open the file.
_INDEXES: Final = {
    "orch_events_task": "",
    "orch_events_log_paths": f"WHERE event_type IN ({LOG_PATH_TYPES})",
    "orch_events_task_status": f"WHERE event_type IN ({STATUS_TYPES})",
}


_CREATE_VERSION: Final = "CREATE TABLE IF NOT EXISTS orch_events_schema(version INTEGER NOT NULL)"


def _create_index(name: str) -> str:
    return f"CREATE INDEX IF NOT EXISTS {name} ON events(task_id) {_INDEXES[name]}".rstrip()


DDL: Final = "".join(
    f"{statement.strip()};\n"
    for statement in (
        _EVENTS,
        *map(_create_index, _INDEXES),
        _CREATE_VERSION,
        f"INSERT INTO orch_events_schema(version) VALUES ({VERSION})",
    )
)
"""What an empty log is made with, besides ``PRAGMA journal_mode=WAL``."""


def prepare(connection: sqlite3.Connection, path: str, busy_timeout: float) -> None:
    """Make the file a log of this version, in one transaction, or leave it untouched and raise `SchemaError`."""
    columns = _checked_columns(connection, path)
    _check_writable(connection, path)
    names = {row[0] for row in fetch_all(connection, "SELECT name FROM sqlite_master")}
    enter_wal_mode(connection, path, busy_timeout)
    has_columns = columns >= {*_REQUIRED, *_PROMOTED}
    if not has_columns or not names >= {*_INDEXES, "orch_events_schema"}:  # usually it has all
        _complete(connection, path)
    # What took long is done. From now on a signal handler is not to find the write lock held by this thread.
    let_no_signals_in(connection)


def _complete(connection: sqlite3.Connection, path: str) -> None:
    """Make what the file lacks."""
    with transaction(connection):
        connection.execute("BEGIN IMMEDIATE")
        columns = _checked_columns(connection, path)  # again, now that no other process writes
        _check_writable(connection, path)
        if not columns:
            connection.execute(_EVENTS)
        else:
            _add_promoted(connection, columns)
        for name in _INDEXES:
            connection.execute(_create_index(name))
        connection.execute(_CREATE_VERSION)
        if scalar(connection, "SELECT version FROM orch_events_schema") is None:
            connection.execute("INSERT INTO orch_events_schema(version) VALUES (?)", (VERSION,))


def _add_promoted(connection: sqlite3.Connection, columns: Set[Cell]) -> None:
    """Add the promoted columns that a file from before them lacks, and fill them from the payloads."""
    missing = [name for name in _PROMOTED if name not in columns]
    if not missing:
        return
    for name in missing:
        connection.execute(f"ALTER TABLE events ADD COLUMN {name} {_PROMOTED[name]}")
    last_id = 0
    while True:
        rows = fetch_all(connection, _PAYLOADS, (last_id,))
        if not rows:
            return
        promoted = list[Row]()
        for event_id, text in rows:
            payload = parse_or_none(str(text))
            if isinstance(payload, dict):
                promoted.append((*promoted_columns(payload), event_id))
        connection.executemany(_PROMOTE, promoted)
        last_id = require_ascending(last_id, rows[-1][0])


def prepare_reading(connection: sqlite3.Connection, path: str) -> None:
    """Check that the file is a log, without writing to it."""
    # Asked first: between two statements another process may create the log.
    is_empty = scalar(connection, "SELECT count(*) FROM sqlite_master") == 0
    columns = _checked_columns(connection, path)
    if not columns and is_empty:
        raise LogNotFoundError(errno.ENOENT, "an empty database; no event log here yet", path)
    if not columns:
        raise SchemaError(f"{path}: has no table 'events'; not an event log")
    missing = [name for name in _PROMOTED if name not in columns]
    if not missing:
        return
    # A file from before the promoted columns. A temporary view (which lives outside the file) hides the difference:
    # unpromoted values come from the payload.
    there = [*_REQUIRED, *(name for name in _PROMOTED if name in columns)]
    selected = ", ".join([*there, *(f"NULL AS {name}" for name in missing)])
    connection.execute(f"CREATE TEMP VIEW events AS SELECT {selected} FROM main.events")


def _checked_columns(connection: sqlite3.Connection, path: str) -> Set[Cell]:
    """The columns of `events`, empty without such a table; `SchemaError` for a table or a file that is not ours."""
    kinds = fetch_all(connection, _KINDS)
    for name, kind in kinds:
        if kind != "table":
            raise SchemaError(f"{path}: '{name!s}' is a {kind!s}, not a table; not an event log")
    columns: Set[Cell] = set()
    if ("events", "table") in kinds:
        columns = _checked_table(connection, path)
    version = schema_version(connection)
    if version is not None and version > VERSION:
        raise SchemaError(
            f"{path}: schema version {version} is newer than {VERSION}; a newer orch_events wrote it"
        )
    return columns


def _checked_table(connection: sqlite3.Connection, path: str) -> Set[Cell]:
    info = fetch_all(connection, _COLUMNS)
    columns = {name for name, _, _ in info}
    missing = [name for name in _REQUIRED if name not in columns]
    if missing:
        raise SchemaError(f"{path}: table 'events' lacks {', '.join(missing)}; not an event log")
    if ("id", "INTEGER", 1) not in info or scalar(connection, _HAS_OTHER_KEY) == 1:
        raise SchemaError(f"{path}: events.id is not INTEGER PRIMARY KEY; not an event log")
    _check_comparisons(connection, path)
    return columns


def _check_comparisons(connection: sqlite3.Connection, path: str) -> None:
    """Refuse a table in which texts that differ are equal, as under a host's ``COLLATE NOCASE``.

    A column of a subquery compares as the column it is made from, so no row of the table is needed to find out.
    """
    for column in ("task_id", "event_type"):
        column_and_a = f"SELECT {column} AS text FROM events WHERE 0 UNION ALL SELECT 'A' LIMIT 1"
        equal = f"SELECT count(*) FROM ({column_and_a}) WHERE text = 'a' OR text = 'A '"
        try:
            differ = scalar(connection, equal) == 0
        except sqlite3.OperationalError as error:
            if "collation" not in str(error):
                raise
            differ = False  # it is the host's own
        if not differ:
            raise SchemaError(
                f"{path}: events.{column} has a collation, by which different texts are equal; not an event log"
            )


def _check_writable(connection: sqlite3.Connection, path: str) -> None:
    """Refuse a table that would not keep what is written to it."""
    table = "SELECT lower(name), upper(type), hidden FROM pragma_table_xinfo('events')"
    for name, declared, hidden in fetch_all(connection, table):
        if name not in (*_REQUIRED, *_PROMOTED):
            continue
        if hidden != 0:
            raise SchemaError(
                f"{path}: events.{name!s} is generated; the table cannot be written to, only read"
            )
        if name in _VERBATIM and _is_numeric(str(declared)):
            raise SchemaError(
                f"{path}: events.{name!s} is declared {declared!s}, so that '007' would become 7; it cannot be written to"
            )


def _is_numeric(declared: str) -> bool:
    """Whether a column turns text that looks like a number into one (https://sqlite.org/datatype3.html, 3.1)."""
    if "INT" in declared:
        return True
    return declared != "" and not any(kind in declared for kind in ("CHAR", "CLOB", "TEXT", "BLOB"))


def schema_version(connection: sqlite3.Connection) -> int | None:
    """The version of ours that the file was made for; ``None`` when only others have written to it."""
    if scalar(connection, _HAS_VERSION) != 1:
        return None
    version = scalar(connection, "SELECT max(version) FROM orch_events_schema")
    if isinstance(version, int):
        return version
    return None
