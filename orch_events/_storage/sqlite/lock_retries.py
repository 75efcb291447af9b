# SPDX-License-Identifier: MIT
"""Trying again while another connection holds a lock, where SQLite itself does not wait, or not as is wanted here.

Everywhere else SQLite waits: ``PRAGMA busy_timeout``, set by `connections`.
"""

import sqlite3
import time
from collections.abc import Callable
from typing import Final, TypeVar

from ..._values.host_errors import is_from_host
from .error_codes import is_transient
from .forks import uncut
from .statements import scalar

T = TypeVar("T")

_RETRY_PAUSE: Final = 0.0002
"""Seconds between two tries for the write lock. SQLite's own, up to 0.1 s apart, starve beside a busy writer."""


def retry_transient(attempt: Callable[[], T], deadline: float) -> T:
    """Call `attempt` until it meets no lock or `deadline` (of `time.monotonic`) has passed.

    This covers what SQLite's own busy handler does not: ``journal_mode=WAL`` ignores it (8 processes opening a fresh
    file failed in 10 of 40 rounds, with this in 0 of 60), and so does a recovery.
    """
    pause = 0.001
    while True:
        try:
            return attempt()
        except sqlite3.OperationalError as error:
            if (
                not is_transient(error)
                or is_from_host(error)
                or time.monotonic() + pause > deadline
            ):
                raise
        time.sleep(pause)
        pause = min(pause * 2, 0.05)


def run_with_lock_retry(connection: sqlite3.Connection, timeout: float, script: str) -> None:
    """Run a script that takes the write lock, trying for `timeout` seconds.

    A script is run in one step, so the GIL is given up only once.
    """
    scalar(connection, "PRAGMA busy_timeout = 0")
    deadline = time.monotonic() + timeout
    try:
        while True:
            try:
                with uncut(connection):
                    connection.executescript(script)
                return
            except sqlite3.OperationalError as error:
                if not is_transient(error) or time.monotonic() > deadline:
                    raise
            time.sleep(_RETRY_PAUSE)
    finally:
        scalar(connection, f"PRAGMA busy_timeout = {round(timeout * 1000)}")
