# SPDX-License-Identifier: MIT
"""Has the n-th call that reaches the storage fail: at the seam, in a session of a store, or below it, in `sqlite3`.

Calls of a watcher's thread are not counted, since it looks as often as it likes; while faults last, they fail too.
"""

import builtins
import sqlite3
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from types import FunctionType
from typing import Any, Final, NamedTuple, cast
from unittest.mock import patch

from orch_events import Event, OrchEventsError, ReadError, WriteError, _event_log
from orch_events._storage.interface import AppendError, Store


class Faults:
    """Which calls fail: one of them, or it and all that follow."""

    def __init__(self, number: int, lasting: bool) -> None:
        self.number = number
        self.lasting = lasting
        self.calls = 0
        """How many calls were counted."""
        self.failed = "none"
        """The call with that number."""
        self.are_over = False
        self._lock = threading.Lock()

    def end(self) -> None:
        """No call fails any more."""
        self.are_over = True

    @contextmanager
    def suspended(self) -> Iterator[None]:
        """No call fails in the body, or is counted."""
        before = self.are_over
        self.are_over = True
        try:
            yield
        finally:
            self.are_over = before

    @staticmethod
    def is_watcher() -> bool:
        """Whether this thread is a watcher's."""
        return threading.current_thread().name == "orch_events watcher"

    def strike(self, call: str) -> bool:
        """Whether this call is to fail."""
        if self.are_over:
            return False
        with self._lock:
            if not self.is_watcher():
                self.calls += 1
                if self.calls == self.number:
                    self.failed = call
                    return True
            elif self.calls < self.number:
                return False
            return self.lasting and self.calls >= self.number


# ---------------------------------------------------------------------------------------------------------- at the seam


class SeamFault(NamedTuple):
    """How a session fails."""

    name: str
    """SQLite's, or none."""
    affects_all: bool
    """Of an append: whether any other rows would have failed too."""
    takes_place: bool
    """Whether what was called for is done all the same: the connection is lost before the answer has come."""


SEAM_FAULTS: Final = {
    "refused": SeamFault("SQLITE_CONSTRAINT", affects_all=False, takes_place=False),
    "full": SeamFault("SQLITE_FULL", affects_all=True, takes_place=False),
    "lost": SeamFault("", affects_all=True, takes_place=True),
}


class FailingSession:
    """A session of a store; its calls fail as `faults` say, all but those that only release or check something."""

    def __init__(
        self, session: Any, path: str, kind: type[Exception], faults: Faults, fault: SeamFault
    ) -> None:
        self._session = session
        self._path = path
        self._kind = kind
        self._faults = faults
        self._fault = fault

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._session, name)
        if name in ("close", "check", "rows_per_commit"):
            return found

        def call(*arguments: object) -> object:
            if not self._faults.strike(name):
                return found(*arguments)
            if self._fault.takes_place:
                found(*arguments)
            raise self._error(name)

        return call

    def events(self, *arguments: object) -> Iterator[Event]:
        """Each that is asked for is a call."""
        with closing(self._session.events(*arguments)) as events:
            for event in events:
                if self._faults.strike("events"):
                    raise self._error("events")
                yield event

    def _error(self, name: str) -> Exception:
        if name == "append":
            return AppendError(self._make_error, self._fault.affects_all)
        return self._make_error()

    def _make_error(self) -> OrchEventsError:
        what = "perhaps written" if self._fault.takes_place else "not written"
        error = self._kind(f"{self._path}: {what}", self._path, self._fault.name)
        assert isinstance(error, OrchEventsError)
        return error


class FailingStore:
    """A store whose sessions fail, and the opening of one too."""

    def __init__(self, store: Store, faults: Faults, fault: SeamFault) -> None:
        self._store = store
        self._faults = faults
        self._fault = fault

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._store, name)
        if not name.startswith("open_"):
            return found
        kind = ReadError if name in ("open_for_reading", "open_signal") else WriteError

        def open_session(*arguments: object) -> object:
            if self._faults.strike(name):
                raise kind(f"{self._store.path}: cannot open", self._store.path, self._fault.name)
            session = found(*arguments)
            if name == "open_signal":
                return session
            return FailingSession(session, self._store.path, kind, self._faults, self._fault)

        return open_session


def _opener() -> Callable[[object], Store]:
    opens: Callable[[object], Store] = vars(_event_log)["open_store"]
    return opens


def current_store(path: object) -> Store:
    """The store that a log would be opened on now."""
    return _opener()(path)


@contextmanager
def failing_sessions(faults: Faults, fault: SeamFault) -> Iterator[None]:
    """During the body, logs are opened on stores that fail."""
    genuine = _opener()

    def open_store(path: object) -> Store:
        return cast("Store", FailingStore(genuine(path), faults, fault))

    with patch.object(_event_log, "open_store", open_store):
        yield


# -------------------------------------------------------------------------------------------------------------- below it


class SqliteFault(NamedTuple):
    """How SQLite fails."""

    name: str
    rolls_back: bool
    """Whether the transaction is rolled back as well (https://sqlite.org/lang_transaction.html, section 3)."""


SQLITE_FAULTS: Final = {
    "busy": SqliteFault("SQLITE_BUSY", rolls_back=False),
    "full": SqliteFault("SQLITE_FULL", rolls_back=True),
    "io error": SqliteFault("SQLITE_IOERR", rolls_back=False),
    "interrupt": SqliteFault("SQLITE_INTERRUPT", rolls_back=True),
}

_METHODS: Final = ("execute", "executescript", "commit")
_FETCHES: Final = ("fetchone", "fetchmany", "fetchall", "__next__")


def _raise(error: Exception) -> None:
    raise error


_raise_as_sqlite: Final = FunctionType(
    _raise.__code__, {"__name__": "orch_events.sqlite3", "__builtins__": builtins}
)
"""Raises an error so that it counts as raised in a frame of the library, as SQLite's own are, and not in a host's."""


class _Failures(NamedTuple):
    """What the connections of a test fail with, and when."""

    faults: Faults
    fault: SqliteFault

    def meet(self, connection: sqlite3.Connection | None, call: str) -> None:
        """Raise if this call is to fail."""
        if not self.faults.strike(call):
            return
        if self.fault.rolls_back and connection is not None and connection.in_transaction:
            sqlite3.Connection.rollback(connection)
        error = sqlite3.OperationalError("made to fail")
        error.sqlite_errorname = self.fault.name
        error.sqlite_errorcode = getattr(sqlite3, self.fault.name)
        _raise_as_sqlite(error)


def _failing_method(base: type[Any], name: str, failures: _Failures) -> Callable[..., object]:
    def call(self: Any, *arguments: object) -> object:
        connection = self.connection if isinstance(self, sqlite3.Cursor) else self
        failures.meet(connection, " ".join([name, *map(str, arguments[:1])]))
        return getattr(base, name)(self, *arguments)

    return call


def _failing_executemany(failures: _Failures) -> Callable[..., object]:
    """Each row is a call: those before it have been inserted."""

    def call(self: sqlite3.Connection, sql: str, rows: Iterable[Any]) -> object:
        def met() -> Iterator[Any]:
            for row in rows:
                failures.meet(self, f"executemany {sql}")
                yield row

        return sqlite3.Connection.executemany(self, sql, met())

    return call


def _failing_exit(failures: _Failures) -> Callable[..., object]:
    """The end of ``with connection:``, which commits, or else rolls back."""

    def leave(self: sqlite3.Connection, kind: Any, error: Any, traceback: Any) -> object:
        if kind is None and self.in_transaction:
            try:
                failures.meet(self, "COMMIT")
            except sqlite3.Error:
                sqlite3.Connection.rollback(self)
                raise
        return sqlite3.Connection.__exit__(self, kind, error, traceback)

    return leave


def _failing_class(base: type[Any], failures: _Failures) -> Any:
    fetches = {name: _failing_method(sqlite3.Cursor, name, failures) for name in _FETCHES}
    cursor_class: Any = type("FailingCursor", (sqlite3.Cursor,), fetches)

    def cursor(self: sqlite3.Connection) -> sqlite3.Cursor:
        made = sqlite3.Connection.cursor(self, cursor_class)
        assert isinstance(made, sqlite3.Cursor)
        return made

    members: dict[str, object] = {
        "cursor": cursor,
        "executemany": _failing_executemany(failures),
        "__exit__": _failing_exit(failures),
    }
    members.update((name, _failing_method(base, name, failures)) for name in _METHODS)
    return type("FailingConnection", (base,), members)


@contextmanager
def failing_connections(faults: Faults, fault: SqliteFault) -> Iterator[None]:
    """During the body, connections of `sqlite3` are opened that fail, and so does opening one."""
    failures = _Failures(faults, fault)
    genuine = sqlite3.connect

    def connect(*arguments: Any, factory: type[Any] = sqlite3.Connection, **options: Any) -> object:
        failures.meet(None, "connect")
        return genuine(*arguments, factory=_failing_class(factory, failures), **options)

    with patch.object(sqlite3, "connect", connect):
        yield
