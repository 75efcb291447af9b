# SPDX-License-Identifier: MIT
"""Which of the next rows a cleanup may delete. Takes no lock.

Events of a task that has ended may go, in the order of their ids. The event that gives a task its
status goes last, when nothing else of the task is left: with a later event kept, the task would seem to
run again. So it is selected apart from the others.
"""

import json
import sqlite3
from collections.abc import Collection, Generator
from contextlib import contextmanager
from datetime import datetime
from typing import Final, cast

from ..._values.task_status import ENDED
from ..._values.timestamps import instant
from ..interface import (
    MAX_ID,
    Prunable,
    RetentionRules,
)
from .interruptible import Cell
from .schema import sql_list
from .statements import (
    fetch_all,
    require_ascending,
    scalar,
)
from .task_status import (
    STATUS,
    STATUS_ID,
    asking_status,
)

HAS_ENDED: Final = f"(t.task_id = '' OR {STATUS} IN ({sql_list(sorted(ENDED))}))"
"""Of a task ``t``. Events of no task have ended when they are recorded: no later one could say so."""

IS_ABANDONED: Final = """(orch_events_abandoned(CAST(t.task_id AS BLOB))
    AND NOT EXISTS (SELECT 1 FROM events n WHERE n.task_id = t.task_id AND n.id > :up_to))"""
"""Of a task ``t`` of which all events were old: whether none came since. After `name_abandoned`."""

_OUR_TIME: Final = "dddd-dd-ddTdd:dd:dd.dddddd+00:00".replace("d", "[0-9]")

_LIKE_OUR_TIME: Final = "????-[01]?-??T??:??:??.??????+00:00"
"""Compared in a third of the time. No other form of a moment fits, not even that of weeks; so what sorts after one in
our form is later, or no moment, and not old either way.
"""


def _is_old(column: str) -> str:
    """Whether a time is before ``:cutoff``.

    The form of `timestamp` sorts as text, which is 20 times as fast as asking Python. Any other form is
    parsed, and a text that only looks like it too: `date` with a modifier makes 1 March of 30 February.
    """
    return f"""CASE
        WHEN :cutoff IS NULL THEN 1
        WHEN {column} >= :cutoff AND {column} GLOB '{_LIKE_OUR_TIME}' THEN 0
        WHEN {column} GLOB '{_OUR_TIME}' AND {column} > '1'
            AND date({column}, '0 days') || substr({column}, 11) = {column} THEN {column} < :cutoff
        ELSE orch_events_old(CAST({column} AS BLOB)) END"""


_ALL_ARE_OLD: Final = f"""NOT EXISTS (
    SELECT 1 FROM events x WHERE x.task_id = t.task_id AND NOT {_is_old("x.created_at")})"""
"""Of a task ``t``."""

_SELECT_PRUNABLE: Final = f"""
WITH old AS (
    SELECT e.id, e.task_id FROM events e
    WHERE e.id > :after_id AND e.id <= :end AND {_is_old("e.created_at")}
),
tasks AS (
    SELECT t.task_id, t.last_id,
        CASE WHEN t.task_id <> '' THEN {STATUS_ID} END AS status_id,
        NOT :only_finished OR {HAS_ENDED} OR ({IS_ABANDONED} AND {_ALL_ARE_OLD}) AS has_ended,
        CASE WHEN :keep_last = 0 THEN {MAX_ID} ELSE (
            SELECT k.id FROM events k WHERE k.task_id = t.task_id AND k.id <= :up_to
            ORDER BY k.id DESC LIMIT 1 OFFSET :keep_last - 1) END AS first_kept_id,
        CASE WHEN :keep_last = 0 AND t.task_id <> ''
            AND t.last_id = (SELECT max(n.id) FROM events n WHERE n.task_id = t.task_id)
            THEN {_ALL_ARE_OLD} ELSE 0 END AS goes_whole
    FROM (SELECT task_id, max(id) AS last_id FROM old GROUP BY task_id) t
)
SELECT
    (SELECT json_group_array(old.id) FROM old JOIN tasks t ON t.task_id IS old.task_id
        WHERE t.has_ended AND old.id < t.first_kept_id
            AND old.id IS NOT coalesce(t.status_id, CASE WHEN t.goes_whole THEN t.last_id END)),
    (SELECT json_group_array(coalesce(t.status_id, t.last_id)) FROM tasks t
        WHERE t.has_ended AND t.goes_whole)"""

_FIRST_OLD: Final = f"""
SELECT id FROM events WHERE id > :after_id AND {_is_old("created_at")} ORDER BY id LIMIT 1"""
"""So that what is young is passed over in one go, four times as fast as window by window."""

_END_OF_WINDOW: Final = """
SELECT max(id) FROM (SELECT id FROM events WHERE id > :after_id ORDER BY id LIMIT :count)"""


def _judge_times(
    cutoff: datetime | None, encoding: str, raised: list[BaseException]
) -> Generator[bool, bytes | None, None]:
    """Is sent a time that is not in our form; says whether it is before `cutoff`.

    SQLite drops what a function of ours raises, also a KeyboardInterrupt or a signal handler's
    exception, so it is kept in `raised`. A generator goes on inside its ``try``; a plain function could
    be interrupted before its own.
    """
    is_old = False
    try:
        while True:
            created_at = yield is_old
            at = instant((created_at or b"").decode(encoding, "replace"))
            is_old = cutoff is None or (at is not None and at < cutoff)
    except BaseException as error:
        raised.append(error)
        raise


@contextmanager
def _asking_age(
    connection: sqlite3.Connection, cutoff: datetime | None
) -> Generator[None, None, None]:
    """During the body `_is_old` can ask about a time in any form."""
    raised: list[BaseException] = []
    judge = _judge_times(cutoff, _encoding(connection), raised)
    next(judge)
    connection.create_function("orch_events_old", 1, judge.send, deterministic=True)
    try:
        yield
    except sqlite3.OperationalError:
        if raised:
            raise raised[0] from None
        raise


def select_prunable(
    connection: sqlite3.Connection,
    rules: RetentionRules,
    after_id: int,
    count: int,
) -> Prunable:
    """What of the next `count` rows may go; those before the first that is old are not counted."""
    cutoff = None
    if rules.cutoff is not None:
        cutoff = rules.cutoff.isoformat(timespec="microseconds")
    with _asking_age(connection, rules.cutoff), asking_status(connection):
        old: dict[str, Cell] = {"after_id": after_id, "cutoff": cutoff}
        first = scalar(connection, _FIRST_OLD, old)
        if first is None:
            return Prunable([], [], MAX_ID)
        window: dict[str, Cell] = {
            "after_id": require_ascending(after_id, first) - 1,
            "count": count,
        }
        end = require_ascending(after_id, scalar(connection, _END_OF_WINDOW, window))
        parameters: dict[str, Cell] = {
            "after_id": window["after_id"],
            "end": end,
            "cutoff": cutoff,
            "keep_last": rules.keep_last,
            "up_to": rules.up_to,
            "only_finished": rules.only_finished,
        }
        (row,) = fetch_all(connection, _SELECT_PRUNABLE, parameters)
    ids, last_ids = cast("tuple[str, str]", row)
    return Prunable(sorted(_ids(ids)), _ids(last_ids), end)


def name_abandoned(connection: sqlite3.Connection, task_ids: Collection[str]) -> None:
    """Let statements ask for the abandoned tasks. As bytes: not every name of another program's is Unicode.

    Once for all of them: there may be many, and others wait while one deletes.
    """
    encoding = _encoding(connection)
    names = {task_id.encode(encoding, "surrogateescape") for task_id in task_ids}
    connection.create_function("orch_events_abandoned", 1, names.__contains__, deterministic=True)


def _encoding(connection: sqlite3.Connection) -> str:
    """That of texts; of a host's file it may be UTF-16."""
    return str(scalar(connection, "PRAGMA encoding"))


def _ids(text: str) -> list[int]:
    return cast("list[int]", json.loads(text))
