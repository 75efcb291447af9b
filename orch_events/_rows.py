# SPDX-License-Identifier: MIT
"""The rows of `events`: encoding and inserting them, selecting and decoding them; every statement that touches rows.

A function takes an open connection, does one thing with it and leaves no transaction and no half-read cursor behind;
who may use which connection when is decided by `_writer` and `_pool`.
"""

import json
import sqlite3
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timezone
from itertools import chain, islice, repeat
from typing import Final, NamedTuple, TypeAlias, cast

from ._connection import PAGE_BYTES, Cell, Row, check_order, fetch_all, primary_code, scalar
from ._errors import PayloadError
from ._events import STEP_EVENT_TYPES, Event, StepEvent, StepLogPaths, promoted_columns, step_event, step_log_paths
from ._payload import SEPARATOR, check_text, encode, encode_many, parse_many, parse_or_none
from ._schema import LOG_PATH_TYPES, STATUS_TYPES, sql_list

NewEvent: TypeAlias = tuple[str, str | None, str, Mapping[str, object]]
"""An event to record: ``(task_id, task_item_id, event_type, payload)``."""

NewRow: TypeAlias = tuple[str, str | None, str, str, str, str | None, str | None, int | None]
COLUMNS: Final = "task_id, task_item_id, event_type, payload_json, created_at, step, step_scope, cycle"
_PLACES: Final = "(?, ?, ?, ?, ?, ?, ?, ?)"
_PADDING: Final[tuple[None, ...]] = (None,) * 8

# Events of a batch that are encoded together: 2 ms of work, between which an event loop can breathe.
_RUN: Final = 512
# Rows of one INSERT statement at most. The GIL is given up once for each statement, so beside a busy thread fewer and
# larger is faster; 2,048 rows of 8 values stay within SQLite's 32,766 parameters.
CHUNK: Final = 2048
# Rows of one page at most. Every step of a query gives up the GIL, which costs 5 ms beside a busy thread, so large
# pages are faster there (38,000 rows/s against 20,000 with 512); parsing one page holds the GIL for about 10 ms.
PAGE_ROWS: Final = 2048
MAX_ID: Final = (1 << 63) - 1

# The second last asked for, and its text: to format it anew for every event would take 1.4 µs instead of 0.6.
_second = 0, ""


def timestamp() -> str:
    """Now, as RFC 3339 in UTC with microseconds."""
    global _second
    seconds, nanoseconds = divmod(time.time_ns(), 1_000_000_000)
    known, text = _second
    if known != seconds:
        text = datetime.fromtimestamp(seconds, timezone.utc).isoformat()[:19]
        _second = seconds, text
    return f"{text}.{nanoseconds // 1000:06}+00:00"


def new_row(event: NewEvent, created_at: str, text: str | None = None) -> NewRow:
    """The row of an event, with the payload's JSON if known; `PayloadError` for what would not read back equal."""
    task_id, task_item_id, event_type, payload = event
    return (
        check_text("task_id", task_id),
        None if task_item_id is None else check_text("task_item_id", task_item_id),
        check_text("event_type", event_type),
        encode(payload) if text is None else text,
        created_at,
        *promoted_columns(payload),
    )


def new_rows(events: Iterable[NewEvent]) -> Iterator[list[NewRow]]:
    """The rows of a batch, some at a time, all with one timestamp; a `PayloadError` names the event by its index."""
    now, source, count = timestamp(), iter(events), 0
    while run := list(islice(source, _RUN)):
        rows: list[NewRow] = []
        try:
            texts = encode_many([payload for _, _, _, payload in run])
        except (TypeError, ValueError):  # not tuples of four
            texts = None
        try:
            for event, text in zip(run, texts or repeat(None)):
                rows.append(new_row(event, now, text))
        except (TypeError, ValueError) as error:
            place = f"events[{count + len(rows)}]"
            if isinstance(error, PayloadError):
                raise PayloadError(f"{place}.{error}", f"{place}.{error.key_path}") from error.__cause__
            raise PayloadError(f"{place}: not (task_id, task_item_id, event_type, payload)", place) from error
        yield rows
        count += len(rows)


def _insert_statement(count: int) -> str:
    values = ", ".join([_PLACES] * count)
    source = f"VALUES {values}" if count == 1 else f"SELECT * FROM (VALUES {values}) WHERE column1 IS NOT NULL"
    return f"INSERT OR ABORT INTO events({COLUMNS}) {source}"  # whatever the table would do about a conflict


# Padded with NULL rows to a power of two, a batch of any size needs one of these twelve, and SQLite's statement cache
# keeps them all. The padding costs nothing measurable (305,000 rows/s either way).
_INSERT: Final = {1 << power: _insert_statement(1 << power) for power in range(CHUNK.bit_length())}

_INSERT_ONE: Final = f"INSERT INTO events({COLUMNS}) VALUES {_PLACES}"  # OR ABORT would apply within triggers too


def _insert_chunk(connection: sqlite3.Connection, rows: Sequence[NewRow]) -> int:
    size = 1 << (len(rows) - 1).bit_length()
    cells = list(chain(chain.from_iterable(rows), _PADDING * (size - len(rows))))
    return connection.execute(_INSERT[size], cells).lastrowid or 0


def insert_rows(connection: sqlite3.Connection, rows: Sequence[NewRow]) -> int:
    """Commit `rows` in one transaction, or none of them; the id of the last. Their ids are contiguous and in order.

    Up to `CHUNK` rows are a single autocommitted statement, which crosses the GIL once instead of three times.
    """
    if connection.in_transaction:  # a KeyboardInterrupt kept the one before from rolling back
        connection.execute("ROLLBACK")
    try:
        if len(rows) <= CHUNK:
            return _insert_chunk(connection, rows)
        with connection:  # commits, or rolls back
            connection.execute("BEGIN IMMEDIATE")
            return [_insert_chunk(connection, rows[start : start + CHUNK]) for start in range(0, len(rows), CHUNK)][-1]
    except sqlite3.DatabaseError as error:
        if primary_code(error) != sqlite3.SQLITE_AUTH:
            raise
    try:
        connection.set_authorizer(None)
        with connection:
            connection.execute("BEGIN IMMEDIATE")
            ids = [insert_one(connection, row) for row in rows]
            if ids[-1] - ids[0] != len(ids) - 1:
                raise sqlite3.IntegrityError("a trigger inserts events among those of a batch")
            there = "SELECT count(*) FROM events WHERE id BETWEEN ? AND ?"
            if scalar(connection, there, (ids[0], ids[-1])) != len(ids):
                raise sqlite3.IntegrityError("a trigger deletes or renumbers what was inserted")
            return ids[-1]
    finally:
        connection.set_authorizer(without_triggers)


def without_triggers(_what: int, _of: str | None, _to: str | None, _in: str | None, trigger: str | None) -> int:
    """For `insert_rows`, the authorizer of its connection: refuses to compile a statement that would run a trigger.

    A trigger may make `insert_rows` skip a row, keep half a batch, or put rows of its own between. So where the host
    has any, rows are inserted one by one and looked at. It costs nothing where there is none: SQLite compiles a
    statement once, and again when somebody has changed the schema.
    """
    return sqlite3.SQLITE_OK if trigger is None else sqlite3.SQLITE_DENY


def insert_one(connection: sqlite3.Connection, row: NewRow) -> int:
    """Insert one row within whatever transaction `connection` has; its id."""
    cursor = connection.execute(_INSERT_ONE, row)
    if cursor.rowcount != 1:
        raise sqlite3.IntegrityError("a trigger or a constraint of the table ignores it")
    return cursor.lastrowid or 0


# With a `+` so that no index of a host application on the type is chosen: id order comes from ours.
_STEPS_ONLY: Final = f" AND +event_type IN ({sql_list(sorted(STEP_EVENT_TYPES))})"


class Selection(NamedTuple):
    """Which events a query wants, apart from where it starts."""

    task_id: str | None = None
    event_type_prefix: str | None = None
    steps_only: bool = False
    ids: str | None = None
    """Only these, as a JSON array."""

    def where(self) -> tuple[str, Row]:
        """Conditions to add to those on the id, with their parameters."""
        where, parameters = _STEPS_ONLY if self.steps_only else "", list[Cell]()
        if self.task_id is not None:
            where += " AND task_id = ?"
            parameters.append(self.task_id)
        if self.event_type_prefix is not None:  # not LIKE, where `_` and `%` are wildcards; bytes, for the sake of NUL
            where += " AND substr(CAST(event_type AS BLOB), 1, length(CAST(? AS BLOB))) = CAST(? AS BLOB)"
            parameters += [self.event_type_prefix] * 2
        if self.ids is not None:
            where += " AND events.id IN (SELECT value FROM json_each(?))"
            parameters.append(self.ids)
        return where, tuple(parameters)


class Page(NamedTuple):
    """A run of rows by id, in columns, with the payload texts still joined."""

    ids: list[int]
    task_ids: list[str]
    task_item_ids: list[str | None]
    event_types: list[str]
    created_ats: list[str]
    steps: list[str | None]
    step_scopes: list[str | None]
    payloads: str
    was_pruned: int | None
    """Whether events were ever pruned from the log."""
    limit: int
    """How many rows it might have had; with fewer, there are no more."""


# Whether events were ever pruned from the log. In `_upkeep` stands what the table says.
WAS_PRUNED: Final = "SELECT 1 FROM sqlite_master WHERE name = 'orch_events_pruned'"

# What is not text in a foreign or damaged file is read as its text, and a NULL that must not be one as "".
_PAGE: Final = """
SELECT json_group_array(id), json_group_array(task_id), json_group_array(task_item_id), json_group_array(event_type),
    json_group_array(created_at), json_group_array(step), json_group_array(step_scope), group_concat(payload_json, ?),
    ({pruned})
FROM (
    SELECT id, coalesce(CAST(task_id AS TEXT), '') AS task_id, CAST(task_item_id AS TEXT) AS task_item_id,
        coalesce(CAST(event_type AS TEXT), '') AS event_type, coalesce(CAST(created_at AS TEXT), '') AS created_at,
        CAST(step AS TEXT) AS step, CAST(step_scope AS TEXT) AS step_scope,
        coalesce(CAST(payload_json AS TEXT), '') AS payload_json
    FROM events WHERE id > ? AND id <= ?{where} ORDER BY events.id LIMIT ?
)
"""


def read_page(connection: sqlite3.Connection, selection: Selection, after_id: int, up_to: int, limit: int) -> Page:
    """At most `limit` rows with ``after_id < id <= up_to``, fewer where they would not fit into `PAGE_BYTES`.

    One step of SQLite and one run of the parser. Row by row, the GIL would change hands at each: beside a busy thread
    1,500 rows/s instead of 40,000.
    """
    where, parameters = selection.where()
    try:
        parameters = (SEPARATOR, after_id, up_to, *parameters, limit)
        (row,) = fetch_all(connection, _PAGE.format(where=where, pruned=WAS_PRUNED), parameters)
    except sqlite3.DataError as error:
        usual = connection.getlimit(sqlite3.SQLITE_LIMIT_LENGTH)
        if primary_code(error) != sqlite3.SQLITE_TOOBIG or usual > PAGE_BYTES:
            raise
        if limit > 1:
            return read_page(connection, selection, after_id, up_to, max(1, limit // 8))
        connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, 1 << 30)  # a single row may be as long as SQLite allows
        try:
            return read_page(connection, selection, after_id, up_to, 1)
        finally:
            connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, usual)
    columns = [cast("list[str]", json.loads(str(column))) for column in row[:-2]]
    page = Page(*cast("Page", (*columns, row[-2] or "", row[-1], limit)))
    if page.ids:
        check_order(after_id, page.ids[-1])
    return page


def page_events(page: Page) -> list[Event]:
    """The rows of a page as `Event`s."""
    payloads = page.payloads.split(SEPARATOR)
    columns = (page.ids, page.task_ids, page.task_item_ids, page.event_types, page.created_ats, payloads)
    return list(map(_event, *columns))


def _event(i: int, task: str, item: str | None, kind: str, at: str, text: str) -> Event:
    return Event(event_id=i, task_id=task, task_item_id=item, event_type=kind, payload_json=text, created_at=at)


def page_step_events(page: Page) -> list[StepEvent]:
    """The rows of a page as `StepEvent`s."""
    values = parse_many(page.payloads, len(page.ids))
    columns = (page.ids, page.event_types, page.task_item_ids, page.created_ats, page.steps, page.step_scopes, values)
    return list(map(step_event, *columns))


def read_last_id(connection: sqlite3.Connection) -> int:
    """The newest row's id; 0 in an empty log."""
    last = scalar(connection, "SELECT max(id) FROM events")
    return last if isinstance(last, int) else 0


def _newest(connection: sqlite3.Connection, column: str, types: str, task_id: str) -> str | None:
    where = f"task_id = ? AND event_type IN ({types}) ORDER BY id DESC LIMIT 1"
    text = scalar(connection, f"SELECT CAST({column} AS TEXT) FROM events WHERE {where}", (task_id,))
    return text if isinstance(text, str) else None


def read_latest_log_paths(connection: sqlite3.Connection, task_id: str) -> StepLogPaths | None:
    """The log paths of the task's newest spawned or started event, whatever that one says of them."""
    text = _newest(connection, "payload_json", LOG_PATH_TYPES, task_id)
    return None if text is None else step_log_paths(parse_or_none(text))


def read_task_status(connection: sqlite3.Connection, task_id: str) -> str | None:
    """The type of the task's newest status event."""
    return _newest(connection, "event_type", STATUS_TYPES, task_id)


class TaskRow(NamedTuple):
    """What the log knows of one task."""

    task_id: str
    events: int
    last_event_id: int
    last_event_type: str
    last_created_at: str
    status_event_type: str | None


def read_tasks(connection: sqlite3.Connection) -> list[TaskRow]:
    """Every task, the most recently active last. Reads the index of tasks, and two rows for each task."""
    tasks = f"""
SELECT t.task_id, t.events, t.last, e.event_type, e.created_at,
    (SELECT s.event_type FROM events s
     WHERE s.task_id = t.task_id AND s.event_type IN ({STATUS_TYPES}) ORDER BY s.id DESC LIMIT 1)
FROM (SELECT task_id, count(*) AS events, max(id) AS last FROM events GROUP BY task_id) t
JOIN events e ON e.id = t.last ORDER BY t.last"""
    return [TaskRow(*cast("TaskRow", row)) for row in fetch_all(connection, tasks)]
