# SPDX-License-Identifier: MIT
"""The rows of `events`: encoding and inserting them, selecting and decoding them.

Every statement that touches rows is here. A function takes an open connection, does one thing with it and leaves no
transaction and no half-read cursor behind; who may use which connection when is decided by `_writer` and `_reader`.
"""

import contextlib
import json
import os
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from itertools import chain
from types import NoneType
from typing import Final, NamedTuple, TypeAlias, cast

from ._connection import PAGE_BYTES, Cell, fetch_all, fetch_one, primary_code, scalar
from ._errors import PayloadError, ReadError
from ._events import STEP_EVENT_TYPES, Event, StepEvent, StepLogPaths, promoted_columns, step_event, step_log_paths
from ._payload import MAX_DEPTH, JsonValue, brackets, check_text, decode_shallow, encode, parse_or_none
from ._schema import LOG_PATH_TYPES, STATUS_TYPES, sql_list

__all__ = ["NewEvent"]

NewEvent: TypeAlias = tuple[str, str | None, str, Mapping[str, object]]
"""An event to record: ``(task_id, task_item_id, event_type, payload)``."""

NewRow: TypeAlias = tuple[str, str | None, str, str, str, str | None, str | None, int | None]

# --------------------------------------------------------------------------------------------------------- writing

_COLUMNS: Final = "task_id, task_item_id, event_type, payload_json, created_at, step, step_scope, cycle"
_WIDTH: Final = 8
_PADDING: Final[tuple[None, ...]] = (None,) * _WIDTH

CHUNK: Final = 2048
"""Rows of one INSERT statement at most. The GIL is given up once for each statement, so beside a busy thread fewer and
larger is faster; 2,048 rows of 8 values stay within SQLite's 32,766 parameters."""


def timestamp() -> str:
    """Now, as RFC 3339 in UTC with microseconds."""
    return datetime.now(timezone.utc).isoformat(timespec="microseconds")


def new_row(
    task_id: str, task_item_id: str | None, event_type: str, payload: Mapping[str, object], created_at: str
) -> NewRow:
    """The row of an event about to be recorded; `PayloadError` for anything that would not read back equal."""
    text = encode(payload)
    return (
        check_text("task_id", task_id),
        None if task_item_id is None else check_text("task_item_id", task_item_id),
        check_text("event_type", event_type),
        text,
        created_at,
        *promoted_columns(payload),
    )


def new_rows(events: Iterable[NewEvent]) -> list[NewRow]:
    """The rows of a batch, all with one timestamp; a `PayloadError` names the event by its index."""
    now = timestamp()
    rows: list[NewRow] = []
    for event in events:
        try:
            task_id, task_item_id, event_type, payload = event
            rows.append(new_row(task_id, task_item_id, event_type, payload, now))
        except PayloadError as error:
            place = f"events[{len(rows)}].{error.key_path}"
            raise PayloadError(f"events[{len(rows)}].{error}", place) from error.__cause__
        except (TypeError, ValueError) as error:  # not a sequence, or not of four
            place = f"events[{len(rows)}]"
            message = f"{place}: expected (task_id, task_item_id, event_type, payload)"
            raise PayloadError(message, place) from error
    return rows


def _insert_statement(count: int) -> str:
    values = ",".join([f"({','.join('?' * _WIDTH)})"] * count)
    if count == 1:
        return f"INSERT INTO events({_COLUMNS}) VALUES {values}"
    return f"INSERT INTO events({_COLUMNS}) SELECT * FROM (VALUES {values}) WHERE column1 IS NOT NULL"


# Padded with NULL rows to a power of two, a batch of any size needs one of these twelve, and SQLite's statement cache
# keeps them all. The padding costs nothing measurable (305,000 rows/s either way).
_INSERT: Final = {1 << power: _insert_statement(1 << power) for power in range(CHUNK.bit_length())}


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
        last = 0
        connection.execute("BEGIN IMMEDIATE")
        for start in range(0, len(rows), CHUNK):
            last = _insert_chunk(connection, rows[start : start + CHUNK])
        connection.execute("COMMIT")
        return last
    except BaseException:
        if connection.in_transaction:  # after a full disk SQLite has rolled back already
            with contextlib.suppress(sqlite3.Error):
                connection.execute("ROLLBACK")
        raise


def insert_one(connection: sqlite3.Connection, row: NewRow) -> int:
    """Insert one row within whatever transaction `connection` has; its id."""
    return connection.execute(_INSERT[1], row).lastrowid or 0


# --------------------------------------------------------------------------------------------------------- reading


@dataclass(frozen=True, slots=True)
class Selection:
    """Which events a query wants, apart from where it starts."""

    task_id: str | None = None
    event_type_prefix: str | None = None
    steps_only: bool = False

    def where(self) -> tuple[str, tuple[Cell, ...]]:
        # `event_type` has a `+` so that no index of a host application on it is chosen: id order comes from ours.
        clauses, parameters = ["id > ?", "id <= ?"], list[Cell]()
        if self.task_id is not None:
            clauses.append("task_id = ?")
            parameters.append(self.task_id)
        if self.event_type_prefix is not None:  # not LIKE, to which `_` and `%` are wildcards
            clauses.append("substr(+event_type, 1, ?) = ?")
            parameters += [len(self.event_type_prefix), self.event_type_prefix]
        if self.steps_only:
            clauses.append(f"+event_type IN ({sql_list(sorted(STEP_EVENT_TYPES))})")
        return " AND ".join(clauses), tuple(parameters)


MAX_ID: Final = (1 << 63) - 1

PAGE_ROWS: Final = 2048
"""Rows of one page at most. Every step of a query gives up the GIL, which costs 5 ms beside a busy thread, so large
pages are faster there (38,000 rows/s against 20,000 with 512); parsing one page holds the GIL for about 10 ms."""


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
    limit: int
    """How many rows it might have had; with fewer, there are no more."""


_OPTIONAL: Final[frozenset[type]] = frozenset({str, NoneType})
_KINDS: Final[Mapping[str, frozenset[type]]] = {
    "id": frozenset({int}),
    "task_id": frozenset({str}),
    "task_item_id": _OPTIONAL,
    "event_type": frozenset({str}),
    "created_at": frozenset({str}),
    "step": _OPTIONAL,
    "step_scope": _OPTIONAL,
}
_Columns: TypeAlias = tuple[
    list[int], list[str], list[str | None], list[str], list[str], list[str | None], list[str | None]
]
_FIELDS: Final = tuple(_KINDS)

# A JSON string no payload can contain by accident or guess by intent; it stands between the payloads of a page.
_SENTINEL: Final = f"orch_events {os.urandom(16).hex()}"
_SEPARATOR: Final = f',"{_SENTINEL}",'


def _select(fields: Iterable[str], selection: Selection) -> tuple[str, tuple[Cell, ...]]:
    where, parameters = selection.where()
    columns = ", ".join((*_FIELDS, "payload_json"))
    return f"SELECT {', '.join(fields)} FROM (SELECT {columns} FROM events WHERE {where} ORDER BY id LIMIT ?)", parameters


def read_page(connection: sqlite3.Connection, selection: Selection, after_id: int, up_to: int, limit: int) -> Page:
    """At most `limit` rows with ``after_id < id <= up_to``, fewer where they would not fit into `PAGE_BYTES`."""
    while True:
        try:
            return _read_in_one_step(connection, selection, after_id, up_to, limit)
        except sqlite3.Error as error:
            code = primary_code(error)
            if code == sqlite3.SQLITE_TOOBIG and limit > 1:
                limit = max(1, limit // 8)
            elif code in (sqlite3.SQLITE_TOOBIG, sqlite3.SQLITE_ERROR):  # one huge row; or a BLOB where text belongs
                return _read_row_by_row(connection, selection, after_id, up_to, limit)
            else:
                raise


def _read_in_one_step(
    connection: sqlite3.Connection, selection: Selection, after_id: int, up_to: int, limit: int
) -> Page:
    # Row by row the GIL changes hands at every row: 1,500 rows/s beside a busy thread, this way 40,000.
    sql, parameters = _select([*(f"json_group_array({name})" for name in _FIELDS), "group_concat(payload_json, ?)"], selection)
    row = fetch_one(connection, sql, (_SEPARATOR, after_id, up_to, *parameters, limit))
    if row is None or not isinstance(row[-1], str):
        return Page([], [], [], [], [], [], [], "", limit)
    columns = [cast("list[Cell]", json.loads(str(column))) for column in row[:-1]]
    return _page(columns, row[-1], limit)


def _read_row_by_row(
    connection: sqlite3.Connection, selection: Selection, after_id: int, up_to: int, limit: int
) -> Page:
    sql, parameters = _select((*_FIELDS, "payload_json"), selection)
    columns: list[list[Cell]] = [[] for _ in (*_FIELDS, "payload_json")]
    size = 0
    usual = connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, 1 << 30)
    try:
        with contextlib.closing(connection.execute(sql, (after_id, up_to, *parameters, limit))) as cursor:
            for row in cast("Iterable[tuple[Cell, ...]]", cursor):
                for column, cell in zip(columns, row, strict=True):
                    column.append(_decoded(cell))
                size += len(str(row[-1]))
                if size > PAGE_BYTES:
                    limit = len(columns[0])
                    break
    finally:
        connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, usual)
    texts = [text if isinstance(text, str) else "" for text in columns.pop()]  # what is not text is not JSON either
    return _page(columns, _SEPARATOR.join(texts), limit)


def _decoded(cell: Cell) -> Cell:
    return cell.decode("utf-8", "surrogateescape") if isinstance(cell, bytes) else cell


def _page(columns: list[list[Cell]], payloads: str, limit: int) -> Page:
    """A `Page` whose columns were found to hold what their types say, which a foreign table's need not."""
    for name, column in zip(_FIELDS, columns, strict=True):
        if wrong := {type(cell) for cell in column} - _KINDS[name]:
            raise ReadError(f"events.{name} holds {wrong.pop().__name__}, not text")
    return Page(*cast("_Columns", tuple(columns)), payloads, limit)


def page_events(page: Page) -> list[Event]:
    """The rows of a page as `Event`s."""
    payloads = page.payloads.split(_SEPARATOR) if page.ids else []
    columns = (page.ids, page.task_ids, page.task_item_ids, page.event_types, page.created_ats, payloads)
    return list(map(_event, *columns))


def _event(i: int, task_id: str, item_id: str | None, event_type: str, created_at: str, payload: str) -> Event:
    return Event(
        event_id=i,
        task_id=task_id,
        task_item_id=item_id,
        event_type=event_type,
        payload_json=payload,
        created_at=created_at,
    )


def page_step_events(page: Page) -> list[StepEvent]:
    """The rows of a page as `StepEvent`s."""
    values = _parse_together(page.payloads, len(page.ids)) if page.ids else []
    if values is None:
        values = [parse_or_none(text) for text in page.payloads.split(_SEPARATOR)]
    columns = (page.ids, page.event_types, page.task_item_ids, page.created_ats, page.steps, page.step_scopes, values)
    return list(map(step_event, *columns))


def _parse_together(joined: str, count: int) -> list[JsonValue] | None:
    """The values of `count` payloads from one run of the parser; ``None`` unless each was one whole JSON value.

    Sentinels at exactly the odd places prove it: an incomplete payload swallows the sentinel after it, and one that is
    more than one value moves those that follow.
    """
    try:
        values = decode_shallow(f"[{joined}]")
    except (ValueError, RecursionError):
        return None
    if not isinstance(values, list) or len(values) != 2 * count - 1 or values[1::2] != [_SENTINEL] * (count - 1):
        return None
    payloads = values[::2]
    spare = brackets(joined) - sum(isinstance(value, dict | list) for value in payloads)
    if spare >= MAX_DEPTH and any(brackets(text) > MAX_DEPTH for text in joined.split(_SEPARATOR)):
        return None
    return payloads


def read_last_id(connection: sqlite3.Connection) -> int:
    """The newest row's id; 0 in an empty log."""
    last = scalar(connection, "SELECT max(id) FROM events")
    return last if isinstance(last, int) else 0


_LATEST: Final = (
    f"SELECT payload_json FROM events WHERE task_id = ? AND event_type IN ({LOG_PATH_TYPES}) ORDER BY id DESC LIMIT 1"
)


def read_latest_log_paths(connection: sqlite3.Connection, task_id: str) -> StepLogPaths | None:
    """The log paths of the task's newest spawned or started event, whatever that one says of them."""
    text = _decoded(scalar(connection, _LATEST, (task_id,)))
    return step_log_paths(parse_or_none(text)) if isinstance(text, str) else None


class TaskRow(NamedTuple):
    """What the log knows of one task."""

    task_id: str
    events: int
    last_event_id: int
    last_event_type: str
    last_created_at: str
    status_event_type: str | None


_TASKS: Final = f"""
SELECT task_id, events, last, e.event_type, e.created_at,
    (SELECT s.event_type FROM events s
     WHERE s.task_id = t.task_id AND s.event_type IN ({STATUS_TYPES}) ORDER BY s.id DESC LIMIT 1)
FROM (SELECT task_id, count(*) AS events, max(id) AS last FROM events GROUP BY task_id) t
JOIN events e ON e.id = last
ORDER BY last
"""


def read_tasks(connection: sqlite3.Connection) -> list[TaskRow]:
    """Every task, the most recently active last. Reads the index of tasks, and two rows for each task."""
    return [TaskRow(*cast("TaskRow", row)) for row in fetch_all(connection, _TASKS)]
