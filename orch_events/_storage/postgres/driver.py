# SPDX-License-Identifier: MIT
"""What this engine asks of a connection: psycopg 3, as far as it is used here."""

from collections.abc import Iterator, Sequence
from typing import Protocol, TypeAlias

Cell: TypeAlias = str | int | float | bool | None

Row: TypeAlias = tuple[Cell, ...]

Parameters: TypeAlias = Sequence[object]


class Cursor(Protocol):
    """The result of a statement."""

    @property
    def rowcount(self) -> int:
        """Rows that were inserted, updated or deleted."""
        ...

    def fetchall(self) -> list[Row]:
        """The rows."""
        ...


class Connection(Protocol):
    """A connection that autocommits."""

    def execute(self, query: str, params: Parameters | None = None) -> Cursor:
        """Run one statement."""
        ...

    def fileno(self) -> int:
        """Its socket."""
        ...

    def notifies(self, *, timeout: float) -> Iterator[object]:
        """The notifications that have arrived or arrive within `timeout` seconds."""
        ...

    prepare_threshold: int | None
    """Uses of a statement after which it is prepared; ``None``: never."""

    def close(self) -> None:
        """Close it."""
        ...

    @property
    def closed(self) -> bool:
        """Whether it was closed, or found broken."""
        ...
