# SPDX-License-Identifier: MIT
"""Notices that the log has changed: the last id is the truth, NOTIFY a hint.

A connection of its own listens. The last id is asked after a hint, and every `_LOOK_SECONDS` without one: behind a
pooler, on a replica, or when the connection has died unnoticed, there are no hints.
"""

import socket
import time
from contextlib import suppress
from typing import Final

from ..._values.host_errors import is_from_host
from .connectors import Connector
from .driver import Connection
from .readable import readable
from .reading import read_last_id

_CONNECT_SECONDS: Final = 2.0
"""The longest wait for a new connection; followers that are told to stop meanwhile wait too."""

_LOOK_SECONDS: Final = 0.5
"""Seconds without a hint after which the last id is asked all the same."""


class PostgresSignal:
    """Watches one log. `wake` may be called from anywhere, all else by one thread."""

    def __init__(self, connector: Connector) -> None:
        self.look_again_after = 0.001
        self._connector = connector
        self._schema = connector.location.schema
        self._last_id = -1
        self._is_hinted = True
        self._looked_at = 0.0
        self._connection: Connection | None = None
        """``None`` while the server is away."""
        # Sockets, since they can be waited for together with the connection, and a signal handler may write to one.
        self._woken, self._waker = socket.socketpair()
        self._woken.setblocking(False)
        self._waker.setblocking(False)

    def start(self) -> None:
        """Listen: what is committed from now on gives a hint."""
        self._connected()

    def _connected(self) -> Connection | None:
        """The connection, made anew and listening if it was lost."""
        if self._connection is None or self._connection.closed:
            self._connection = None
            with suppress(*self._connector.errors):
                self._connection = self._connector.connect(_CONNECT_SECONDS)
                self._connection.execute(f"LISTEN {self._schema}")  # in vain through a pooler
        return self._connection

    def sleep(self, seconds: float) -> bool:
        """Wait; ``True`` when woken or given a hint."""
        connection = self._connection
        woken = self._woken.fileno()
        sockets = [woken]
        if connection is not None and not connection.closed:
            sockets.append(connection.fileno())
        found = readable(sockets, seconds)
        if woken in found:
            self._woken.recv(4096)
        if connection is not None and any(descriptor != woken for descriptor in found):
            self._take_notifications(connection)
        self._is_hinted = self._is_hinted or len(found) > 0
        return len(found) > 0

    def _take_notifications(self, connection: Connection) -> None:
        try:
            for _ in connection.notifies(timeout=0):
                pass
        except self._connector.errors:
            connection.close()

    def wake(self) -> None:
        """End the sleep. Never blocks."""
        try:
            self._waker.send(b".")
        except OSError as error:  # full, so the sleep ends anyway, or closed: nobody sleeps
            if is_from_host(error):
                raise

    def has_changed(self) -> bool:
        """Whether anything was committed since the last call; the first time, always."""
        now = time.monotonic()
        if not self._is_hinted and now < self._looked_at + _LOOK_SECONDS:
            return False
        self._is_hinted = False
        self._looked_at = now
        connection = self._connected()
        if connection is None:  # the id seen last still stands
            return False
        try:
            last_id = read_last_id(connection, self._schema)
        except self._connector.errors:
            connection.close()
            return False
        before = self._last_id
        self._last_id = last_id
        return last_id != before

    def is_gone(self) -> bool:
        """A log in a database is not replaced."""
        return False

    def close(self) -> None:
        """Release the connection and the sockets."""
        if self._connection is not None:
            self._connection.close()
        self._woken.close()
        self._waker.close()
