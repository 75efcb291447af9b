# SPDX-License-Identifier: MIT
"""Following files that come and go: not there yet, removed, replaced, locked, or closed by whoever opened them."""

import os
import sqlite3
import sys
import threading
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Final

import pytest

from orch_events import (
    EventLog,
    EventReader,
    LogClosedError,
    LogNotFoundError,
    ReadError,
    WriteError,
    insert_event_with_conn,
)

from .following import (
    BEAT,
    END,
    OTHER,
    Beside,
    Follow,
    Way,
    follow,
    follow_sync,
    ids,
    nobody_stays,
    restless,
    waking,
    way,
    woken_each_time,
)
from .helpers import PATIENCE, execute, write_locked

__all__ = ["follow", "nobody_stays", "restless", "waking", "way"]  # fixtures

NOT_WINDOWS: Final = pytest.mark.skipif(
    sys.platform == "win32", reason="an open file cannot be removed there"
)

# ------------------------------------------------------------------------------------------- files that come and go


def nothing(_path: Path) -> None:
    """There is no file."""


def no_folder(path: Path) -> None:
    path.parent.rmdir()


def empty(path: Path) -> None:
    path.touch()


def half_created(path: Path) -> None:
    execute(path, "PRAGMA journal_mode=WAL")


@pytest.mark.parametrize("before", [nothing, no_folder, empty, half_created])
def test_a_log_that_does_not_exist_yet(
    tmp_path: Path, before: Callable[[Path], None], way: Way
) -> None:
    path = tmp_path / "folder" / "events.db"
    path.parent.mkdir()
    before(path)
    with pytest.raises(LogNotFoundError):
        EventReader(path)
    with EventReader(path, must_exist=False) as reader:
        with pytest.raises(LogNotFoundError):
            reader.query_step_events("t")
        assert ids(way(reader)(timeout=0)) == ids(way(reader)(timeout=0.15)) == []
        stop = threading.Event()
        stopped = Beside(reader.follow_events(stop=stop))
        follower = Beside(way(reader)("t", until_finished=True))
        stop.set()
        assert stopped.end() == []
        path.parent.mkdir(exist_ok=True)
        with EventLog(path) as log:
            log.insert_event(*BEAT)
            assert follower.saw(1) == [1]
            log.insert_events([BEAT, END])
            assert follower.end() == [1, 2, 3]


def test_a_task_that_does_not_exist_yet(follow: Follow, log: EventLog) -> None:
    follower = Beside(follow("t", until_finished=True))
    follower.asleep()
    log.insert_event(*OTHER)
    follower.asleep()
    log.insert_events([OTHER, BEAT, END])
    assert follower.end() == [3, 4]


def test_a_log_may_be_followed_through_a_link(log: EventLog, path: Path, way: Way) -> None:
    link = path.with_name("link.db")
    link.symlink_to(path)
    with EventReader(link) as reader:
        woken_each_time(Beside(way(reader)("t", until_finished=True)), log)


def deleted(path: Path) -> None:
    path.unlink()


def replaced(path: Path) -> None:
    other = path.with_name("other.db")
    with EventLog(other) as log:
        log.insert_events([BEAT] * 100)
    os.replace(other, path)


def moved(path: Path) -> None:
    path.rename(path.with_name("moved.db"))


def remade(path: Path) -> None:
    """As by hand: everything of the log is removed, and another put in its place."""
    other = path.with_name("other.db")
    with EventLog(other) as log:
        log.insert_events([BEAT] * 3)
    for suffix in ("", "-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)
    other.rename(path)


@NOT_WINDOWS
@pytest.mark.usefixtures("waking")
@pytest.mark.parametrize("change", [deleted, replaced, moved, remade])
def test_a_file_that_goes_away_ends_it_with_an_error(
    follow: Follow, log: EventLog, path: Path, change: Callable[[Path], None]
) -> None:
    log.insert_events([BEAT, BEAT])
    waiting = [Beside(follow()) for _ in range(6)]
    parked = follow(after_id=1)
    half_read = follow()
    next(parked)
    next(half_read)
    for follower in waiting:
        follower.saw(2)
        follower.asleep()
    change(path)
    ends = [(follower, [1, 2]) for follower in waiting] + [
        (Beside(parked), []),
        (Beside(half_read), [2]),
    ]
    for follower, seen in ends:
        with pytest.raises(ReadError, match="deleted or replaced") as caught:
            follower.end(PATIENCE / 6)
        assert caught.value.path == str(path)
        assert follower.seen == seen, "and nothing of another file"


@pytest.mark.long
@NOT_WINDOWS
def test_a_file_that_was_replaced_before_it_was_followed(path: Path, way: Way) -> None:
    """An old handle must not go on with the file that is gone; either answer will do but silence."""
    EventLog(path).close()
    with EventReader(path) as reader:
        assert list(reader.query_events()) == []
        remade(path)
        follower = Beside(way(reader)(timeout=1))
        try:
            assert follower.end() == [1, 2, 3]
        except ReadError:
            assert follower.seen == []


@NOT_WINDOWS
@pytest.mark.usefixtures("waking")
@pytest.mark.parametrize("waking", ["polling"], indirect=True)
@pytest.mark.parametrize(
    "tick", [0.001, pytest.param(1.0, marks=pytest.mark.long)], ids=["noticed", "not noticed yet"]
)
def test_a_follower_of_a_file_that_is_gone_is_no_harm_to_others(
    path: Path, way: Way, tick: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    with EventLog(path) as log:
        log.insert_event(*BEAT)
    with EventReader(path) as old:
        monkeypatch.setattr("orch_events._core.commit_watcher.TICK", tick)
        parked = way(old)()
        next(parked)
        remade(path)
        with EventLog(path) as log, EventReader(path) as reader:
            followers = [
                Beside(way(queries)("t", until_finished=True)) for queries in (log, reader)
            ]
            for follower in followers:
                assert follower.saw(3) == [1, 2, 3]
                follower.asleep()
            log.insert_event(*END)
            assert [follower.end() for follower in followers] == [[1, 2, 3, 4]] * 2
        with pytest.raises(ReadError):
            next(parked)


@NOT_WINDOWS
def test_no_other_file_is_opened_in_the_place_of_one_in_use(path: Path) -> None:
    """SQLite would truncate the ``-shm`` file that it has mapped, and the process would die of SIGBUS."""
    with EventLog(path) as log:
        log.insert_event(*BEAT)
        replaced(path)
        with pytest.raises(WriteError, match="deleted or replaced while in use"):
            EventLog(path)
        with pytest.raises(ReadError, match="deleted or replaced while in use"):
            EventReader(path)
        assert log.insert_event(*BEAT) == 2


# ---------------------------------------------------------------------------------------------------- a busy database


def test_a_held_write_lock_holds_no_reader_up(follow: Follow, log: EventLog, path: Path) -> None:
    log.insert_event(*BEAT)
    with write_locked(path):
        assert ids(follow(timeout=0)) == [1]
        follower = Beside(follow("t", until_finished=True))
        assert follower.saw(1) == [1]
        follower.asleep()
    log.insert_event(*END)
    assert follower.end() == [1, 2]


@pytest.mark.parametrize("moment", ["before it starts", "while it waits"])
@pytest.mark.usefixtures("restless")
def test_a_locked_database_is_waited_out(path: Path, way: Way, moment: str) -> None:
    """Without a write-ahead log, as a host application may have it, a writer locks everybody out."""
    with EventLog(path) as log:
        log.insert_event(*BEAT)
    execute(path, "PRAGMA journal_mode=DELETE")
    with (
        EventReader(path, busy_timeout=PATIENCE) as reader,
        closing(sqlite3.connect(path, timeout=PATIENCE, isolation_level=None)) as other,
    ):
        if moment == "before it starts":
            other.execute("BEGIN EXCLUSIVE")
        follower = Beside(way(reader)("t", until_finished=True))
        if moment == "while it waits":
            follower.saw(1)
            follower.asleep()
            other.execute("BEGIN EXCLUSIVE")
        insert_event_with_conn(other, *BEAT)
        time.sleep(0.05)  # as long as fifty looks
        insert_event_with_conn(other, *BEAT)
        insert_event_with_conn(other, *BEAT)
        other.execute("COMMIT")
        follower.saw(4)
        follower.asleep()
        insert_event_with_conn(other, *END)
        assert follower.end() == [1, 2, 3, 4, 5]


@NOT_WINDOWS
def test_stop_and_timeout_hold_while_the_file_is_awaited(path: Path) -> None:
    with EventReader(path, must_exist=False) as reader:
        stop = threading.Event()
        followers = [
            Beside(follow_sync(reader)(timeout=0.3)),
            Beside(reader.follow_step_events("t", stop=stop)),
        ]
        stop.set()
        assert [follower.end() for follower in followers] == [[], []]
        assert not path.exists(), "a reader creates nothing"


# ------------------------------------------------------------------------------------------------------------- closed


@pytest.mark.parametrize("kind", [EventLog, EventReader])
@pytest.mark.usefixtures("waking")
def test_closing_ends_every_follower(
    path: Path, way: Way, kind: type[EventLog] | type[EventReader]
) -> None:
    with EventLog(path) as log, kind(path) as queries:
        log.insert_events([BEAT] * 3)
        stop = threading.Event()
        waiting, timed = (
            Beside(way(queries)()),
            Beside(way(queries)("t", after_id=1, timeout=PATIENCE)),
        )
        stoppable = Beside(queries.follow_step_events("t", after_id=2, stop=stop))
        parked = way(queries)(after_id=2)
        assert next(parked).event_id == 3
        for count, follower in ((3, waiting), (2, timed), (1, stoppable)):
            follower.saw(count)
            follower.asleep()
        queries.close()
        try:
            for follower in (waiting, timed, stoppable, Beside(parked), Beside(way(queries)())):
                with pytest.raises(LogClosedError):
                    follower.end(PATIENCE / 6)
        finally:  # should they have slept through it
            stop.set()
            log.insert_event(*END)
