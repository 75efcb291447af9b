# SPDX-License-Identifier: MIT
"""The last lines of an output file, to be shown beside a failure."""

from typing import NamedTuple

__all__ = ["Excerpt"]


class Excerpt(NamedTuple):
    """Of one file."""

    path: str
    lines: list[str]
    """Escaped, and none of them long."""
