# SPDX-License-Identifier: MIT
"""Commits rows through one connection, and says what a failure of SQLite means for other rows."""

import sqlite3
from collections.abc import Sequence
from functools import partial
from typing import Final

from ..._values.errors import WriteError
from ..._values.host_errors import is_from_host
from ..._values.new_events import NewRow
from ..interface import AppendError
from .error_codes import (
    SQLITE_ERRORS,
    is_transient,
    primary_code,
    translate,
)
from .inserting import (
    MAX_ROWS,
    find_inserted,
    insert_rows,
    without_triggers,
)
from .lock_retries import retry_transient

_AFFECTS_ALL: Final = {
    sqlite3.SQLITE_PERM,
    sqlite3.SQLITE_NOMEM,
    sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_CORRUPT,
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_NOTADB,
}
"""Result codes that are the file's or the machine's fault. Any other may be that of a single row: a
trigger or constraint of the host's, a payload too large."""


class SqliteWriteSession:
    """The connection that one open log writes through."""

    rows_per_commit: int = MAX_ROWS

    def __init__(self, connection: sqlite3.Connection, path: str) -> None:
        self._connection = connection
        self._path = path
        self._attempted: Sequence[NewRow] = ()
        """The rows of the last append that has begun."""
        self._changes_before = 0
        """`total_changes` of the connection when it began."""
        connection.set_authorizer(without_triggers)

    def check(self, rows: Sequence[NewRow]) -> None:
        """SQLite holds whatever can be recorded."""

    def append(self, rows: Sequence[NewRow], deadline: float) -> int:
        connection = self._connection
        # In this order: a signal handler may raise an exception between any two statements.
        self._changes_before = connection.total_changes
        self._attempted = rows
        try:
            last_id = retry_transient(lambda: insert_rows(connection, rows), deadline)
        except (*SQLITE_ERRORS, MemoryError) as error:
            is_undecodable = isinstance(error, UnicodeDecodeError)
            if is_undecodable and is_from_host(error):
                raise
            affects_all = (
                is_undecodable or is_transient(error) or primary_code(error) in _AFFECTS_ALL
            )
            make_error = partial(
                translate,
                WriteError,
                self._path,
                "not written",
                error,
            )
            raise AppendError(make_error, affects_all) from error
        return last_id

    def find_interrupted(self, rows: Sequence[NewRow]) -> int | None:
        if self._attempted is not rows:
            return None
        if self._connection.total_changes == self._changes_before:
            return None
        return find_inserted(self._connection, rows[-1])

    def close(self) -> None:
        self._connection.close()
