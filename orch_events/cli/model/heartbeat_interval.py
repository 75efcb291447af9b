# SPDX-License-Identifier: MIT
"""How often a run's heartbeats come: what it promised, or what the latest ones show.

A run that stays silent for `MISSED` intervals counts as lost. So the interval must not be too short, or one late
heartbeat would raise an alarm; and not too long, or a dead run would be noticed late.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from ... import JsonValue

__all__ = ["MISSED", "USUAL_INTERVAL", "HeartbeatInterval"]

MISSED: Final = 3
"""Intervals without a heartbeat after which a run counts as lost."""

USUAL_INTERVAL: Final = 10.0
"""Seconds assumed while a task has shown no longer interval: the default of ``run``."""

_TOO_EARLY: Final = 1.0
"""A first heartbeat sooner than this after the start, in seconds, says nothing of the interval."""

_SLEPT: Final = 3600.0
"""A longer gap than this, in seconds, says nothing either: the machine slept."""

_LONGEST_PROMISE: Final = 86_400.0
"""A longer promise than this, in seconds, is ignored."""

_DECAY: Final = 0.7
"""The longest gap counts for this much less with each heartbeat that followed it."""

_REMEMBERED: Final = 5
"""Gaps that determine the interval."""


@dataclass(slots=True)
class HeartbeatInterval:
    """The interval of one run."""

    seconds: float = 0.0
    """0 before the first heartbeat, unless promised."""
    _promised: float = 0.0
    _gaps: tuple[float, ...] = ()
    """The latest seconds between two heartbeats, the newest last."""

    def promise(self, seconds: JsonValue) -> None:
        """The run's beginning says how often heartbeats will come; ignored if it is no duration."""
        if isinstance(seconds, (int, float)) and 0 < seconds <= _LONGEST_PROMISE:
            self._promised = float(seconds)
            self.seconds = self._promised
            self._gaps = (self._promised,)

    def heartbeat(self, gap: float, default: float) -> None:
        """A heartbeat came `gap` seconds after the last event of the run; `default` is the interval until one is known.

        The first heartbeat comes an interval after the start.
        """
        least = _TOO_EARLY
        if self._gaps:
            least = 0.0
        if least <= gap <= max(_SLEPT, MISSED * self._promised):
            self._gaps = (*self._gaps, gap)[-_REMEMBERED:]
            self.seconds = max(self._promised, _usual(self._gaps))
        if not self.seconds:
            self.seconds = default


def _usual(gaps: Sequence[float]) -> float:
    """The interval that the latest gaps show: the longest of them, less for each heartbeat since.

    A gap for which the run would have counted as lost is left out: the machine slept, or stood still.
    """
    middle = sorted(gaps)[(len(gaps) - 1) // 2]
    counted = [gap for gap in gaps if gap <= MISSED * middle]
    return max(gap * _DECAY**age for age, gap in enumerate(reversed(counted)))
