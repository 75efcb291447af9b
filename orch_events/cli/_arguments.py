# SPDX-License-Identifier: MIT
"""What the arguments of several commands have in common."""

import math
import os
from argparse import ArgumentTypeError
from collections.abc import Callable
from contextlib import suppress
from sqlite3 import Connection
from typing import TypeVar

from .. import EventReader

__all__ = ["Options", "Reader", "count", "is_log", "seconds", "text"]

T = TypeVar("T")


class Reader(EventReader):
    """An `EventReader` that also answers the questions only these tools ask."""

    def ask(self, question: Callable[[Connection], T]) -> T:
        with self._pool.lend() as connection:
            return question(connection)


class Options:
    """What a command's words are parsed into; a subclass annotates its own, with their defaults."""

    db: str


def is_log(path: str, db: str) -> bool:
    """Whether a path names the log itself, which is not to be opened here: closing it would drop SQLite's locks."""
    with suppress(OSError, ValueError):
        ours = (f"{db}{suffix}" for suffix in ("", "-wal", "-shm"))
        return os.path.exists(path) and any(os.path.samefile(path, own) for own in ours if os.path.exists(own))
    return False


def seconds(word: str) -> float:
    """A duration above zero."""
    value = float(word)
    if not 0 < value < math.inf:
        raise ArgumentTypeError(f"not a duration in seconds: {word!r}")
    return value


def count(word: str) -> int:
    """A number of things, or an event's id."""
    value = int(word)
    if not 0 <= value < 1 << 63:
        raise ArgumentTypeError(f"not from 0 to 2**63-1: {word!r}")
    return value


def text(word: str) -> str:
    """What a column can hold: a word whose bytes were UTF-8."""
    word.encode()  # or a UnicodeEncodeError, which is a ValueError
    return word
