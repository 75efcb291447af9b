# SPDX-License-Identifier: MIT
"""What SQLite's result codes mean, and how its errors become ours."""

import contextlib
import os
import sqlite3
import sys
from collections.abc import Generator
from typing import Final, cast

from ..._values.errors import (
    OrchEventsError,
    ReadError,
    SchemaError,
    WriteError,
)
from ..._values.host_errors import is_from_host

# Where it helps to know how much room is left on the disk.
_SPACE: Final = {sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR}

# What may pass by itself: another connection holds the lock, recovers the log, or races us for shared memory.
_TRANSIENT: Final = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_PROTOCOL}


SQLITE_ERRORS: Final = (sqlite3.Error, UnicodeDecodeError)
"""What `sqlite3` raises. The second comes from SQLite's own words about a damaged schema."""


def primary_code(error: BaseException) -> int:
    """SQLite's primary result code (https://sqlite.org/rescode.html); 0 when SQLite did not raise the error."""
    return cast("int", getattr(error, "sqlite_errorcode", 0)) & 0xFF


def is_transient(error: BaseException) -> bool:
    return primary_code(error) in _TRANSIENT


def translate(
    kind: type[ReadError | WriteError],
    path: str,
    what: str,
    error: BaseException,
) -> OrchEventsError:
    """`error` as an error of ours, with its cause."""
    name = cast("str", getattr(error, "sqlite_errorname", ""))
    code = primary_code(error)
    ours: OrchEventsError
    if code == sqlite3.SQLITE_NOTADB:
        ours = SchemaError(f"{path}: not a SQLite database")
    else:
        space = ""
        if code in _SPACE:
            space = f" ({_free_space(path)})"
        ours = kind(f"{path}: {what}: {error}{space}", path, name)
    ours.__cause__ = error
    return ours


def free_bytes(path: str) -> int | None:
    """Bytes that this user may still write to the file system of `path`; ``None`` where that is not known."""
    if sys.platform == "win32":
        return None
    else:
        try:
            system = os.statvfs(os.path.dirname(os.path.realpath(path)))
        except OSError as error:
            if is_from_host(error):
                raise
            return None
        return system.f_bavail * system.f_frsize


def _free_space(path: str) -> str:
    free = free_bytes(path)
    if free is None:
        return "free space unknown"
    return f"{free:,} bytes free on its file system"


@contextlib.contextmanager
def translated(
    kind: type[ReadError | WriteError], path: str, what: str
) -> Generator[None, None, None]:
    """Raise a `sqlite3.Error` of the body as an error of ours."""
    try:
        yield
    except SQLITE_ERRORS as error:
        if is_from_host(error):
            raise
        raise translate(kind, path, what, error) from error
