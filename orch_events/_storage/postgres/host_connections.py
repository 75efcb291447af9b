# SPDX-License-Identifier: MIT
"""Connections that a host has made, of psycopg 3 or psycopg2, for use by this engine.

Neither is imported here: a connection can only come from where its module was imported already.
"""

import sys
from collections.abc import Iterator
from typing import Protocol, cast

from ..._values.errors import OrchEventsError
from .driver import (
    Connection,
    Cursor,
    Parameters,
)
from .readable import readable


class _HostCursor(Cursor, Protocol):
    def execute(self, query: str, params: Parameters | None = None, /) -> object: ...


class _MakesCursor(Protocol):
    def __call__(self, connection: object, *, row_factory: object) -> _HostCursor: ...


class _Info(Protocol):
    encoding: str


class _Psycopg(Connection, Protocol):
    Error: type[Exception]
    info: _Info
    autocommit: bool
    cursor_factory: object
    row_factory: object


class _Psycopg2(Protocol):
    Error: type[Exception]
    encoding: str
    autocommit: bool
    closed: int
    notifies: list[object]

    def cursor(self, *, cursor_factory: object) -> _HostCursor: ...

    def fileno(self) -> int: ...

    def poll(self) -> int: ...

    def close(self) -> None: ...


def adapt(made: object) -> Connection:
    """A connection that is the log's own from now on. Raises `OrchEventsError` when its encoding is not UTF-8."""
    if _is_psycopg2(made):
        psycopg2_connection = cast("_Psycopg2", made)
        _check_encoding(psycopg2_connection.encoding)
        psycopg2_connection.autocommit = True
        return _Psycopg2Connection(psycopg2_connection)
    connection = cast("_Psycopg", made)
    _check_encoding(connection.info.encoding)
    connection.autocommit = True
    connection.cursor_factory = _named("psycopg", "Cursor")
    connection.row_factory = _named("psycopg.rows", "tuple_row")
    return connection


def plain_cursor(made: object) -> _HostCursor:
    """A cursor on a connection that stays the host's, with tuples as rows whatever the host has set."""
    if _is_psycopg2(made):
        plain = _named("psycopg2.extensions", "cursor")
        return cast("_Psycopg2", made).cursor(cursor_factory=plain)
    make_cursor = cast("_MakesCursor", _named("psycopg", "Cursor"))
    return make_cursor(made, row_factory=_named("psycopg.rows", "tuple_row"))


def driver_error(made: object) -> type[Exception]:
    """What the connection's driver raises. `OrchEventsError` if it is no connection of psycopg 3 or psycopg2."""
    if _is_psycopg2(made) or _is_a(made, "psycopg", "Connection"):
        return cast("_Psycopg", made).Error
    name = f"{type(made).__module__}.{type(made).__qualname__}"
    raise OrchEventsError(f"not a connection of psycopg 3 or psycopg2: {name}")


def _named(module: str, name: str) -> object:
    """What a module has under a name; ``None`` if nobody has imported it."""
    found = sys.modules.get(module)
    if found is None:
        return None
    return cast("dict[str, object]", vars(found)).get(name)


def _is_psycopg2(made: object) -> bool:
    return _is_a(made, "psycopg2.extensions", "connection")


def _is_a(made: object, module: str, name: str) -> bool:
    kind = cast("type[object] | None", _named(module, name))
    return kind is not None and isinstance(made, kind)


def _check_encoding(encoding: str) -> None:
    if encoding not in ("utf-8", "UTF8"):
        raise OrchEventsError(f"the connection's encoding is {encoding}, but a log needs UTF-8")


class _Psycopg2Connection:
    """A connection of psycopg2 with the interface of psycopg 3."""

    prepare_threshold: int | None = None

    def __init__(self, made: _Psycopg2) -> None:
        self._made = made

    def execute(self, query: str, params: Parameters | None = None) -> Cursor:
        cursor = plain_cursor(self._made)
        cursor.execute(query, params)
        return cursor

    def fileno(self) -> int:
        return self._made.fileno()

    def notifies(self, *, timeout: float) -> Iterator[object]:
        readable((self._made.fileno(),), timeout)
        self._made.poll()
        while self._made.notifies:
            yield self._made.notifies.pop(0)

    def close(self) -> None:
        self._made.close()

    @property
    def closed(self) -> bool:
        return self._made.closed != 0
