# SPDX-License-Identifier: MIT
"""What keeps SQLite whole across a fork: no call is cut in two, and a child uses nothing of its parent's.

SQLite remembers in the process's memory which files are open and what is locked, and the system does not pass the locks
on. In a child, a connection that is opened beside an inherited one to the same file is believed to have the parent's
locks, and takes none. Who closes the file next, then takes itself for the last, and deletes the ``-wal`` file that the
child goes on writing to: what it commits is lost (https://sqlite.org/howtocorrupt.html, section 2.6). So:

1. A thread says when it is inside SQLite or inside a transaction. A fork waits until no other thread is.
2. A child closes what it has inherited before it opens a connection of its own. Not at the fork: one that never opens
   a log must not wait for a lock inside SQLite, which a thread of the host's may have held.
3. Where the fork came in the middle of a call all the same, the child cannot open that file.
"""

import contextlib
import os
import sqlite3
import sys
import threading
import time
from collections.abc import Callable, Generator
from typing import Final, cast
from weakref import ReferenceType, ref

from ..._values.errors import ForkedError
from ..._values.host_errors import is_from_host
from ..process_hooks import opened_before_fork
from .replaced_files import OPEN_FILES

_PATIENCE: Final = 5.0
"""Seconds for which a fork waits for other threads. They may be waiting for a lock, and for longer."""

_PAUSE: Final = 0.0002
"""Seconds between two looks."""


class Call:
    """A stay inside SQLite, or inside a transaction."""


CALLS: Final[dict[ReferenceType[Call], tuple[int, sqlite3.Connection | None]]] = {}
"""What no fork may cut: the ident of the thread, and the connection if it is open yet.

A call ends when it is taken from here: by `pop`, since a signal handler may raise before the first line of a function of
ours; and should a trace function raise before that, with the frame that has the call.
"""

_FORKING: Final[set[int]] = set()
"""The threads that are about to fork."""

_INHERITED: Final[dict[sqlite3.Connection, str]] = {}
"""In a child: the connections of the parent, open or not, and the real path of each one's file."""

_CUT: Final[set[sqlite3.Connection]] = set()
"""In a child: those in the middle of a call or a transaction."""

_SHARED_MEMORY: Final[dict[str, tuple[int, int] | None]] = {}
"""Of each file that was open at a fork, by real path: which ``-shm`` file was there."""

_CLOSING: Final = threading.RLock()
"""Held while the inherited connections are closed."""

_NO_CHECKPOINT_AT_CLOSE: Final = 1006
"""``SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE`` (https://sqlite.org/c3ref/c_dbconfig_defensive.html)."""

# ----------------------------------------------------------------------------------------------- calls


def begin_call(call: Call, connection: sqlite3.Connection | None) -> None:
    """Until `call` is taken from `CALLS` no other thread forks; waits while one does.

    `ForkedError` if the connection is an inherited one.
    """
    if _INHERITED and connection in _INHERITED:
        raise opened_before_fork(_INHERITED[connection])
    thread = threading.get_ident()
    key = ref(call, CALLS.pop)
    CALLS[key] = thread, connection
    # Looked at now that the call is known: of this thread and one that forks, at least one sees the other.
    while _FORKING and not _may_go_on(key, thread):
        del CALLS[key]
        time.sleep(_PAUSE)
        CALLS[key] = thread, connection


def _may_go_on(key: ReferenceType[Call], thread: int) -> bool:
    """Whether it is this thread that forks, or the fork waits for it anyway."""
    if thread in _FORKING:
        return True
    return any(other is not key and by == thread for other, (by, _) in list(CALLS.items()))


@contextlib.contextmanager
def uncut(connection: sqlite3.Connection | None = None) -> Generator[None, None, None]:
    """The body is one call."""
    call = Call()
    try:
        begin_call(call, connection)
        yield
    finally:
        CALLS.pop(ref(call), None)


def is_inherited(connection: sqlite3.Connection) -> bool:
    """Whether this is a child, and the connection its parent's."""
    return connection in _INHERITED


# ---------------------------------------------------------------------------------------------- a fork


def _before_fork() -> None:
    thread = threading.get_ident()
    _FORKING.add(thread)
    deadline = time.monotonic() + _PATIENCE
    while any(by != thread for by, _ in list(CALLS.values())) and time.monotonic() < deadline:
        time.sleep(_PAUSE)
    for reference, (name, _, _) in list(OPEN_FILES.items()):
        if reference() not in _INHERITED:
            _SHARED_MEMORY[name] = _identity(f"{name}-shm")


def _after_fork_in_parent() -> None:
    _FORKING.discard(threading.get_ident())


def _after_fork_in_child() -> None:
    _FORKING.clear()
    _CUT.update(connection for _, connection in CALLS.values() if connection is not None)
    CALLS.clear()
    for reference, (name, _, _) in list(OPEN_FILES.items()):
        connection = reference()
        if connection is None:
            continue
        if connection not in _CUT and connection.in_transaction:
            _CUT.add(connection)
        if connection not in _INHERITED:
            _INHERITED[connection] = name


if sys.platform != "win32":
    os.register_at_fork(
        before=_before_fork,
        after_in_parent=_after_fork_in_parent,
        after_in_child=_after_fork_in_child,
    )

# ------------------------------------------------------------------------------------------- its child


def close_inherited(path: str) -> None:
    """In a child, before it opens `path`: close what is the parent's. `ForkedError` if that of `path` cannot be."""
    if not _INHERITED:
        return
    with uncut():  # no fork finds the lock taken
        try:  # not `with`, for which see `CommitQueue._change`
            _CLOSING.acquire()
            for connection, name in _INHERITED.items():
                if ref(connection) in OPEN_FILES and _may_close(connection, name):
                    _close(connection)
        finally:
            try:  # noqa: SIM105
                _CLOSING.release()
            except RuntimeError:  # it was not taken
                pass
    real_path = os.path.realpath(path)
    for connection, name in _INHERITED.items():
        if name == real_path and ref(connection) in OPEN_FILES:
            reason = "the fork came in the middle of a call on it"
            if connection not in _CUT:
                reason = "others have opened it since the fork, for which this needs Python 3.12"
            raise ForkedError(f"{path}: cannot be opened in this child: {reason}")


def _may_close(connection: sqlite3.Connection, name: str) -> bool:
    if connection in _CUT:
        return False
    # Else SQLite deletes a `-wal` of others if nobody has the file open, and they have crashed.
    return (
        hasattr(connection, "setconfig")
        or not os.path.exists(f"{name}-wal")
        or _identity(f"{name}-shm") == _SHARED_MEMORY.get(name)
    )


def _close(connection: sqlite3.Connection) -> None:
    setconfig = cast("Callable[[int, bool], object] | None", getattr(connection, "setconfig", None))
    if setconfig is not None:  # from Python 3.12 on
        setconfig(_NO_CHECKPOINT_AT_CLOSE, True)
    sqlite3.Connection.close(connection)
    OPEN_FILES.pop(ref(connection), None)


def _identity(path: str) -> tuple[int, int] | None:
    try:
        status = os.stat(path)
    except OSError as error:
        if is_from_host(error):
            raise
        return None
    return status.st_dev, status.st_ino
