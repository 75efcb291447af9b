# SPDX-License-Identifier: MIT
"""A number of bytes in a few characters."""

from typing import Final

_LARGER_UNITS: Final = ("kB", "MB", "GB", "TB")


def amount(count: float) -> str:
    """A number of bytes, in two digits or three."""
    if count < 999.5:
        return f"{count:.0f} B"
    larger = list(_LARGER_UNITS)
    unit = larger.pop(0)
    count /= 1000
    while count >= 999.5 and larger:
        unit = larger.pop(0)
        count /= 1000
    decimals = 0 if count >= 9.95 else 1
    return f"{count:.{decimals}f} {unit}"
