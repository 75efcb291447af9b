# SPDX-License-Identifier: MIT
"""From the arguments of a call to a row that can be inserted.

What cannot be stored is refused here, at the call.
"""

from collections.abc import (
    Iterable,
    Iterator,
    Mapping,
)
from itertools import islice, repeat
from types import MappingProxyType
from typing import Final, TypeAlias

from .archive_lines import check_size
from .errors import PayloadError
from .joined_texts import encode_many
from .json_encoding import check_text, encode
from .limits import NAMES_SURELY_FIT, TEXTS_SURELY_FIT
from .step_fields import promoted_columns
from .timestamps import timestamp

NewEvent: TypeAlias = tuple[str, str | None, str, Mapping[str, object]]
"""An event to record: ``(task_id, task_item_id, event_type, payload)``."""

NewRow: TypeAlias = tuple[str, str | None, str, str, str, str | None, str | None, int | None]
"""``(task_id, task_item_id, event_type, payload_json, created_at, step, step_scope, cycle)``."""

NO_FIELDS: Final[Mapping[str, object]] = MappingProxyType({})
"""The payload of an event that is given none."""

_RUN: Final = 512
"""Events of a batch that are encoded together: 2 ms of work, after which an event loop can run
other tasks.
"""


def new_row(event: NewEvent, created_at: str, text: str | None = None) -> NewRow:
    """The row of an event. `text` is the payload's JSON if that is known.

    Raises `PayloadError` for what would not read back equal.
    """
    task_id, task_item_id, event_type, payload = event
    task_id = check_text("task_id", task_id)
    item_length = 0
    if task_item_id is not None:
        task_item_id = check_text("task_item_id", task_item_id)
        item_length = len(task_item_id)
    event_type = check_text("event_type", event_type)
    if not event_type:
        raise PayloadError("event_type: must not be empty", "event_type")
    if text is None:
        payload, text = encode(payload)
    names_length = len(task_id) + item_length + len(event_type)
    if names_length > NAMES_SURELY_FIT or names_length + len(text) > TEXTS_SURELY_FIT:
        check_size(
            task_id,
            task_item_id,
            event_type,
            text,
            created_at,
        )
    step, step_scope, cycle = promoted_columns(payload)
    # A subclass would be handed to the adapter that the host may have registered for it with the
    # driver.
    if step is not None and type(step) is not str:
        step = str.__str__(step)
    if step_scope is not None and type(step_scope) is not str:
        step_scope = str.__str__(step_scope)
    if cycle is not None and type(cycle) is not int:
        cycle = int.__int__(cycle)
    return task_id, task_item_id, event_type, text, created_at, step, step_scope, cycle


def new_rows(events: Iterable[NewEvent]) -> Iterator[list[NewRow]]:
    """The rows of a batch, some at a time, all with one timestamp.

    A `PayloadError` names the event by its index.
    """
    created_at = timestamp()
    remaining = iter(events)
    index = 0
    while run := list(islice(remaining, _RUN)):
        rows = _rows_of_run(run, created_at, index)
        yield rows
        index += len(rows)


def _rows_of_run(run: list[NewEvent], created_at: str, first_index: int) -> list[NewRow]:
    rows: list[NewRow] = []
    try:
        for event, text in zip(run, _texts_of_run(run)):
            rows.append(new_row(event, created_at, text))
    except (TypeError, ValueError) as error:
        place = f"events[{first_index + len(rows)}]"
        if isinstance(error, PayloadError):
            message = f"{place}.{error}"
            raise PayloadError(message, f"{place}.{error.key_path}") from error.__cause__
        message = f"{place}: not (task_id, task_item_id, event_type, payload)"
        raise PayloadError(message, place) from error
    return rows


def _texts_of_run(run: list[NewEvent]) -> Iterable[str | None]:
    """The JSON of each payload, or ``None`` for each when they have to be looked at one by one."""
    try:
        texts = encode_many([payload for _, _, _, payload in run])
    except (TypeError, ValueError):  # not tuples of four
        texts = None
    if texts is None:
        return repeat(None)
    return texts
