# SPDX-License-Identifier: MIT
"""What the arguments of several commands have in common."""

import os
import re
from argparse import ArgumentParser, ArgumentTypeError
from collections.abc import Callable, Iterator
from contextlib import (
    AbstractContextManager,
    nullcontext,
    suppress,
)
from datetime import (
    UTC,
    datetime,
    timedelta,
)
from difflib import get_close_matches
from functools import partial
from heapq import nlargest
from typing import Final, TypeVar

from .. import EventReader, LogNotFoundError
from .._core.paging import Cursor, pages
from .._storage.interface import (
    MAX_ID,
    Page,
    ReadSession,
    Selection,
)
from .show.messages import say

__all__ = [
    "Options",
    "Reader",
    "add_optional_task",
    "add_wait",
    "age",
    "chosen_task",
    "count",
    "expect_task",
    "has_task",
    "is_log",
    "log_may_be_missing",
    "moment_of",
    "name",
    "path",
    "seconds",
    "text",
    "unknown_task",
]

T = TypeVar("T")

_NAMES: Final = 200_000
"""Tasks among which the nearest are looked for."""

_LONGEST: Final = 200
"""Characters of a name beyond which none is near: comparing takes time that grows with their square."""

_COMPARED: Final = 300
"""Names that are compared thoroughly, after a quick look at all."""

_NEAREST: Final = 3
"""Names that are proposed."""


class Reader(EventReader):
    """An `EventReader` that also answers the questions only these tools ask."""

    def ask(self, question: Callable[[ReadSession], T]) -> T:
        with self._sessions.lend() as session:
            return question(session)

    def remaining_pages(self, selection: Selection, after_id: int = 0) -> Iterator[Page]:
        """What is left of what is wanted: that others between them were pruned is no error."""
        return pages(self._sessions, selection, Cursor(after_id, gaps_acknowledged=MAX_ID))


class Options:
    """What a command's words are parsed into; a subclass annotates its own, with their defaults."""

    db: str


def is_log(path: str, db: str) -> bool:
    """Whether a path names the log itself, which is not to be opened here: closing it would drop SQLite's locks."""
    with suppress(OSError, ValueError):
        if not os.path.exists(path):
            return False
        real = os.path.realpath(db)  # SQLite puts its files beside what a link leads to
        for own in (real, f"{real}-wal", f"{real}-shm"):
            if os.path.exists(own) and os.path.samefile(path, own):
                return True
    return False


_DURATION: Final = re.compile(r"(\d+\.?\d*|\.\d+)([smhdw]?)", re.ASCII)

_UNITS: Final = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}

_LONGEST_WAIT: Final = 9e9
"""Seconds: 285 years. Of more, waiting would be an OverflowError."""


def _duration(word: str) -> tuple[float, str]:
    """How many seconds a word means, and its unit, which may be left out."""
    match = _DURATION.fullmatch(word)
    if match is None:
        raise ArgumentTypeError(f"not a duration such as 90s, 5m, 1.5h, 30d or 4w: {word!r}")
    return float(match[1]) * _UNITS[match[2]], match[2]


def seconds(word: str) -> float:
    """A duration above zero, in seconds if it has no unit."""
    value, _ = _duration(word)
    if value <= 0:
        raise ArgumentTypeError(f"not a duration above zero: {word!r}")
    if value > _LONGEST_WAIT:
        raise ArgumentTypeError(f"not a duration of at most 285 years: {word!r}")
    return value


def age(word: str) -> timedelta:
    """A duration with its unit. It decides what is deleted, and a bare number may be meant as days or as seconds."""
    value, unit = _duration(word)
    if not unit:
        raise ArgumentTypeError(
            f"not an age such as 90s, 5m, 1.5h, 30d or 4w, with its unit: {word!r}"
        )
    try:
        return timedelta(seconds=value)
    except OverflowError:
        raise ArgumentTypeError(f"not an age that fits into a calendar: {word!r}") from None


def moment_of(age: timedelta, times: int = 1) -> datetime:
    """The moment so long ago, or that many times as long; the calendar's first, if it lies before that."""
    try:
        return datetime.now(UTC) - times * age
    except OverflowError:
        return datetime.min.replace(tzinfo=UTC)


def count(word: str) -> int:
    """A number of things, or an event's id."""
    value = int(word)
    if not 0 <= value < 1 << 63:
        raise ArgumentTypeError(f"not from 0 to 2**63-1: {word!r}")
    return value


def text(word: str) -> str:
    """What a column can hold: a word that was UTF-8."""
    word.encode()  # or a UnicodeEncodeError, which is a ValueError
    return word


def name(word: str) -> str:
    """A task, a step or an event type. An empty one is a mistake: a variable of the shell that is not set."""
    return text(path(word))


def path(word: str) -> str:
    """A file or a directory, of any bytes; an empty one is the same mistake."""
    if not word:
        raise ArgumentTypeError("is empty (an unset variable?)")
    return word


def add_wait(parser: ArgumentParser) -> None:
    """Add the option that lets a command begin before its task does."""
    parser.add_argument(
        "--wait", action="store_true", help="wait for the task if there is none yet, or no log"
    )


def has_task(reader: EventReader, task: str) -> bool:
    """Whether there are events of that task. Those of no task (``""``) need not be there to be asked for."""
    return not task or next(reader.query_events(task, limit=1), None) is not None


def expect_task(reader: Reader, task: str, wait: bool = False) -> bool:
    """Whether to go on: there is such a task, or it is waited for. Standard error says if there is none."""
    with log_may_be_missing(wait):
        if has_task(reader, task):
            return True
    if wait:
        say(f"waiting for task {_quoted(task)}")
    else:
        say(unknown_task(reader, task))
    return wait


def add_optional_task(parser: ArgumentParser) -> None:
    """Add the argument for `chosen_task`."""
    parser.add_argument(
        "task",
        metavar="TASK",
        nargs="?",
        type=name,
        help="the task (default: the most recently active one)",
    )


def chosen_task(reader: Reader, task: str | None, wait: bool = False) -> str | None:
    """The task that was asked for, or else the most recently active one; ``None`` if there is none.

    If `wait`, one that is not there yet is waited for. Standard error says what is chosen, waited for or missing.
    """
    if task is not None:
        return task if expect_task(reader, task, wait) else None
    latest = _latest_task(reader, wait)
    if latest is None:
        say("no tasks yet")
    else:
        say(f"the latest task: {_quoted(latest)}")
    return latest


def _latest_task(reader: Reader, wait: bool) -> str | None:
    """The task of the newest event, or, if there is none and `wait`, of the first to come."""
    with log_may_be_missing(wait):
        latest = reader.ask(lambda log: log.latest_task())
        if latest is not None:
            return latest
    if not wait:
        return None
    say("waiting for the first event")
    return next(event.task_id for event in reader.follow_events() if event.task_id)


def log_may_be_missing(wait: bool) -> AbstractContextManager[object]:
    """Within this, that there is no log yet is no error for a command that waits."""
    if wait:
        return suppress(LogNotFoundError)
    return nullcontext()


def unknown_task(reader: Reader, task: str) -> str:
    """What to say of a task without events: that, and the names most like it."""
    message = f"no task {_quoted(task)}"
    nearest = _nearest(reader, task)
    if nearest:
        message += f"; nearest: {', '.join(nearest)}"
    return message


def _quoted(task: str) -> str:
    if len(task) > _LONGEST:
        task = f"{task[:_LONGEST]}…"
    return repr(task)


def _nearest(reader: Reader, task: str) -> list[str]:
    """Those that begin with it, then those that differ in little; upper and lower case are alike."""
    if len(task) > _LONGEST:
        return []
    longest = max(3 * len(task), len(task) + 40)
    names = reader.ask(lambda log: log.task_names(len(task) // 3, longest, _NAMES))
    wanted = task.casefold()
    folded = dict[str, str]()
    for known in names:
        folded[known.casefold()] = known
    likely: list[str] = nlargest(_COMPARED, folded, key=partial(_common_ends, wanted))
    longer = [known for known in likely if len(wanted) > 1 and known.startswith(wanted)]
    found = sorted(longer, key=len)
    for close in get_close_matches(wanted, likely, _NEAREST):
        if close not in found:
            found.append(close)
    return [folded[known] for known in found[:_NEAREST]]


def _common_ends(one: str, other: str) -> int:
    """Characters in which two names agree, from the front and from the back."""
    front = _agreeing(one, other)
    return front + _agreeing(one[:front:-1], other[:front:-1])


def _agreeing(one: str, other: str) -> int:
    count = 0
    for mine, theirs in zip(one, other, strict=False):
        if mine != theirs:
            break
        count += 1
    return count
