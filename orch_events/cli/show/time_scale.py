# SPDX-License-Identifier: MIT
"""How time becomes width on a page."""

import math
from bisect import bisect_right
from collections.abc import Sequence
from statistics import median
from typing import Final, Self

from ..model.trace_tree import Row

__all__ = ["TimeScale"]

_NARROW: Final = 0.01
"""Of the width: where most bars would be narrower, time is stretched."""

_STRETCHED: Final = 0.7
"""Of the width, what is then shared equally by the moments at which something begins or ends."""


class TimeScale:
    """Time as part of a width, from 0 to 1: in proportion, or stretched where most bars would be too narrow to see.

    Stretched, most of the width is shared by the moments at which something begins or ends: what runs for seconds is
    seen beside what runs for days, and hours in which nothing happens take little room. The order of all moments stays.
    """

    def __init__(
        self,
        begin: float,
        end: float,
        moments: Sequence[float] = (),
    ) -> None:
        self.begin = begin
        self.end = max(end, begin + 1e-6, math.nextafter(begin, math.inf))  # far from 1970
        self.is_stretched = len(moments) > 0
        inside = {self._inside(moment) for moment in moments}
        self._moments = sorted({begin, self.end, *inside})

    @classmethod
    def of(
        cls,
        rows: Sequence[Row],
        begin: float,
        end: float,
    ) -> Self:
        """The scale for these rows."""
        plain = cls(begin, end)
        if len(rows) < 2 or end - begin < 1:
            return plain
        widths = [plain.place(row.ended) - plain.place(row.started) for row in rows]
        if median(widths) >= _NARROW:
            return plain
        moments = [row.started for row in rows] + [row.ended for row in rows]
        return cls(begin, end, moments)

    def _inside(self, time: float) -> float:
        return min(self.end, max(self.begin, time))  # in this order NaN becomes the beginning

    def place(self, time: float) -> float:
        """Where a time is."""
        time = self._inside(time)
        in_proportion = (time - self.begin) / (self.end - self.begin)
        if not self.is_stretched:
            return in_proportion
        intervals = len(self._moments) - 1
        interval = min(bisect_right(self._moments, time), intervals) - 1
        before = self._moments[interval]
        after = self._moments[interval + 1]
        shared = (interval + (time - before) / (after - before)) / intervals
        return _STRETCHED * shared + (1 - _STRETCHED) * in_proportion

    def time(self, place: float) -> float:
        """The time that is there."""
        if place <= 0:  # far from 1970 the search would end a little later
            return self.begin
        low = self.begin
        high = self.end
        for _ in range(60):
            middle = low + (high - low) / 2
            if self.place(middle) < place:
                low = middle
            else:
                high = middle
        return high
