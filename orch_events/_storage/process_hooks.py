# SPDX-License-Identifier: MIT
"""What has to happen at a fork and at the interpreter's end, and nothing else.

An object that holds a session of an engine registers here, weakly, when it opens it.
"""

import atexit
import os
import sys
from collections.abc import Callable
from typing import Final, Protocol
from weakref import WeakSet

from .._values.errors import ForkedError
from .self_deadlock import WRITING


class Holder(Protocol):
    """An object that holds sessions."""

    def forked(self) -> list[object]:
        """In the child of a fork: refuse every later call; the handles inherited from the parent."""
        ...

    def exiting(self) -> None:
        """At the interpreter's end, when no thread can be started any more: finish and close."""


_HOLDERS: Final[WeakSet[Holder]] = WeakSet()

register = _HOLDERS.add


def opened_before_fork(path: str) -> ForkedError:
    """What the calls of a holder are refused with in the child of a fork."""
    return ForkedError(f"{path}: this log was opened before a fork; open a new one in the child")


def _holders() -> list[Holder]:
    while True:
        try:
            return list(_HOLDERS)
        except RuntimeError:  # another thread opens or drops one meanwhile
            continue


def _forked() -> None:
    inherited = [handle for holder in _holders() for handle in holder.forked()]
    _HOLDERS.clear()
    WRITING.clear()  # the threads have not come along, and a new one may get the ident of one of them
    # They must never be closed, not even at the child's end. SQLite, for one, still counts the parent's locks as its
    # own: it would take itself for the last user and delete the ``-wal`` file that others use. Only a reference that
    # has no owner survives the end of an interpreter.
    if inherited:
        import ctypes

        keep: Callable[[object], None] = ctypes.pythonapi.Py_IncRef
        for handle in inherited:
            keep(ctypes.py_object(handle))


def _exiting() -> None:
    for holder in _holders():
        holder.exiting()


# At import: the callbacks that a program registers later run before this one and can still use their logs.
atexit.register(_exiting)


if sys.platform != "win32":
    os.register_at_fork(after_in_child=_forked)
