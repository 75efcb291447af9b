# SPDX-License-Identifier: MIT
"""From a page of rows to the events that users hold."""

from .._values.events import Event, StepEvent
from .._values.step_event import step_event
from .interface import Page


def page_events(page: Page) -> list[Event]:
    """The rows of a page as `Event`s."""
    return list(
        map(
            _event,
            page.ids,
            page.task_ids,
            page.task_item_ids,
            page.event_types,
            page.payloads.texts(),
            page.created_ats,
        )
    )


def _event(
    event_id: int,
    task_id: str,
    task_item_id: str | None,
    event_type: str,
    payload_json: str,
    created_at: str,
) -> Event:
    return Event(
        event_id=event_id,
        task_id=task_id,
        task_item_id=task_item_id,
        event_type=event_type,
        payload_json=payload_json,
        created_at=created_at,
    )


def page_step_events(page: Page) -> list[StepEvent]:
    """The rows of a page as `StepEvent`s."""
    return list(
        map(
            step_event,
            page.ids,
            page.event_types,
            page.task_item_ids,
            page.created_ats,
            page.steps,
            page.step_scopes,
            page.payloads.values(),
        )
    )
