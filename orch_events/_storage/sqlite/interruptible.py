# SPDX-License-Identifier: MIT
"""A connection that lets signal handlers interrupt long statements, and says of itself that it is open.

SQLite calls back after so many steps of its virtual machine, which lets Python run its signal handlers. What a handler
raises there is kept, and raised in the place of SQLite's own error when the statement has failed.
"""

import sqlite3
from collections.abc import Generator, Mapping
from types import TracebackType
from typing import (
    Final,
    Literal,
    TypeAlias,
    cast,
)
from weakref import ref

from .forks import (
    CALLS,
    Call,
    begin_call,
    is_inherited,
    uncut,
)
from .replaced_files import OPEN_FILES

Cell: TypeAlias = str | bytes | int | float | None

Row: TypeAlias = tuple[Cell, ...]

Parameters: TypeAlias = Row | Mapping[str, Cell]

_STEPS_BETWEEN_SIGNALS: Final = 1_000_000
"""Steps of SQLite's virtual machine after which signal handlers may run: some 20 ms. A page of 2,048 rows takes a tenth
of them. Alone, even every 10,000 steps cost nothing measurable; but each time the GIL is taken, which takes 5 ms beside
a busy thread.
"""


def _close(self: sqlite3.Connection) -> None:
    if is_inherited(self):
        return
    with uncut(self):
        sqlite3.Connection.close(self)
    OPEN_FILES.pop(ref(self), None)


def _execute(
    connection: sqlite3.Connection, sql: str, parameters: object = (), /
) -> sqlite3.Cursor:
    call = Call()
    try:
        begin_call(call, connection)
        return sqlite3.Connection.execute(connection, sql, cast("Parameters", parameters))
    except sqlite3.OperationalError as error:
        raise interruption(connection) or error from None
    finally:
        CALLS.pop(ref(call), None)


def _leave(
    self: sqlite3.Connection,
    kind: type[BaseException] | None,
    error: BaseException | None,
    traceback: TracebackType | None,
    /,
) -> Literal[False]:
    if is_inherited(self):  # the transaction goes on, in the parent
        return False
    return sqlite3.Connection.__exit__(self, kind, error, traceback)


class InterruptibleConnection(sqlite3.Connection):
    """A connection that says of itself, in `OPEN_FILES`, that it is open, and lets a long statement be interrupted.

    So no thread ever has to ask a connection that another one is using.
    """

    # Without `def`, for which a strict checker wants `typing.override`, which came with Python 3.12.
    close = _close
    execute = _execute
    __exit__ = _leave
    raised: list[BaseException] = []  # replaced as soon as it is open
    """What a signal handler raised in the middle of the statement; SQLite's answer to that is an error of its own."""


def _let_signals_in(raised: list[BaseException]) -> Generator[int, None, None]:
    """Resumed in the middle of a long statement, lets Python run its signal handlers; says whether to go on, with 0.

    A generator is resumed inside its ``try``, and its inner loop never leaves that; a plain function could be interrupted
    before it gets into its own.
    """
    answer = 0
    while True:
        try:
            while True:
                yield answer
                answer = 0
                _do_nothing()  # signal handlers may run at a call
        except GeneratorExit:  # the connection is gone
            return
        except BaseException as error:
            raised.append(error)
            answer = 1


def _do_nothing() -> None:
    pass


def interruption(connection: sqlite3.Connection) -> BaseException | None:
    """What a signal handler raised in the middle of the statement that has just failed."""
    if isinstance(connection, InterruptibleConnection) and connection.raised:
        return connection.raised.pop()
    return None


def let_signals_in(connection: InterruptibleConnection) -> None:
    """From now on signal handlers run during long statements."""
    connection.raised = []
    signals = _let_signals_in(connection.raised)
    next(signals)
    connection.set_progress_handler(signals.__next__, _STEPS_BETWEEN_SIGNALS)


def let_no_signals_in(connection: sqlite3.Connection) -> None:
    """From now on signal handlers wait until a statement has ended: none runs while the write lock is held."""
    connection.set_progress_handler(None, 0)
