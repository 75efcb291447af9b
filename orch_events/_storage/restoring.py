# SPDX-License-Identifier: MIT
"""Which events of an archive go back into a log, and what stands beside their payload in a row."""

from collections.abc import Mapping, Sequence

from .._values.archive_lines import event_json
from .._values.events import Event
from .._values.json_text import has_many_values, parse_or_none
from .._values.step_fields import promoted_columns


def missing_events(events: Sequence[Event], there: Mapping[int, Event]) -> tuple[list[Event], int]:
    """Those that are not `there` yet, by id, up to the first with an id of another event; and how many come before it."""
    known = dict(there)
    missing: list[Event] = []
    done = 0
    for event in events:
        same_id = known.get(event.event_id)
        if same_id is None:
            missing.append(event)
            known[event.event_id] = event  # it may come twice
        elif same_id != event and event_json(same_id) != event_json(event):
            break
        done += 1
    return missing, done


def step_columns(event: Event) -> tuple[str | None, str | None, int | None]:
    """The columns `step`, `step_scope` and `cycle`.

    Of a huge payload they stay empty: without them, readers look into the payload.
    """
    if not has_many_values(event.payload_json):
        payload = parse_or_none(event.payload_json)
        if isinstance(payload, dict):
            return promoted_columns(payload)
    return None, None, None
