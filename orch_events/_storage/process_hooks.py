# SPDX-License-Identifier: MIT
"""What has to happen at a fork and at the interpreter's end, and nothing else.

An object that holds a session of an engine registers here, weakly, when it opens it, and so does each connection.
"""

import atexit
import os
import sys
from collections.abc import Callable
from typing import Final, Protocol
from weakref import (
    ReferenceType,
    WeakSet,
    ref,
)

from .._values.errors import ForkedError
from .self_deadlock import WRITING


class Holder(Protocol):
    """An object that holds sessions."""

    def forked(self) -> None:
        """In the child of a fork: refuse every later call, and close nothing."""
        ...

    def exiting(self) -> None:
        """At the interpreter's end, when no thread can be started any more: finish and close."""


_HOLDERS: Final[WeakSet[Holder]] = WeakSet()

register = _HOLDERS.add

_HANDLES: Final[dict[ReferenceType[object], None]] = {}
"""The connections of this process that are open."""


def never_close_in_child(handle: object) -> None:
    """In the child of a fork do not let this connection of the parent's be collected, not even at the child's end.

    SQLite would take itself for the file's last user and delete the ``-wal`` file that others use; a driver would tell
    the server to end the parent's session.
    """
    # Forgotten by a function written in C: an exception that a signal handler raises in a callback of Python's is lost.
    _HANDLES[ref(handle, _HANDLES.pop)] = None


def opened_before_fork(path: str) -> ForkedError:
    """What the calls of a holder are refused with in the child of a fork."""
    return ForkedError(f"{path}: this log was opened before a fork; open a new one in the child")


def _holders() -> list[Holder]:
    while True:
        try:
            return list(_HOLDERS)
        except RuntimeError:  # another thread opens or drops one meanwhile
            continue


def _reference_counter() -> Callable[[object], None]:
    """Adds a reference to an object that nothing takes away."""
    from ctypes import py_object, pythonapi

    increment: Callable[[object], None] = pythonapi.Py_IncRef

    def add_reference(handle: object) -> None:
        increment(py_object(handle))

    return add_reference


def _about_to_fork() -> None:
    if (
        _HANDLES
    ):  # else the child would wait for ever, should another thread be in the middle of the import
        _reference_counter()


def _forked() -> None:
    inherited = [handle for reference in list(_HANDLES) if (handle := reference()) is not None]
    if inherited:
        add_reference = _reference_counter()
        for handle in inherited:  # only a reference that has no owner survives an interpreter's end
            add_reference(handle)
    for holder in _holders():
        holder.forked()
    _HOLDERS.clear()
    WRITING.clear()  # the threads have not come along, and a new one may get the ident of one of them


def _exiting() -> None:
    for holder in _holders():
        holder.exiting()


# At import: the callbacks that a program registers later run before this one and can still use their logs.
atexit.register(_exiting)


if sys.platform != "win32":
    os.register_at_fork(before=_about_to_fork, after_in_child=_forked)
