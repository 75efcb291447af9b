# SPDX-License-Identifier: MIT
"""Finds the run that an event is about, in constant time for any number of runs.

Two indexes, by step, item, and the step inside which it runs (or `ANY`):

- the newest run of each cycle (or of `ANY`);
- the runs without an end of each process, of no process (``None``), and of `ANY`, the latest last. A run that has ended
  is removed when a search meets it, so that the end of one of thousands costs nothing.
"""

from collections.abc import Sequence
from typing import Final

from .step_run import StepRun

__all__ = ["ANY", "RunIndex"]

ANY: Final = ""

_Key = tuple[str, str | None, str | None, int | str | None]


class RunIndex:
    """The runs of one task."""

    def __init__(self) -> None:
        self._newest: dict[_Key, StepRun] = {}
        self._running: dict[_Key, list[StepRun]] = {}

    def add(self, run: StepRun) -> None:
        """Index a run that has begun, or has got another item."""
        for parent in (run.parent_step, ANY):
            self._newest[run.step, run.item, parent, run.cycle] = run
            self._newest[run.step, run.item, parent, ANY] = run
        self._add_running(run, None)
        self._add_running(run, ANY)
        if run.pid is not None:
            self.add_process(run)

    def add_process(self, run: StepRun) -> None:
        """Index a run by its process, now that this is known."""
        self._add_running(run, run.pid)

    def _add_running(self, run: StepRun, process: int | str | None) -> None:
        for parent in (run.parent_step, ANY):
            key = (run.step, run.item, parent, process)
            self._running.setdefault(key, []).append(run)

    def newest(
        self,
        step: str,
        item: str | None,
        parents: Sequence[str | None],
        cycle: int | str | None,
    ) -> StepRun | None:
        """The newest run in that cycle, inside the first of `parents` that has one."""
        for parent in parents:
            run = self._newest.get((step, item, parent, cycle))
            if run is not None:
                return run
        return None

    def running(
        self,
        step: str,
        item: str | None,
        parents: Sequence[str | None],
        pid: int | None,
        cycle: int | None,
    ) -> StepRun | None:
        """The latest run without an end: of that process, or else of none, or else of any.

        A run of another cycle is passed over, unless it has that process: a process says more than a cycle.
        """
        for process in (pid, None, ANY):
            for parent in parents:
                run = self._latest_running((step, item, parent, process))
                if run is None:
                    continue
                if process is not None and process is not ANY:
                    return run
                if cycle is None or run.cycle is None or run.cycle == cycle:
                    return run
        return None

    def _latest_running(self, key: _Key) -> StepRun | None:
        process = key[3]
        runs = self._running.get(key, [])
        while runs:
            latest = runs[-1]
            if latest.outcome is None and process in (ANY, latest.pid):
                return latest
            runs.pop()
        return None
