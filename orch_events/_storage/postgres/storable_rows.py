# SPDX-License-Identifier: MIT
"""What PostgreSQL cannot hold although it can be recorded elsewhere: NUL in a text, and task ids too long for an index.

In a payload NUL is written as an escape, which is no NUL to PostgreSQL.
"""

from collections.abc import Sequence
from typing import Final
from uuid import uuid4

from ..._values.errors import PayloadError
from ..._values.new_events import NewRow

_MAX_TASK_BYTES: Final = 2600
"""Longest task id in UTF-8. An entry of an index holds 2,704 bytes, the event's id among them."""

_TASK_SURELY_FITS: Final = _MAX_TASK_BYTES // 4
"""Characters."""

_TEXTS: Final = {
    "task_id": 0,
    "task_item_id": 1,
    "event_type": 2,
    "payload.step": 5,
    "payload.step_scope": 6,
}
"""The texts of a row that may hold NUL, and their places."""


_NOWHERE: Final = f"nowhere {uuid4()}"
"""A text that no log holds."""


def sought(text: str) -> str:
    """`text` as the server can be asked for it: one with NUL is nowhere, and so is another."""
    if "\0" in text:
        return _NOWHERE
    return text


def check_rows(rows: Sequence[NewRow]) -> None:
    """Raise `PayloadError` for the first row that cannot be stored."""
    for index, row in enumerate(rows):
        found = _fault(row)
        if found is not None:
            name, what = found
            if len(rows) > 1:
                name = f"events[{index}].{name}"
            raise PayloadError(f"{name}: {what}", name)


def _fault(row: NewRow) -> tuple[str, str] | None:
    task_id = row[0]
    if len(task_id) > _TASK_SURELY_FITS and len(task_id.encode()) > _MAX_TASK_BYTES:
        return "task_id", f"longer than {_MAX_TASK_BYTES} bytes, the most in PostgreSQL"
    for name, place in _TEXTS.items():
        text = row[place]
        if isinstance(text, str) and "\0" in text:
            return name, "NUL, which PostgreSQL cannot store"
    return None
