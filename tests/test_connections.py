# SPDX-License-Identifier: MIT
"""No two threads are ever inside one connection, whatever a program does at once; and nobody stands still."""

import asyncio
import gc
import sqlite3
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any, Final
from unittest.mock import patch

import pytest

from orch_events import (
    Event,
    EventLog,
    EventReader,
    OrchEventsError,
    PrunedError,
    query_step_events,
)

from .helpers import PATIENCE, NewEvent, execute, start, together

BEATS: Final[list[NewEvent]] = [("t", None, "step_heartbeat", {"pid": n}) for n in range(50)]

METHODS: Final = ("execute", "executemany", "executescript", "commit", "rollback", "close")
METHODS_TOO: Final = ("setlimit", "getlimit", "set_authorizer", "set_progress_handler")
ATTRIBUTES: Final = ("total_changes", "in_transaction", "isolation_level", "text_factory")
FETCHES: Final = ("execute", "fetchone", "fetchmany", "fetchall", "close")


class Use:
    """Which thread is inside one connection, and a complaint whenever a second one enters."""

    def __init__(self, complaints: list[str]) -> None:
        self._inside: list[tuple[int, str]] = []
        self._complaints = complaints

    @contextmanager
    def by_this_thread(self, what: str) -> Iterator[None]:
        mine = threading.get_ident(), what
        for thread, other in self._inside.copy():
            if thread != mine[0]:
                self._complaints.append(f"{what}, while another thread is in {other}")
        self._inside.append(mine)
        try:
            yield
        finally:
            self._inside.remove(mine)


def guarded_method(base: type[Any], name: str) -> Callable[..., object]:
    def call(self: Any, *arguments: object, **options: object) -> object:
        with self.use.by_this_thread(name):
            return getattr(base, name)(self, *arguments, **options)

    return call


def guarded_attribute(base: type[Any], name: str) -> property:
    def read(self: Any) -> object:
        with self.use.by_this_thread(name):
            return getattr(base, name).__get__(self)

    def write(self: Any, value: object) -> None:
        with self.use.by_this_thread(name):
            getattr(base, name).__set__(self, value)

    return property(read, write)


@contextmanager
def guarded_connections() -> Iterator[list[str]]:
    """Complaints about the connections opened during the body: of two threads inside one at once."""
    complaints: list[str] = []
    genuine = sqlite3.connect
    methods = {name: guarded_method(sqlite3.Cursor, name) for name in FETCHES}
    cursor_class = type("GuardedCursor", (sqlite3.Cursor,), methods)

    def cursor(self: Any) -> sqlite3.Cursor:
        made: Any = sqlite3.Connection.cursor(self, cursor_class)
        made.use = self.use
        assert isinstance(made, sqlite3.Cursor)
        return made

    def connect(*arguments: Any, factory: type[Any] = sqlite3.Connection, **options: Any) -> object:
        members: dict[str, object] = {"cursor": cursor, "use": Use(complaints)}
        for name in METHODS + METHODS_TOO:
            members[name] = guarded_method(factory, name)
        for name in ATTRIBUTES:
            members[name] = guarded_attribute(factory, name)
        guarded: Any = type("GuardedConnection", (factory,), members)
        return genuine(*arguments, factory=guarded, **options)

    with patch.object(sqlite3, "connect", connect):
        yield complaints


def test_the_guard_sees_what_it_is_for(path: Path) -> None:
    with guarded_connections() as complaints:
        connection = sqlite3.connect(path, check_same_thread=False)
        entered = threading.Event()
        left = threading.Event()

        def wait() -> None:
            entered.set()
            left.wait(PATIENCE)

        connection.create_function("wait", 0, wait)
        other = start(lambda: connection.execute("SELECT wait()").fetchall())
        entered.wait(PATIENCE)
        assert isinstance(
            connection.isolation_level, str
        )  # which, unlike others, waits for nothing
        left.set()
        other.result(PATIENCE)
        connection.close()
    assert len(complaints) == 1
    assert complaints[0].startswith("isolation_level, while another thread is in ")


def appends(log: EventLog, until: float) -> None:
    while time.monotonic() < until:
        log.insert_events(BEATS)
        log.submit_event("t", None, "step_heartbeat", {}).result(PATIENCE)


def opens_and_queries(path: Path, until: float) -> None:
    while time.monotonic() < until:
        with EventReader(path) as reader:
            with suppress(PrunedError):
                reader.query_step_events("t")
            reader.stats()


def follows(log: EventLog, until: float) -> None:
    while time.monotonic() < until:
        with suppress(PrunedError):
            for _ in log.follow_step_events("t", timeout=0.01):
                if time.monotonic() > until:
                    break


def follows_on_a_loop(log: EventLog, until: float) -> None:
    async def follow() -> None:
        while time.monotonic() < until:
            with suppress(PrunedError):
                async for _ in log.follow_events_async("t", timeout=0.01):
                    if time.monotonic() > until:
                        break
                await log.query_step_events_async("t")

    asyncio.run(follow())


def cleans(log: EventLog, until: float) -> None:
    while time.monotonic() < until:
        log.cleanup(older_than=timedelta(seconds=0.05), keep_last=100, only_finished=False)
        time.sleep(0.02)


def opens_and_forgets(path: Path, until: float) -> None:
    while time.monotonic() < until:
        reader = EventReader(path)
        reader.query_latest_step_log_paths("t")
        log = EventLog(path)
        log.submit_event("t", None, "step_heartbeat", {})
        del reader, log
        gc.collect()


def closes_in_the_midst(path: Path, until: float) -> None:
    while time.monotonic() < until:
        log = EventLog(path)
        stream = log.follow_events("t")
        following = start(partial(list[Event], stream))
        appending = start(partial(log.insert_events, BEATS))
        time.sleep(0.002)
        log.close()
        with suppress(OrchEventsError):
            following.result(PATIENCE)
        with suppress(OrchEventsError):
            appending.result(PATIENCE)


def test_no_two_threads_are_ever_inside_one_connection(path: Path) -> None:
    until = time.monotonic() + 0.3
    with guarded_connections() as complaints, warnings.catch_warnings(), EventLog(path) as log:
        warnings.simplefilter("ignore", ResourceWarning)
        log.insert_events(BEATS)
        together(
            lambda: appends(log, until),
            lambda: appends(log, until),
            lambda: opens_and_queries(path, until),
            lambda: opens_and_queries(path, until),
            lambda: follows(log, until),
            lambda: follows_on_a_loop(log, until),
            lambda: cleans(log, until),
            lambda: opens_and_forgets(path, until),
            lambda: closes_in_the_midst(path, until),
        )
        gc.collect()
    assert not complaints, set(complaints)


# --------------------------------------------------------------------------------------------------------------- stalls


def longest_stall(path: Path, seconds: float, *others: Callable[[float], object]) -> float:
    """Two threads append batches and three open readers and ask, beside `others`; for how long at most, in seconds, a
    thread that wants to run ten times in a tenth of a second did not."""
    until = time.monotonic() + seconds
    longest = 0.0

    def insert_batches(log: EventLog) -> None:
        while time.monotonic() < until:
            log.insert_events(BEATS)

    def query() -> None:
        while time.monotonic() < until:
            assert query_step_events(path, "t")
            with EventReader(path) as reader:
                assert list(reader.query_events("t", limit=100))

    def beat() -> None:
        nonlocal longest
        before = time.monotonic()
        while before < until:
            time.sleep(0.01)
            now = time.monotonic()
            longest = max(longest, now - before)
            before = now

    with ExitStack() as stack:
        log = stack.enter_context(EventLog(path))
        log.insert_events(BEATS)
        jobs: list[Callable[[], object]] = [beat, query, query, query]
        jobs += [lambda: insert_batches(log)] * 2
        jobs += [partial(other, until) for other in others]
        ended = [start(job) for job in jobs]
        for end in ended:
            end.result(seconds + PATIENCE)
    return longest


def change_tables(path: Path) -> Callable[[float], None]:
    """A host that makes tables in the file and drops them."""

    def change(until: float) -> None:
        while time.monotonic() < until:
            execute(path, "CREATE TABLE mine(x)", "CREATE INDEX my_index ON mine(x)")
            execute(path, "DROP TABLE mine")

    return change


def test_appending_and_opening_go_on_side_by_side(path: Path) -> None:
    longest_stall(path, 0.3)


@pytest.mark.long
@pytest.mark.parametrize("schema_changes", [False, True], ids=["alone", "beside a changing schema"])
def test_no_thread_stands_still_while_others_append_and_open(
    path: Path, schema_changes: bool
) -> None:
    others = [change_tables(path)] if schema_changes else []
    stall = longest_stall(path, 60.0, *others)
    print(f"longest stall: {stall:.3f} s")
    assert stall < PATIENCE / 10
