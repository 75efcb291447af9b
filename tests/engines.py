# SPDX-License-Identifier: MIT
"""Tests that run on both engines: a module says `BOTH_ENGINES = True`, and a test of it that looks into the file itself
is marked `only_files`.

On PostgreSQL, what such a test calls a path is a schema of a database. Each test finds its own schema.
"""

import os
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from zlib import crc32

import pytest

from orch_events._storage.interface import Store
from orch_events._storage.open_store import is_database_url, open_store

if TYPE_CHECKING:
    from orch_events._storage.postgres.driver import Connection

only_files: Final = pytest.mark.only_files


@dataclass(frozen=True)
class Database:
    """Where the logs of a test are while it runs on PostgreSQL."""

    url: str

    def url_of(self, path: object) -> str:
        """The log that stands for the file at `path`."""
        text = os.fspath(path) if isinstance(path, os.PathLike) else str(path)
        if is_database_url(text):
            return text
        separator = "&" if "?" in self.url else "?"
        schema = f"test_{os.getpid()}_{crc32(text.encode()):08x}"
        return f"{self.url}{separator}orch_events_schema={schema}"

    def open_store(self, path: Any) -> Store:
        return open_store(self.url_of(path))


class Current:
    """The database of the test that runs; ``None`` if logs are files."""

    database: Database | None = None


def spelled(words: Iterable[object]) -> list[str]:
    """Words for another process: a path that ends in ``.db`` is a log, wherever the test has it."""
    database = Current.database
    return [
        database.url_of(word)
        if database is not None and isinstance(word, Path) and word.suffix == ".db"
        else str(word)
        for word in words
    ]


@contextmanager
def host_connection(path: Path) -> Iterator[tuple[Any, str]]:
    """A connection of a host's own to the database that a log is in, and the log's schema in it."""
    if Current.database is None:
        with closing(sqlite3.connect(path, timeout=60)) as connection:
            yield connection, ""
        return
    from orch_events._storage.postgres.location import parse_location

    location = parse_location(Current.database.url_of(path))
    with import_module("psycopg").connect(location.url) as connection:
        yield connection, location.schema


@contextmanager
def raw(url: str) -> Iterator[tuple["Connection", str]]:
    """A connection of another program's to the database of a log, and the log's schema."""
    from orch_events._storage.postgres.connectors import UrlConnector
    from orch_events._storage.postgres.location import parse_location

    location = parse_location(url)
    connection = UrlConnector(location).connect()
    try:
        yield connection, location.schema
    finally:
        connection.close()


def run(
    url: str, sql: str, rows: Iterable[Sequence[object]] | None = None
) -> list[tuple[Any, ...]]:
    """Run a statement, once for each row of values for its question marks, or once; what it gives.

    PostgreSQL holds no NUL in a text: another control character stands for it.
    """
    with raw(url) as (connection, schema):
        connection.execute(f"SET search_path = {schema}")
        connection.execute("BEGIN")
        if rows is not None:
            for row in rows:
                values = [
                    cell.replace("\0", "\1") if isinstance(cell, str) else cell for cell in row
                ]
                connection.execute(sql.replace("?", "%s"), values)
            connection.execute("COMMIT")
            return []
        found = connection.execute(sql)
        told = found.fetchall() if sql.lstrip().startswith(("SELECT", "WITH")) else []
        connection.execute("COMMIT")
        return [tuple(row) for row in told]


POISON: Final = """
CREATE FUNCTION refuse_bad() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
IF NEW.event_type = 'bad' THEN RAISE EXCEPTION 'no'; END IF; RETURN NEW; END $$;
CREATE TRIGGER p BEFORE INSERT ON events FOR EACH ROW EXECUTE FUNCTION refuse_bad()"""


@contextmanager
def write_locked(url: str) -> Iterator[None]:
    from orch_events._storage.postgres.location import parse_location
    from orch_events._storage.postgres.log_lock import LOCK_CLASS

    with raw(url) as (connection, _):
        connection.execute("BEGIN")
        lock = (LOCK_CLASS, parse_location(url).lock_number)
        connection.execute("SELECT pg_advisory_xact_lock(%s, %s)", lock)
        yield
        connection.execute("ROLLBACK")
