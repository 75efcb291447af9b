# SPDX-License-Identifier: MIT
"""Where connections come from: psycopg 3 and a URL, or a function of the host's.

No driver is imported before a log is opened, so that the package needs none to be imported or type-checked.
"""

from collections.abc import Generator
from contextlib import contextmanager
from importlib import import_module
from math import ceil
from typing import (
    Final,
    Protocol,
    cast,
)

from ..._values.errors import OrchEventsError
from ..._values.postgres_database import PostgresDatabase
from ..process_hooks import never_close_in_child
from .driver import Connection
from .host_connections import adapt, driver_error
from .location import Location

CONNECT_SECONDS: Final = 10.0
"""The longest wait for a new connection, where nothing says less."""

RECONNECT_PAUSE: Final = 0.1
"""Seconds between two tries to reach the server."""

_PREPARED_AFTER: Final = 2
"""Uses of a statement after which it is prepared: planning takes twice as long as running it."""


@contextmanager
def closed_on_error(connection: Connection) -> Generator[None, None, None]:
    """Close the connection if the body raises."""
    try:
        yield
    except BaseException:
        connection.close()
        raise


class Connector(Protocol):
    """Connects to the database of one log."""

    location: Location

    @property
    def errors(self) -> tuple[type[Exception], ...]:
        """What connecting and a connection raise. More may be known once there is a connection."""
        ...

    def connect(self, seconds: float = CONNECT_SECONDS, prepares: bool = False) -> Connection:
        """A new connection, within so many seconds (but at least two), as far as the driver heeds that.

        Behind a pooler in transaction mode it must not prepare statements for long.
        """
        ...


class _Driver(Protocol):
    """psycopg 3."""

    Error: type[Exception]

    def connect(
        self,
        conninfo: str,
        *,
        autocommit: bool,
        prepare_threshold: int | None,
        connect_timeout: int,
        application_name: str,
        client_encoding: str,
        keepalives_idle: int,
        keepalives_interval: int,
        keepalives_count: int,
    ) -> Connection: ...


class UrlConnector:
    """Connects to a URL with psycopg 3. Raises `OrchEventsError` that says what to install if it is missing."""

    def __init__(self, location: Location) -> None:
        self.location = location
        try:
            driver = import_module("psycopg")
        except ModuleNotFoundError as error:
            raise OrchEventsError(
                "a log in PostgreSQL needs psycopg 3: pip install 'orch-events[postgres]'"
            ) from error
        self._driver = cast("_Driver", cast("object", driver))
        self.errors: tuple[type[Exception], ...] = (self._driver.Error,)

    def connect(self, seconds: float = CONNECT_SECONDS, prepares: bool = False) -> Connection:
        connection = self._driver.connect(
            self.location.url,
            autocommit=True,
            prepare_threshold=_PREPARED_AFTER if prepares else None,
            connect_timeout=max(2, ceil(seconds)),  # less is not less to the driver
            application_name="orch_events",
            client_encoding="UTF8",
            # The system asks after 15 idle seconds, then thrice, whether the server is still there.
            keepalives_idle=15,
            keepalives_interval=5,
            keepalives_count=3,
        )
        never_close_in_child(connection)
        return connection


class _HostError(Exception):
    """The host's function has not given a connection."""

    sqlstate = "08001"  # could not establish a connection


class HostConnector:
    """Connects with a function of the host's."""

    def __init__(self, location: Location, database: PostgresDatabase) -> None:
        self.location = location
        self._database = database
        self.errors: tuple[type[Exception], ...] = (_HostError,)

    def connect(self, seconds: float = CONNECT_SECONDS, prepares: bool = False) -> Connection:
        """The host decides how long, and whether statements are prepared."""
        try:
            made = self._database.connect()
        except Exception as error:
            raise _HostError(f"cannot connect: {error}") from error
        self.errors = (_HostError, driver_error(made))
        never_close_in_child(made)
        try:
            return adapt(made)
        except BaseException:
            made.close()
            raise
