# SPDX-License-Identifier: MIT
"""Inserting rows: one statement is the whole commit.

It inserts the rows and a token (writer, number, last id), checks that all rows were inserted with contiguous ids, and
wakes the followers. So a commit takes one round trip and works through a pooler; and if the connection is lost in the
middle, the token says later whether it was committed. The first part sets durability and the longest wait for the log's
lock, for this transaction only.
"""

from collections.abc import Sequence
from typing import Final

from ..._values.new_events import NewRow
from .driver import Connection, Row

MAX_ROWS: Final = 2048
"""Rows of one commit of the queue."""

_SETTINGS: Final = """
WITH settings AS MATERIALIZED (
    SELECT set_config('synchronous_commit', %s, true), set_config('lock_timeout', %s, true)
),"""

_REST: Final = """
outcome AS (
    SELECT max(id) AS last_id, count(*) AS inserted, max(id) - min(id) + 1 AS width FROM inserted
),
token AS (
    INSERT INTO {schema}.commits (writer, number, last_id)
    SELECT %s::uuid, %s::bigint, last_id FROM outcome RETURNING last_id
)
SELECT token.last_id,
    1 / (outcome.inserted = %s AND outcome.width = outcome.inserted)::int,
    pg_notify('{schema}', '')
FROM token, outcome"""
"""The division rolls all back when a trigger of the host's skips a row or inserts others in between."""

_CELLS: Final = 8
"""Of a row."""

_COLUMNS: Final = (
    "task_id, task_item_id, event_type, payload_json, created_at, step, step_scope, cycle"
)

_INSERT_ONE: Final = f"""{_SETTINGS}
inserted AS (
    INSERT INTO {{schema}}.events ({_COLUMNS})
    SELECT %s, %s::text, %s, %s, %s, %s::text, %s::text, %s::bigint FROM settings
    RETURNING id
),{_REST}"""

_INSERT_MANY: Final = f"""{_SETTINGS}
inserted AS (
    INSERT INTO {{schema}}.events ({_COLUMNS})
    SELECT {_COLUMNS}
    FROM settings, unnest(
        %s::text[], %s::text[], %s::text[], %s::text[], %s::text[], %s::text[], %s::text[],
        %s::bigint[]
    ) WITH ORDINALITY AS rows ({_COLUMNS}, place)
    ORDER BY place
    RETURNING id
),{_REST}"""

_CLAIM: Final = """
INSERT INTO {schema}.commits (writer, number, last_id) VALUES (%s::uuid, %s, 0)
ON CONFLICT (writer, number) DO UPDATE SET last_id = commits.last_id
RETURNING last_id"""

_FORGET: Final = "DELETE FROM {schema}.commits WHERE writer = %s::uuid AND number < %s"


class Token:
    """The name of one commit."""

    __slots__ = ("number", "writer")

    def __init__(self, writer: str, number: int) -> None:
        self.writer = writer
        self.number = number


class InsertStatements:
    """The statements for one schema. They are made once: a driver remembers what it found out about a text."""

    def __init__(self, schema: str) -> None:
        self.one = _INSERT_ONE.format(schema=schema)
        self.many = _INSERT_MANY.format(schema=schema)


def insert_rows(
    connection: Connection,
    statements: InsertStatements,
    rows: Sequence[NewRow],
    token: Token,
    synchronous: str,
    lock_seconds: float,
) -> int:
    """Commit `rows` in one transaction, or none of them; the id of the last."""
    settings = (synchronous, f"{max(1, round(lock_seconds * 1000))}ms")
    rest = (token.writer, token.number, len(rows))
    found: list[Row]
    if len(rows) == 1:
        found = connection.execute(statements.one, (*settings, *rows[0], *rest)).fetchall()
    else:
        columns = [_array([row[place] for row in rows]) for place in range(_CELLS)]
        found = connection.execute(statements.many, (*settings, *columns, *rest)).fetchall()
    last_id = found[0][0]
    if not isinstance(last_id, int):
        raise TypeError(f"not an id: {last_id!r}")
    return last_id


def _array(cells: Sequence[str | int | None]) -> str:
    """An array in PostgreSQL's own notation; ten times as fast as the driver's.

    Texts are escaped together. NUL stands between them, which none of them holds: `check_rows` refuses it.
    """
    texts = [cell for cell in cells if isinstance(cell, str)]
    if len(texts) == len(cells):
        return "{" + _quoted("\0".join(texts)).replace("\0", '","') + "}"
    return "{" + ",".join(map(_array_element, cells)) + "}"


def _array_element(cell: str | int | None) -> str:
    if cell is None:
        return "NULL"
    if isinstance(cell, int):
        return str(cell)
    return _quoted(cell)


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def claim(connection: Connection, schema: str, token: Token) -> int | None:
    """Whether a commit took place: its last id; ``None`` if it did not, and then it never will.

    If a server process still works on it, this waits for that; afterwards it would meet the unique key.
    """
    ((last_id,),) = connection.execute(
        _CLAIM.format(schema=schema), (token.writer, token.number)
    ).fetchall()
    if isinstance(last_id, int) and last_id > 0:
        return last_id
    return None


def forget_tokens(connection: Connection, schema: str, token: Token) -> None:
    """Delete the tokens of a writer before this one."""
    connection.execute(_FORGET.format(schema=schema), (token.writer, token.number))


INSERT_IN_TRANSACTION: Final = f"""
INSERT INTO {{schema}}.events ({_COLUMNS})
VALUES (%s, %s, %s, %s, %s, %s, %s, %s) RETURNING id"""
