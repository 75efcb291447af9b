# SPDX-License-Identifier: MIT
"""Files and folders that others had their hands in: read right, or refused with a reason."""

import asyncio
import gc
import os
import signal
import sqlite3
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from types import FrameType
from typing import Final

import pytest

from orch_events import (
    Event,
    EventLog,
    EventReader,
    LogClosedError,
    SchemaError,
    StepEvent,
    TaskSummary,
    WriteError,
)
from orch_events._storage.interface import MAX_ID, Selection
from orch_events._storage.sqlite.connections import open_for_reading
from orch_events._storage.sqlite.reading import read_page
from orch_events._storage.sqlite.statements import fetch_all
from orch_events.cli.arguments import is_log

from .following import BEAT, Beside, descriptors, ids, nobody_stays, watchers
from .helpers import PATIENCE, execute, run_script, stored, wait_until, write_connection

__all__ = ["nobody_stays"]  # a fixture

ENDLESS: Final = "WITH RECURSIVE k(n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM k) SELECT n FROM k"
POSIX: Final = pytest.mark.skipif(os.name != "posix", reason="has no such permissions")


@pytest.mark.parametrize("name", ["orch_events_pruned", "ORCH_EVENTS_SCHEMA", "events"])
@pytest.mark.parametrize("kind", [EventLog, EventReader])
def test_a_view_in_the_place_of_a_table_is_refused_unread(
    path: Path, name: str, kind: type[EventLog] | type[EventReader]
) -> None:
    EventLog(path).close()
    execute(path, f"DROP TABLE IF EXISTS {name}", f"CREATE VIEW {name} AS {ENDLESS}")
    with pytest.raises(SchemaError, match=f"'{name.lower()}' is a view, not a table"):
        kind(path)


def test_a_view_made_while_it_is_read_is_not_looked_into(log: EventLog, path: Path) -> None:
    log.insert_event(*BEAT)
    with EventReader(path) as reader:
        execute(path, f"CREATE VIEW orch_events_pruned AS {ENDLESS}")
        assert ids(reader.query_events()) == [1]
        assert len(reader.query_step_events("t", after_id=0)) == 1


COLUMNS: Final = """id INTEGER PRIMARY KEY, {task_id}, task_item_id TEXT, {event_type},
    payload_json TEXT, created_at TEXT"""


def table(
    more: str = "", task_id: str = "task_id TEXT", event_type: str = "event_type TEXT"
) -> str:
    columns = COLUMNS.format(task_id=task_id, event_type=event_type)
    return f"CREATE TABLE events({columns}{more})"


INSERT: Final = """INSERT INTO events(id, task_id, event_type, payload_json, created_at)
    VALUES (1, 't', 'step_started', '{"step": "qa"}', '2026-01-01')"""


def test_the_summary_of_a_task_is_text_where_the_table_holds_null(path: Path) -> None:
    execute(path, table(), "INSERT INTO events(id, task_id) VALUES (1, 't'), (2, NULL)")
    with EventReader(path) as reader:
        assert reader.query_tasks() == [TaskSummary("t", 1, 1, "", 1, "", "", "unknown")]
        assert reader.stats().event_types == {"": 2}


@pytest.mark.parametrize("kept", ["VIRTUAL", "STORED"])
def test_a_table_that_generates_a_column_can_be_read_only(path: Path, kept: str) -> None:
    step = f", step TEXT GENERATED ALWAYS AS (json_extract(payload_json, '$.step')) {kept}"
    execute(path, table(step), INSERT)
    with EventReader(path) as reader:
        assert [event.step for event in reader.query_step_events("t")] == ["qa"]
    with pytest.raises(SchemaError, match=r"events\.step is generated"):
        EventLog(path)


def test_a_host_may_use_any_function_of_sqlites_in_its_schema(path: Path) -> None:
    execute(
        path,
        "CREATE TABLE mine(json TEXT CHECK (json_valid(json)), a GENERATED ALWAYS AS (json_extract(json, '$.a')))",
        "CREATE INDEX my_index ON mine(json_extract(json, '$.b'))",
    )
    with EventLog(path) as log:
        assert log.insert_event(*BEAT) == 1
        assert ids(log.query_events()) == [1]


@pytest.mark.parametrize("collation", ["NOCASE", "RTRIM", "hosts_own"])
@pytest.mark.parametrize("column", ["task_id", "event_type"])
@pytest.mark.parametrize("kind", [EventLog, EventReader])
def test_a_collation_that_makes_texts_equal_is_refused(
    path: Path, column: str, collation: str, kind: type[EventLog] | type[EventReader]
) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as host:
        host.create_collation("hosts_own", lambda one, other: 0)
        declared = f"{column} TEXT COLLATE {collation}"
        host.execute(table(**{column: declared}))
        host.execute(INSERT)
    with pytest.raises(SchemaError, match=rf"events\.{column} has a collation"):
        kind(path)


def test_collations_of_other_columns_are_the_hosts_business(path: Path) -> None:
    execute(path, table(", title TEXT COLLATE NOCASE", task_id="task_id TEXT COLLATE BINARY"))
    with EventLog(path) as log:
        log.insert_event("a", None, "x", {})
        log.insert_event("A", None, "x", {})
        assert ids(log.query_events("A")) == [2]


@pytest.mark.parametrize("declared", ["INTEGER", "UUID", "REAL"])
def test_a_column_that_makes_numbers_of_texts_is_not_written_to(path: Path, declared: str) -> None:
    execute(path, table(task_id=f"task_id {declared}"), INSERT)
    with EventReader(path) as reader:
        assert ids(reader.query_events("t")) == [1]
    with pytest.raises(SchemaError, match=f"declared {declared}"):
        EventLog(path)


@pytest.mark.parametrize("declared", ["VARCHAR(36)", "", "BLOB", "NTEXT"])
def test_a_column_that_keeps_texts_is_written_to(path: Path, declared: str) -> None:
    execute(path, table(task_id=f"task_id {declared}"))
    with EventLog(path) as log:
        log.insert_event("007", None, "x", {})
    assert [row.task_id for row in stored(path)] == ["007"]


# ---------------------------------------------------------------------------------------------------- long statements


@POSIX
@pytest.mark.parametrize("error", [TimeoutError, KeyboardInterrupt])
def test_a_long_statement_lets_a_signal_handler_raise(
    path: Path, error: type[BaseException]
) -> None:
    EventLog(path).close()

    def handle(_signal: int, _frame: FrameType | None) -> None:
        raise error("of the handler")

    usual = signal.signal(signal.SIGALRM, handle)
    try:
        with closing(open_for_reading(str(path), 1.0)) as connection:
            for sql in (
                f"SELECT count(*) FROM ({ENDLESS})",
                f"SELECT n FROM ({ENDLESS}) WHERE n < 0",
            ):
                signal.setitimer(signal.ITIMER_REAL, 0.05)
                with pytest.raises(error, match="of the handler"):
                    fetch_all(connection, sql)
            assert fetch_all(connection, "SELECT count(*) FROM events") == [(0,)]
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, usual)


# ------------------------------------------------------------------------------------------------------ links and disks


@POSIX
@pytest.mark.parametrize("links", [1, 2])
def test_a_log_created_through_a_dangling_link_is_its_owners_alone(
    tmp_path: Path, links: int
) -> None:
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    real = link = folder / "real.db"
    for n in range(links):
        link, target = tmp_path / f"link{n}.db", link
        link.symlink_to(target)
    before = os.umask(0)
    try:
        with EventLog(link) as log:
            log.insert_event(*BEAT)
            modes = {name.name: name.stat().st_mode & 0o777 for name in folder.iterdir()}
    finally:
        os.umask(before)
    assert modes == dict.fromkeys(("real.db", "real.db-wal", "real.db-shm"), 384)
    assert len(stored(real)) == 1


@POSIX
def test_a_log_behind_a_link_is_watched_and_measured_where_it_is(
    log: EventLog, path: Path, tmp_path: Path
) -> None:
    link = tmp_path / "link.db"
    link.symlink_to(path)
    log.insert_event(*BEAT)
    wal = path.with_name(path.name + "-wal")
    with EventReader(link) as reader:
        assert reader.stats().wal_bytes == wal.stat().st_size > 0
        follower = Beside(reader.follow_events())
        follower.saw(1)
        if sys.platform == "linux":
            wait_until(lambda: {path.stat().st_ino, wal.stat().st_ino} <= watched_inodes())
    with pytest.raises(LogClosedError):
        follower.end()


def watched_inodes() -> set[int]:
    """What this process has asked inotify to watch."""
    found: set[int] = set()
    for file in Path("/proc/self/fdinfo").iterdir():
        with suppress(OSError):
            for line in file.read_text().splitlines():
                if line.startswith("inotify "):
                    found.add(int(line.partition("ino:")[2].split()[0], 16))
    return found


@POSIX
@pytest.mark.parametrize("mode", [0o755, 0o775, 0o777, 0o1777])
def test_a_folder_that_every_user_may_write_to_is_warned_of_once(
    tmp_path: Path, path: Path, mode: int, caplog: pytest.LogCaptureFixture
) -> None:
    tmp_path.chmod(mode)
    try:
        with EventLog(path), EventReader(path):
            pass
    finally:
        tmp_path.chmod(0o700)
    warned = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert len(warned) == (mode & 0o002 != 0)
    assert all(f"{path}: every user of this machine may put files" in text for text in warned)


@POSIX
def test_the_wal_of_a_log_behind_a_link_is_known_to_be_the_logs(
    log: EventLog, path: Path, tmp_path: Path
) -> None:
    link = tmp_path / "link.db"
    link.symlink_to(path)
    log.insert_event(*BEAT)
    for name in (path, link, path.with_name(path.name + "-wal")):
        assert is_log(str(name), str(link))


def test_a_full_disk_is_told_with_what_is_left(log: EventLog) -> None:
    connection = write_connection(log)
    (pages,) = connection.execute("PRAGMA page_count").fetchone()
    connection.execute(f"PRAGMA max_page_count={pages}")
    with pytest.raises(WriteError, match=r"full \([\d,]+ bytes free on its file system\)"):
        log.insert_event("t", None, "big", {"text": "x" * 100_000})


def test_where_ctypes_is_missing_followers_look_by_themselves(
    log: EventLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ctypes", None)
    follower = Beside(log.follow_events())
    for n in range(3):
        log.insert_event(*BEAT)
        assert len(follower.saw(n + 1)) == n + 1
    log.close()
    with pytest.raises(LogClosedError):
        follower.end()


# --------------------------------------------------------------------------------------------------------- one's owner


@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.parametrize("kind", [EventLog, EventReader])
def test_an_iterator_keeps_what_it_came_from(
    path: Path, kind: type[EventLog] | type[EventReader]
) -> None:
    with EventLog(path) as log:
        log.insert_events([("t", None, "step_started", {})] * 3)

    async def collect() -> list[int]:
        found = [event.event_id async for event in kind(path).query_events_async("t")]
        found += [e.event_id async for e in kind(path).follow_step_events_async("t", timeout=0)]
        return found + [e.event_id async for e in kind(path).follow_events_async("t", timeout=0)]

    iterators: list[Iterator[Event] | Iterator[StepEvent]] = [
        kind(path).query_events("t"),
        kind(path).follow_events("t", timeout=0),
        kind(path).follow_step_events("t", timeout=0),
    ]
    gc.collect()
    assert [ids(iterator) for iterator in iterators] == [[1, 2, 3]] * 3
    assert asyncio.run(collect()) == [1, 2, 3] * 3


# ---------------------------------------------------------------------------------------------------------------- ends


def test_a_connection_lent_when_the_reader_closes_is_closed(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    EventLog(path).close()
    reader = EventReader(path)
    genuine: Callable[..., object] = fetch_all

    def close_meanwhile(*arguments: object) -> object:
        reader.close()
        return genuine(*arguments)

    monkeypatch.setattr("orch_events._storage.sqlite.reading.fetch_all", close_meanwhile)
    assert list(reader.query_events()) == []
    assert not [name for name in descriptors() if name.startswith(str(path))]


def test_following_what_replaced_a_file_leaves_nothing_of_the_old_one_open(
    path: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other.db"
    for place, count in ((path, 1), (other, 2)):
        with EventLog(place) as log:
            log.insert_events([BEAT] * count)
    with EventReader(path) as reader:
        assert ids(reader.query_events()) == [1]
        path.unlink()
        for end in ("-wal", "-shm"):
            path.with_name(path.name + end).unlink(missing_ok=True)
        other.rename(path)
        assert ids(reader.follow_events(timeout=0)) == [1, 2]
        gone = [name for name in descriptors() if name.endswith("(deleted)")]
        assert not [name for name in gone if name.startswith(str(path))]


def test_what_comes_to_follow_at_the_interpreters_end_keeps_it_from_nothing(
    tmp_path: Path, path: Path
) -> None:
    """A daemon thread that follows again, with a reader of its own, whenever it is told that the program ends."""
    program = """
        import sys, threading, time
        from orch_events import Event, EventLog, EventReader, StepEvent, OrchEventsError
        path = sys.argv[1]
        EventLog(path).close()
        waiting = threading.Event()
        def follow():
            while True:
                try:
                    reader = EventReader(path)
                    waiting.set()
                    for _ in reader.follow_events():
                        pass
                except (OrchEventsError, RuntimeError):
                    pass
        for _ in range(4):
            threading.Thread(target=follow, daemon=True).start()
        waiting.wait()
        time.sleep(0.2)
    """
    run_script(
        tmp_path, program, path, options=("-W", "ignore::ResourceWarning"), patience=PATIENCE
    )


def test_the_watcher_of_a_new_file_is_shared_also_when_that_of_the_old_one_ends_later(
    path: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other.db"
    for place in (path, other):
        with EventLog(place) as log:
            log.insert_event(*BEAT)
    with EventReader(path) as old:
        waiting = old.follow_step_events("t")
        next(waiting)
        (old_watcher,) = watchers()
        for end in ("-wal", "-shm"):
            path.with_name(path.name + end).unlink(missing_ok=True)
        other.rename(path)
        with EventLog(path) as reader:
            second = Beside(reader.follow_events())
            assert second.saw(1) == [1]
            second.asleep()
            (new_watcher,) = set(watchers()) - {old_watcher}
            del waiting
            gc.collect()
            wait_until(lambda: watchers() == [new_watcher])
            third = Beside(reader.follow_events())
            assert third.saw(1) == [1]
            third.asleep()
            assert watchers() == [new_watcher]
        for follower in (second, third):
            with pytest.raises(LogClosedError):
                follower.end()


def set_page_bytes(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    for module in ("connections", "reading"):
        monkeypatch.setattr(f"orch_events._storage.sqlite.{module}.PAGE_BYTES", count)


@pytest.mark.parametrize("limit", range(1, 8))
def test_rows_too_big_for_one_page_are_all_read_with_any_limit(
    path: Path, monkeypatch: pytest.MonkeyPatch, limit: int
) -> None:
    set_page_bytes(monkeypatch, 5000)
    with EventLog(path) as log:
        log.insert_events([("t", None, "x", {"text": "x" * 4000})] * 8)
        assert ids(log.query_events(limit=limit)) == list(range(1, limit + 1))


def test_after_a_huge_row_pages_are_bounded_as_before(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_page_bytes(monkeypatch, 5000)
    with EventLog(path) as log:
        log.insert_events([("t", None, "x", {"text": "x" * size}) for size in (9000, 10)])
    with closing(open_for_reading(str(path), 1.0)) as connection:
        assert read_page(connection, Selection(), 0, MAX_ID, 1).ids == [1]
        assert connection.getlimit(sqlite3.SQLITE_LIMIT_LENGTH) == 5000
