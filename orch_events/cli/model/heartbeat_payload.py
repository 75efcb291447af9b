# SPDX-License-Identifier: MIT
"""The payload of the heartbeats that ``run`` records: sizes and seconds in, payload out.

When a silent run counts as lost is decided in `heartbeat_interval`.
"""

from typing import Final

__all__ = ["HeartbeatState"]

STAGNANT_BYTES: Final = 32
"""A heartbeat with no more new bytes than this is stagnant: a dot now and then is no progress."""

LOW_OUTPUT_SECS: Final = 90

LOW_OUTPUT_HEARTBEATS: Final = 3
"""A living step as old as this, with this many stagnant heartbeats in a row, may be stuck."""


class HeartbeatState:
    """One step's output, as its latest heartbeat saw it."""

    def __init__(self) -> None:
        self._stdout_bytes = 0
        self._stderr_bytes = 0
        self._stagnant = 0

    def next_payload(
        self,
        elapsed_secs: int,
        stdout_bytes: int,
        stderr_bytes: int,
        pid_alive: bool,
    ) -> dict[str, object]:
        """The payload of the next heartbeat, now that the files have these sizes."""
        stdout_delta = _growth(self._stdout_bytes, stdout_bytes)
        stderr_delta = _growth(self._stderr_bytes, stderr_bytes)
        self._stdout_bytes = stdout_bytes
        self._stderr_bytes = stderr_bytes
        is_active = stdout_delta + stderr_delta > STAGNANT_BYTES
        self._stagnant = 0 if is_active else self._stagnant + 1
        return {
            "elapsed_secs": elapsed_secs,
            "stdout_bytes": stdout_bytes,
            "stderr_bytes": stderr_bytes,
            "stdout_delta_bytes": stdout_delta,
            "stderr_delta_bytes": stderr_delta,
            "stagnant_heartbeats": self._stagnant,
            "pid_alive": pid_alive,
            "output_state": self._output_state(elapsed_secs, pid_alive),
        }

    def _output_state(self, elapsed_secs: int, pid_alive: bool) -> str:
        if self._stagnant == 0:
            return "active"
        is_old = elapsed_secs >= LOW_OUTPUT_SECS
        if pid_alive and is_old and self._stagnant >= LOW_OUTPUT_HEARTBEATS:
            return "low_output"
        return "quiet"


def _growth(before: int, now: int) -> int:
    """New bytes of a file; one that shrank was truncated, and all it holds is new."""
    if now < before:
        return now
    return now - before
