# SPDX-License-Identifier: MIT
"""The read sessions of one open log or reader: each lent to one use at a time, and what ends them all.

Between two pages a session is back here, so a stream that is not being read holds no statement, no
lock and no snapshot. No session is ever used by two threads at once: taking one from the list of spare
sessions is a single atomic operation. There is no lock, since a signal handler may read in the middle
of anything here.
"""

import contextlib
from collections.abc import Callable, Generator
from typing import Final, TypeVar

from .._storage.interface import ReadSession, Store
from .._storage.process_hooks import opened_before_fork, register
from .._values.errors import (
    ForkedError,
    LogClosedError,
    LogNotFoundError,
    OrchEventsError,
    ReadError,
)
from .commit_watcher import Bell

T = TypeVar("T")

_MOST_SPARE: Final = 4
"""Sessions kept open for the next query. In SQLite each costs two file descriptors, and opening one
0.2 ms."""


class ExitingError(LogClosedError):
    """Closed by the interpreter's end. A daemon thread that follows ends without complaint."""


class ReadSessions:
    """Lends read sessions to one log."""

    def __init__(
        self,
        store: Store,
        busy_timeout: float,
        must_exist: bool = True,
    ) -> None:
        self.store = store
        self.busy_timeout = busy_timeout
        self.bells: set[Bell] = set()
        """Those of all followers, which are rung at the close."""
        self._must_exist = must_exist
        self._spare: list[ReadSession] = []
        self._refusal: OrchEventsError | None = None
        register(self)

    @property
    def path(self) -> str:
        return self.store.path

    @contextlib.contextmanager
    def lend(self) -> Generator[ReadSession, None, None]:
        """A session for the body's use alone. One that met an error is not used again."""
        if self._refusal is not None:
            raise type(self._refusal)(str(self._refusal))
        session = self._take()
        try:
            yield session
        except BaseException:
            self._take_back(session, usable=False)
            raise
        self._take_back(session, usable=True)

    def _take(self) -> ReadSession:
        try:
            return self._spare.pop()
        except IndexError:  # asked by trying, since another thread may take the last one
            pass
        return self.store.open_for_reading(self.busy_timeout)

    def _take_back(self, session: ReadSession, usable: bool) -> None:
        if self.is_inherited:
            return
        if not usable:
            session.close()
            return
        self._spare.append(session)
        # Asked now that it is back, or a close at this moment would miss it.
        if self._refusal is not None:
            self.close_spare()
        elif len(self._spare) > _MOST_SPARE:
            self._close_one()

    def exists(self) -> bool:
        """Whether there is a log to read. `LogNotFoundError` if not, unless it may come later."""
        try:
            with self.lend():
                return True
        except LogNotFoundError:
            if self._must_exist:
                raise
            return False

    async def in_thread(self, read: Callable[[], T]) -> T:
        """What `read` returns, run in a thread of the event loop's executor.

        `ReadError` when no thread can be had.
        """
        import asyncio

        try:
            reading = asyncio.get_running_loop().run_in_executor(None, read)
        except RuntimeError as error:
            raise ReadError(f"{self.path}: no thread to read in: {error}", self.path) from error
        return await reading

    @property
    def closed(self) -> bool:
        """Whether `close` was called, or never will be because of a fork."""
        return self._refusal is not None

    @property
    def is_inherited(self) -> bool:
        """Whether this is the child of a fork: the sessions are the parent's."""
        return isinstance(self._refusal, ForkedError)

    def refuse_child(self) -> None:
        """`ForkedError` in the child of a fork."""
        if self.is_inherited:
            raise ForkedError(str(self._refusal))

    def close(self, refusal: type[LogClosedError] = LogClosedError) -> None:
        """Close the spare sessions; those that are lent are closed when they come back. Idempotent."""
        self.refuse_child()
        self._refusal = refusal(f"{self.path}: this log is closed")
        self.close_spare()
        for bell in self.bells.copy():
            bell()

    def close_spare(self) -> None:
        """So that the next session is a new one."""
        while self._close_one():
            pass

    def _close_one(self) -> bool:
        try:
            session = self._spare.pop()
        except IndexError:
            return False
        session.close()
        return True

    def exiting(self) -> None:
        self.close(ExitingError)

    def forked(self) -> None:
        self._refusal = opened_before_fork(self.path)
        self._spare = []  # nothing may close them
