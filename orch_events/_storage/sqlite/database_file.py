# SPDX-License-Identifier: MIT
"""The file on the disk: its name, its permissions, which other users may write beside it.

We never open the file itself, its ``-wal`` or its ``-shm``: closing any other descriptor of the same file would drop
SQLite's locks for the whole process (https://sqlite.org/howtocorrupt.html, section 2.2.1).
"""

import errno
import logging
import os
import stat
from typing import Final

from ..._values.errors import (
    LogNotFoundError,
    ReadError,
    WriteError,
)
from ..._values.host_errors import is_from_host
from ..._values.package import PACKAGE

_logger = logging.getLogger(PACKAGE)

EVERY_USER: Final = "every user of this machine"


def others_beside(path: str) -> str:
    """Which users, apart from its owner, may put files into the folder of `path`; empty if none may.

    They can lay a ``-wal`` beside a log, of which SQLite takes the events for the log's own, or cut the ``-shm`` that a
    process has mapped. Neither SQLite nor this package can notice it.
    """
    if os.name != "posix":
        return ""
    try:
        mode = os.stat(os.path.dirname(os.path.realpath(path))).st_mode
    except OSError as error:
        if is_from_host(error):
            raise
        return ""
    if mode & stat.S_IWOTH:
        return EVERY_USER
    if mode & stat.S_IWGRP:
        return "the folder's group"
    return ""


_WARNED: Final[set[str]] = set()
"""Paths in folders that were found open to other users."""


def warn_of_other_users(path: str) -> None:
    """Say once of each path, as a warning of the package's logger, that every user may put files beside it.

    Not as a Python warning, which would stop programs that make those errors: many logs are in ``/tmp``. Only
    ``doctor`` says that a group may do so, which is usual where each user has a group.
    """
    if path in _WARNED or others_beside(path) != EVERY_USER:
        return
    _WARNED.add(path)
    message = "%s: %s may put files beside it, and so forge events or end this process"
    _logger.warning(message, path, EVERY_USER)


def checked_path(path: str | os.PathLike[str]) -> str:
    """`path` made absolute, so that a later `chdir` does not matter; refused when it names no file on disk."""
    text = os.fspath(path)
    if not text or text == ":memory:" or "\0" in text:
        raise LogNotFoundError(errno.EINVAL, "an event log is a file; this names none", text)
    return os.path.abspath(text)


def file_uri(path: str) -> str:
    """As `pathlib` has it; importing that, with `urllib`, would take 5 ms."""
    name = os.fsencode(path if os.sep == "/" else path.replace(os.sep, "/"))
    safe = b"/-._~:abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
    quoted = "".join(chr(byte) if byte in safe else f"%{byte:02X}" for byte in name)
    if quoted.startswith("/"):
        return f"file://{quoted}"
    return f"file:///{quoted}"


def create_private(path: str) -> None:
    """Create an empty database file that only its owner can read, without ever opening `path`.

    SQLite would make it readable by all, and gives ``-wal`` and ``-shm`` its permissions. Linking a temporary file into
    place is atomic; where the file system has no links, SQLite's default stands.
    """
    temporary = os.path.join(os.path.dirname(path), f".orch_events-{os.urandom(8).hex()}")
    try:
        descriptor = os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    except OSError as error:
        if is_from_host(error):
            raise
        return  # SQLite will say why no file can be made here
    try:
        os.close(descriptor)
        try:
            os.link(temporary, path)
        except OSError as error:
            if is_from_host(error):
                raise
    finally:
        os.unlink(temporary)


def file_mode(path: str, kind: type[ReadError | WriteError]) -> int | None:
    """The file's type and permissions; ``None`` if there is none."""
    try:
        return os.stat(path).st_mode
    except OSError as error:
        if is_from_host(error):
            raise
        if isinstance(error, (FileNotFoundError, NotADirectoryError)):
            return None
        raise kind(f"{path}: cannot open: {error.strerror}", path) from error


def check_journal(path: str, kind: type[ReadError | WriteError]) -> None:
    """Refuse a rollback journal that is a pipe: SQLite opens it to look for what a crash has left, and waits for ever."""
    journal = f"{os.path.realpath(path)}-journal"
    try:
        mode = os.stat(journal).st_mode
    except OSError as error:
        if is_from_host(error):
            raise
        return
    if stat.S_ISFIFO(mode):
        raise kind(f"{journal}: not a regular file", path)
