# SPDX-License-Identifier: MIT
"""One log in a PostgreSQL database as a `Store`: opens the sessions of the seam, and makes or checks the schema first."""

import time
from collections.abc import Callable, Iterator

from ..._values.errors import (
    OrchEventsError,
    ReadError,
    WriteError,
)
from ..._values.postgres_database import PostgresDatabase
from ..interface import (
    Durability,
    Finding,
    MaintenanceSession,
)
from .commit_signal import PostgresSignal
from .connectors import (
    RECONNECT_PAUSE,
    Connector,
    HostConnector,
    UrlConnector,
    closed_on_error,
)
from .driver import Connection
from .error_codes import is_lost, translated
from .location import host_location, parse_location
from .read_session import PostgresReadSession
from .schema import (
    check,
    make_ddl,
    prepare,
)
from .write_session import PostgresWriteSession


class PostgresStore:
    """A log in a schema of a database."""

    def __init__(self, where: str | PostgresDatabase) -> None:
        self._connector: Connector
        if isinstance(where, str):
            self._connector = UrlConnector(parse_location(where))
            self.key = self._connector.location.label
        else:
            self._connector = HostConnector(host_location(where.schema), where)
            self.key = f"{id(where.connect)} {where.schema}"
        self._was_reached = False
        """Whether the database is known to be there."""
        self._location = self._connector.location
        self.path = self._location.label
        self.name = self._location.schema

    def _open(
        self,
        kind: type[ReadError | WriteError],
        make_ready: Callable[[Connection], None],
        seconds: float,
    ) -> Connection:
        """A new connection. A server that was reached before is waited for, for so many seconds; else a wrong URL may be
        the reason, of which the caller hears at once.
        """
        deadline = time.monotonic() + seconds
        with translated(self._connector, kind, "cannot open"):
            while True:
                try:
                    connection = self._connector.connect()
                    with closed_on_error(connection):
                        make_ready(connection)
                except self._connector.errors as error:
                    is_over = time.monotonic() > deadline
                    if not self._was_reached or not is_lost(error) or is_over:
                        raise
                    time.sleep(RECONNECT_PAUSE)
                    continue
                self._was_reached = True
                return connection

    def open_for_writing(self, durability: Durability, busy_timeout: float) -> PostgresWriteSession:
        """Makes the tables if there are none."""
        self._open(
            WriteError, lambda new: prepare(new, self._location, busy_timeout), busy_timeout
        ).close()
        with translated(self._connector, WriteError, "cannot open"):
            return PostgresWriteSession(self._connector, durability)

    def open_for_reading(self, busy_timeout: float) -> PostgresReadSession:
        """Creates nothing."""
        connection = self._open(ReadError, lambda new: check(new, self._location), busy_timeout)
        return PostgresReadSession(self._connector, connection, busy_timeout)

    def open_for_maintenance(
        self, durability: Durability, busy_timeout: float
    ) -> MaintenanceSession:
        """Of a log that was opened for writing before, so that its schema is known to be right."""
        from .maintenance_session import PostgresMaintenanceSession  # few programs need it

        connection = self._open(WriteError, lambda new: check(new, self._location), busy_timeout)
        return PostgresMaintenanceSession(self._connector, connection, busy_timeout)

    def open_signal(self) -> PostgresSignal:
        return PostgresSignal(self._connector)

    def may_pass(self, error: OrchEventsError) -> bool:
        cause = error.__cause__
        return isinstance(cause, self._connector.errors) and is_lost(cause)

    def ddl(self) -> str:
        return make_ddl(self._location)

    def check_up(self, thorough: bool) -> Iterator[Finding]:
        from .checkup import check_up  # few programs need it

        return check_up(self._connector, thorough)
