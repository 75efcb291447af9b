# SPDX-License-Identifier: MIT
"""Connections of coroutines are none for a log: both lines that use one are errors to a type checker."""

from psycopg import AsyncConnection, Connection

from orch_events import PostgresDatabase, insert_event_with_conn


def make_ready(connection: AsyncConnection, sync: Connection) -> None:
    insert_event_with_conn(connection, "t", None, "task_failed", {})  # error
    PostgresDatabase(lambda: connection)  # error
    PostgresDatabase(lambda: sync)
