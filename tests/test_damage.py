# SPDX-License-Identifier: MIT
"""Hostile files: each gives one typed error or the documented reading; never a crash, a hang, or a write."""

import asyncio
import inspect
import os
import random
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing, suppress
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Final, cast

import pytest

from orch_events import (
    EventLog,
    EventReader,
    LogNotFoundError,
    OrchEventsError,
    ReadError,
    SchemaError,
    WriteError,
    query_latest_step_log_paths,
    query_step_events,
)

from .helpers import PATIENCE, ROOT, execute, run_script, start, stored

# ------------------------------------------------------------------------------------------------------------- places

Errors = tuple[type[OrchEventsError] | None, type[OrchEventsError] | None]


def nothing(_: Path) -> None:
    """Leave the place as it is."""


def sqlite_file(*statements: str) -> Callable[[Path], None]:
    return lambda path: execute(path, *statements)


PLACES: Final[dict[str, tuple[str, Callable[[Path], object], Errors]]] = {
    "no file": ("events.db", nothing, (None, LogNotFoundError)),
    "no directory": ("no/events.db", nothing, (LogNotFoundError, LogNotFoundError)),
    "a directory": ("here", Path.mkdir, (WriteError, ReadError)),
    "below a file": (
        "file/events.db",
        lambda path: path.parent.touch(),
        (OrchEventsError, OrchEventsError),
    ),
    "a pipe": ("pipe", os.mkfifo, (WriteError, ReadError)),
    "a device": ("null", lambda path: path.symlink_to("/dev/null"), (WriteError, OrchEventsError)),
    "a loop of links": (
        "link",
        lambda path: path.symlink_to(path),
        (OrchEventsError, OrchEventsError),
    ),
    "a name too long": ("x" * 300, nothing, (OrchEventsError, OrchEventsError)),
    "an empty file": ("empty", Path.touch, (None, OrchEventsError)),
    "a text": (
        "text",
        lambda path: path.write_text("once upon a time\n" * 100),
        (SchemaError, SchemaError),
    ),
    "a short text": ("text", lambda path: path.write_text("hello"), (SchemaError, SchemaError)),
    "half a header": (
        "half",
        lambda path: path.write_bytes(b"SQLite format 3\0"),
        (OrchEventsError, OrchEventsError),
    ),
    "somebody's database": ("other.db", sqlite_file("CREATE TABLE t(x)"), (None, SchemaError)),
}


def open_and_close(kind: type[EventLog] | type[EventReader], path: Path) -> None:
    kind(path).close()


@pytest.mark.skipif(sys.platform == "win32", reason="pipes, links and devices")
@pytest.mark.parametrize(("name", "make", "errors"), PLACES.values(), ids=PLACES)
def test_a_place_is_usable_or_says_why_not(
    tmp_path: Path, name: str, make: Callable[[Path], object], errors: Errors
) -> None:
    path = tmp_path / name
    make(path)
    before = path.read_bytes() if os.path.isfile(path) else None
    for kind, error in zip((EventReader, EventLog), reversed(errors), strict=True):
        failure = start(partial(open_and_close, kind, path)).exception(PATIENCE)
        if error is None:
            assert failure is None
        else:
            assert isinstance(failure, error)
            assert not isinstance(failure, FileNotFoundError) or failure.filename == str(path)
            assert (path.read_bytes() if os.path.isfile(path) else None) == before


@pytest.mark.parametrize("path", ["", ":memory:", "a\0b"])
@pytest.mark.parametrize("kind", [EventLog, EventReader])
def test_what_names_no_file_is_refused(path: str, kind: type[EventLog] | type[EventReader]) -> None:
    with pytest.raises(LogNotFoundError):
        kind(path)


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="POSIX permissions")
@pytest.mark.skipif(sys.platform == "win32", reason="a pipe is no file there")
def test_a_pipe_in_the_place_of_a_journal_stops_nothing(path: Path) -> None:
    """As any user can lay there whom the folder's permissions let; SQLite would wait for what comes through it."""
    EventLog(path).close()
    link = path.with_name("link.db")
    link.symlink_to(path)
    os.mkfifo(f"{path}-journal")
    script = """
import sys
from orch_events import EventLog, EventReader, ReadError, WriteError
for kind, error in (EventReader, ReadError), (EventLog, WriteError):
    try:
        kind(sys.argv[1]).close()
    except error as refused:
        print(refused)
"""
    for name in path, link:
        shown = run_script(path.parent, script, name)
        assert shown == f"{path}-journal: not a regular file\n" * 2


def test_permissions_missing_are_one_typed_error(tmp_path: Path) -> None:
    """In a process that has given root's privileges up, where it had them."""
    source = """
import os, sys, tempfile
from orch_events import EventLog, EventReader, ReadError, WriteError

def refused(kind, path, error):
    try:
        kind(path).close()
    except error as failure:
        assert type(failure) is error, failure
    else:
        raise AssertionError(f"{kind.__name__} opened {path}")

with tempfile.TemporaryDirectory(dir="/tmp") as folder:
    path = f"{folder}/events.db"
    with EventLog(path) as log:
        log.insert_event("t", None, "x", {})
    if os.geteuid() == 0:
        os.chown(folder, 65534, 65534)
        os.chown(path, 65534, 65534)
        os.setuid(65534)
    os.chmod(path, 0o400)
    refused(EventLog, path, WriteError)
    with EventReader(path) as reader:
        assert len(list(reader.query_events())) == 1
    os.chmod(path, 0o000)
    refused(EventLog, path, WriteError)
    refused(EventReader, path, ReadError)
    os.chmod(path, 0o600)
    for leftover in set(os.listdir(folder)) - {"events.db"}:  # a reader may not remove what it had to make
        os.unlink(f"{folder}/{leftover}")
    os.chmod(folder, 0o500)
    refused(EventLog, path, WriteError)
    refused(EventLog, f"{folder}/new.db", WriteError)
    refused(EventReader, path, ReadError)
    os.chmod(folder, 0o700)
    with EventLog(path) as log:
        assert log.insert_event("t", None, "x", {}) == 2
        os.chmod(folder, 0o500)
        with EventReader(path) as reader:  # a live log has made the files that a reader needs
            assert len(list(reader.query_events())) == 2
        os.chmod(folder, 0o700)
"""
    run_script(tmp_path, source)


def test_names_in_another_case_are_the_same_names(path: Path) -> None:
    columns = "Task_Id TEXT, Task_Item_Id TEXT, Event_Type TEXT, Payload_JSON TEXT, Created_At TEXT, STEP TEXT"
    execute(path, f"CREATE TABLE EVENTS(ID INTEGER PRIMARY KEY, {columns})", "CREATE TABLE Host(x)")
    for _ in range(2):
        with EventLog(path) as log:
            log.insert_event("t", None, "step_started", {"step": "s", "cycle": 3})
            assert {event.step for event in log.query_step_events("t")} == {"s"}
    assert len(stored(path)) == 2
    execute(path, "DROP TABLE EVENTS", "CREATE VIEW Events AS SELECT 1")
    for kind in (EventLog, EventReader):
        with pytest.raises(SchemaError, match="view"):
            kind(path)


# --------------------------------------------------------------------------------------- questions that cannot be asked

IMPOSSIBLE: Final[dict[str, list[object]]] = {
    "after_id": [-1, 1 << 63, True, "1", 1.0, None],
    "limit": [-1, 1 << 63, True, "1", 1.0],
    "task_id": ["\ud83d", "t\udcff", 7, b"t"],
    "event_type_prefix": ["\ud83d", "\udcff", 7, b"t"],
}
ASKED: Final[dict[str, tuple[str, ...]]] = {
    "query_events": ("task_id", "after_id", "limit", "event_type_prefix"),
    "query_events_async": ("task_id", "after_id", "limit", "event_type_prefix"),
    "query_step_events": ("task_id", "after_id"),
    "query_step_events_async": ("task_id", "after_id"),
    "query_latest_step_log_paths": ("task_id",),
    "query_latest_step_log_paths_async": ("task_id",),
    "follow_step_events": ("task_id", "after_id"),
    "follow_step_events_async": ("task_id", "after_id"),
    "follow_events": ("task_id", "after_id"),
    "follow_events_async": ("task_id", "after_id"),
}


@pytest.mark.parametrize("method", ASKED)
def test_what_cannot_be_asked_is_refused_at_the_call(
    log: EventLog, path: Path, method: str
) -> None:
    def ask(name: str, value: object) -> None:
        for queries in (log, reader):
            with pytest.raises(ValueError, match=name) as caught:
                answer = getattr(queries, method)(**{"task_id": "t", name: value})
                if inspect.iscoroutine(answer):
                    asyncio.run(answer)
            assert type(caught.value) is ValueError

    with EventReader(path) as reader:
        for name in ASKED[method]:
            for value in IMPOSSIBLE[name]:
                ask(name, value)
        if "step" in method:
            ask("task_id", None)


def test_an_event_of_one_task_does_not_reach_a_follower_of_no_task(
    log: EventLog, path: Path
) -> None:
    log.insert_event("t", None, "step_started", {"step": "s"})
    for ask in (query_step_events, query_latest_step_log_paths):
        with pytest.raises(ValueError, match="task_id"):
            ask(path, cast("str", None))


@pytest.mark.parametrize(
    "words",
    [
        ["events"],
        ["events", "t", "--type"],
        *(pytest.param([word], marks=pytest.mark.long) for word in ("watch", "logs", "trace")),
    ],
)
def test_the_command_line_refuses_what_no_text_can_be(
    log: EventLog, path: Path, words: list[str]
) -> None:
    command = [sys.executable, "-m", "orch_events", "--db", str(path), *words, "\udcff"]
    done = subprocess.run(
        command, capture_output=True, cwd=ROOT, env={**os.environ, "PYTHONUTF8": "1"}, check=False
    )
    assert (done.returncode, done.stdout, b"Traceback" in done.stderr) == (2, b"", False)
    assert done.stderr.startswith(b"usage:")


# ---------------------------------------------------------------------------------------------- what columns may hold

LOOSE: Final = """
CREATE TABLE events(id INTEGER PRIMARY KEY, task_id, task_item_id, event_type, payload_json, created_at,
    step, step_scope, cycle)
"""
PAYLOADS: Final = [
    "NULL",
    "x'7b7d'",
    "x'ff00'",
    "7",
    "1.5",
    "''",
    "CAST(x'7bff7d' AS TEXT)",
    "'{' || char(0) || '}'",
]


def loose_row(step: str, payload: str) -> str:
    return f"INSERT INTO events VALUES (NULL, 't', NULL, 'step_started', {payload}, 'now', {step}, NULL, NULL)"


@pytest.mark.parametrize("payload", PAYLOADS)
@pytest.mark.parametrize("neighbours", [0, 3])
def test_a_payload_that_is_no_json_text_harms_no_neighbour(
    path: Path, payload: str, neighbours: int
) -> None:
    around = [loose_row("NULL", f'\'{{"reason":"{n}"}}\'') for n in range(neighbours)]
    execute(path, LOOSE, *around, loose_row("'s'", payload), *around)
    with EventReader(path) as reader:
        events = list(reader.query_events())
        steps = reader.query_step_events("t")
    assert (
        [event.event_id for event in events]
        == [step.event_id for step in steps]
        == [*range(1, 2 * neighbours + 2)]
    )
    reasons = [str(n) for n in range(neighbours)]
    assert [step.reason for step in steps] == [*reasons, None, *reasons]
    assert steps[neighbours].step == "s"
    assert not isinstance(events[neighbours].payload, dict) or events[neighbours].payload == {}


@pytest.mark.parametrize(
    "column", ["task_id", "task_item_id", "event_type", "created_at", "step", "step_scope"]
)
@pytest.mark.parametrize("value", ["NULL", "7", "1.5", "x'ff'", "CAST(x'ff' AS TEXT)"])
def test_a_column_of_another_type_is_read_as_text_or_refused(
    path: Path, column: str, value: str
) -> None:
    execute(
        path,
        LOOSE,
        "INSERT INTO events VALUES (1, 't', 'i', 'step_started', '{}', 'now', 's', 'task', 1)",
    )
    execute(path, f"UPDATE events SET {column} = {value}")
    with EventReader(path) as reader:
        for read in (lambda: list(reader.query_events()), lambda: reader.query_step_events("t")):
            try:
                found = read()
            except ReadError as error:
                assert column in str(error)
                continue
            for event in found:
                assert all(
                    isinstance(getattr(event, name), str) for name in ("event_type", "created_at")
                )
                assert isinstance(event.task_item_id, str | None)
        reader.query_latest_step_log_paths("t")


# ------------------------------------------------------------------------------------------------------ damaged bytes

FUZZ: Final = """
import pathlib, random, sys
from orch_events import EventLog, EventReader, OrchEventsError

original, victim, seed, rounds = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
chance = random.Random(seed)
data = pathlib.Path(original).read_bytes()
outcomes = {"read": 0, "refused": 0}
for n in range(rounds):
    damaged = bytearray(data)
    if n % 5 == 4:
        del damaged[chance.randrange(len(data)):]
    else:
        for _ in range(chance.choice([1, 1, 3, 30])):
            damaged[chance.randrange(len(data) if n % 2 else 4096 * 2)] ^= chance.randrange(1, 256)
    pathlib.Path(victim).write_bytes(damaged)
    try:
        try:
            with EventReader(victim) as reader:
                for event in reader.query_events():
                    event.payload
                for k in range(4):
                    reader.query_step_events(f"t{k}")
                    reader.query_latest_step_log_paths(f"t{k}")
            outcomes["read"] += 1
        finally:
            assert pathlib.Path(victim).read_bytes() == damaged, "a reader wrote"
    except OrchEventsError:
        outcomes["refused"] += 1
    try:
        with EventLog(victim, busy_timeout=0.2) as log:
            log.insert_event("t1", None, "step_started", {"step": "s"})
            list(log.query_events())
    except OrchEventsError:
        pass
    for end in ("", "-wal", "-shm"):
        pathlib.Path(victim + end).unlink(missing_ok=True)
assert min(outcomes.values()) > rounds / 20, outcomes
"""


@pytest.mark.parametrize(
    ("seed", "rounds"), [(1, 80), pytest.param(None, 1000, marks=pytest.mark.long)]
)
def test_damaged_bytes_are_refused_or_read(
    tmp_path: Path, path: Path, seed: int | None, rounds: int
) -> None:
    with EventLog(path) as log:
        for n in range(150):
            log.insert_event(
                f"t{n % 4}", None, "step_started", {"step": "s", "n": n, "text": "é" * (n % 50)}
            )
    seed = random.randrange(1 << 30) if seed is None else seed
    print(f"seed {seed}")
    run_script(tmp_path, FUZZ, path, tmp_path / "victim.db", seed, rounds)


def test_ids_out_of_order_do_not_make_a_stream_endless(path: Path) -> None:
    """The last row of a full page says it is number 0: whoever goes on after it starts from the beginning."""
    with EventLog(path) as log:
        log.insert_events([("t", None, "step_started", {"n": n}) for n in range(1, 5001)])
    data = bytearray(path.read_bytes())
    for last in (1024, 2048, 4096):
        row_id = bytes([0x80 | last >> 7, last & 0x7F])
        end = data.index(b'{"n":%d}' % last)
        begin = data.rindex(row_id, end - 120, end)
        data[begin : begin + 2] = b"\x80\x00"
    path.write_bytes(data)
    with EventReader(path) as reader:
        try:
            assert len(list(islice(reader.query_events(), 20_000))) <= 5000
        except ReadError as error:
            assert "order" in str(error) or error.sqlite_errorname


def test_ids_out_of_order_do_not_make_the_opening_of_an_old_file_endless(path: Path) -> None:
    names = "id INTEGER PRIMARY KEY AUTOINCREMENT, task_id TEXT, task_item_id TEXT, event_type TEXT, payload_json TEXT"
    numbers = (
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 2500) SELECT i FROM n"
    )
    rows = f"SELECT NULL, 't', NULL, 'x', '{{\"n\":' || i || '}}', 'now' FROM ({numbers})"
    execute(path, f"CREATE TABLE events({names}, created_at TEXT)", f"INSERT INTO events {rows}")
    data = bytearray(path.read_bytes())
    end = data.index(b'{"n":1000}')  # the last of a page
    begin = data.rindex(bytes([0x80 | 1000 >> 7, 1000 & 0x7F]), end - 120, end)
    data[begin : begin + 2] = b"\x80\x00"
    path.write_bytes(data)
    with pytest.raises(WriteError, match="out of order"):
        start(lambda: EventLog(path)).result(PATIENCE)


@pytest.mark.parametrize("seed", range(3))
def test_a_damaged_write_ahead_log_loses_the_end_and_nothing_else(
    tmp_path: Path, path: Path, seed: int
) -> None:
    source = """
import os, sys
from orch_events import EventLog
log = EventLog(sys.argv[1])
for n in range(200):
    log.insert_event("t", None, "x", {"n": n})
os._exit(0)
"""
    run_script(tmp_path, source, path)
    wal = Path(f"{path}-wal")
    data = bytearray(wal.read_bytes())
    chance = random.Random(seed)
    position = chance.randrange(len(data) // 2, len(data))
    if seed % 2:
        del data[position:]
    else:
        data[position] ^= 0xFF
    wal.write_bytes(data)
    Path(f"{path}-shm").unlink()
    with EventLog(path) as log:
        ids = [event.event_id for event in log.query_events()]
        assert 0 < len(ids) <= 200
        assert ids == list(range(1, len(ids) + 1))
        assert log.insert_event("t", None, "x", {}) == len(ids) + 1
    assert len(stored(path)) == len(ids) + 1


def test_a_file_that_vanishes_or_is_replaced_is_no_crash(tmp_path: Path, path: Path) -> None:
    with EventLog(path) as log:
        log.insert_event("t", None, "x", {})
        other = tmp_path / "other.db"
        execute(other, "CREATE TABLE t(x)")
        with EventReader(path) as reader:
            os.replace(other, path)
            for queries in (reader, log):
                with suppress(OrchEventsError):
                    list(queries.query_events())
        path.unlink()
        with pytest.raises(OrchEventsError):
            EventReader(path)
        with suppress(OrchEventsError):
            log.insert_event("t", None, "x", {})
    assert not path.exists()


def test_a_schema_that_is_damaged_in_use_fails_the_write_in_our_words(path: Path) -> None:
    with EventLog(path) as log:
        log.insert_event("t", None, "x")
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("PRAGMA writable_schema = ON")
            damaged = "UPDATE sqlite_master SET name = CAST(x'6f8f' AS TEXT), sql = '?'"
            other.execute(f"{damaged} WHERE type = 'index' AND sql IS NOT NULL")
            (version,) = other.execute("PRAGMA schema_version").fetchone()
            other.execute(f"PRAGMA schema_version = {version + 1}")
        with pytest.raises(WriteError, match="not written") as caught:
            log.insert_event("t", None, "x")
        assert isinstance(caught.value.__cause__, UnicodeDecodeError)
