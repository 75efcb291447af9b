# SPDX-License-Identifier: MIT
"""The tasks that run now, and those that have ended since somebody began to look.

A task comes in with its first event that is seen; what it did before is then read from the log. So the cost is that of
the tasks that go on, not of all that are in the log.
"""

from contextlib import suppress
from itertools import islice
from typing import Final

from ... import Event, EventReader
from ..._values.task_status import ENDED
from .task_state import TaskState

__all__ = ["Overview"]

_MOST: Final = 200
"""Tasks that are looked up at the beginning: the most recently active of those that have not ended. So many of those
that neither run nor have ended are remembered.
"""

_ENDED_KEPT: Final = 100
"""Tasks that have ended and are remembered, the newest of them."""


class Overview:
    """By task, what its events say. One thread uses it."""

    def __init__(self, reader: EventReader) -> None:
        self._reader = reader
        self._states: dict[str, TaskState] = {}
        """The task with the newest event last."""

    def load(self) -> None:
        """Look which tasks run now."""
        going_on = (task for task in self._reader.query_tasks() if task.status not in ENDED)
        for task in reversed(list(islice(going_on, _MOST))):
            self._states[task.task_id] = self._read(task.task_id)

    def apply(self, event: Event) -> None:
        """Take in an event of any task, unless it was already."""
        if not event.task_id:
            return
        state = self._states.pop(event.task_id, None)
        if state is None:
            state = self._read(event.task_id)
        elif event.event_id > state.last_id:
            state.apply(event)
        self._states[event.task_id] = state

    def tasks(self, now: float) -> list[tuple[str, TaskState]]:
        """Those that run, then those that are lost, those that have ended, and the others; each the newest first.

        Of those that do not run only the newest are remembered from then on.
        """
        running: list[tuple[str, TaskState]] = []
        lost: list[tuple[str, TaskState]] = []
        ended: list[tuple[str, TaskState]] = []
        others: list[tuple[str, TaskState]] = []
        for task_id, state in reversed(self._states.items()):
            status = state.task_state(now)
            if status == "running":
                running.append((task_id, state))
            elif status == "lost":
                lost.append((task_id, state))
            elif status in ENDED:
                ended.append((task_id, state))
            else:
                others.append((task_id, state))
        for task_id, _ in (*lost[_MOST:], *ended[_ENDED_KEPT:], *others[_MOST:]):
            del self._states[task_id]
        return [*running, *lost[:_MOST], *ended[:_ENDED_KEPT], *others[:_MOST]]

    def _read(self, task_id: str) -> TaskState:
        state = TaskState()
        with suppress(ValueError):  # another program has given it a name that is not Unicode
            state.apply_all(self._reader.query_events(task_id))
        return state
