# SPDX-License-Identifier: MIT
"""The check-up of a log in PostgreSQL: the server, what the user may do, the tables, waking, and the clocks."""

import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Final, cast

from ..._values.errors import OrchEventsError
from ..interface import Finding
from .connectors import Connector
from .driver import Connection
from .location import Location
from .schema import check

_SERVER: Final = "SELECT current_setting('server_version'), pg_is_in_recovery()"

_PRIVILEGES: Final = """
SELECT has_table_privilege('{schema}.events', 'SELECT'),
    has_table_privilege('{schema}.events', 'INSERT'),
    has_table_privilege('{schema}.events', 'DELETE'),
    has_sequence_privilege('{schema}.events_id', 'USAGE')"""

_CONNECTIONS: Final = """
SELECT count(*), current_setting('max_connections')::int FROM pg_catalog.pg_stat_activity
WHERE backend_type = 'client backend'"""

_CLOCK: Final = "SELECT extract(epoch FROM clock_timestamp())::float8"

_LARGEST_CLOCK_DIFFERENCE: Final = 2.0
"""Seconds."""

_NOTIFY_SECONDS: Final = 2.0

_LOOK_INSTEAD: Final = "followers look twice a second instead"


def check_up(connector: Connector, thorough: bool) -> Iterator[Finding]:
    """Look at everything; stops at the first look that fails."""
    try:
        connection = connector.connect()
    except connector.errors as error:
        text = str(error).strip().partition("\n")[0]
        yield Finding("server", text, "bad", "see whether the URL names the right server and user")
        return
    ours_and_the_drivers: tuple[type[Exception], ...] = (OrchEventsError, *connector.errors)
    try:
        yield from _findings(connection, connector)
    except ours_and_the_drivers as error:
        text = str(error).strip().partition("\n")[0]
        yield Finding("log", text, "bad", "see whether the URL names the right database and schema")
    finally:
        connection.close()


def _findings(connection: Connection, connector: Connector) -> Iterator[Finding]:
    location = connector.location
    ((version, is_replica),) = connection.execute(_SERVER).fetchall()
    if is_replica is True:
        yield Finding("server", f"{version}, a replica", "warn", "it can be read, not written to")
    else:
        yield Finding("server", str(version))
    check(connection, location)
    yield Finding("schema", location.schema)
    yield _privileges(connection, location)
    yield _waking(connection, connector)
    yield _clock(connection)
    ((used, most),) = connection.execute(_CONNECTIONS).fetchall()
    yield Finding("connections", f"{used} of {most}")


def _privileges(connection: Connection, location: Location) -> Finding:
    sql = _PRIVILEGES.format(schema=location.schema)
    ((may_read, may_insert, may_delete, may_number),) = connection.execute(sql).fetchall()
    missing = list[str]()
    if may_read is not True:
        missing.append("read")
    if may_insert is not True or may_number is not True:
        missing.append("record")
    if may_delete is not True:
        missing.append("clean up")
    if missing:
        advice = f"this user may not {', '.join(missing)}: GRANT what is missing"
        return Finding("privileges", f"without: {', '.join(missing)}", "warn", advice)
    return Finding("privileges", "read, record, clean up")


def _waking(connection: Connection, connector: Connector) -> Finding:
    """Notified by another connection: a pooler would deliver to itself what one connection tells itself."""
    schema = connector.location.schema
    try:
        connection.execute(f"LISTEN {schema}")
    except connector.errors:
        return Finding("waking", "a replica has no NOTIFY", "warn", _LOOK_INSTEAD)
    other = connector.connect()
    try:
        began = time.monotonic()
        other.execute(f"SELECT pg_notify('{schema}', '')")
        for _ in connection.notifies(timeout=_NOTIFY_SECONDS):
            return Finding("waking", f"by NOTIFY, {1000 * (time.monotonic() - began):.1f} ms")
    finally:
        other.close()
    advice = f"{_LOOK_INSTEAD}; a pooler in transaction mode has that effect"
    return Finding("waking", "NOTIFY does not arrive", "warn", advice)


def _clock(connection: Connection) -> Finding:
    ((server,),) = connection.execute(_CLOCK).fetchall()
    difference = cast("float", server) - datetime.now(UTC).timestamp()
    value = f"{difference:+.3f} s from this machine's"
    if abs(difference) > _LARGEST_CLOCK_DIFFERENCE:
        advice = "times of events from several machines do not compare: synchronise their clocks"
        return Finding("clock", value, "warn", advice)
    return Finding("clock", value)
