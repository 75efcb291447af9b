# SPDX-License-Identifier: MIT
"""Recording an event within a transaction of the caller's (the transactional outbox)."""

import sqlite3
from collections.abc import Mapping

from ._storage.open_store import insert_in_transaction
from ._values.new_events import NO_FIELDS, new_row
from ._values.postgres_database import PostgresConnection
from ._values.timestamps import timestamp


def insert_event_with_conn(
    conn: sqlite3.Connection | PostgresConnection,
    task_id: str,
    task_item_id: str | None,
    event_type: str,
    payload: Mapping[str, object] = NO_FIELDS,
    *,
    schema: str = "orch_events",
) -> int:
    """Record one event on *your* connection, in the transaction that it may have; returns the event's id.

    One INSERT, no more: the event commits or rolls back together with your own rows (the transactional outbox). The
    database must have been opened once with `EventLog`, which creates the table. Raises `PayloadError`, `SchemaError`
    when there is no table, `WriteError` for any other database error. Call it where you may use `conn`.

    In PostgreSQL (psycopg 3 or psycopg2) it goes to the log in `schema`, and other writers of the log wait until your
    transaction ends, as they do in SQLite.
    """
    row = new_row((task_id, task_item_id, event_type, payload), timestamp())
    return insert_in_transaction(conn, row, schema)
