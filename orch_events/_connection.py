# SPDX-License-Identifier: MIT
"""How a database file is opened, waited for, and how SQLite's errors become ours. Connections are made here alone.

We never open the file itself, its ``-wal`` or its ``-shm``: closing any other descriptor of the same file would drop
SQLite's locks for the whole process (https://sqlite.org/howtocorrupt.html, section 2.2.1).
"""

import contextlib
import errno
import os
import sqlite3
import stat
import sys
import time
from collections.abc import Callable, Generator, Iterator
from operator import methodcaller
from typing import Final, Literal, TypeAlias, TypeVar, cast
from weakref import ReferenceType, ref

from ._errors import LogNotFoundError, OrchEventsError, ReadError, SchemaError, WriteError

T = TypeVar("T")
Durability: TypeAlias = Literal["full", "normal"]
Cell: TypeAlias = str | bytes | int | float | None
Row: TypeAlias = tuple[Cell, ...]

# `synchronous`, and after how many pages of ``-wal`` SQLite checkpoints. Syncing a file that grows costs more than
# syncing one that is written over, so where every commit syncs, an early checkpoint pays: 250 pages (1 MB) made acks
# 1.25 times as fast as SQLite's 1,000 in a new log, no slower in an old one. Where only checkpoints sync, rarely pays.
DURABILITY: Final = {"full": ("FULL", 250), "normal": ("NORMAL", 1000)}
# To how many bytes a checkpoint cuts the ``-wal`` file down, should a long reader have let it grow.
WAL_LIMIT: Final = 8 << 20
# Longest text one step of a query may build, so that reading stays in bounded memory whatever the payloads' size.
PAGE_BYTES: Final = 8 << 20
# What may pass by itself: another connection holds the lock, recovers the log, or races us for shared memory.
_TRANSIENT: Final = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_PROTOCOL}


def primary_code(error: BaseException) -> int:
    """SQLite's primary result code (https://sqlite.org/rescode.html); 0 when SQLite did not raise the error."""
    return cast("int", getattr(error, "sqlite_errorcode", 0)) & 0xFF


def is_transient(error: BaseException) -> bool:
    return primary_code(error) in _TRANSIENT


def translate(kind: type[ReadError | WriteError], path: str, what: str, error: BaseException) -> OrchEventsError:
    """`error` as an error of ours, with its cause."""
    name = cast("str", getattr(error, "sqlite_errorname", ""))
    foreign = primary_code(error) == sqlite3.SQLITE_NOTADB
    ours = SchemaError(f"{path}: not a SQLite database") if foreign else kind(f"{path}: {what}: {error}", path, name)
    ours.__cause__ = error
    return ours


@contextlib.contextmanager
def translated(kind: type[ReadError | WriteError], path: str, what: str) -> Generator[None, None, None]:
    """Raise a `sqlite3.Error` of the body as an error of ours."""
    try:
        yield
    except (sqlite3.Error, UnicodeDecodeError) as error:  # the latter from SQLite's own words about a damaged schema
        raise translate(kind, path, what, error) from error


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
            if not is_transient(error) or time.monotonic() + pause > deadline:
                raise
        time.sleep(pause)
        pause = min(pause * 2, 0.05)


def checked_path(path: str | os.PathLike[str]) -> str:
    """`path` made absolute, so that a later `chdir` does not matter; refused when it names no file on disk."""
    text = os.fspath(path)
    if not text or text == ":memory:" or "\0" in text:
        raise LogNotFoundError(errno.EINVAL, "an event log is a file; this names none", text)
    return os.path.abspath(text)


class _Connection(sqlite3.Connection):
    place: tuple[str, int, int] = ("", 0, 0)
    """The file's path, device and inode."""


_KNOWN: Final[list[ReferenceType[_Connection]]] = []
"""All the connections of this process."""


def _places_in_use() -> Iterator[tuple[str, int, int]]:
    for reference in _KNOWN.copy():
        connection = reference()
        with contextlib.suppress(sqlite3.ProgrammingError):  # it is closed
            if connection is not None and connection.total_changes >= 0:
                yield connection.place


def _uri(path: str) -> str:
    """As `pathlib` has it, whose import, with `urllib`, would take 5 ms of our 30."""
    name = os.fsencode(path if os.sep == "/" else path.replace(os.sep, "/"))
    safe = b"/-._~:abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
    quoted = "".join(chr(byte) if byte in safe else f"%{byte:02X}" for byte in name)
    return f"file://{quoted}" if quoted.startswith("/") else f"file:///{quoted}"


def _connect(path: str, mode: Literal["ro", "ro&immutable=1", "rwc"], busy_timeout: float) -> sqlite3.Connection:
    # A connection may move between threads but is never used by two at once, when CPython 3.12 and 3.13 return wrong
    # rows (https://github.com/python/cpython/issues/118172). `timeout` is in force before the first statement.
    connection = sqlite3.connect(
        f"{_uri(path)}?mode={mode}",
        timeout=busy_timeout, isolation_level=None, check_same_thread=False, factory=_Connection, uri=True,
    )
    try:
        # Opening a file in the place of one that is in use kills the process with SIGBUS: not seeing its own locks on
        # the ``-shm`` file, SQLite truncates it. It has not looked at that before the first statement.
        status, name = os.stat(path), os.path.realpath(path)
        connection.place = name, status.st_dev, status.st_ino
        others = {place for place in _places_in_use() if place[0] == name}
        if others and connection.place not in others and os.path.exists(f"{name}-shm"):
            raise sqlite3.OperationalError("deleted or replaced while in use")
    except (OSError, sqlite3.Error) as error:
        connection.close()
        raise sqlite3.OperationalError(str(error)) from error
    _KNOWN.append(ref(connection, _KNOWN.remove))
    # Invalid UTF-8 becomes lone surrogates, which `_payload.parse` refuses: the row's other columns survive.
    connection.text_factory = methodcaller("decode", "utf-8", "surrogateescape")
    return connection


def _create_private(path: str) -> None:
    """Create an empty database file that only its owner can read, without ever opening `path`.

    SQLite would make it readable by all, and gives ``-wal`` and ``-shm`` its permissions. Linking a temporary file into
    place is atomic; where the file system has no links, SQLite's default stands.
    """
    with contextlib.suppress(OSError):
        temporary = os.path.join(os.path.dirname(path), f".orch_events-{os.urandom(8).hex()}")
        os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        try:
            os.link(temporary, path)
        finally:
            os.unlink(temporary)


def open_for_writing(path: str, durability: Durability, busy_timeout: float) -> sqlite3.Connection:
    """A connection that autocommits and waits `busy_timeout` seconds for locks. Creates the file, as yet empty."""
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise WriteError(f"{path}: not a regular file", path)
        if not os.access(path, os.W_OK):
            raise WriteError(f"{path}: the file is read-only; EventReader can read it", path, "SQLITE_READONLY")
    except FileNotFoundError:
        if not os.path.isdir(os.path.dirname(path)):
            raise LogNotFoundError(errno.ENOENT, "no directory to create the log in", path) from None
        if sys.platform != "win32":
            _create_private(path)
    except OSError as error:
        raise WriteError(f"{path}: cannot open: {error.strerror}", path) from error
    with translated(WriteError, path, "cannot open"):
        connection = _connect(path, "rwc", busy_timeout)
        synchronous, checkpoint = DURABILITY[durability]
        try:
            connection.execute(f"PRAGMA synchronous={synchronous}")
            connection.execute(f"PRAGMA wal_autocheckpoint={checkpoint}")
            connection.execute(f"PRAGMA journal_size_limit={WAL_LIMIT}")
        except BaseException:
            connection.close()
            raise
    return connection


def enter_wal_mode(connection: sqlite3.Connection, path: str, busy_timeout: float) -> None:
    """Make sure the database has a write-ahead log. Writes to the file if it had none."""

    def attempt() -> Cell:
        if (mode := scalar(connection, "PRAGMA journal_mode")) == "wal":  # asked first, because setting it takes a lock
            return mode
        # Heeded only while the file is empty. Lets space be given back later without rewriting the file.
        connection.execute("PRAGMA auto_vacuum=INCREMENTAL")
        return scalar(connection, "PRAGMA journal_mode=WAL")

    if (mode := retry_transient(attempt, time.monotonic() + busy_timeout)) != "wal":
        raise WriteError(f"{path}: this file system cannot hold a write-ahead log (journal mode stays {mode!r})", path)


def open_for_reading(path: str, busy_timeout: float, at_rest: bool = False) -> sqlite3.Connection:
    """A read-only connection: creates no database and changes none.

    Of a file `at_rest`, which nobody writes to meanwhile, not even the ``-wal`` and ``-shm`` of a reader are created.
    """
    if not os.path.exists(path):
        raise LogNotFoundError(errno.ENOENT, "no event log here", path)
    if not os.path.isfile(path):
        raise ReadError(f"{path}: not a regular file", path)
    with translated(ReadError, path, "cannot open"):
        connection = _connect(path, "ro&immutable=1" if at_rest else "ro", busy_timeout)
        connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, PAGE_BYTES)
    return connection


def fetch_all(connection: sqlite3.Connection, sql: str, parameters: Row = ()) -> list[Row]:
    return cast("list[Row]", connection.execute(sql, parameters).fetchall())


def scalar(connection: sqlite3.Connection, sql: str, parameters: Row = ()) -> Cell:
    row = cast("Row | None", connection.execute(sql, parameters).fetchone())
    return None if row is None else row[0]


def check_order(after_id: int, last_id: Cell) -> int:
    """`last_id` of a page that was to come after `after_id`; or whoever reads on from there would go in circles."""
    if not isinstance(last_id, int) or last_id <= after_id:
        raise sqlite3.DatabaseError("ids out of order; the file is damaged")
    return last_id


def data_version(connection: sqlite3.Connection) -> Cell:
    """A number that moves when any other connection commits."""
    return scalar(connection, "PRAGMA data_version")


def examine(connection: sqlite3.Connection, thorough: bool) -> dict[str, str]:
    """What SQLite says of the file: some pragmas by their names, and as ``check`` "ok" or what is damaged."""
    pragmas = ("journal_mode", "page_size", "page_count", "freelist_count", "auto_vacuum")
    complaints = fetch_all(connection, f"PRAGMA {'integrity' if thorough else 'quick'}_check(5)")
    found = {name: str(scalar(connection, f"PRAGMA {name}")) for name in pragmas}
    return {**found, "check": "; ".join(str(row[0]).replace("\n", " ") for row in complaints)}
