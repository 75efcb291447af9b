# SPDX-License-Identifier: MIT
"""Where a log in PostgreSQL is, for a host that makes its connections itself, and what a connection must offer.

Of psycopg 3 and psycopg2 as far as both have it: neither is needed to import or to type-check this.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol


class PostgresCursor(Protocol):
    """A cursor of psycopg 3 or psycopg2."""

    def execute(self, query: bytes, params: Sequence[object], /) -> object:
        """Run one statement."""
        ...

    def fetchall(self) -> Sequence[object]:
        """The rows."""
        ...


class PostgresConnection(Protocol):
    """A connection of psycopg 3 (``psycopg.Connection``) or psycopg2."""

    def cursor(self) -> PostgresCursor:
        """A new cursor."""
        ...

    def close(self) -> None:
        """Close the connection."""
        ...


@dataclass(frozen=True, slots=True)
class PostgresDatabase:
    """A log in the schema `schema` of the database to which `connect` connects: to be given instead of a URL.

    `connect` is called from any thread, whenever a connection is needed: at the start, for more readers, and when one
    was lost. It returns a new connection of psycopg 3 or psycopg2 outside of a transaction, with UTF-8 as its encoding,
    and raises what it likes when it cannot. From then on the connection is the log's own, which makes it autocommit and
    closes it.
    """

    connect: Callable[[], PostgresConnection]
    schema: str = "orch_events"
