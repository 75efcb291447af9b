# SPDX-License-Identifier: MIT
"""Which files this process has open, so that a file put in the place of one in use is refused."""

import os
import sqlite3
from typing import Final
from weakref import ReferenceType, ref

from ..._values.host_errors import is_from_host

OPEN_FILES: Final[dict[ReferenceType[sqlite3.Connection], tuple[str, int, int]]] = {}
"""The connections of this process that are open, each with its file's real path, device and inode."""


def register_connection(connection: sqlite3.Connection, place: tuple[str, int, int]) -> None:
    # One that is never closed is forgotten when it is collected: by a function written in C, since an exception that a
    # signal handler raises in the middle of a callback written in Python is lost.
    OPEN_FILES[ref(connection, OPEN_FILES.pop)] = place


def checked_place(path: str) -> tuple[str, int, int]:
    """The real path, device and inode of a file that was just opened; raises where it must not be used.

    Opening a file in the place of one that is in use kills the process with SIGBUS: not seeing its own locks on the
    ``-shm`` file, SQLite truncates it. It has not looked at that before the first statement.
    """
    try:
        status = os.stat(path)
    except OSError as error:
        if is_from_host(error):
            raise
        raise sqlite3.OperationalError(str(error)) from error
    name = os.path.realpath(path)
    place = name, status.st_dev, status.st_ino
    others = {other for other in list(OPEN_FILES.values()) if other[0] == name}
    if others and place not in others and os.path.exists(f"{name}-shm"):
        raise sqlite3.OperationalError("deleted or replaced while in use")
    return place
