# SPDX-License-Identifier: MIT
"""Who is measured on a PostgreSQL server: this library, and plain psycopg 3 that commits each event.

The server is named by the environment; each log is a schema of its own in it, called after the folder of the log.
"""

import asyncio
import os
import threading
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any, Final

from orch_events import STEP_EVENT_TYPES

from .candidates import COLUMNS, TASK, Candidate, Log, NewEvent, orch_events, row_of, typed

SERVER: Final = "ORCH_EVENTS_BENCHMARK_POSTGRES"
"""The environment variable with the URL of the database."""

TABLE: Final = """
CREATE SCHEMA IF NOT EXISTS {schema};
CREATE TABLE IF NOT EXISTS {schema}.plain(id bigserial PRIMARY KEY, task_id text NOT NULL, task_item_id text,
    event_type text NOT NULL, payload_json text NOT NULL, created_at text NOT NULL, step text, step_scope text,
    cycle bigint);
CREATE INDEX IF NOT EXISTS plain_task_created_at ON {schema}.plain(task_id, created_at);
CREATE INDEX IF NOT EXISTS plain_task_type_step ON {schema}.plain(task_id, event_type, step);
"""
"""The reference's table with its two indexes."""


def schema_of(path: str) -> str:
    name = "".join(letter if letter.isalnum() else "_" for letter in Path(path).parent.name)
    return f"bench_{name}".lower()


def drop(path: str) -> None:
    connection = import_module("psycopg").connect(os.environ[SERVER], autocommit=True)
    connection.execute(f"DROP SCHEMA IF EXISTS {schema_of(path)} CASCADE")
    connection.close()


def ours(path: str, **options: Any) -> Log:
    url = os.environ[SERVER]
    separator = "&" if "?" in url else "?"
    return orch_events(f"{url}{separator}orch_events_schema={schema_of(path)}", **options)


INSERT: Final = f"""
INSERT INTO {{schema}}.plain({", ".join(COLUMNS)}) VALUES (%s, %s, %s, %s, %s, %s, %s, %s)"""

KINDS: Final = ", ".join(f"'{kind}'" for kind in STEP_EVENT_TYPES)

STEPS: Final = f"""
SELECT event_type, step, step_scope, task_item_id, created_at, payload_json FROM {{schema}}.plain
WHERE task_id = %s AND event_type IN ({KINDS}) ORDER BY id"""


class Plain:
    """psycopg with a connection for each thread, and a pool of eight for coroutines."""

    def __init__(self, path: str) -> None:
        self._psycopg = import_module("psycopg")
        self._schema = schema_of(path)
        self._insert = INSERT.format(schema=self._schema)
        self._own = threading.local()
        self._opened: list[Any] = []
        self._pool: asyncio.Queue[Any] = asyncio.Queue()
        self._pooled: list[Any] = []
        self._connection.execute(TABLE.format(schema=self._schema))

    @property
    def _connection(self) -> Any:
        if not hasattr(self._own, "connection"):
            self._own.connection = self._psycopg.connect(os.environ[SERVER], autocommit=True)
            self._opened.append(self._own.connection)
        return self._own.connection

    def append(self, event: NewEvent) -> object:
        return self._connection.execute(f"{self._insert} RETURNING id", row_of(event)).fetchone()

    def bulk(self, events: list[NewEvent]) -> None:
        with self._connection.transaction(), self._connection.cursor() as cursor:
            cursor.executemany(self._insert, list(map(row_of, events)))

    def read(self) -> list[Any]:
        rows = self._connection.execute(STEPS.format(schema=self._schema), (TASK,)).fetchall()
        return list(map(typed, rows))

    async def append_async(self, event: NewEvent) -> object:
        if len(self._pooled) < 8:
            place = len(self._pooled)
            self._pooled.append(None)
            connect = self._psycopg.AsyncConnection.connect
            self._pooled[place] = await connect(os.environ[SERVER], autocommit=True)
            self._pool.put_nowait(self._pooled[place])
        connection = await self._pool.get()
        try:
            cursor = await connection.execute(f"{self._insert} RETURNING id", row_of(event))
            return await cursor.fetchone()
        finally:
            self._pool.put_nowait(connection)

    def close(self) -> None:
        for connection in self._opened:
            connection.close()
        for connection in self._pooled:  # its event loop may be closed
            connection.pgconn.finish()


def plain(path: str) -> Log:
    log = Plain(path)
    return Log(log.close, log.append, log.bulk, log.read, append_async=log.append_async)


DATABASES: Final = {
    "orch_events_postgres": Candidate(
        ours, "W1 W2 W3 W4 W6 W7 W8", "synced, once for all who wait", True
    ),
    "orch_events_postgres_normal": Candidate(
        partial(ours, durability="normal"), "W1 W2", "NOT synced (synchronous_commit=off)", True
    ),
    "psycopg": Candidate(plain, "W1 W2 W3 W4 W6 W8", "synced, each commit by itself"),
}
