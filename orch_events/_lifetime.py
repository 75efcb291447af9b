# SPDX-License-Identifier: MIT
"""The two moments nobody calls us for, a fork and the interpreter's end, and nothing else.

Whatever holds a connection registers here, weakly, when it opens it.
"""

import atexit
import os
import sqlite3
import sys
from collections.abc import Callable
from typing import Final, Protocol
from weakref import WeakSet


class Holder(Protocol):
    """Something that holds connections."""

    def forked(self) -> list[sqlite3.Connection]:
        """In the child of a fork: refuse every later call; the inherited connections that nobody is using."""
        ...

    def exiting(self) -> None:
        """At the interpreter's end, when no thread may be started any more: finish and close."""


_HOLDERS: Final[WeakSet[Holder]] = WeakSet()
register = _HOLDERS.add


def _forked() -> None:
    inherited = [connection for holder in list(_HOLDERS) for connection in holder.forked()]
    _HOLDERS.clear()
    # Never to be closed, not even at the child's end: with what it remembers of the parent's locks, SQLite would take
    # itself for the last user and delete the ``-wal`` file under those who came since. Nothing short of a reference
    # that nobody owns survives the end of an interpreter.
    if inherited:
        import ctypes

        keep: Callable[[object], None] = ctypes.pythonapi.Py_IncRef
        for connection in inherited:
            keep(ctypes.py_object(connection))


def _exiting() -> None:
    for holder in list(_HOLDERS):
        holder.exiting()


# At import, so that the callbacks a program registers later run before ours and may still use their logs.
atexit.register(_exiting)
if sys.platform != "win32":
    os.register_at_fork(after_in_child=_forked)
