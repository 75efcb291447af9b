# SPDX-License-Identifier: MIT
"""The paths of output files as payloads have them: which file is meant, and who may have written to it."""

import os
import re
import sys
from contextlib import suppress
from typing import Final

from .host_name import host_name
from .model.step_run import StepRun

__all__ = ["is_elsewhere", "owners", "real_path"]

_ESCAPED_BYTE: Final = re.compile(r"\\udc([89a-f][0-9a-f])")
"""How ``run`` records a byte of a path that is not UTF-8, since JSON has no form for it."""


def real_path(path: str) -> str:
    """The path of a file as the system knows it; `path` itself unless only that other one exists."""
    if "\\udc" in path and not os.path.lexists(path):
        real = _ESCAPED_BYTE.sub(_byte, path)
        if os.path.lexists(real):
            return real
    return path


def _byte(match: re.Match[str]) -> str:
    """A byte that is not UTF-8, as Python's own file names hold it."""
    return chr(0xDC00 + int(match[1], 16))


def owners(db: str) -> frozenset[int]:
    """The users that may have written the files: this one, root, and the owner of the log, which names the paths."""
    found = set[int]()
    if sys.platform != "win32":
        found |= {os.geteuid(), 0}
        with suppress(OSError):  # the log is still to come
            found.add(os.stat(db).st_uid)
    return frozenset(found)


def is_elsewhere(run: StepRun) -> bool:
    """Whether its files are on another machine."""
    return run.host is not None and run.host != host_name()
