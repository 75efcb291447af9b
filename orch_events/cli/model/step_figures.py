# SPDX-License-Identifier: MIT
"""How the steps of many tasks went, by the ends of their runs alone: of millions of events only those are read.

A timeout that is followed by the end of the same process is one run.
"""

from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from math import ceil
from typing import Final, NamedTuple

from ... import EventType, JsonObject
from ..._values.step_fields import unsigned_or_none
from ..._values.timestamps import instant
from .event_meaning import run_end, step_kind, step_of

__all__ = ["END_TYPES", "StepFigures", "StepTable"]

END_TYPES: Final = frozenset(
    {
        EventType.STEP_FINISHED.value,
        EventType.STEP_TIMEOUT.value,
        EventType.CHAIN_STEP_FINISHED.value,
        EventType.DYNAMIC_STEP_FINISHED.value,
        EventType.DYNAMIC_NODE_FINISHED.value,
    }
)
"""The events that are looked at."""

_LONGEST_MS: Final = (1 << 63) - 1


class StepFigures(NamedTuple):
    """How the runs of one step went. Times are in milliseconds; ``None`` where no run tells its duration."""

    step: str
    runs: int
    failed: int
    failed_share: float
    median_ms: float | None
    p95_ms: float | None
    median_ms_before: float | None
    """In the time before."""


def _numbers() -> "array[int]":
    return array("q")


@dataclass(slots=True)
class _Runs:
    runs: int = 0
    failed: int = 0
    durations: "array[int]" = field(default_factory=_numbers)
    durations_before: "array[int]" = field(default_factory=_numbers)


class _Run(NamedTuple):
    task_id: str
    item_id: str | None
    step: str
    pid: object


class StepTable:
    """The steps that ended since a moment, and their durations in the time before, from another moment on."""

    def __init__(self, before_since: datetime, since: datetime) -> None:
        self._before_since = before_since
        self._since = since
        self._steps: dict[str, _Runs] = {}
        self._timed_out: set[_Run] = set()
        """Runs of which the timeout was counted, and the end may follow."""

    def apply(
        self,
        event_type: str,
        task_id: str,
        item_id: str | None,
        created_at: str,
        fields: JsonObject,
    ) -> None:
        """Take in an event of `END_TYPES`."""
        step = step_of(event_type, fields)
        at = instant(created_at)
        if step is None or at is None:
            return
        kind = step_kind(event_type)
        run = _Run(task_id, item_id, step, fields.get("pid"))
        if kind == EventType.STEP_TIMEOUT:
            self._timed_out.add(run)
        elif run in self._timed_out:
            self._timed_out.remove(run)
            return
        duration = unsigned_or_none(fields.get("duration_ms"))
        known = self._steps.setdefault(step, _Runs())
        if at >= self._since:
            known.runs += 1
            if run_end(kind, fields).outcome == "failed":
                known.failed += 1
            if duration is not None:
                known.durations.append(min(duration, _LONGEST_MS))
        elif duration is not None and at >= self._before_since:
            known.durations_before.append(min(duration, _LONGEST_MS))

    def figures(self) -> Iterator[StepFigures]:
        """Of each step that ran."""
        for step, known in self._steps.items():
            if known.runs:
                durations = sorted(known.durations)
                yield StepFigures(
                    step,
                    known.runs,
                    known.failed,
                    known.failed / known.runs,
                    _quantile(durations, 0.5),
                    _quantile(durations, 0.95),
                    _quantile(sorted(known.durations_before), 0.5),
                )


def _quantile(ordered: list[int], share: float) -> float | None:
    """The smallest that is not exceeded by a smaller share of them."""
    if not ordered:
        return None
    return ordered[ceil(share * len(ordered)) - 1]
