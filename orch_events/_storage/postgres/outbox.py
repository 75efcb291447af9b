# SPDX-License-Identifier: MIT
"""Inserting a row within a transaction of the caller's, on the caller's own connection, of psycopg 3 or psycopg2."""

from typing import cast

from ..._values.errors import WriteError
from ..._values.new_events import NewRow
from .error_codes import translate
from .host_connections import driver_error, plain_cursor
from .inserting import INSERT_IN_TRANSACTION
from .location import host_location
from .storable_rows import check_rows


def insert_in_transaction(connection: object, row: NewRow, schema: str) -> int:
    """Insert `row` with one statement, and no other; its id."""
    sql = INSERT_IN_TRANSACTION.format(schema=host_location(schema).schema)
    check_rows((row,))
    error_type = driver_error(connection)
    try:
        cursor = plain_cursor(connection)
        cursor.execute(sql, row)
        ((last_id,),) = cursor.fetchall()
    except error_type as error:
        raise translate(WriteError, "insert_event_with_conn", "not written", error) from error
    return cast("int", last_id)
