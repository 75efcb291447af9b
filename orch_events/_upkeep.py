# SPDX-License-Identifier: MIT
"""Upkeep of the rows: what may be pruned, pruning, what is known of the pruned, restoring, and the figures of a log.

Table `orch_events_pruned`, made by the first pruning, has a row for each task that lost events: the newest of them, and
how many. Of tasks that are gone altogether the `_REMEMBERED` last pruned are known by name; the rest share a row
without one, with the id negated, so that no other row takes its place. So it stays small however many tasks come and
go. Row 0 counts all that was ever pruned.
"""

import json
import sqlite3
import time
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Final, NamedTuple, cast

from ._connection import Cell, check_order, fetch_all, is_transient, scalar
from ._events import TERMINAL_EVENT_TYPES, Event, event_json, instant, promoted_columns
from ._payload import parse_or_none
from ._rows import COLUMNS, MAX_ID, PAGE_ROWS, WAS_PRUNED, Selection, page_events, read_last_id, read_page
from ._schema import STATUS_TYPES, sql_list

_REMEMBERED: Final = 10_000
_STATUS: Final = f"""(SELECT s.{{}} FROM events s
 WHERE s.task_id = t.task_id AND s.event_type IN ({STATUS_TYPES}) ORDER BY s.id DESC LIMIT 1)"""
_ENDED: Final = f"{_STATUS.format('event_type')} IN ({sql_list(sorted(TERMINAL_EVENT_TYPES))})"
_IDS: Final = "(SELECT value FROM json_each(?))"


# -------------------------------------------------------------------------------------------------------------- pruning

# Our own form sorts as text, which is 20 times as fast as asking Python; any other is parsed, and what only looks
# like it too: `date` with a modifier makes 1 March of 30 February, and NULL of what is worse.
_OURS: Final = "dddd-dd-ddTdd:dd:dd.dddddd+00:00".replace("d", "[0-9]")
_OLD: Final = f"""(CASE WHEN {{0}} GLOB '{_OURS}' AND {{0}} > '1' AND date({{0}}, '0 days') || substr({{0}}, 11) = {{0}}
 THEN {{0}} < '{{1}}' ELSE orch_events_old(CAST({{0}} AS BLOB)) END)"""
_PLAN: Final = f"""
WITH old AS (SELECT e.id, e.task_id FROM events e WHERE e.id > ? AND e.id <= ? AND {{old}}),
tasks AS (
    SELECT t.task_id, t.top, {_STATUS.format('id')} AS status_id, {{ended}} AS ended, {{kept}} AS kept_id,
        {{goes}} AND t.top = (SELECT max(n.id) FROM events n WHERE n.task_id = t.task_id)
        AND NOT EXISTS (SELECT 1 FROM events x WHERE x.task_id = t.task_id AND NOT {{also_old}}) AS goes
    FROM (SELECT task_id, max(id) AS top FROM old GROUP BY task_id) t)
SELECT (SELECT json_group_array(old.id) FROM old JOIN tasks t ON t.task_id IS old.task_id
        WHERE t.ended AND old.id < t.kept_id AND old.id IS NOT coalesce(t.status_id, t.top * nullif(t.goes, 0))),
    (SELECT json_group_array(-coalesce(t.status_id, t.top)) FROM tasks t WHERE t.ended AND t.goes)"""


class Rules(NamedTuple):
    """What `plan` selects: the events of tasks that have ended, older than `cutoff`, but for each task's newest."""

    cutoff: datetime | None
    """In UTC, whose text form sorts like that of the rows."""
    keep_last: int
    only_finished: bool


def plan(connection: sqlite3.Connection, rules: Rules, after_id: int, count: int) -> tuple[list[int], int]:
    """What of the next `count` rows is to go, and where they end.

    A negative id is that of a task's last event: the one that gives it its status goes when nothing else is left.
    """
    window = "SELECT max(id) FROM (SELECT id FROM events WHERE id > ? ORDER BY id LIMIT ?)"
    end = check_order(after_id, scalar(connection, window, (after_id, count)) or MAX_ID)
    old, also_old = "1", "1"
    if (cutoff := rules.cutoff) is not None:
        text = cutoff.isoformat(timespec="microseconds")
        old, also_old = _OLD.format("e.created_at", text), _OLD.format("x.created_at", text)
        encoding = str(scalar(connection, "PRAGMA encoding"))  # of a host's file it may be UTF-16

        def is_old(created_at: bytes) -> bool:
            return (at := instant((created_at or b"").decode(encoding, "replace"))) is not None and at < cutoff

        connection.create_function("orch_events_old", 1, is_old, deterministic=True)
    newest = "SELECT k.id FROM events k WHERE k.task_id = t.task_id ORDER BY k.id DESC LIMIT 1 OFFSET"
    kept = f"({newest} {rules.keep_last - 1})" if rules.keep_last else str(MAX_ID)
    ended, goes = _ENDED if rules.only_finished else "1", "0" if rules.keep_last else "1"
    sql = _PLAN.format(old=old, also_old=also_old, ended=ended, kept=kept, goes=goes)
    ((rows, last),) = fetch_all(connection, sql, (after_id, end))
    ids = cast("list[int]", json.loads(str(rows)))
    return sorted(ids) + cast("list[int]", json.loads(str(last))), end


def patiently(connection: sqlite3.Connection, timeout: float, script: str) -> None:
    """Run what takes the write lock, asking for that every 0.2 ms: SQLite, up to 0.1 s apart, starves beside a writer.

    A script is run in one step, so the GIL is given up only once.
    """
    connection.execute("PRAGMA busy_timeout = 0")
    deadline = time.monotonic() + timeout
    try:
        while True:
            try:
                connection.executescript(script)
                return
            except sqlite3.OperationalError as error:
                if not is_transient(error) or time.monotonic() > deadline:
                    raise
            time.sleep(0.0002)
    finally:
        connection.execute(f"PRAGMA busy_timeout = {round(timeout * 1000)}")


def prune(
    connection: sqlite3.Connection, ids: Sequence[int], known_id: int, timeout: float
) -> tuple[int, int, float, int]:
    """Delete in one transaction what `plan` selected and is still to go; how many, of how many tasks the last, and for
    how long it was locked.

    As long as no status event came after `known_id`, no task began again, which saves half of the time. Returns the
    `known_id` for the next call too; with a negative one each task is looked at.
    """
    ended = f"""AND e.task_id IN (SELECT t.task_id
        FROM (SELECT DISTINCT task_id FROM events WHERE id IN {_IDS}) t WHERE {_ENDED})"""
    alone = f"""AND (e.event_type NOT IN ({STATUS_TYPES})
        OR NOT EXISTS (SELECT 1 FROM events o WHERE o.task_id = e.task_id AND o.id <> e.id))"""
    deleted = [0, 0]
    with connection:
        patiently(connection, timeout, "BEGIN IMMEDIATE")
        began = time.perf_counter()
        connection.execute("""CREATE TABLE IF NOT EXISTS orch_events_pruned(
            last_id INTEGER PRIMARY KEY, task_id TEXT UNIQUE, events INTEGER NOT NULL)""")
        if known_id >= 0:
            news = f"SELECT 1 FROM events WHERE id > ? AND +event_type IN ({STATUS_TYPES}) LIMIT 1"
            unknown = scalar(connection, news, (known_id,)) is not None
            known_id = -1 if unknown else max(known_id, read_last_id(connection))
        doubtful = ended if known_id < 0 else ""
        for n, (some, which) in enumerate((([i for i in ids if i > 0], doubtful), ([-i for i in ids if i < 0], alone))):
            parameters = (str(some),) * (1 + which.count("?"))
            if some:
                connection.execute(f"""
INSERT OR REPLACE INTO orch_events_pruned(last_id, task_id, events)
SELECT max(max(e.id), coalesce(max(p.last_id), 0)), e.task_id, count(*) + coalesce(max(p.events), 0)
FROM events e LEFT JOIN orch_events_pruned p ON p.task_id = e.task_id WHERE e.id IN {_IDS} {which} GROUP BY e.task_id
""", parameters)
                delete = f"DELETE FROM events AS e WHERE e.id IN {_IDS} {which}"
                deleted[n] = connection.execute(delete, parameters).rowcount
        connection.execute("""INSERT INTO orch_events_pruned(last_id, task_id, events) VALUES (0, NULL, ?)
            ON CONFLICT(last_id) DO UPDATE SET events = events + excluded.events""", (sum(deleted),))
    return sum(deleted), deleted[1], time.perf_counter() - began, known_id


def forget(connection: sqlite3.Connection, timeout: float) -> None:
    """Let the oldest of too many tasks that are gone share a row."""
    gone = "NOT EXISTS (SELECT 1 FROM events e WHERE e.task_id = p.task_id)"
    order = f"ORDER BY last_id DESC LIMIT -1 OFFSET {_REMEMBERED}"
    named = f"SELECT last_id FROM orch_events_pruned p WHERE task_id IS NOT NULL AND {gone} {order}"
    old = [last_id for (last_id,) in fetch_all(connection, named)] if has_pruned(connection) else []
    for start in range(0, len(old), 500):
        with connection:
            patiently(connection, timeout, "BEGIN IMMEDIATE")
            connection.execute(f"""UPDATE OR REPLACE orch_events_pruned SET task_id = NULL, last_id = -last_id,
                events = (SELECT events FROM orch_events_pruned WHERE last_id = 0)
                WHERE last_id IN {_IDS}""", (str(old[start : start + 500]),))
            connection.execute("""DELETE FROM orch_events_pruned WHERE task_id IS NULL AND last_id <> 0
                AND abs(last_id) < (SELECT max(abs(last_id)) FROM orch_events_pruned WHERE task_id IS NULL)""")


def has_pruned(connection: sqlite3.Connection) -> bool:
    return scalar(connection, WAS_PRUNED) == 1


def read_pruned(connection: sqlite3.Connection, task_id: str | None, after_id: int) -> tuple[int, int]:
    """The newest event pruned of a task, or of all, by what is remembered; and how many were."""
    if task_id is None:
        edges = "(SELECT max(last_id) FROM orch_events_pruned), -(SELECT min(last_id) FROM orch_events_pruned)"
        sql = f"SELECT max({edges}), (SELECT events FROM orch_events_pruned WHERE last_id = 0)"
        parameters = tuple[Cell, ...]()
    else:  # a task without a row may be among those that share one, but not if it has earlier events
        sql = """SELECT last_id, events FROM orch_events_pruned WHERE task_id = ?
            UNION ALL SELECT abs(last_id), events FROM orch_events_pruned WHERE task_id IS NULL AND last_id <> 0
            AND NOT EXISTS (SELECT 1 FROM events WHERE task_id = ? AND id <= ?) LIMIT 1"""
        parameters = (task_id, task_id, after_id)
    found = cast("Sequence[tuple[int | None, int | None]]", fetch_all(connection, sql, parameters))
    last_id, count = found[0] if found else (0, 0)
    return last_id or 0, count or 0


def read_size(connection: sqlite3.Connection) -> tuple[int, int]:
    """Bytes of the database, and how many of them are in pages that are free."""
    names = ("page_size", "page_count", "freelist_count")
    size, pages, free = (cast("int", scalar(connection, f"PRAGMA {name}")) for name in names)
    return size * pages, size * free


def vacuum(connection: sqlite3.Connection, pages: int, timeout: float) -> None:
    """Give that many free pages back to the file system."""
    patiently(connection, timeout, f"PRAGMA incremental_vacuum({pages})")


def checkpoint(connection: sqlite3.Connection) -> None:
    """Copy what the ``-wal`` holds into the database, as far as that hinders nobody."""
    connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()


# ------------------------------------------------------------------------------------------------------ by their ids


def read_events(connection: sqlite3.Connection, ids: Sequence[int]) -> Iterator[Event]:
    """Those of `ids` that are there, in order: that of the ids."""
    for start in range(0, len(ids), PAGE_ROWS):
        selection, after_id = Selection(ids=str([*ids[start : start + PAGE_ROWS]])), 0
        while (page := read_page(connection, selection, after_id, MAX_ID, PAGE_ROWS)).ids:
            yield from page_events(page)
            after_id = page.ids[-1]


def restore(connection: sqlite3.Connection, events: Sequence[Event]) -> tuple[int, int]:
    """Insert `events` with their ids, in one transaction, up to the first whose id is another event's.

    Returns how many there are up to that one, and how many of them were not there already.
    """
    new = list[Event]()
    with connection:
        connection.execute("BEGIN IMMEDIATE")
        ids, done = [event.event_id for event in events], 0
        there = {event.event_id: event_json(event) for event in read_events(connection, ids)}
        for event in events:
            if (known := there.get(event.event_id)) is None:
                new.append(event)
            elif known != event_json(event):
                break
            there[event.event_id] = event_json(event)
            done += 1
        texts = ", ".join(["CAST(? AS TEXT)"] * 7)
        connection.executemany(f"INSERT INTO events(id, {COLUMNS}) VALUES (?, {texts}, ?)", map(_cells, new))
        restored = {event.event_id for event in new}
        if new and has_pruned(connection):
            back = f"SELECT count(*) FROM events e WHERE e.id IN {_IDS} AND e.task_id = orch_events_pruned.task_id"
            connection.execute(f"UPDATE orch_events_pruned SET events = events - ({back})", (str(sorted(restored)),))
            connection.execute("DELETE FROM orch_events_pruned WHERE events <= 0")
    return done, len(new)


def _cells(event: Event) -> tuple[Cell, ...]:
    payload = parse_or_none(event.payload_json)
    step, scope, cycle = promoted_columns(payload) if isinstance(payload, dict) else (None, None, None)
    texts = (event.task_id, event.task_item_id, event.event_type, event.payload_json, event.created_at, step, scope)
    encoded = (None if text is None else text.encode("utf-8", "surrogateescape") for text in texts)
    return (event.event_id, *encoded, cycle)


# -------------------------------------------------------------------------------------------------------------- figures


def read_totals(connection: sqlite3.Connection) -> Sequence[tuple[str | None, int, int]]:
    """For each type of a task's newest status event: the tasks, and their events. Reads the index of tasks."""
    tasks = "SELECT task_id, count(*) AS events FROM events GROUP BY task_id"
    types = f"SELECT {_STATUS.format('event_type')} AS type, events FROM ({tasks}) t"
    sql = f"SELECT type, count(*), sum(events) FROM ({types}) GROUP BY type"
    return cast("Sequence[tuple[str | None, int, int]]", fetch_all(connection, sql))


def read_types(connection: sqlite3.Connection, events: int) -> dict[str, int]:
    """The events of each type; if `events`, how many there are, is not 0, of a sample.

    Which is ten ids at each of 1,000 random places, spread evenly; neighbours share a page, so about as many pages are
    read. Where most of them are gone, it is some 10,000 events from anywhere, for which an index is walked through.
    """
    (first, _), (last, _) = (read_edge(connection, newest) or (0, "") for newest in (False, True))
    width = max(10, (last - first) // 1000)
    near = f"""(WITH RECURSIVE k(n, place) AS (SELECT 0, NULL UNION ALL
        SELECT n + 1, {first} + n * {width} + abs(random() % {width - 9}) FROM k WHERE n < 1000) SELECT place FROM k)
        CROSS JOIN events e ON e.id BETWEEN place AND place + 9"""
    anywhere = f"events e WHERE e.id IN (SELECT id FROM events WHERE random() % {events // 10_000 or 1} = 0)"
    sql, types = "SELECT coalesce(CAST(e.event_type AS TEXT), ''), count(*)", dict[str, int]()
    for source in (near, anywhere) if events else ("events e",):
        if sum(types.values()) < 2500:
            rows = fetch_all(connection, f"{sql} FROM {source} GROUP BY 1 ORDER BY 2 DESC, 1")
            types = dict(cast("Sequence[tuple[str, int]]", rows))
    return types


def read_edge(connection: sqlite3.Connection, newest: bool, from_id: int = 1) -> tuple[int, str] | None:
    """Id and time of the newest event, or of the oldest with an id of `from_id` or more."""
    order = "DESC" if newest else "ASC"
    sql = f"SELECT id, coalesce(CAST(created_at AS TEXT), '') FROM events WHERE id >= ? ORDER BY id {order} LIMIT 1"
    return next(iter(cast("Sequence[tuple[int, str]]", fetch_all(connection, sql, (from_id,)))), None)
