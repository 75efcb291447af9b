# SPDX-License-Identifier: MIT
"""``doctor``: whether a log and what is around it are well, a line for each thing looked at.

The rule: a look is a function in the table at the end. It tells what it found, whether that is well, and what to do if
not. None writes, and none opens the log but through SQLite, whose locks another descriptor would drop.
"""

import json
import os
import platform
import sqlite3
import stat
from argparse import ArgumentParser
from collections.abc import Callable, Iterator
from contextlib import closing, nullcontext, suppress
from typing import Final, NamedTuple, cast

from .. import OrchEventsError, ReadError
from .._connection import DURABILITY, WAL_LIMIT, checked_path, examine, open_for_reading, translated
from .._schema import prepare_reading, schema_version
from ._arguments import Options
from ._render import amount, printable, tinted

__all__ = ["doctor", "has_wal_reset_fix"]

_LIKE: Final = {"ok": "completed", "warn": "paused", "bad": "failed"}
"""The verdicts, and the status in whose colour each is shown."""

_PATIENCE: Final = 5.0
_RECOVER: Final = "copy FILE, FILE-wal and FILE-shm to safety, then try 'sqlite3 FILE .recover'"
_ADVICE: Final = {
    "SQLITE_CORRUPT": _RECOVER,
    "SQLITE_BUSY": "somebody holds its lock: try again, and see who has it open",
    "SQLITE_CANTOPEN": "where there is no FILE-shm, a reader must be allowed to create it",
    "": "see whether --db names the right file",
}
_SHARED: Final = frozenset("9p afs ceph cifs drvfs fuse.sshfs gpfs lustre nfs nfs4 smb2 smb3 smbfs vboxsf".split())
"""File systems that may be another machine's."""


class _Finding(NamedTuple):
    check: str
    value: str
    verdict: str = "ok"
    advice: str = ""


def has_wal_reset_fix(version: tuple[int, ...]) -> bool:
    """Whether that SQLite has it (https://sqlite.org/wal.html#the_wal_reset_bug), as two older branches do."""
    fixed = ((3, 44, 6), (3, 45)), ((3, 50, 7), (3, 51)), ((3, 51, 3), (4,))
    return any(since <= version < before for since, before in fixed)


def _programs(_path: str, _full: bool) -> Iterator[_Finding]:
    if has_wal_reset_fix(sqlite3.sqlite_version_info):
        yield _Finding("sqlite", f"{sqlite3.sqlite_version}, with the fix of the WAL-reset bug")
    else:
        advice = "a checkpoint may lose commits, if rarely: use 3.51.3 or newer, 3.50.7, 3.44.6, or one patched for it"
        yield _Finding("sqlite", f"{sqlite3.sqlite_version}, without the fix of the WAL-reset bug", "warn", advice)
    yield _Finding("python", f"{platform.python_implementation()} {platform.python_version()}")
    yield _Finding("durability", f"full (synchronous={DURABILITY['full'][0]}) unless EventLog is told otherwise")


def _file(path: str, _full: bool) -> Iterator[_Finding]:
    status, verdict, advice = os.stat(path), "ok", ""
    if not os.access(path, os.W_OK):
        verdict, advice = "warn", "this user cannot record"
    elif os.name == "posix" and status.st_mode & 0o007:
        verdict, advice = "warn", "open to every user of this machine: chmod o= FILE FILE-wal FILE-shm"
    yield _Finding("file", f"{stat.filemode(status.st_mode)}, {amount(status.st_size)}", verdict, advice)
    if os.path.exists(f"{path}-wal"):
        size = os.stat(f"{path}-wal").st_size
        rest = ("warn", "somebody has been reading for long: see who has it open") if size > 2 * WAL_LIMIT else ()
        yield _Finding("wal", amount(size), *rest)


def _file_system(path: str, _full: bool) -> Iterator[_Finding]:
    kind, longest = "", -1
    with open("/proc/mounts", encoding="utf-8", errors="surrogateescape") as mounts:
        for line in mounts:
            point, name = line.split(" ")[1:3]
            point = point.replace("\\040", " ").rstrip("/")
            if len(point) >= longest and path.startswith(f"{point}/"):
                kind, longest = name, len(point)
    rest = ("bad", "a log needs a disk of this machine, for its locks and shared memory") if kind in _SHARED else ()
    yield _Finding("file system", kind, *rest)


def _holders(path: str, _full: bool) -> Iterator[_Finding]:
    names = {path, f"{path}-wal", f"{path}-shm"}
    gone = {f"{name} (deleted)" for name in names}
    for pid in filter(str.isdecimal, os.listdir("/proc")):
        try:  # reading where a link leads opens nothing
            held = {os.readlink(f"/proc/{pid}/fd/{number}") for number in os.listdir(f"/proc/{pid}/fd")}
            with open(f"/proc/{pid}/comm", encoding="utf-8", errors="surrogateescape") as comm:
                name = comm.read().strip()
        except OSError:  # it has ended, or is another user's
            continue
        if held & gone:
            yield _Finding("open in", f"{pid} {name}", "bad", "what it writes to a deleted file is lost: end it")
        elif held & names and int(pid) != os.getpid():
            yield _Finding("open in", f"{pid} {name}")


def _content(path: str, full: bool, is_open: bool = False) -> Iterator[_Finding]:
    # Of a file that nobody has open, even a reader would make SQLite create `-wal` and `-shm`.
    at_rest = not is_open and not any(os.path.exists(path + end) for end in ("-wal", "-journal"))
    before, told = os.stat(path).st_mtime_ns, dict[str, str]()
    with closing(open_for_reading(path, _PATIENCE, at_rest)) as connection, translated(ReadError, path, "cannot read"):
        with suppress(sqlite3.Error) if at_rest else nullcontext():
            told = examine(connection, full)
        if at_rest and (os.path.exists(f"{path}-wal") or os.stat(path).st_mtime_ns != before):
            yield from _content(path, full, is_open=True)  # somebody came
            return
        told = told or examine(connection, full)  # which raises again
        rest = ("bad", _RECOVER) if told["check"] != "ok" else ("ok", "" if full else "--full checks the indexes too")
        yield _Finding("integrity", told["check"], *rest)
        yield _Finding("journal mode", "at rest" if at_rest else told["journal_mode"])
        kept = ", never given back" if told["auto_vacuum"] == "0" else ""
        yield _Finding("pages", f"{told['page_count']} x {told['page_size']} B, {told['freelist_count']} free{kept}")
        prepare_reading(connection, path)
        version = schema_version(connection)
        yield _Finding("schema", "another program's" if version is None else f"version {version}")


_LOOKS: Final[tuple[Callable[[str, bool], Iterator[_Finding]], ...]] = (
    *(_programs, _file), *((_file_system, _holders) if os.path.exists("/proc/mounts") else ()), _content
)


def _findings(path: str, full: bool) -> Iterator[_Finding]:
    for look in _LOOKS:
        try:
            yield from look(path, full)
        except (OrchEventsError, OSError) as error:
            name = error.sqlite_errorname if isinstance(error, ReadError) else ""
            value = f"{cast('str', error.filename)}: {error.strerror}" if isinstance(error, OSError) else str(error)
            yield _Finding("log", value, "bad", next(_ADVICE[code] for code in _ADVICE if name.startswith(code)))
            return


class _Options(Options):
    full: bool = False
    json: bool = False


def doctor(parser: ArgumentParser, words: list[str]) -> int:
    """Tell all there is to tell; 1 if anything is bad."""
    parser.epilog = "Changes nothing. Exits with 1 when anything is bad, with 0 otherwise, also after a warning."
    parser.add_argument("--full", action="store_true", help="compare the indexes with the events; takes longer")
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    options = parser.parse_args(words, _Options())
    found = list(_findings(os.path.realpath(checked_path(options.db)), options.full))
    for finding in found:
        check, value, verdict, advice = map(printable, finding)
        line = f"{tinted(verdict.ljust(4), _LIKE[verdict])}  {check:<12}  {value}{advice and ': '}{advice}"
        members = {"check": finding.check, "value": finding.value, "verdict": verdict, "advice": advice}
        print(json.dumps(members) if options.json else line)
    return int("bad" in {finding.verdict for finding in found})
