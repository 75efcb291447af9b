# SPDX-License-Identifier: MIT
"""What ``run`` tells its command through the environment, and what a command within it finds there.

Besides the log, the task, the step and its item that is a trace context: a command that finds one in ``TRACEPARENT`` belongs to
that trace, and its own children are told its own span. A malformed one is as good as none, and is passed on as it is, as
are ``TRACESTATE`` and ``BAGGAGE``.
"""

import os
from typing import Final, NamedTuple

from .._storage.open_store import is_database_url
from .model.trace_context import TraceContext

__all__ = ["Surroundings", "enclosing_item", "enclosing_step", "enclosing_task"]

_DB: Final = "ORCH_EVENTS_DB"
_TASK: Final = "ORCH_EVENTS_TASK"
_STEP: Final = "ORCH_EVENTS_STEP"
_ITEM: Final = "ORCH_EVENTS_ITEM"
_TRACE: Final = "TRACEPARENT"


def _location(db: str) -> str:
    """The log, as a command in another folder finds it."""
    if is_database_url(db):
        return db
    return os.path.abspath(db)


def enclosing_task(db: str) -> str | None:
    """The task within which this program runs, if it is in that log."""
    if _location(os.environ.get(_DB, "")) != _location(db):
        return None
    return os.environ.get(_TASK) or None


def enclosing_step() -> str | None:
    """The step within which this program runs."""
    return os.environ.get(_STEP) or None


def enclosing_item() -> str | None:
    """The item for which that step runs."""
    return os.environ.get(_ITEM) or None


class Surroundings(NamedTuple):
    """Of a command."""

    environment: dict[str, str]
    trace: dict[str, object]
    """What is recorded of the trace to which its step belongs."""

    @classmethod
    def make(
        cls,
        db: str,
        task: str,
        step: str,
        item: str | None,
    ) -> "Surroundings":
        """Those of the command of a step."""
        environment = {**os.environ, _DB: _location(db), _TASK: task, _STEP: step}
        environment[_ITEM] = item or ""
        incoming = os.environ.get(_TRACE, "")
        context = TraceContext.parse(incoming)
        if context is None:
            return cls(environment, {})
        span_id = os.urandom(8).hex()
        environment[_TRACE] = context.within(span_id)
        return cls(environment, {"traceparent": incoming, "span_id": span_id})
