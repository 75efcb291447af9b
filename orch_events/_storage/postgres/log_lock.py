# SPDX-License-Identifier: MIT
"""The lock of a log: who has it commits alone, and it is held until the end of the transaction.

An insertion takes it in the DEFAULT of `id`. What takes several statements takes it here, and loses it, with its
connection, if it is idle for long in between: a machine that is gone must not keep all others from writing.
"""

from typing import Final

from .driver import Connection
from .location import Location

LOCK_CLASS: Final = 0x6F726368
"""The first number of the advisory locks of all logs."""

_LONGEST_IDLE: Final = "10s"

_SETTINGS: Final = """
SELECT set_config('lock_timeout', %s, true),
    set_config('idle_in_transaction_session_timeout', %s, true)"""

_LOCK: Final = "SELECT pg_advisory_xact_lock(%s, %s)"


def lock_log(connection: Connection, location: Location, seconds: float) -> None:
    """Within a transaction: no other event is committed until it ends. Waits so many seconds at most."""
    timeout = f"{max(1, round(seconds * 1000))}ms"
    connection.execute(_SETTINGS, (timeout, _LONGEST_IDLE))
    connection.execute(_LOCK, (LOCK_CLASS, location.lock_number))
