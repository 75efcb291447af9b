# SPDX-License-Identifier: MIT
"""How a database file is opened, waited for, and how SQLite's errors become ours.

Connections are made here and nowhere else. The file itself, its ``-wal`` and its ``-shm`` are never opened by us:
closing any other descriptor of the same file would drop SQLite's locks for the whole process
(https://sqlite.org/howtocorrupt.html, section 2.2.1).
"""

import contextlib
import errno
import os
import sqlite3
import stat
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, Literal, TypeAlias, TypeVar, cast

from ._errors import LogNotFoundError, ReadError, SchemaError, WriteError

__all__ = ["Durability"]

Durability: TypeAlias = Literal["full", "normal"]
T = TypeVar("T")

Cell: TypeAlias = str | bytes | int | float | None
Row: TypeAlias = tuple[Cell, ...]

SYNCHRONOUS: Final = {"full": "FULL", "normal": "NORMAL"}

WAL_LIMIT: Final = 8 << 20
"""After a checkpoint the ``-wal`` file is cut down to this many bytes. Between checkpoints, which SQLite makes every
1,000 pages (4 MB), it holds about that much; a bigger allowance gained nothing measurable."""

PAGE_BYTES: Final = 8 << 20
"""Longest text one step of a query may build, so that reading stays in bounded memory whatever the payloads' size."""

# What may pass by itself: another connection holds the lock, recovers the log, or is racing us for shared memory.
_TRANSIENT: Final = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_PROTOCOL}
# Not a log that we can use, whoever asks.
_FOREIGN: Final = {sqlite3.SQLITE_NOTADB}


def primary_code(error: BaseException) -> int:
    """SQLite's primary result code of `error`; 0 when SQLite did not raise it (https://sqlite.org/rescode.html)."""
    return (error.sqlite_errorcode & 0xFF) if isinstance(error, sqlite3.Error) and hasattr(error, "sqlite_errorcode") else 0


def is_transient(error: BaseException) -> bool:
    return primary_code(error) in _TRANSIENT


@contextlib.contextmanager
def translated(kind: type[ReadError] | type[WriteError], path: str, what: str) -> Iterator[None]:
    """Raise a `sqlite3.Error` of the body as `kind` (or `SchemaError` for what is no database), with its cause."""
    try:
        yield
    except sqlite3.Error as error:
        raise translate(kind, path, what, error) from error


def translate(
    kind: type[ReadError] | type[WriteError], path: str, what: str, error: BaseException
) -> ReadError | WriteError | SchemaError:
    if primary_code(error) in _FOREIGN:
        return SchemaError(f"{path}: not a SQLite database")
    name = error.sqlite_errorname if isinstance(error, sqlite3.Error) and hasattr(error, "sqlite_errorname") else ""
    return kind(f"{path}: {what}: {error}", path, name)


def retry_transient(attempt: Callable[[], T], deadline: float) -> T:
    """Call `attempt` until it meets no lock or `deadline` (of `time.monotonic`) has passed.

    SQLite's own busy handler waits inside one statement; this covers what it does not: ``journal_mode=WAL`` ignores it
    (8 processes opening a fresh file failed in 10 of 40 rounds, with this in 0 of 60), and so does a recovery.
    """
    pause = 0.001
    while True:
        try:
            return attempt()
        except sqlite3.OperationalError as error:
            if not is_transient(error) or time.monotonic() + pause > deadline:
                raise
        time.sleep(pause)
        pause = min(pause * 2, 0.05)


def checked_path(path: str | os.PathLike[str]) -> str:
    """`path` as text, refused when it names no file: an event log is one file on disk."""
    text = os.fspath(path)
    if not text or text == ":memory:" or "\0" in text:
        raise LogNotFoundError(errno.EINVAL, "an event log is a file; this names none", text)
    return text


def _decode(raw: bytes) -> str:
    # Invalid UTF-8 becomes lone surrogates, which `_payload.parse` refuses: such a payload has no fields, as the
    # reference's reader has it, and the row's other columns survive.
    return raw.decode("utf-8", "surrogateescape")


def _connect(path: str, mode: Literal["ro", "rwc"], busy_timeout: float) -> sqlite3.Connection:
    # `timeout` is set before the first statement runs, and no connection is used by two threads at once: CPython 3.12
    # and 3.13 return wrong rows then (https://github.com/python/cpython/issues/118172). Connections do move between
    # threads, one user at a time, hence `check_same_thread`.
    connection = sqlite3.connect(
        f"{Path(path).absolute().as_uri()}?mode={mode}",
        timeout=busy_timeout,
        isolation_level=None,
        check_same_thread=False,
        uri=True,
    )
    connection.text_factory = _decode
    return connection


def _create_private(path: str) -> None:
    """Create an empty database file that only its owner can read, without ever opening `path`.

    SQLite creates files readable by all and gives ``-wal`` and ``-shm`` the database's own permissions. Linking a
    private temporary file into place is atomic; where the file system has no links, SQLite's default stands.
    """
    with contextlib.suppress(OSError):
        descriptor, temporary = tempfile.mkstemp(dir=os.path.dirname(path) or ".", prefix=".orch_events-")
        os.close(descriptor)
        try:
            os.link(temporary, path)
        finally:
            os.unlink(temporary)


def open_for_writing(path: str, durability: Durability, busy_timeout: float) -> sqlite3.Connection:
    """A connection in WAL mode, autocommitting, that waits `busy_timeout` seconds for locks. Creates the file."""
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        folder = os.path.dirname(path) or "."
        if not os.path.isdir(folder):
            raise LogNotFoundError(errno.ENOENT, "no directory to create the log in", path) from None
        if sys.platform != "win32":
            _create_private(path)
    except OSError as error:
        raise WriteError(f"{path}: cannot open: {error.strerror}", path) from error
    else:
        if not stat.S_ISREG(mode):
            raise WriteError(f"{path}: not a regular file", path)
        if not os.access(path, os.W_OK):
            raise WriteError(f"{path}: the file is read-only; EventReader can read it", path, "SQLITE_READONLY")
    with translated(WriteError, path, "cannot open"):
        connection = _connect(path, "rwc", busy_timeout)
        try:
            _enter_wal_mode(connection, path, time.monotonic() + busy_timeout)
            connection.execute(f"PRAGMA synchronous={SYNCHRONOUS[durability]}")
            connection.execute(f"PRAGMA journal_size_limit={WAL_LIMIT}")
        except BaseException:
            connection.close()
            raise
    return connection


def _enter_wal_mode(connection: sqlite3.Connection, path: str, deadline: float) -> None:
    def attempt() -> Cell:
        mode = scalar(connection, "PRAGMA journal_mode")
        if mode != "wal":  # setting it again would take a lock (failure seen as contention between openers)
            # Only a database without tables takes it. Lets space be given back later without rewriting the file.
            connection.execute("PRAGMA auto_vacuum=INCREMENTAL")
            mode = scalar(connection, "PRAGMA journal_mode=WAL")
        return mode

    mode = retry_transient(attempt, deadline)
    if mode != "wal":
        raise WriteError(f"{path}: this file system cannot hold a write-ahead log (journal mode stays {mode!r})", path)


def open_for_reading(path: str, busy_timeout: float) -> sqlite3.Connection:
    """A read-only connection: creates no database and changes none."""
    if not os.path.exists(path):
        raise LogNotFoundError(errno.ENOENT, "no event log here", path)
    if os.path.isdir(path):
        raise ReadError(f"{path}: is a directory", path)
    with translated(ReadError, path, "cannot open"):
        connection = _connect(path, "ro", busy_timeout)
        connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, PAGE_BYTES)
    return connection


def fetch_all(connection: sqlite3.Connection, sql: str, parameters: tuple[Cell, ...] = ()) -> list[Row]:
    return cast("list[Row]", connection.execute(sql, parameters).fetchall())


def fetch_one(connection: sqlite3.Connection, sql: str, parameters: tuple[Cell, ...] = ()) -> Row | None:
    return cast("Row | None", connection.execute(sql, parameters).fetchone())


def scalar(connection: sqlite3.Connection, sql: str, parameters: tuple[Cell, ...] = ()) -> Cell:
    row = fetch_one(connection, sql, parameters)
    return None if row is None else row[0]
