# SPDX-License-Identifier: MIT
"""Durations in a few characters. Sizes: `_values.byte_amount`."""

import math

__all__ = ["span"]


def span(seconds: float) -> str:
    """A duration in two units at most; below a second in milliseconds."""
    if not math.isfinite(seconds):
        return "?"
    if seconds < 0.9995:
        return _below_a_second(seconds)
    if seconds < 59.95:
        return f"{round(seconds, 1):g}s"
    minutes, rest = divmod(int(max(seconds, 60.0)), 60)
    if minutes < 60:
        return f"{minutes}m {rest:02}s"
    return f"{minutes // 60}h {minutes % 60:02}m"


def _below_a_second(seconds: float) -> str:
    milliseconds = round(1000 * seconds)
    if milliseconds:
        return f"{milliseconds}ms"
    if seconds > 0:
        return "<1ms"
    return "0s"
