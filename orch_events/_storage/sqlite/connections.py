# SPDX-License-Identifier: MIT
"""How connections are opened, for writing and for reading. They are made here alone."""

import errno
import os
import sqlite3
import stat
import sys
import time
from operator import methodcaller
from typing import Final, Literal

from ..._values.errors import (
    LogNotFoundError,
    ReadError,
    WriteError,
)
from ..interface import Durability
from ..process_hooks import never_close_in_child
from .database_file import (
    check_journal,
    create_private,
    file_mode,
    file_uri,
)
from .error_codes import translated
from .forks import close_inherited, uncut
from .interruptible import (
    Cell,
    InterruptibleConnection,
    let_signals_in,
)
from .lock_retries import retry_transient
from .replaced_files import checked_place, register_connection
from .statements import scalar

DURABILITY: Final = {"full": ("FULL", 250), "normal": ("NORMAL", 1000)}
"""`synchronous`, and after how many pages of ``-wal`` SQLite checkpoints.

Syncing a file that grows costs more than syncing one that is written over, so where every commit syncs, an early
checkpoint pays: 250 pages (1 MB) made acks 1.25 times as fast as SQLite's 1,000 in a new log, no slower in an old one.
Where only checkpoints sync, rarely pays.
"""

WAL_LIMIT: Final = 8 << 20
"""To how many bytes a checkpoint cuts the ``-wal`` file down, should a long reader have let it grow."""

PAGE_BYTES: Final = 8 << 20
"""Longest text one step of a query may build, so that reading stays in bounded memory for payloads of any size."""


def _connect(
    path: str, mode: Literal["ro", "ro&immutable=1", "rwc"], busy_timeout: float
) -> InterruptibleConnection:
    # A connection may move between threads but is never used by two at once, when CPython 3.12 and 3.13 return wrong
    # rows (https://github.com/python/cpython/issues/118172). `timeout` is in force before the first statement.
    close_inherited(path)
    with uncut():
        connection = sqlite3.connect(
            f"{file_uri(path)}?mode={mode}",
            timeout=busy_timeout,
            isolation_level=None,
            check_same_thread=False,
            factory=InterruptibleConnection,
            uri=True,
        )
    try:
        register_connection(connection, checked_place(path))
        never_close_in_child(connection)
        let_signals_in(connection)
        # `trusted_schema` stays on: SQLite 3.40 would refuse a whole file for one `json_extract` in a table of the
        # host's, and there is nothing to guard, since no function of ours has an effect.
        # Invalid UTF-8 becomes lone surrogates, which `parse` refuses: the row's other columns survive.
        connection.text_factory = methodcaller("decode", "utf-8", "surrogateescape")
    except BaseException:
        connection.close()
        raise
    return connection


def open_for_writing(path: str, durability: Durability, busy_timeout: float) -> sqlite3.Connection:
    """A connection that autocommits and waits `busy_timeout` seconds for locks. Creates the file, as yet empty."""
    mode = file_mode(path, WriteError)
    if mode is None:
        created = os.path.realpath(path)  # a link may lead to where there is nothing yet
        folder = os.path.dirname(created)
        if not os.path.isdir(folder):
            if os.path.exists(folder):
                raise LogNotFoundError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), path)
            raise LogNotFoundError(errno.ENOENT, "no directory to create the log in", path)
        if sys.platform != "win32":
            create_private(created)
    elif not stat.S_ISREG(mode):
        raise WriteError(f"{path}: not a regular file", path)
    elif not os.access(path, os.W_OK):
        raise WriteError(
            f"{path}: the file is read-only; EventReader can read it", path, "SQLITE_READONLY"
        )
    check_journal(path, WriteError)
    with translated(WriteError, path, "cannot open"):
        connection = _connect(path, "rwc", busy_timeout)
        synchronous, checkpoint = DURABILITY[durability]
        try:
            scalar(connection, f"PRAGMA synchronous={synchronous}")
            scalar(connection, f"PRAGMA wal_autocheckpoint={checkpoint}")
            scalar(connection, f"PRAGMA journal_size_limit={WAL_LIMIT}")
        except BaseException:
            connection.close()
            raise
    return connection


def enter_wal_mode(connection: sqlite3.Connection, path: str, busy_timeout: float) -> None:
    """Make sure the database has a write-ahead log. Writes to the file if it had none."""

    def attempt() -> Cell:
        mode = scalar(connection, "PRAGMA journal_mode")  # asked first: setting it takes a lock
        if mode == "wal":
            return mode
        # Heeded only while the file is empty. Lets space be given back later without rewriting the file.
        connection.execute("PRAGMA auto_vacuum=INCREMENTAL")
        return scalar(connection, "PRAGMA journal_mode=WAL")

    mode = retry_transient(attempt, time.monotonic() + busy_timeout)
    if mode != "wal":
        raise WriteError(
            f"{path}: this file system cannot hold a write-ahead log (journal mode stays {mode!r})",
            path,
        )


def open_for_reading(path: str, busy_timeout: float, at_rest: bool = False) -> sqlite3.Connection:
    """A read-only connection: creates no database and changes none.

    Of a file `at_rest`, to which no process writes meanwhile, not even the ``-wal`` and ``-shm`` of a reader are created.
    """
    mode = file_mode(path, ReadError)
    if mode is None:
        raise LogNotFoundError(errno.ENOENT, "no event log here", path)
    if not stat.S_ISREG(mode):
        raise ReadError(f"{path}: not a regular file", path)
    check_journal(path, ReadError)
    with translated(ReadError, path, "cannot open"):
        connection = _connect(path, "ro&immutable=1" if at_rest else "ro", busy_timeout)
        try:
            connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, PAGE_BYTES)
        except BaseException:
            connection.close()
            raise
    return connection
