# SPDX-License-Identifier: MIT
"""What every part of a page needs: escaping, and the marks of states."""

from html import escape
from typing import Final

from .terminal_text import printable

__all__ = ["LARGE", "MARKS", "html_text"]

MARKS: Final = {
    "succeeded": "✓",
    "finished": "✓",
    "failed": "✕",
    "lost": "?",
    "running": "▸",
    "skipped": "–",
}
"""The mark of each state of a run."""

LARGE: Final = 60
"""Rows above which a page folds its groups and divides its table."""


def html_text(text: str) -> str:
    """Text from a log, as it may stand in a page."""
    return escape(printable(text))
