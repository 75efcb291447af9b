# SPDX-License-Identifier: MIT
"""The end of what a failed run wrote to its standard error, or, if that is nothing, to its standard output, where that
file is on this machine.

Only for a look: what cannot be read, or may be another user's work, is passed over without a word. ``logs`` shows it
all, and says what is wrong.
"""

from collections.abc import Iterable
from contextlib import suppress
from typing import Final

from .._output_tail import last_bytes
from .arguments import is_log
from .model.step_run import StepRun
from .recorded_paths import is_elsewhere, owners, real_path
from .show.excerpt import Excerpt
from .show.terminal_text import printable

__all__ = ["FailureOutput"]

_LINES: Final = 5

_BYTES: Final = 4096
"""Of the end of a file, in which they are looked for."""

_LONGEST_LINE: Final = 300
"""Characters of a line that are shown."""

_RUNS: Final = 20
"""Failed runs that are looked at, the latest."""


class FailureOutput:
    """Finds the ends, and remembers them: a run that has failed writes no more."""

    def __init__(self, db: str) -> None:
        self._db = db
        self._owners = owners(db)
        self._known: dict[StepRun, Excerpt | None] = {}

    def of(self, runs: Iterable[StepRun]) -> dict[StepRun, Excerpt]:
        """By run, in their order."""
        failed = [run for run in runs if run.outcome == "failed" and run.paths is not None]
        found = dict[StepRun, Excerpt]()
        for run in failed[-_RUNS:]:
            if run not in self._known:
                self._known[run] = self._excerpt(run)
            excerpt = self._known[run]
            if excerpt is not None:
                found[run] = excerpt
        return found

    def _excerpt(self, run: StepRun) -> Excerpt | None:
        if run.paths is None or is_elsewhere(run):
            return None
        for recorded in (run.paths.stderr_path, run.paths.stdout_path):
            path = real_path(recorded)
            lines = self._last_lines(path)
            if lines:
                return Excerpt(path, lines)
        return None

    def _last_lines(self, path: str) -> list[str]:
        data = b""
        with suppress(OSError):
            if path and not is_log(path, self._db):
                data = last_bytes(path, _BYTES, self._owners)
        text = data.decode(errors="replace")
        lines = [_shown(line) for line in text.split("\n") if line.strip()]
        return lines[-_LINES:]


def _shown(line: str) -> str:
    """Of a progress bar the latest state; without what could drive a terminal."""
    latest = line.rstrip("\r").rpartition("\r")[2]
    return printable(latest[:_LONGEST_LINE])
