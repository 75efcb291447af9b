# SPDX-License-Identifier: MIT
"""Inserting a row within a transaction of the caller's, on the caller's own connection."""

import sqlite3

from ..._values.errors import SchemaError, WriteError
from ..._values.new_events import NewRow
from .error_codes import translated
from .inserting import insert_one


def insert_in_transaction(connection: sqlite3.Connection, row: NewRow) -> int:
    """Insert `row` with one statement, and no other; its id."""
    with translated(WriteError, "insert_event_with_conn", "not written"):
        try:
            return insert_one(connection, row)
        except sqlite3.OperationalError as error:
            if "no such table" in str(error):
                raise SchemaError(
                    "no table 'events' in this database; open it once with EventLog"
                ) from error
            raise
