# SPDX-License-Identifier: MIT
"""The two moments nobody calls us for: a fork and the interpreter's end.

Whatever holds a connection registers here, weakly, when it opens it. Nothing else belongs in this module.
"""

import atexit
import os
from typing import Final, Protocol
from weakref import WeakSet

__all__: list[str] = []


class Holder(Protocol):
    """Something that holds connections."""

    def forked(self) -> None:
        """In the child of a fork: touch nothing that was inherited, refuse every later call."""

    def exiting(self) -> None:
        """At the interpreter's end, when no thread can be started any more: finish and close."""


_HOLDERS: Final[WeakSet[Holder]] = WeakSet()


def register(holder: Holder) -> None:
    _HOLDERS.add(holder)


def _forked() -> None:
    for holder in list(_HOLDERS):
        holder.forked()
    # Never closed in this process: that would run SQLite's end-of-connection work on the parent's file.
    _INHERITED.extend(_HOLDERS)
    _HOLDERS.clear()


def _exiting() -> None:
    for holder in list(_HOLDERS):
        holder.exiting()


_INHERITED: Final[list[Holder]] = []

# At import, so that the callbacks a program registers later run before ours and may still use their logs.
atexit.register(_exiting)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)
