# SPDX-License-Identifier: MIT
"""The newest status of a task, in SQL. The rule itself is `task_status` in the values."""

import sqlite3
from collections.abc import Generator
from contextlib import contextmanager
from typing import Final, cast

from ..._values.event_types import EventType
from ..._values.json_text import parse_or_none
from ..._values.task_status import TASK_STATUS, task_status
from ..interface import MAX_ID
from .schema import STATUS_TYPES
from .statements import (
    any_length,
    fetch_all,
    scalar,
)

_SAYS_STATUS: Final = f"""
SELECT id, event_type, CASE event_type WHEN '{EventType.TASK_CONTROL}' THEN CAST(payload_json AS TEXT) END
FROM events
WHERE task_id = ? AND event_type IN ({STATUS_TYPES}) AND id BETWEEN ? AND ?
ORDER BY id DESC LIMIT 1"""
"""The newest event that may say the status; nearly always it does."""


def read_task_status(connection: sqlite3.Connection, task_id: str, after_id: int = 0) -> str | None:
    """The task's status, by the events with an id above `after_id`; ``None`` if none says one."""
    up_to = MAX_ID
    with any_length(connection):
        while True:
            rows = fetch_all(connection, _SAYS_STATUS, (task_id, after_id + 1, up_to))
            if not rows:
                return None
            event_id, event_type, payload = cast("tuple[int, str, str | None]", rows[0])
            status = task_status(event_type, parse_or_none(payload or ""))
            if status is not None:
                return status
            up_to = event_id - 1


_WORDS: Final = " ".join(f"WHEN '{kind}' THEN '{status}'" for kind, status in TASK_STATUS.items())

_CONTROL_STATUS: Final = "orch_events_status(CAST(s.payload_json AS BLOB))"


def _newest_status(column: str) -> str:
    return f"""(SELECT {column} FROM events s WHERE s.task_id = t.task_id AND s.event_type IN ({STATUS_TYPES})
 AND (s.event_type <> '{EventType.TASK_CONTROL}' OR {_CONTROL_STATUS} IS NOT NULL) ORDER BY s.id DESC LIMIT 1)"""


STATUS: Final = _newest_status(f"CASE s.event_type {_WORDS} ELSE {_CONTROL_STATUS} END")
"""The status of a task, in a statement about many, each a `t.task_id`; within `asking_status`."""

STATUS_ID: Final = _newest_status("s.id")
"""The id of the event that says it."""


def _judge_controls(
    encoding: str, trouble: list[BaseException]
) -> Generator[str | None, bytes | None, None]:
    """Is sent the payload of a ``task_control``, and yields the status that it says.

    SQLite drops what a function of ours raises, so it is kept in `trouble`: see `prunable`.
    """
    status = None
    try:
        while True:
            payload = yield status
            try:
                text = (payload or b"").decode(encoding)
            except UnicodeDecodeError:
                text = ""
            status = task_status(EventType.TASK_CONTROL, parse_or_none(text))
    except BaseException as error:
        trouble.append(error)
        raise


@contextmanager
def asking_status(connection: sqlite3.Connection) -> Generator[None, None, None]:
    """During the body `STATUS` and `STATUS_ID` can ask what a payload of any length says.

    `task_status` alone decides it, and no function of SQLite's reads JSON as `parse` does.
    """
    encoding = str(scalar(connection, "PRAGMA encoding"))  # of a host's file it may be UTF-16
    trouble: list[BaseException] = []
    judge = _judge_controls(encoding, trouble)
    next(judge)
    connection.create_function("orch_events_status", 1, judge.send, deterministic=True)
    try:
        with any_length(connection):
            yield
    except sqlite3.OperationalError:
        if trouble:
            raise trouble[0] from None
        raise
