# SPDX-License-Identifier: MIT
"""Times as people read them: by the clock on their wall, with its zone named.

JSON and files have UTC instead.
"""

import re
from datetime import (
    UTC,
    datetime,
    tzinfo,
)
from typing import Final

from ..._values.timestamps import instant

__all__ = ["full_time", "short_time", "titled_with_zone"]

_ABBREVIATION: Final = re.compile(r"[A-Za-z]{2,5}")

_first_now: datetime | None = None


def _now() -> datetime:
    """When this was first asked for. Its zone is the one of all times shown: two in one table would need naming."""
    global _first_now
    if _first_now is None:
        try:
            _first_now = datetime.now().astimezone()
        except (ValueError, OverflowError, OSError):  # no zone of this world, such as TZ=UTC+25
            _first_now = datetime.now(UTC)
    return _first_now


def _zone() -> tzinfo | None:
    return _now().tzinfo


def _zone_name() -> str:
    name = _now().tzname() or ""
    if _ABBREVIATION.fullmatch(name):
        return name
    return f"UTC{_now():%z}"


def titled_with_zone(title: str) -> str:
    """The title of a column of times, which names their zone so that they need not."""
    return f"{title} ({_zone_name()})"


def short_time(created_at: str) -> str:
    """A stored time without its zone, and without its year if that is this one; the text itself if it is no time."""
    at = instant(created_at)
    if at is None:
        return created_at
    try:
        at = at.astimezone(_zone())
    except (OverflowError, OSError):  # at the edge of the calendar
        return created_at
    if at.year == _now().year:
        return f"{at:%m-%d %H:%M:%S}"
    return f"{at.year:04}-{at:%m-%d %H:%M:%S}"


def full_time(at: datetime) -> str:
    """A time with its year and its zone."""
    try:
        local = at.astimezone(_zone())
    except (OverflowError, OSError):
        return f"{at:%Y-%m-%d %H:%M:%S} UTC"
    return f"{local.year:04}-{local:%m-%d %H:%M:%S} {_zone_name()}"
