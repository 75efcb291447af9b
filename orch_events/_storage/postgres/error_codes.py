# SPDX-License-Identifier: MIT
"""What PostgreSQL's error codes (SQLSTATE) mean for a log, and how the driver's errors become ours."""

from collections.abc import Generator
from contextlib import contextmanager
from typing import Final, cast

from ..._values.errors import (
    OrchEventsError,
    ReadError,
    SchemaError,
    WriteError,
)
from .connectors import Connector

_LOST_CLASSES: Final = ("08", "57P")
"""The connection failed, or the server ends it (https://www.postgresql.org/docs/current/errcodes-appendix.html)."""

_ROW_CLASSES: Final = ("22", "23", "54", "P0", "44", "09", "27")
"""The fault of the data, or of a trigger or constraint of the host's."""

_UNPREPARED: Final = ("26000", "42P05")

_NO_TABLE: Final = ("42P01", "3F000")


def sqlstate(error: BaseException) -> str:
    """The five characters; empty when the server gave none."""
    for name in ("sqlstate", "pgcode"):  # psycopg 3, psycopg2
        state = cast("str | None", getattr(error, name, None))
        if state is not None:
            return state
    return ""


def is_lost(error: BaseException) -> bool:
    """Whether the connection is gone, so that the outcome of a statement is not known."""
    state = sqlstate(error)
    if state:
        return state.startswith(_LOST_CLASSES)
    return type(error).__name__ in ("OperationalError", "InterfaceError")


def affects_all(error: BaseException) -> bool:
    """Whether any other rows would have failed too."""
    return not sqlstate(error).startswith(_ROW_CLASSES)


def is_unprepared(error: BaseException) -> bool:
    """Whether a prepared statement was on another connection: behind a pooler. Nothing was run then."""
    return sqlstate(error) in _UNPREPARED


def translate(
    kind: type[ReadError | WriteError],
    label: str,
    what: str,
    error: BaseException,
) -> OrchEventsError:
    """`error` as an error of ours, with its cause."""
    text = str(error).strip().partition("\n")[0] or type(error).__name__
    ours: OrchEventsError
    if sqlstate(error) in _NO_TABLE:
        ours = SchemaError(f"{label}: {what}: {text}")
    else:
        ours = kind(f"{label}: {what}: {text}", label)
    ours.__cause__ = error
    return ours


@contextmanager
def translated(
    connector: Connector,
    kind: type[ReadError | WriteError],
    what: str,
) -> Generator[None, None, None]:
    """Raise an error of the driver in the body as an error of ours."""
    try:
        yield
    except connector.errors as error:
        raise translate(kind, connector.location.label, what, error) from error
