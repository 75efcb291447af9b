# SPDX-License-Identifier: MIT
"""One log file as a `Store`: opens the sessions of the seam, and makes or checks the schema first."""

import os
from collections.abc import Iterator

from ..._values.errors import (
    OrchEventsError,
    ReadError,
    WriteError,
)
from ..interface import (
    Durability,
    Finding,
    MaintenanceSession,
)
from .commit_signal import SqliteSignal
from .connections import open_for_reading, open_for_writing
from .database_file import checked_path, warn_of_other_users
from .error_codes import is_transient, translated
from .read_session import SqliteReadSession
from .schema import (
    DDL,
    prepare,
    prepare_reading,
)
from .write_session import SqliteWriteSession


class SqliteStore:
    """A log in one SQLite file."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = checked_path(path)

    @property
    def name(self) -> str:
        """The file's, without its ending."""
        return os.path.splitext(os.path.basename(self.path))[0]

    @property
    def key(self) -> str:
        """The real path: SQLite puts its other files beside what a link leads to."""
        return os.path.realpath(self.path)

    def open_for_writing(self, durability: Durability, busy_timeout: float) -> SqliteWriteSession:
        """Creates the file if there is none, and brings one of an older version up to date."""
        warn_of_other_users(self.path)
        connection = open_for_writing(self.path, durability, busy_timeout)
        try:
            with translated(WriteError, self.path, "cannot open"):
                prepare(connection, self.path, busy_timeout)
        except BaseException:
            connection.close()
            raise
        return SqliteWriteSession(connection, self.path)

    def open_for_reading(self, busy_timeout: float) -> SqliteReadSession:
        """Creates nothing but what SQLite itself needs beside the file."""
        warn_of_other_users(self.path)
        connection = open_for_reading(self.path, busy_timeout)
        try:
            with translated(ReadError, self.path, "cannot read"):
                prepare_reading(connection, self.path)
        except BaseException:
            connection.close()
            raise
        return SqliteReadSession(connection, self.path)

    def open_for_maintenance(
        self, durability: Durability, busy_timeout: float
    ) -> MaintenanceSession:
        """Of a file that was opened for writing before, so that its schema is known to be right."""
        from .maintenance_session import SqliteMaintenanceSession  # few programs need it

        connection = open_for_writing(self.path, durability, busy_timeout)
        return SqliteMaintenanceSession(connection, self.path, busy_timeout)

    def open_signal(self) -> SqliteSignal:
        return SqliteSignal(self.path)

    def may_pass(self, error: OrchEventsError) -> bool:
        return error.__cause__ is not None and is_transient(error.__cause__)

    def ddl(self) -> str:
        return DDL

    def check_up(self, thorough: bool) -> Iterator[Finding]:
        from .checkup import check_up  # few programs need it

        return check_up(self.key, thorough)
