# SPDX-License-Identifier: MIT
"""Inserting rows: one statement for a whole batch, which is its own transaction.

A batch is padded with NULL rows to a power of two, which a condition leaves out. So one of `_INSERTS` fits a batch of
any size, and SQLite's statement cache keeps them all. The padding costs nothing measurable (305,000 rows/s either way).

A trigger of the host's may make such a statement skip a row, keep half a batch, or put rows of its own between. An
authorizer refuses to compile a statement that would run one; then rows are inserted one by one, and looked at.
"""

import sqlite3
from collections.abc import Sequence
from itertools import chain
from typing import Final

from ..._values.new_events import NewRow
from .error_codes import primary_code
from .forks import uncut
from .statements import scalar

COLUMNS: Final = (
    "task_id, task_item_id, event_type, payload_json, created_at, step, step_scope, cycle"
)

_ROW: Final = "(?, ?, ?, ?, ?, ?, ?, ?)"

_PADDING: Final[tuple[None, ...]] = (None,) * 8

MAX_ROWS: Final = 2048
"""Rows of one INSERT statement at most; a power of two, since batches are padded to one.

The GIL is given up once for each statement, so beside a busy thread fewer and larger is faster; 2,048 rows of 8 values
stay within SQLite's 32,766 parameters. It is also what one commit of the queue takes.
"""

_INSERT_ONE: Final = f"INSERT INTO events({COLUMNS}) VALUES {_ROW}"
"""For rows one by one. OR ABORT would apply within triggers too."""


def _insert_statement(count: int) -> str:
    """For `count` rows. OR ABORT, even if the table would do something else about a conflict."""
    begin = f"INSERT OR ABORT INTO events({COLUMNS})"
    values = ", ".join([_ROW] * count)
    if count == 1:
        return f"{begin} VALUES {values}"
    return f"{begin} SELECT * FROM (VALUES {values}) WHERE column1 IS NOT NULL"


_INSERTS: Final = {
    1 << power: _insert_statement(1 << power) for power in range(MAX_ROWS.bit_length())
}


def insert_rows(connection: sqlite3.Connection, rows: Sequence[NewRow]) -> int:
    """Commit `rows` in one transaction, or none of them; the id of the last. Their ids are contiguous and in order.

    Up to `MAX_ROWS` rows are a single autocommitted statement, which crosses the GIL once instead of three times.
    """
    if connection.in_transaction:  # a KeyboardInterrupt kept the one before from rolling back
        connection.execute("ROLLBACK")
    try:
        if len(rows) <= MAX_ROWS:
            return _insert_some(connection, rows)
        return _insert_many(connection, rows)
    except sqlite3.DatabaseError as error:
        if primary_code(error) != sqlite3.SQLITE_AUTH:
            raise
    return _insert_beside_triggers(connection, rows)


def _insert_some(connection: sqlite3.Connection, rows: Sequence[NewRow]) -> int:
    size = 1 << (len(rows) - 1).bit_length()
    cells = list(chain(chain.from_iterable(rows), _PADDING * (size - len(rows))))
    return connection.execute(_INSERTS[size], cells).lastrowid or 0


def _insert_many(connection: sqlite3.Connection, rows: Sequence[NewRow]) -> int:
    last_id = 0
    with uncut(connection), connection:  # commits, or rolls back
        connection.execute("BEGIN IMMEDIATE")
        for start in range(0, len(rows), MAX_ROWS):
            last_id = _insert_some(connection, rows[start : start + MAX_ROWS])
    return last_id


def _insert_beside_triggers(connection: sqlite3.Connection, rows: Sequence[NewRow]) -> int:
    connection.set_authorizer(None)
    try:
        with uncut(connection), connection:
            connection.execute("BEGIN IMMEDIATE")
            ids = [insert_one(connection, row) for row in rows]
            _check_ids(connection, ids)
            return ids[-1]
    finally:
        connection.set_authorizer(without_triggers)


def _check_ids(connection: sqlite3.Connection, ids: Sequence[int]) -> None:
    """Refuse ids that are not contiguous, or are not there any more."""
    if ids[-1] - ids[0] != len(ids) - 1:
        raise sqlite3.IntegrityError("a trigger inserts events among those of a batch")
    there = "SELECT count(*) FROM events WHERE id BETWEEN ? AND ?"
    if scalar(connection, there, (ids[0], ids[-1])) != len(ids):
        raise sqlite3.IntegrityError("a trigger deletes or renumbers what was inserted")


def without_triggers(
    _what: int,
    _of: str | None,
    _to: str | None,
    _in: str | None,
    trigger: str | None,
) -> int:
    """The authorizer of a connection for `insert_rows`: refuses to compile a statement that would run a trigger.

    It costs nothing where there is none: SQLite compiles a statement once, and again when the schema has changed.
    """
    if trigger is None:
        return sqlite3.SQLITE_OK
    return sqlite3.SQLITE_DENY


def insert_one(connection: sqlite3.Connection, row: NewRow) -> int:
    """Insert one row, in the transaction of `connection` if there is one; its id."""
    cursor = connection.execute(_INSERT_ONE, row)
    if cursor.rowcount != 1:
        raise sqlite3.IntegrityError("a trigger or a constraint of the table ignores it")
    return cursor.lastrowid or 0


_FIND_INSERTED: Final = """
SELECT id FROM events
WHERE id = last_insert_rowid() AND task_id = ? AND event_type = ? AND payload_json = ? AND created_at = ?"""


def find_inserted(connection: sqlite3.Connection, last_row: NewRow) -> int | None:
    """Whether an `insert_rows` that an exception broke off has committed: the id of its last row, else ``None``.

    Rolls back what it may have left open.
    """
    if connection.in_transaction:
        connection.execute("ROLLBACK")
    task_id, _, event_type, payload_json, created_at, _, _, _ = last_row
    found = scalar(connection, _FIND_INSERTED, (task_id, event_type, payload_json, created_at))
    if not isinstance(found, int):
        return None
    return found
