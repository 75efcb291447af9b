# SPDX-License-Identifier: MIT
"""Notices that a file has changed: ``PRAGMA data_version`` is the truth, writes to the ``-wal`` are hints.

The pragma asks a connection of its own, and gives another number when any other connection has committed.
"""

import os
import sqlite3

from ..._values.host_errors import is_from_host
from .connections import open_for_reading
from .statements import data_version
from .wal_hints import HintedSleep

_LOOK_AFTER_HINT = 0.0002
"""Seconds. inotify reports the write, one ``fsync`` before the commit can be seen."""

_LOOK_AFTER_COMMIT = 0.001
"""Seconds, where there is no inotify: looking always that often would cost 3 % of a core."""


class SqliteSignal:
    """Watches one file, on a connection of its own."""

    def __init__(self, path: str) -> None:
        self.look_again_after = _LOOK_AFTER_COMMIT
        self._path = path
        self._sleep = HintedSleep(path)
        self._version: object = None
        self._connection = open_for_reading(path, 0.0)
        try:
            self._identity = self._stat()
            try:
                self._version = data_version(self._connection)
            except sqlite3.Error as error:  # busy: the first look that succeeds finds a change
                if is_from_host(error):
                    raise
        except BaseException:
            self._connection.close()
            raise

    def start(self) -> None:
        self._sleep.open()
        if self._sleep.has_hints:
            self.look_again_after = _LOOK_AFTER_HINT

    def sleep(self, seconds: float) -> bool:
        return self._sleep.sleep(seconds)

    def wake(self) -> None:
        self._sleep.wake()

    def has_changed(self) -> bool:
        try:
            version = data_version(self._connection)
        except sqlite3.Error:  # busy: the version seen last still stands, so nothing is missed
            return False
        before = self._version
        self._version = version
        return version != before

    def is_gone(self) -> bool:
        return self._stat() != self._identity

    def _stat(self) -> tuple[int, int] | None:
        try:
            status = os.stat(self._path)
        except OSError as error:
            if is_from_host(error):
                raise
            return None
        return status.st_dev, status.st_ino

    def close(self) -> None:
        self._connection.close()
        self._sleep.close()
