# SPDX-License-Identifier: MIT
"""What a heartbeat says of a step's output. Pure: sizes and seconds in, payload out."""

from typing import Final

__all__ = ["Pulse"]

STAGNANT_BYTES: Final = 32
"""A heartbeat with no more new bytes than this is stagnant: a dot now and then is no progress."""
LOW_OUTPUT_SECS: Final = 90
LOW_OUTPUT_HEARTBEATS: Final = 3
"""A living step as old as this, with this many stagnant heartbeats in a row, may be stuck."""


class Pulse:
    """One step's output, as its latest heartbeat saw it."""

    def __init__(self) -> None:
        self._stdout = self._stderr = self._stagnant = 0

    def beat(self, elapsed_secs: int, stdout_bytes: int, stderr_bytes: int, pid_alive: bool) -> dict[str, object]:
        """The payload of the next heartbeat, now that the files have these sizes."""
        stdout_delta, stderr_delta = _growth(self._stdout, stdout_bytes), _growth(self._stderr, stderr_bytes)
        active = stdout_delta + stderr_delta > STAGNANT_BYTES
        self._stdout, self._stderr = stdout_bytes, stderr_bytes
        self._stagnant = 0 if active else self._stagnant + 1
        stuck = pid_alive and elapsed_secs >= LOW_OUTPUT_SECS and self._stagnant >= LOW_OUTPUT_HEARTBEATS
        return {
            "elapsed_secs": elapsed_secs,
            "stdout_bytes": stdout_bytes,
            "stderr_bytes": stderr_bytes,
            "stdout_delta_bytes": stdout_delta,
            "stderr_delta_bytes": stderr_delta,
            "stagnant_heartbeats": self._stagnant,
            "pid_alive": pid_alive,
            "output_state": "low_output" if stuck else "active" if active else "quiet",
        }


def _growth(before: int, now: int) -> int:
    """New bytes of a file; one that shrank was truncated, and all it holds is new."""
    return now - before if now >= before else now
