# SPDX-License-Identifier: MIT
"""Colours of the terminal: which word has which, and when there are any."""

import os
from typing import Final

__all__ = ["BOLD", "COLOURS", "has_colour", "has_screen", "paint", "tinted"]

BOLD: Final = "1"
_RED: Final = "31"
_GREEN: Final = "32"
_YELLOW: Final = "33"

COLOURS: Final = {
    "failed": _RED,
    "lost": _RED,
    "task_failed": _RED,
    "step_timeout": _RED,
    "step_stall_killed": _RED,
    "auto_rollback_failed": _RED,
    "completed": _GREEN,
    "succeeded": _GREEN,
    "task_completed": _GREEN,
    "cancelled": _YELLOW,
    "paused": _YELLOW,
    "task_cancelled": _YELLOW,
    "task_paused": _YELLOW,
    "sandbox_denied": _YELLOW,
}
"""The colour of a cell that is a status or an event type."""


def has_screen() -> bool:
    """Whether stdout is a terminal that understands escape sequences."""
    return os.isatty(1) and os.environ.get("TERM") != "dumb"


def has_colour() -> bool:
    """Whether stdout may have colours (https://no-color.org)."""
    return has_screen() and not os.environ.get("NO_COLOR")


def paint(text: str, colour: str | None) -> str:
    """`text` in `colour`, if any."""
    if colour is None or not text:
        return text
    return f"\x1b[{colour}m{text}\x1b[0m"


def tinted(text: str, like: str | None = None) -> str:
    """`text` in the colour of the status that it is, or of the status `like`."""
    if not has_colour():
        return text
    return paint(text, COLOURS.get(like or text))
