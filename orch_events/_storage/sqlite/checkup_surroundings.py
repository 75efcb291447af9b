# SPDX-License-Identifier: MIT
"""What is around a database file and may harm it: permissions, disk, file system, and the processes that have it open.

Each function looks at one thing and yields what it found. None opens the file or its ``-wal``: closing another
descriptor would drop SQLite's locks.
"""

import os
import stat
from collections.abc import Iterator
from typing import Final

from ..._values.byte_amount import amount
from ..interface import Finding
from .connections import WAL_LIMIT
from .database_file import EVERY_USER, others_beside
from .error_codes import free_bytes

_LITTLE_ROOM: Final = 100_000_000
"""Bytes free on the file system below which a warning is due: some 200,000 events, and what a cleanup needs."""

_SHARED_FILE_SYSTEMS: Final = {
    "9p",
    "afs",
    "ceph",
    "cifs",
    "drvfs",
    "fuse.sshfs",
    "gpfs",
    "lustre",
    "nfs",
    "nfs4",
    "smb2",
    "smb3",
    "smbfs",
    "vboxsf",
}
"""File systems that may be another machine's."""

_MOUNTS: Final = "/proc/mounts"


def look_at_file(path: str) -> Iterator[Finding]:
    """Its permissions and size, and the size of its ``-wal``."""
    status = os.stat(path)
    value = f"{stat.filemode(status.st_mode)}, {amount(status.st_size)}"
    if not os.access(path, os.W_OK):
        yield Finding("file", value, "warn", "this user cannot record")
    elif os.name == "posix" and status.st_mode & 0o007:
        advice = "open to every user of this machine: chmod o= FILE FILE-wal FILE-shm"
        yield Finding("file", value, "warn", advice)
    else:
        yield Finding("file", value)
    if os.path.exists(f"{path}-wal"):
        size = os.stat(f"{path}-wal").st_size
        if size > 2 * WAL_LIMIT:
            advice = "a program has been reading for long: see which one has it open"
            yield Finding("wal", amount(size), "warn", advice)
        else:
            yield Finding("wal", amount(size))


def look_at_folder(path: str) -> Iterator[Finding]:
    """Which users may put files beside it, and how much room there is."""
    mode = stat.filemode(os.stat(os.path.dirname(path)).st_mode)
    others = others_beside(path)
    danger = f"{others} may put files beside the log, and so forge events"
    if others == EVERY_USER:
        yield Finding("folder", mode, "bad", f"{danger}: use a folder of your own")
    elif others:
        yield Finding("folder", mode, "warn", f"{danger}: chmod g-w, unless you are alone in it")
    else:
        yield Finding("folder", mode)
    free = free_bytes(path)
    if free is None:
        return
    if free < _LITTLE_ROOM:
        advice = "on a full disk nothing can be recorded: make room, with 'cleanup' for one"
        yield Finding("free space", amount(free), "warn", advice)
    else:
        yield Finding("free space", amount(free))


def look_at_file_system(path: str) -> Iterator[Finding]:
    """Whether it is this machine's; only Linux can say."""
    if not os.path.exists(_MOUNTS):
        return
    kind = _file_system(path)
    if kind in _SHARED_FILE_SYSTEMS:
        advice = "a log needs a disk of this machine, for its locks and shared memory"
        yield Finding("file system", kind, "bad", advice)
    else:
        yield Finding("file system", kind)


def _file_system(path: str) -> str:
    """The type of the file system with the longest mount point above `path`; the latest of those at one point."""
    kind = ""
    longest = -1
    with open(_MOUNTS, encoding="utf-8", errors="surrogateescape") as mounts:
        for line in mounts:
            _, point, name, *_ = line.split(" ")
            point = point.replace("\\040", " ").rstrip("/")
            if len(point) >= longest and path.startswith(f"{point}/"):
                kind = name
                longest = len(point)
    return kind


def look_at_holders(path: str) -> Iterator[Finding]:
    """The processes that have it open, or a deleted file of its name; only Linux can say."""
    if not os.path.exists(_MOUNTS):
        return
    names = {path, f"{path}-wal", f"{path}-shm"}
    deleted_names = {f"{name} (deleted)" for name in names}
    for pid in os.listdir("/proc"):
        if not pid.isdecimal():
            continue
        try:
            open_files = _open_files(pid)
            with open(f"/proc/{pid}/comm", encoding="utf-8", errors="surrogateescape") as comm:
                process = f"{pid} {comm.read().strip()}"
        except OSError:  # it has ended, or is another user's
            continue
        if open_files & deleted_names:
            advice = "what it writes to a deleted file is lost: end it"
            yield Finding("open in", process, "bad", advice)
        elif open_files & names and int(pid) != os.getpid():
            yield Finding("open in", process)


def _open_files(pid: str) -> set[str]:
    """Where the descriptors of a process lead to. Reading a link opens nothing."""
    folder = f"/proc/{pid}/fd"
    return {os.readlink(f"{folder}/{number}") for number in os.listdir(folder)}
