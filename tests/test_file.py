# SPDX-License-Identifier: MIT
"""The file: whose it may be, what becomes of it when it is opened, and how it is asked."""

import os
import re
import shutil
import sqlite3
import stat
import sys
from collections.abc import Callable
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Final

import pytest

from orch_events import EventLog, EventReader, ReadError, SchemaError, StepLogPaths, WriteError

from .helpers import (
    PATIENCE,
    all_statements,
    execute,
    run_script,
    start,
    stored,
    traced,
    wait_until,
    write_connection,
)

EVENTS: Final = """
CREATE TABLE events(id INTEGER PRIMARY KEY AUTOINCREMENT, task_id TEXT NOT NULL, task_item_id TEXT,
    event_type TEXT NOT NULL, payload_json TEXT NOT NULL, created_at TEXT NOT NULL{promoted})
"""
ROWS: Final = """
INSERT INTO events(task_id, task_item_id, event_type, payload_json, created_at) VALUES
    ('t', 'i', 'step_started', '{"phase":"qa","step_scope":"item","stdout_path":"out"}', '2026-01-01T00:00:00Z'),
    ('t', NULL, 'cycle_started', '{"step":"plan","step_scope":7,"cycle":3}', '2026-01-01T00:00:01Z'),
    ('t', NULL, 'step_finished', 'not JSON', '2026-01-01T00:00:02Z'),
    ('u', NULL, 'task_started', '{"cycle":true}', '2026-01-01T00:00:03Z')
"""
OLD: Final = (EVENTS.format(promoted=""), ROWS)
REFERENCE: Final = (
    EVENTS.format(promoted=", step TEXT, step_scope TEXT, cycle INTEGER"),
    ROWS,
    "CREATE INDEX idx_events_task_created_at ON events(task_id, created_at)",
    "CREATE INDEX idx_events_task_type_step ON events(task_id, event_type, step)",
    "CREATE TABLE schema_migrations(version INTEGER PRIMARY KEY, name TEXT)",
    "INSERT INTO schema_migrations VALUES (17, 'm0017')",
    "CREATE TABLE tasks(id TEXT PRIMARY KEY, events TEXT)",
    "INSERT INTO tasks VALUES ('t', 'many')",
    "PRAGMA user_version=4711",
    "PRAGMA application_id=1234567",
)


def columns(path: Path) -> list[tuple[object, ...]]:
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute(
            "SELECT step, step_scope, cycle FROM events ORDER BY id"
        ).fetchall()


# ----------------------------------------------------------------------------------------------- other people's files


@pytest.mark.parametrize("mode", ["delete", "wal"])
def test_a_file_of_the_reference_stays_its_own(path: Path, mode: str) -> None:
    execute(path, f"PRAGMA journal_mode={mode}", *REFERENCE)
    with EventReader(path) as reader:
        before = reader.query_step_events("t")
    with EventLog(path) as log:
        assert log.insert_event("t", None, "step_skipped", {"step": "qa"}) == 5
        assert log.query_step_events("t")[:3] == before
        assert [event.step for event in before] == ["qa", "plan", None]
        assert log.query_latest_step_log_paths("t") == StepLogPaths("qa", "out", "")
    with closing(sqlite3.connect(path)) as connection:
        for pragma, value in {"user_version": 4711, "application_id": 1234567}.items():
            assert connection.execute(f"PRAGMA {pragma}").fetchone() == (value,)
        assert connection.execute("SELECT * FROM schema_migrations").fetchall() == [(17, "m0017")]
        assert connection.execute("SELECT * FROM tasks").fetchall() == [("t", "many")]
        names = connection.execute(
            "SELECT name FROM sqlite_master WHERE name NOT LIKE 'sqlite%'"
        ).fetchall()
    own = {name for (name,) in names if not name.startswith("orch_events_")}
    assert own == {
        "events",
        "idx_events_task_created_at",
        "idx_events_task_type_step",
        "schema_migrations",
        "tasks",
    }


def test_a_host_application_keeps_its_tables(path: Path) -> None:
    execute(path, "CREATE TABLE mine(x)", "INSERT INTO mine VALUES (1)", "PRAGMA user_version=3")
    path.chmod(0o640)
    with EventLog(path) as log:
        assert log.insert_event("t", None, "x", {}) == 1
        execute(path, "INSERT INTO mine VALUES (2)")
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT x FROM mine").fetchall() == [(1,), (2,)]
        assert connection.execute("PRAGMA user_version").fetchone() == (3,)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


def test_an_old_file_is_read_as_it_is_and_brought_up_to_date_when_written(path: Path) -> None:
    execute(path, *OLD)
    before = path.read_bytes()
    with EventReader(path) as reader:
        old = (
            reader.query_step_events("t"),
            list(reader.query_events()),
            reader.query_latest_step_log_paths("t"),
        )
    assert path.read_bytes() == before
    with EventLog(path) as log:
        assert (
            log.query_step_events("t"),
            list(log.query_events()),
            log.query_latest_step_log_paths("t"),
        ) == old
        assert log.insert_event("t", None, "x", {"cycle": -1}) == 5
    nothing = (None, None, None)
    assert columns(path) == [
        ("qa", "item", None),
        ("plan", None, 3),
        nothing,
        nothing,
        (None, None, -1),
    ]


def test_an_old_file_is_brought_up_to_date_whole_or_not_at_all(path: Path) -> None:
    many = (
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 2500) SELECT i FROM n"
    )
    execute(
        path,
        *OLD,
        f"INSERT INTO events SELECT NULL, 't', NULL, 'x', '{{\"step\":\"s\"}}', 'now' FROM ({many})",
    )
    execute(
        path,
        "CREATE TRIGGER stop BEFORE UPDATE ON events WHEN old.id = 2400 BEGIN SELECT raise(ABORT, 'no'); END",
    )
    with closing(sqlite3.connect(path)) as connection:
        schema = connection.execute("SELECT sql FROM sqlite_master").fetchall()
    with pytest.raises(WriteError):
        EventLog(path)
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT sql FROM sqlite_master").fetchall() == schema
    execute(path, "DROP TRIGGER stop")
    EventLog(path).close()
    assert [step for step, _, _ in columns(path)].count("s") == 2500


@pytest.mark.parametrize("encoding", ["UTF-16le", "UTF-16be"])
def test_a_host_may_have_chosen_another_encoding(path: Path, encoding: str) -> None:
    values = "'ü', 'a\U0001f600b', '{}', '2020-01-01T00:00:00Z'"
    insert = f"INSERT INTO events(task_id, event_type, payload_json, created_at) VALUES ({values})"
    execute(path, f"PRAGMA encoding='{encoding}'", REFERENCE[0], insert)
    with EventLog(path) as log:
        log.insert_event("ü", "\U0001f600", "step_started", {"step": "plän"})
        log.insert_event("ü", None, "task_completed", {})
        assert [event.step for event in log.query_step_events("ü")] == ["plän"]
        for prefix, expected in {
            "a\U0001f600": [1],
            "step_": [2],
            "ta": [3],
            "": [1, 2, 3],
            "s_ep": [],
        }.items():
            assert [
                event.event_id for event in log.query_events(event_type_prefix=prefix)
            ] == expected
        assert log.cleanup(older_than=timedelta(days=1)).events == 1
        assert [event.event_id for event in log.query_events("ü", after_id=1)] == [2, 3]


UNUSABLE: Final[dict[str, tuple[str, ...]]] = {
    "a view": ("CREATE TABLE t(x)", "CREATE VIEW events AS SELECT x FROM t"),
    "another table": (
        "CREATE TABLE events(id INTEGER PRIMARY KEY, name TEXT)",
        "INSERT INTO events VALUES (1, 'x')",
    ),
    "ids not the rows'": (
        REFERENCE[0].replace("INTEGER PRIMARY KEY AUTOINCREMENT", "INTEGER PRIMARY KEY DESC"),
    ),
    "text ids": (REFERENCE[0].replace("INTEGER PRIMARY KEY AUTOINCREMENT", "TEXT PRIMARY KEY"),),
    "newer": (
        *REFERENCE,
        "CREATE TABLE orch_events_schema(version INTEGER NOT NULL)",
        "INSERT INTO orch_events_schema VALUES (99)",
    ),
}


@pytest.mark.parametrize("mode", ["delete", "wal"])
@pytest.mark.parametrize("statements", UNUSABLE.values(), ids=UNUSABLE)
def test_a_file_we_cannot_use_is_refused_and_not_written(
    path: Path, statements: tuple[str, ...], mode: str
) -> None:
    execute(path, f"PRAGMA journal_mode={mode}", *statements)
    before = path.read_bytes()
    for kind in (EventLog, EventReader):
        with pytest.raises(SchemaError):
            kind(path)
        assert path.read_bytes() == before


# ------------------------------------------------------------------------------------------------- making and opening


def test_only_its_owner_can_read_a_new_log(path: Path) -> None:
    with EventLog(path) as log:
        log.insert_event("t", None, "x", {})
        files = sorted(path.parent.iterdir())
        assert [file.name for file in files] == ["events.db", "events.db-shm", "events.db-wal"]
        assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}
    assert [file.name for file in path.parent.iterdir()] == ["events.db"]


@pytest.mark.parametrize(
    "name", ["a?b=c#d%20e.db", "file:x.db", "ünï cödé.db", " ", "-wal", "a'b\"c", "~"]
)
def test_a_path_is_taken_literally(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with EventLog(name) as log, EventReader(name) as reader:
        log.insert_event("t", None, "x", {})
        assert [event.event_id for event in reader.query_events()] == [1]
        assert {file.name for file in tmp_path.iterdir()} == {name, name + "-wal", name + "-shm"}


def test_opening_again_changes_no_mode_takes_no_lock_and_writes_nothing(path: Path) -> None:
    with EventLog(path) as log:
        log.insert_event("t", None, "x", {})
        with (
            closing(sqlite3.connect(path, isolation_level=None)) as other,
            all_statements() as statements,
        ):
            other.execute("BEGIN IMMEDIATE")
            EventLog(path, busy_timeout=0.05).close()
    assert len(statements) > 1
    writing = re.compile(r"journal_mode\s*=|wal_checkpoint|^(BEGIN|CREATE|INSERT)")
    assert [text for text in statements if writing.search(text)] == []


def test_a_log_keeps_its_connections(path: Path) -> None:
    """The last one to close makes a checkpoint: one connection for each call would make one each time."""
    with all_statements() as statements, EventLog(path) as log:
        for _ in range(20):
            log.insert_event("t", None, "x", {})
            log.submit_event("t", None, "x", {}).result()
            log.query_step_events("t")
            log.query_latest_step_log_paths("t")
    assert sum(text.startswith("waits") for text in statements) == 2


def test_a_host_that_is_busy_with_its_own_file_is_waited_for(path: Path) -> None:
    """A file must be ours alone for a moment to get its write-ahead log; SQLite's own waiting does not cover that."""
    execute(path, *REFERENCE)
    with closing(sqlite3.connect(path, isolation_level=None, check_same_thread=False)) as host:
        host.execute("BEGIN")
        host.execute("SELECT * FROM tasks").fetchall()
        with pytest.raises(WriteError) as caught:
            EventLog(path, busy_timeout=0.1)
        assert caught.value.sqlite_errorname == "SQLITE_BUSY"
        opening = start(lambda: EventLog(path, busy_timeout=PATIENCE).close())
        with pytest.raises(TimeoutError):
            opening.result(0.2)
        host.execute("COMMIT")
        opening.result(PATIENCE)


def test_a_locked_file_is_an_error_and_not_an_empty_answer(path: Path) -> None:
    execute(path, *REFERENCE)
    with (
        EventReader(path, busy_timeout=0.1) as reader,
        closing(sqlite3.connect(path, isolation_level=None)) as host,
    ):
        host.execute("BEGIN EXCLUSIVE")
        for ask in (
            lambda: reader.query_step_events("t"),
            lambda: list(reader.query_events()),
            lambda: reader.query_latest_step_log_paths("t"),
        ):
            with pytest.raises(ReadError) as caught:
                ask()
            assert caught.value.sqlite_errorname == "SQLITE_BUSY"
            assert isinstance(caught.value.__cause__, sqlite3.OperationalError)
        host.execute("ROLLBACK")
        assert reader.query_step_events("nobody") == []
        assert reader.query_latest_step_log_paths("nobody") is None
        assert len(reader.query_step_events("t")) == 3


def test_a_clock_that_steps_back_changes_no_order(log: EventLog, path: Path) -> None:
    log.insert_events([("t", None, "step_started", {"step": f"s{n}"}) for n in range(20)])
    execute(path, "UPDATE events SET created_at = '2026-01-01T00:00:' || (60 - id)")
    assert [event.event_id for event in log.query_events(after_id=5, limit=10)] == list(
        range(6, 16)
    )
    assert [event.event_id for event in log.query_step_events("t", after_id=5)] == list(
        range(6, 21)
    )


@pytest.mark.parametrize("timeout", [0, 0.25, 10])
def test_every_connection_waits_from_its_first_statement_on(path: Path, timeout: float) -> None:
    with all_statements() as statements, EventLog(path, busy_timeout=timeout) as log:
        log.query_step_events("t")
        with EventReader(path, busy_timeout=timeout) as reader:
            reader.query_step_events("t")
    assert {text for text in statements if text.startswith("waits")} == {
        f"waits {timeout * 1000:.0f} ms"
    }


@pytest.mark.parametrize("durability", ["full", "normal"])
def test_durability_is_what_sqlite_was_told(path: Path, durability: str) -> None:
    with EventLog(path, durability="full" if durability == "full" else "normal") as log:
        log.insert_events([("t", None, "x", {})] * 3000)
        assert write_connection(log).execute("PRAGMA synchronous").fetchone() == (
            {"full": 2, "normal": 1}[durability],
        )
        assert write_connection(log).execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_readers_write_nothing_and_make_no_checkpoint(log: EventLog, path: Path) -> None:
    log.insert_events([("t", None, "step_started", {"step": "s"})] * 3000)
    before = {
        file.name: file.read_bytes()
        for file in path.parent.iterdir()
        if not file.name.endswith("-shm")
    }
    with closing(sqlite3.connect(path)) as keeper:  # so that none of ours is the last to close
        keeper.execute("SELECT * FROM events LIMIT 1").fetchone()
        for _ in range(3):
            with EventReader(path) as reader:
                assert (
                    len(reader.query_step_events("t")) == len(list(reader.query_events())) == 3000
                )
    assert {
        file.name: file.read_bytes()
        for file in path.parent.iterdir()
        if not file.name.endswith("-shm")
    } == before


# --------------------------------------------------------------------------------- what must never happen to the file


def test_the_library_never_opens_the_file_itself(tmp_path: Path, path: Path) -> None:
    """Closing a descriptor of one's own would drop SQLite's locks (https://sqlite.org/howtocorrupt.html, 2.2.1)."""
    source = """
import os, sys
opened = []
sys.addaudithook(lambda event, arguments: opened.append(arguments[0]) if event == "open" else None)

from orch_events import EventLog, EventReader

path = sys.argv[1]
for _ in range(2):
    with EventLog(path) as log, EventReader(path) as reader:
        log.insert_event("t", None, "x", {})
        log.submit_event("t", None, "x", {})
        log.flush()
        for queries in (log, reader):
            assert list(queries.query_events())
            assert queries.query_step_events("t") == []
            assert queries.query_latest_step_log_paths("t") is None
print(len(opened), [name for name in opened if isinstance(name, str | bytes) and path in os.fsdecode(name)])
"""
    count, names = run_script(tmp_path, source, path).split(maxsplit=1)
    assert int(count) > 0
    assert names == "[]\n"


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc/locks")
def test_locks_outlive_anything_else_that_the_process_does_with_the_file(
    log: EventLog, path: Path
) -> None:
    def locks() -> set[str]:
        """The bytes that are locked."""
        mark = re.compile(rf" {os.getpid()} \S+:{path.stat().st_ino} (.*)")
        return set(mark.findall(Path("/proc/locks").read_text()))

    log.insert_event("t", None, "x", {})
    wait_until(locks)
    held = locks()
    actions: list[Callable[[], object]] = [
        lambda: list(log.query_events()),
        lambda: EventReader(path).close(),
        lambda: EventLog(path).close(),
        lambda: next(log.query_events()),
        lambda: log.insert_events([("t", None, "x", {})] * 3000),
    ]
    for action in actions:
        action()
        # The system's list may lack a line, or have one twice, when another process's locks change as it is read.
        wait_until(lambda: held <= locks())


# -------------------------------------------------------------------------------------------------------------- plans

QUESTIONS: Final[dict[str, tuple[Callable[[EventReader], object], str]]] = {
    "a task's steps": (lambda log: log.query_step_events("t"), "orch_events_task"),
    "a task's steps after": (
        lambda log: log.query_step_events("t", after_id=9),
        "orch_events_task",
    ),
    "a task's events": (lambda log: list(log.query_events("t", limit=5)), "orch_events_task"),
    "a task's prefix": (
        lambda log: list(log.query_events("t", event_type_prefix="step_")),
        "orch_events_task",
    ),
    "all events": (lambda log: list(log.query_events(after_id=9)), "INTEGER PRIMARY KEY"),
    "all of a prefix": (
        lambda log: list(log.query_events(event_type_prefix="task_")),
        "INTEGER PRIMARY KEY",
    ),
    "latest log paths": (lambda log: log.query_latest_step_log_paths("t"), "orch_events_log_paths"),
}


@pytest.mark.parametrize("analyzed", [False, True])
@pytest.mark.parametrize(("ask", "index"), QUESTIONS.values(), ids=QUESTIONS)
def test_every_question_is_answered_from_an_index_in_id_order(
    plan_file: Path,
    tmp_path: Path,
    ask: Callable[[EventReader], object],
    index: str,
    analyzed: bool,
) -> None:
    path = Path(shutil.copy(plan_file, tmp_path))
    if analyzed:
        execute(path, "ANALYZE")
    with all_statements() as statements, EventReader(path) as reader:
        ask(reader)
    selects = [
        text for text in statements if text.lstrip().startswith("SELECT") and "payload_json" in text
    ]
    assert selects
    with closing(sqlite3.connect(path)) as connection:
        for select in selects:
            plan = [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {select}")]
            used = [step for step in plan if re.match(r"(SEARCH|SCAN) events\b", step)]
            assert used and all(index in step and step.startswith("SEARCH") for step in used), plan
            assert not any("TEMP B-TREE" in step for step in plan), plan


@pytest.fixture(scope="module")
def plan_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with the reference's indexes and ours, and rows that make the reference's look attractive."""
    path = tmp_path_factory.mktemp("plans") / "events.db"
    execute(path, *REFERENCE)
    with EventLog(path) as log:
        types = [f"custom_{n}" for n in range(60)] + ["step_heartbeat", "step_started"]
        events = [
            ("t" if n % 3 else f"u{n}", None, types[n % len(types)], {"step": f"s{n % 7}"})
            for n in range(6000)
        ]
        log.insert_events(events)
    return path


def test_the_writer_never_begins_a_deferred_transaction(log: EventLog) -> None:
    with traced(write_connection(log)) as statements:
        log.insert_events([("t", None, "x", {})] * 5000)
        log.insert_event("t", None, "x", {})
        log.flush()
    assert {text for text in statements if text.startswith("BEGIN")} == {"BEGIN IMMEDIATE"}


def test_the_space_of_deleted_events_can_be_given_back(path: Path) -> None:
    with EventLog(path) as log:
        log.insert_events([("t", None, "x", {"text": "x" * 500})] * 3000)
    size = path.stat().st_size
    execute(path, "DELETE FROM events")
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.executescript("PRAGMA incremental_vacuum")
    assert path.stat().st_size < size / 4
    assert stored(path) == []
