# SPDX-License-Identifier: MIT
"""Commits rows through one connection, and finds out what became of a commit when that was lost.

Each commit has a number. While the fate of one is unknown, nothing else is written: the next call first asks for it
(`claim`), which also makes sure that it cannot happen any more.
"""

import time
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from typing import Final
from uuid import uuid4

from ..._values.errors import WriteError
from ..._values.new_events import NewRow
from ..interface import AppendError, Durability
from .connectors import RECONNECT_PAUSE, Connector
from .error_codes import (
    affects_all,
    is_lost,
    is_unprepared,
    translate,
)
from .inserting import (
    MAX_ROWS,
    InsertStatements,
    Token,
    claim,
    forget_tokens,
    insert_rows,
)
from .storable_rows import check_rows

_SYNCHRONOUS: Final = {"full": "on", "normal": "off"}
"""`synchronous_commit`."""

_TOKENS_KEPT: Final = 1000
"""After so many commits those before are forgotten."""


class PostgresWriteSession:
    """The connection that one open log writes through."""

    rows_per_commit: int = MAX_ROWS

    def __init__(
        self,
        connector: Connector,
        durability: Durability,
    ) -> None:
        self._connector = connector
        self._connection = connector.connect(prepares=True)
        self._label = connector.location.label
        self._schema = connector.location.schema
        self._statements = InsertStatements(self._schema)
        self._synchronous = _SYNCHRONOUS[durability]
        self._writer = str(uuid4())
        self._number = 0
        self._attempted: Sequence[NewRow] = ()
        """The rows of the last append that has begun."""
        self._committed_id = 0
        """The last id of that append, once it is known to be committed."""
        self._unsettled: Token | None = None
        """A commit with an unknown fate."""

    def check(self, rows: Sequence[NewRow]) -> None:
        check_rows(rows)

    def append(self, rows: Sequence[NewRow], deadline: float) -> int:
        if self._unsettled is not None:
            self._settle(deadline, "not written: the server does not answer")
        # Here and below in this order: a signal handler may raise an exception between any two statements.
        self._committed_id = 0
        self._attempted = rows
        while True:
            self._number += 1
            token = Token(self._writer, self._number)
            self._unsettled = token
            try:
                last_id = insert_rows(
                    self._connection,
                    self._statements,
                    rows,
                    token,
                    self._synchronous,
                    deadline - time.monotonic(),
                )
            except self._connector.errors as error:
                if is_unprepared(error):
                    self._connection.prepare_threshold = None
                    continue
                if not is_lost(error):
                    self._unsettled = None
                    raise self._append_error(error) from error
                found = self._settle(deadline, "perhaps written: the server does not answer")
                if found is not None:
                    return found
                continue
            self._committed_id = last_id
            self._unsettled = None
            if self._number % _TOKENS_KEPT == 0:
                self._forget_tokens(token)
            return last_id

    def _append_error(self, error: Exception) -> AppendError:
        make_error = partial(
            translate,
            WriteError,
            self._label,
            "not written",
            error,
        )
        return AppendError(make_error, affects_all(error))

    def _settle(self, deadline: float, failure: str) -> int | None:
        """What became of the unsettled commit: the last id, or ``None`` if it never took place.

        Tries to reach the server until `deadline`; then raises `AppendError` that says `failure`.
        """
        token = self._unsettled
        if token is None:
            return None
        while True:
            try:
                self._connect_anew(deadline)
                last_id = claim(self._connection, self._schema, token)
            except self._connector.errors as error:
                if time.monotonic() >= deadline:
                    make_error = partial(
                        translate,
                        WriteError,
                        self._label,
                        failure,
                        error,
                    )
                    raise AppendError(make_error, affects_all=True) from error
                time.sleep(RECONNECT_PAUSE)
                continue
            self._committed_id = last_id or 0
            self._unsettled = None
            return last_id

    def _connect_anew(self, deadline: float) -> None:
        old = self._connection
        self._connection = self._connector.connect(deadline - time.monotonic(), prepares=True)
        old.close()

    def _forget_tokens(self, token: Token) -> None:
        """Delete the tokens before `token`. A failure leaves a few rows, and is met again by the next commit."""
        with suppress(*self._connector.errors):
            forget_tokens(self._connection, self._schema, token)

    def find_interrupted(self, rows: Sequence[NewRow]) -> int | None:
        if self._attempted is not rows:
            return None
        if self._unsettled is None:
            return self._committed_id or None
        try:
            return self._settle(time.monotonic(), "interrupted, perhaps written")
        except AppendError as error:
            raise error.make_error() from error

    def close(self) -> None:
        if not self._connection.closed and self._unsettled is None:
            self._forget_tokens(Token(self._writer, self._number + 1))
        self._connection.close()
