# SPDX-License-Identifier: MIT
"""One run of a step, as the events so far describe it. Data only: what changes it is in `task_state`."""

from dataclasses import dataclass, field
from typing import Self

from ... import (
    ObservedStepScope,
    StepEvent,
    StepLogPaths,
)
from .heartbeat_interval import HeartbeatInterval

__all__ = ["StepRun"]


@dataclass(slots=True, eq=False)
class StepRun:
    """One run of a step: for one item, in one cycle. Times are seconds since the epoch."""

    step: str
    item: str | None
    cycle: int | None
    started: float
    seen: float
    """The time of its newest event."""
    latest: StepEvent
    """The newest event that describes its state."""
    parent_step: str | None = None
    """The step inside which it runs."""
    parent: Self | None = None
    """The run of that step inside which it is shown, if its beginning is in the log."""
    depth: int = 0
    """How many runs it is inside of."""
    attempt: int = 0
    """The task's attempt at the time of its newest event."""
    heartbeats: HeartbeatInterval = field(default_factory=HeartbeatInterval)
    scope: ObservedStepScope | None = None
    agent: str | None = None
    pid: int | None = None
    paths: StepLogPaths | None = None
    host: str | None = None
    """The machine on which the paths are files."""
    traceparent: str | None = None
    """The trace context in which it ran."""
    span_id: str | None = None
    """Its own span in that trace."""
    error_type: str | None = None
    """What kind of exception ended it."""
    outcome: str | None = None
    """How it ended; ``None`` until then."""
    exit_code: int | None = None
    start_reason: str | None = None
    """Why it began."""
    reason: str | None = None
    """Why it goes, or ended, as it does."""
    timed_out: bool = False
    restart: bool = False
    """Whether it ended in a planned restart of the orchestrator."""
    note: str | None = None
    """What its end was, where neither its state nor the reason says so."""
    incident: str | None = None

    @property
    def why(self) -> str | None:
        """The reason to show. Why it began is shown only until it has ended: it is not why it ended."""
        if self.reason is None and self.outcome is None:
            return self.start_reason
        return self.reason

    @property
    def name(self) -> str:
        """The step's name, after that of the step inside which it runs."""
        if self.parent_step is None:
            return self.step
        return f"{self.parent_step} > {self.step}"

    @property
    def label(self) -> str:
        """The step's name, and the item's if there is one."""
        if self.item is None:
            return self.name
        return f"{self.name} {self.item}"
