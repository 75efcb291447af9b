# SPDX-License-Identifier: MIT
"""What the fields of a payload mean: the rules for a step's name, its log paths, the promoted
columns and their types.

Everything here is pure, and a field's meaning is decided here alone: not where the row came from,
nor when its text counts as JSON. Nothing is ever coerced: a field of another JSON type is as good
as missing. `step_event` applies the rules to a whole row.
"""

from collections.abc import Mapping
from typing import Final

from .events import StepLogPaths
from .json_text import JsonValue

_FIRST_BEYOND_U64: Final = 1 << 64
_FIRST_BEYOND_I64: Final = 1 << 63


def text_or_none(value: object) -> str | None:
    if isinstance(value, str):
        return value
    return None


def bool_or_none(value: object) -> bool | None:
    if isinstance(value, bool):
        return value
    return None


def unsigned_or_none(value: object) -> int | None:
    """A JSON integer from 0 to 2**64-1. Beyond that it is a float to the reference."""
    if type(value) is int and 0 <= value < _FIRST_BEYOND_U64:  # a bool is an int to `isinstance`
        return value
    return None


def float_or_none(value: object) -> float | None:
    """Any JSON number."""
    if isinstance(value, float):
        return value
    if type(value) is int:
        return float(value)
    return None


def step_name(payload: Mapping[str, object]) -> str | None:
    """``step`` if it is a string, also an empty one; else ``phase`` likewise."""
    step = payload.get("step")
    if isinstance(step, str):
        return step
    return text_or_none(payload.get("phase"))


def step_log_paths(payload: JsonValue) -> StepLogPaths | None:
    """The log paths of a spawned or started event; ``None`` when it names no phase or no stdout.

    Here the reference prefers ``phase`` to ``step``, the other way round than for a step's name.
    """
    if not isinstance(payload, dict):
        return None
    phase = text_or_none(payload.get("phase"))
    if phase is None:
        phase = text_or_none(payload.get("step"))
    stdout = text_or_none(payload.get("stdout_path"))
    if phase is None or stdout is None:
        return None
    if phase == "" or stdout == "":
        return None
    stderr = text_or_none(payload.get("stderr_path"))
    if stderr is None:
        stderr = ""
    return StepLogPaths(phase, stdout, stderr)


def promoted_columns(payload: Mapping[str, object]) -> tuple[str | None, str | None, int | None]:
    """The columns `step`, `step_scope` and `cycle` of a payload about to be written."""
    cycle = payload.get("cycle")
    if (
        not isinstance(cycle, int)
        or isinstance(cycle, bool)
        or not -_FIRST_BEYOND_I64 <= cycle < _FIRST_BEYOND_I64
    ):
        cycle = None
    return step_name(payload), text_or_none(payload.get("step_scope")), cycle
