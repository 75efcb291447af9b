# SPDX-License-Identifier: MIT
"""The check-up of a log in a SQLite file: what is looked at, in order, and what to do about each problem.

Nothing here writes, and nothing opens the file but SQLite.
"""

import os
import platform
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from typing import Final, cast

from ..._values.errors import OrchEventsError, ReadError
from ..interface import Finding
from .checkup_surroundings import (
    look_at_file,
    look_at_file_system,
    look_at_folder,
    look_at_holders,
)
from .connections import DURABILITY, open_for_reading
from .error_codes import translated
from .schema import prepare_reading, schema_version
from .statements import fetch_all, scalar

_BUSY_TIMEOUT: Final = 5.0

_RECOVER: Final = "copy FILE, FILE-wal and FILE-shm to safety, then try 'sqlite3 FILE .recover'"

_DISK: Final = "make room if its file system is full; else see whether the disk is well"

_ADVICE: Final = {
    "SQLITE_CORRUPT": _RECOVER,
    "SQLITE_BUSY": "another program holds its lock: try again, and see which one has it open",
    "SQLITE_CANTOPEN": "where there is no FILE-shm, a reader must be allowed to create it",
    "SQLITE_FULL": _DISK,
    "SQLITE_IOERR": _DISK,
    "": "see whether --db names the right file",
}
"""What to do after an error, by how its name begins."""

_PRAGMAS: Final = ("journal_mode", "page_size", "page_count", "freelist_count", "auto_vacuum")

_WAL_RESET_FIXES: Final = (((3, 44, 6), (3, 45)), ((3, 50, 7), (3, 51)), ((3, 51, 3), (4,)))
"""The versions of SQLite with the fix, from and before: two older branches have it too."""


def check_up(path: str, thorough: bool) -> Iterator[Finding]:
    """Look at everything; stops at the first look that fails."""
    looks: tuple[Callable[[str], Iterator[Finding]], ...] = (
        look_at_programs,
        look_at_file,
        look_at_folder,
        look_at_file_system,
        look_at_holders,
    )
    try:
        for look in looks:
            yield from look(path)
        yield from look_at_content(path, thorough)
    except OrchEventsError as error:
        name = error.sqlite_errorname if isinstance(error, ReadError) else ""
        yield Finding("log", str(error), "bad", _advice(name))
    except OSError as error:
        value = f"{cast('str', error.filename)}: {error.strerror}"
        yield Finding("log", value, "bad", _advice(""))


def _advice(error_name: str) -> str:
    for begin, advice in _ADVICE.items():
        if error_name.startswith(begin):
            return advice
    return ""


def has_wal_reset_fix(version: tuple[int, ...]) -> bool:
    """Whether that SQLite has it (https://sqlite.org/wal.html#the_wal_reset_bug)."""
    return any(since <= version < before for since, before in _WAL_RESET_FIXES)


def look_at_programs(_path: str) -> Iterator[Finding]:
    """The versions of SQLite and Python, and what an acknowledged event survives."""
    version = sqlite3.sqlite_version
    if has_wal_reset_fix(sqlite3.sqlite_version_info):
        yield Finding("sqlite", f"{version}, with the fix of the WAL-reset bug")
    else:
        value = f"{version}, without the fix of the WAL-reset bug"
        advice = (
            "a checkpoint may lose commits, if rarely:"
            " use 3.51.3 or newer, 3.50.7, 3.44.6, or one patched for it"
        )
        yield Finding("sqlite", value, "warn", advice)
    yield Finding("python", f"{platform.python_implementation()} {platform.python_version()}")
    synchronous, _ = DURABILITY["full"]
    full = f"full (synchronous={synchronous}) unless EventLog is opened otherwise"
    yield Finding("durability", full)


def look_at_content(path: str, thorough: bool) -> Iterator[Finding]:
    """Whether the file is damaged, its layout and its schema."""
    # Of a file that no process has open, even a reader would make SQLite create `-wal` and `-shm`.
    in_use = any(os.path.exists(path + ending) for ending in ("-wal", "-journal"))
    if not in_use:
        before = os.stat(path).st_mtime_ns
        findings = list[Finding]()
        with suppress(ReadError):  # asked again below, and then raised
            findings = list(_content_findings(path, thorough, at_rest=True))
        was_written = os.path.exists(f"{path}-wal") or os.stat(path).st_mtime_ns != before
        if findings and not was_written:
            yield from findings
            return
        in_use = was_written
    yield from _content_findings(path, thorough, at_rest=not in_use)


def _content_findings(path: str, thorough: bool, at_rest: bool) -> Iterator[Finding]:
    with (
        closing(open_for_reading(path, _BUSY_TIMEOUT, at_rest)) as connection,
        translated(ReadError, path, "cannot read"),
    ):
        damage = _damage(connection, thorough)
        facts = {name: str(scalar(connection, f"PRAGMA {name}")) for name in _PRAGMAS}
        if damage != "ok":
            yield Finding("integrity", damage, "bad", _RECOVER)
        else:
            note = "--full checks the indexes too"
            if thorough:
                note = ""
            yield Finding("integrity", damage, advice=note)
        yield Finding("journal mode", "at rest" if at_rest else facts["journal_mode"])
        kept = ""
        if facts["auto_vacuum"] == "0":
            kept = ", never given back"
        pages = f"{facts['page_count']} x {facts['page_size']} B, {facts['freelist_count']} free"
        yield Finding("pages", f"{pages}{kept}")
        prepare_reading(connection, path)
        version = schema_version(connection)
        schema = f"version {version}"
        if version is None:
            schema = "another program's"
        yield Finding("schema", schema)


def _damage(connection: sqlite3.Connection, thorough: bool) -> str:
    """What SQLite finds damaged, or "ok"."""
    check = "quick_check"
    if thorough:
        check = "integrity_check"
    complaints = fetch_all(connection, f"PRAGMA {check}(5)")
    return "; ".join(str(row[0]).replace("\n", " ") for row in complaints)
