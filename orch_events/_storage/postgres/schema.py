# SPDX-License-Identifier: MIT
"""The tables of a log, in a schema of their own, and how they are made.

Ids are given in the order of commits: the DEFAULT of `id` takes the log's advisory lock, which is held until the
commit, before it takes the next number. So every writer obeys, a plain INSERT of the host's too. The sequence must have
CACHE 1, or a session would keep numbers for later.

In statements, ``{schema}`` stands for the schema's name.
"""

from collections.abc import Iterable
from typing import Final

from ..._values.errors import LogNotFoundError, SchemaError
from ..._values.event_types import LOG_PATH_EVENT_TYPES
from ..._values.task_status import STATUS_EVENT_TYPES
from .driver import Connection
from .location import Location
from .log_lock import LOCK_CLASS, lock_log

VERSION: Final = 1
"""Raised when a database made by this version can no longer be used by the one before."""


def sql_list(types: Iterable[str]) -> str:
    """SQL literals for event types. They stand in the text, not in parameters, so that partial indexes match."""
    return ", ".join(f"'{name}'" for name in types)


LOG_PATH_TYPES: Final = sql_list(LOG_PATH_EVENT_TYPES)

STATUS_TYPES: Final = sql_list(STATUS_EVENT_TYPES)

DDL: Final = f"""
CREATE SCHEMA IF NOT EXISTS {{schema}};
CREATE SEQUENCE {{schema}}.events_id AS bigint CACHE 1;
CREATE TABLE {{schema}}.events (
    id bigint PRIMARY KEY DEFAULT nextval(
        CASE WHEN pg_advisory_xact_lock({LOCK_CLASS}, {{lock_number}}) IS NULL
        THEN NULL ELSE '{{schema}}.events_id'::regclass END),
    task_id text COLLATE "C" NOT NULL,
    task_item_id text COLLATE "C",
    event_type text COLLATE "C" NOT NULL,
    payload_json text NOT NULL,
    created_at text COLLATE "C" NOT NULL,
    step text,
    step_scope text,
    cycle bigint
);
CREATE INDEX events_task ON {{schema}}.events (task_id, id);
CREATE INDEX events_log_paths ON {{schema}}.events (task_id, id)
    WHERE event_type IN ({LOG_PATH_TYPES});
CREATE INDEX events_task_status ON {{schema}}.events (task_id, id)
    WHERE event_type IN ({STATUS_TYPES});
CREATE TABLE {{schema}}.commits (
    writer uuid,
    number bigint,
    last_id bigint NOT NULL,
    PRIMARY KEY (writer, number)
);
CREATE TABLE {{schema}}.pruned (
    task_id text COLLATE "C" PRIMARY KEY,
    last_id bigint NOT NULL,
    events bigint NOT NULL
);
CREATE TABLE {{schema}}.pruned_total (
    is_only boolean PRIMARY KEY DEFAULT true CHECK (is_only),
    last_id bigint NOT NULL,
    events bigint NOT NULL,
    merged_last_id bigint NOT NULL DEFAULT 0
);
CREATE TABLE {{schema}}.version (number integer NOT NULL);
INSERT INTO {{schema}}.version VALUES ({VERSION});
"""
"""What an administrator may run for a role that must not create tables."""

_TABLES: Final = """
SELECT count(*) FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = %s AND c.relname IN ('events', 'version')"""

_VERSION: Final = "SELECT max(number) FROM {schema}.version"

_SEQUENCE_CACHE: Final = """
SELECT seqcache FROM pg_catalog.pg_sequence WHERE seqrelid = '{schema}.events_id'::regclass"""


def make_ddl(location: Location) -> str:
    """`DDL` for the schema of a log."""
    return DDL.format(schema=location.schema, lock_number=location.lock_number).lstrip()


def prepare(
    connection: Connection,
    location: Location,
    seconds: float,
) -> None:
    """Make the tables if there are none, waiting for others that do; `SchemaError` for those of a newer version."""
    if not _has_tables(connection, location):
        connection.execute("BEGIN")
        try:
            # Several processes may come here at once: IF NOT EXISTS alone would fail most of them.
            lock_log(connection, location, seconds)
            if not _has_tables(connection, location):
                for statement in make_ddl(location).split(";\n"):
                    if statement.strip():
                        connection.execute(statement)
            connection.execute("COMMIT")
        except BaseException:
            if not connection.closed:
                connection.execute("ROLLBACK")
            raise
    check(connection, location)


def check(connection: Connection, location: Location) -> None:
    """Check that the tables are those of a log of this version."""
    if not _has_tables(connection, location):
        raise LogNotFoundError(2, f"no event log in schema {location.schema!r}", location.label)
    ((version,),) = connection.execute(_VERSION.format(schema=location.schema)).fetchall()
    if not isinstance(version, int) or version > VERSION:
        raise SchemaError(
            f"{location.label}: schema version {version} is newer than {VERSION};"
            + " a newer orch_events made it"
        )
    ((cache,),) = connection.execute(_SEQUENCE_CACHE.format(schema=location.schema)).fetchall()
    if cache != 1:
        raise SchemaError(
            f"{location.label}: the sequence events_id has CACHE {cache}, so that ids would not be in"
            + f" the order of commits: ALTER SEQUENCE {location.schema}.events_id CACHE 1"
        )


def _has_tables(connection: Connection, location: Location) -> bool:
    ((tables,),) = connection.execute(_TABLES, (location.schema,)).fetchall()
    return tables == 2
