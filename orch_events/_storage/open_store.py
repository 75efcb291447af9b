# SPDX-License-Identifier: MIT
"""The one place that names engines. Each is imported by name when it is needed, because a copy may lack it."""

import os
from collections.abc import Callable
from importlib import import_module
from typing import (
    TYPE_CHECKING,
    Final,
    cast,
)

from .._values.errors import OrchEventsError
from .._values.new_events import NewRow
from .._values.postgres_database import PostgresConnection, PostgresDatabase
from .interface import Store

if TYPE_CHECKING:
    import sqlite3

_POSTGRES_URLS: Final = ("postgresql://", "postgres://")


def open_store(path: str | os.PathLike[str] | PostgresDatabase) -> Store:
    """The store at `path`: a file's name, or what names a PostgreSQL database.

    Raises `LogNotFoundError` when it cannot name a file.
    """
    if isinstance(path, PostgresDatabase) or (isinstance(path, str) and is_database_url(path)):
        opens_database = cast(
            "Callable[[str | PostgresDatabase], Store]",
            _load("postgres", "store", "PostgresStore"),
        )
        return opens_database(path)
    opens_file = cast(
        "Callable[[str | os.PathLike[str]], Store]", _load("sqlite", "store", "SqliteStore")
    )
    return opens_file(path)


def is_database_url(path: str) -> bool:
    """Whether a log is named by the URL of a database, not by a file's name."""
    return path.startswith(_POSTGRES_URLS)


def shown_location(path: str) -> str:
    """`path` as it may be shown: a URL without its password."""
    if not is_database_url(path):
        return path
    shown = cast("Callable[[str], str]", _load("postgres", "location", "shown_url"))
    return shown(path)


def insert_in_transaction(
    connection: "sqlite3.Connection | PostgresConnection",
    row: NewRow,
    schema: str,
) -> int:
    """Insert `row` on a connection of the caller's, within its transaction; the row's id."""
    if hasattr(connection, "create_function"):  # only SQLite's has it
        insert_into_file = cast(
            "Callable[[object, NewRow], int]", _load("sqlite", "outbox", "insert_in_transaction")
        )
        return insert_into_file(connection, row)
    insert_into_database = cast(
        "Callable[[object, NewRow, str], int]", _load("postgres", "outbox", "insert_in_transaction")
    )
    return insert_into_database(connection, row, schema)


def _load(engine: str, module: str, name: str) -> object:
    try:
        found = import_module(f".{engine}.{module}", __package__)
    except ModuleNotFoundError as error:
        raise OrchEventsError(
            f"this copy of the package has no folder '_storage/{engine}'"
        ) from error
    return cast("dict[str, object]", vars(found))[name]
