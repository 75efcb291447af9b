# SPDX-License-Identifier: MIT
"""The few statements and helpers that every user of a connection needs."""

import contextlib
import json
import sqlite3
import threading
from collections.abc import Generator, Sequence
from typing import Final, cast
from weakref import ref

from ..self_deadlock import WRITING
from .forks import uncut
from .interruptible import (
    Cell,
    Parameters,
    Row,
    interruption,
)
from .replaced_files import OPEN_FILES

_ANY_LENGTH: Final = 1 << 30
"""The longest text or blob that SQLite can hold, in bytes."""


def fetch_all(connection: sqlite3.Connection, sql: str, parameters: Parameters = ()) -> list[Row]:
    with uncut(connection):
        cursor = connection.execute(sql, parameters)
        try:
            return cast("list[Row]", cursor.fetchall())
        except sqlite3.OperationalError as error:
            raise interruption(connection) or error from None


def scalar(connection: sqlite3.Connection, sql: str, parameters: Parameters = ()) -> Cell:
    with uncut(connection), contextlib.closing(connection.execute(sql, parameters)) as cursor:
        try:
            row = cast("Row | None", cursor.fetchone())
        except sqlite3.OperationalError as error:
            raise interruption(connection) or error from None
    if row is None:
        return None
    return row[0]


@contextlib.contextmanager
def transaction(connection: sqlite3.Connection) -> Generator[None, None, None]:
    """Commits, or rolls back, what the body begins on a connection made here; known to `WRITING` meanwhile."""
    path, _, _ = OPEN_FILES[ref(connection)]
    mark = path, threading.get_ident()
    try:
        WRITING.add(mark)
        with uncut(connection), connection:
            yield
    finally:
        WRITING.discard(mark)


def require_ascending(after_id: int, last_id: Cell) -> int:
    """`last_id` of a page that was to come after `after_id`; or reading on from there would go in circles."""
    if not isinstance(last_id, int) or last_id <= after_id:
        raise sqlite3.DatabaseError("ids out of order; the file is damaged")
    return last_id


def data_version(connection: sqlite3.Connection) -> Cell:
    """A number that moves when any other connection commits."""
    return scalar(connection, "PRAGMA data_version")


@contextlib.contextmanager
def any_length(connection: sqlite3.Connection) -> Generator[None, None, None]:
    """During the body a single value may be as long as SQLite allows."""
    usual = connection.getlimit(sqlite3.SQLITE_LIMIT_LENGTH)
    connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, _ANY_LENGTH)
    try:
        yield
    finally:
        connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, usual)


def id_list(ids: Sequence[int]) -> str:
    """`ids` as a JSON array, for ``json_each``."""
    plain: list[int] = list(ids)
    return json.dumps(plain)
