# SPDX-License-Identifier: MIT
"""The two moments nobody calls us for: a fork and the interpreter's end.

Whatever holds a connection registers here, weakly, when it opens it. Nothing else belongs in this module.
"""

import atexit
import os
from typing import Final, Protocol
from weakref import WeakSet


class Holder(Protocol):
    """Something that holds connections."""

    def forked(self) -> None:
        """In the child of a fork: touch nothing that was inherited, refuse every later call."""

    def exiting(self) -> None:
        """At the interpreter's end, when no thread may be started any more: finish and close."""


_HOLDERS: Final[WeakSet[Holder]] = WeakSet()
_INHERITED: Final[list[Holder]] = []
register = _HOLDERS.add


def _forked() -> None:
    # Kept, so that nothing inherited is closed by accident: closing does SQLite's last work on the parent's file.
    _INHERITED.extend(_HOLDERS)
    _HOLDERS.clear()
    for holder in _INHERITED:
        holder.forked()


def _exiting() -> None:
    for holder in list(_HOLDERS):
        holder.exiting()


# At import, so that the callbacks a program registers later run before ours and may still use their logs.
atexit.register(_exiting)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)
