# SPDX-License-Identifier: MIT
"""A log in PostgreSQL keeps the promises of one in a file: the same calls, against a real server."""

import asyncio
import itertools
import json
import os
import shutil
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import closing
from datetime import timedelta
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from types import FrameType
from typing import Any, Final

import pytest

from orch_events import (
    EventLog,
    EventReader,
    LogNotFoundError,
    OrchEventsError,
    PayloadError,
    PostgresConnection,
    PostgresDatabase,
    PrunedError,
    ReadError,
    RecordingSink,
    SchemaError,
    WriteError,
    insert_event_with_conn,
    query_step_events,
)
from orch_events._storage.open_store import open_store
from orch_events._storage.postgres import log_lock
from orch_events._storage.postgres.connectors import UrlConnector
from orch_events._storage.postgres.driver import Connection
from orch_events._storage.postgres.location import parse_location

from .helpers import (
    PATIENCE,
    ROOT,
    Tracer,
    library_threads,
    python_path,
    run_script,
    start,
    wait_until,
)
from .postgres_server import Pooler, Proxy, Server, has_pooler, missing
from .terminal import outcome

if missing():
    pytest.skip(missing(), allow_module_level=True)

SCHEMAS = itertools.count()


@pytest.fixture
def url(base_url: str) -> str:
    """The URL of a log that does not exist yet."""
    separator = "&" if "?" in base_url else "?"
    schema = f"test_{os.getpid()}_{next(SCHEMAS)}"
    return f"{base_url}{separator}orch_events_schema={schema}"


def raw(url: str) -> Connection:
    """A connection of the host's, to the same database."""
    return UrlConnector(parse_location(url)).connect()


def query(url: str, sql: str) -> list[tuple[object, ...]]:
    """What a statement gives, in which ``{schema}`` stands for the log's schema."""
    connection = raw(url)
    try:
        rows = connection.execute(sql.format(schema=parse_location(url).schema)).fetchall()
        return [tuple(row) for row in rows]
    finally:
        connection.close()


def execute(url: str, sql: str) -> None:
    connection = raw(url)
    try:
        connection.execute(sql.format(schema=parse_location(url).schema))
    finally:
        connection.close()


IN_PG_SLEEP = """
SELECT count(*)::int FROM pg_stat_activity
WHERE application_name = 'orch_events' AND wait_event = 'PgSleep'"""

KILL_ALL_OTHERS = """
SELECT pg_terminate_backend(pid) FROM pg_stat_activity
WHERE pid <> pg_backend_pid() AND backend_type = 'client backend'"""

KILL_WRITERS = """
SELECT pg_terminate_backend(pid) FROM pg_stat_activity
WHERE application_name = 'orch_events' AND pid <> pg_backend_pid()"""


def test_what_is_recorded_reads_back_in_order(url: str) -> None:
    sink = RecordingSink()
    with EventLog(url, sink=sink) as log:
        first = log.insert_event("t", None, "task_started", {"text": "é\u2028", "n": 1.5})
        batch = log.insert_events(
            [("t", "i", "step_started", {"step": "s", "cycle": n}) for n in range(3)]
        )
        futures = [log.submit_event("t", None, "x", {"n": n}) for n in range(5)]
        ids = [first, *batch, *(future.result(PATIENCE) for future in futures)]
        assert ids == list(range(1, 10))
        events = list(log.query_events("t"))
        assert [event.event_id for event in events] == ids
        assert events[0].payload == {"text": "é\u2028", "n": 1.5}
        assert [event.event_id for event in log.query_events(event_type_prefix="step_")] == batch
        steps = log.query_step_events("t")
        assert [(step.event_id, step.step) for step in steps] == [(n, "s") for n in batch]
        assert query_step_events(url, "t") == steps
    assert len(sink.events) == 9


def test_coroutines_append_read_and_follow(url: str) -> None:
    async def main() -> tuple[list[int], list[int]]:
        async with EventLog(url) as log:
            ids = await asyncio.gather(
                *(log.insert_event_async("t", None, "x", {}) for _ in range(50))
            )
            await log.insert_event_async("t", None, "task_completed", {})
            followed = [
                event.event_id async for event in log.follow_events_async("t", until_finished=True)
            ]
            return sorted(ids), followed

    ids, followed = asyncio.run(main())
    assert ids == list(range(1, 51)) and followed == list(range(1, 52))


def test_a_batch_of_any_size_is_whole_and_contiguous(url: str) -> None:
    with EventLog(url) as log:
        log.insert_event("t", None, "x", {})
        ids = log.insert_events([("t", None, "x", {})] * 5000)
        assert ids == list(range(2, 5002))
        assert len(list(log.query_events(after_id=1))) == 5000
        with pytest.raises(PayloadError, match=r"events\[1\]"):
            log.insert_events([("t", None, "x", {}), ("t", None, "x", {"n": float("nan")})])
        assert log.insert_event("t", None, "x", {}) == 5002


def test_reading_a_log_takes_each_row_once_or_twice_before_the_first_analyze(url: str) -> None:
    with EventLog(url) as log:
        log.insert_events([("t", None, "step_started", {"step": "s"})] * 20_000)
        for events in (log.query_events("t"), log.query_events(), log.query_step_events("t")):
            assert len(list(events)) == 20_000
    wait_until(lambda: query(url, FETCHED) != [(0,)])
    ((fetched,),) = query(url, FETCHED)
    assert isinstance(fetched, int) and fetched < 3 * 3 * 20_000


FETCHED: Final = """
SELECT idx_tup_fetch + seq_tup_read FROM pg_stat_all_tables
WHERE relname = 'events' AND schemaname = '{schema}'"""

ODD: Final = [
    "",
    "NULL",
    '"',
    "\\",
    '\\"',
    "{a,b}",
    "a,b",
    "\n\r\t",
    " x ",
    "\u2028é😀",
    "$1",
    "%s",
]


def test_a_batch_keeps_every_text_as_it_is(url: str) -> None:
    with EventLog(url) as log:
        log.insert_events([(text, text, text or "x", {"step": text, "t": text}) for text in ODD])
        events = list(log.query_events())
        steps = query(url, "SELECT step FROM {schema}.events ORDER BY id")
    assert [event.task_id for event in events] == ODD
    assert [event.task_item_id for event in events] == ODD
    assert [event.event_type for event in events] == [text or "x" for text in ODD]
    assert [event.payload for event in events] == [{"step": text, "t": text} for text in ODD]
    assert [step for (step,) in steps] == ODD


def test_ids_are_in_the_order_of_commits_in_any_number_of_writers(url: str) -> None:
    EventLog(url).close()

    def write(name: str) -> list[int]:
        with EventLog(url) as log:
            return [log.insert_event(name, None, "x", {}) for _ in range(100)]

    seen: list[int] = []
    with EventReader(url) as reader:
        events = reader.follow_events(timeout=3)
        following = start(lambda: seen.extend(event.event_id for event in events))
        host = raw(url)
        writers = [start(partial(write, name)) for name in "abcd"]
        for _ in range(20):  # a host's own plain INSERT, in a slow transaction
            host.execute("BEGIN")
            host.execute(
                f"INSERT INTO {parse_location(url).schema}.events"
                "(task_id, event_type, payload_json, created_at) VALUES ('h', 'x', '{}', '')"
            )
            time.sleep(0.002)
            host.execute("COMMIT")
        host.close()
        ids = [event_id for writer in writers for event_id in writer.result(PATIENCE)]
        following.result(PATIENCE)
    assert len(set(ids)) == 400
    assert seen == sorted(seen) and len(seen) == 420


def test_a_follower_in_another_process_is_woken(url: str) -> None:
    source = """
import sys
from orch_events import EventReader
with EventReader(sys.argv[1], must_exist=False) as reader:
    print("ready", flush=True)
    for event in reader.follow_events("t", until_finished=True):
        print(event.event_type, flush=True)
"""
    follower = subprocess.Popen(
        [sys.executable, "-c", source, url],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": python_path()},
    )
    assert follower.stdout is not None
    assert follower.stdout.readline() == "ready\n"
    with EventLog(url) as log:
        log.insert_event("t", None, "task_started", {})
        assert follower.stdout.readline() == "task_started\n"
        log.insert_event("t", None, "task_failed", {})
    rest, _ = follower.communicate(timeout=PATIENCE)
    assert (rest, follower.returncode) == ("task_failed\n", 0)


def test_what_is_committed_before_the_watcher_has_begun_is_noticed(url: str) -> None:
    with EventLog(url) as log:
        signal = open_store(url).open_signal()
        log.insert_event("t", None, "x", {})
        signal.start()
        assert signal.has_changed()
        signal.close()


def test_a_connection_lost_between_commits_is_made_anew(url: str) -> None:
    with EventLog(url) as log, EventReader(url) as reader:
        assert log.insert_event("t", None, "x", {}) == 1
        assert len(list(reader.query_events())) == 1
        query(url, KILL_WRITERS)
        assert log.insert_event("t", None, "y", {}) == 2
        assert [event.event_type for event in reader.query_events()] == ["x", "y"]


def test_a_follower_goes_on_where_it_was_when_its_connection_is_lost(url: str) -> None:
    with EventLog(url) as log:
        log.insert_event("t", None, "x", {})
        seen: list[int] = []
        events = log.follow_events("t", until_finished=True)
        following = start(lambda: seen.extend(event.event_id for event in events))
        wait_until(lambda: seen == [1])
        query(url, KILL_WRITERS)
        log.insert_event("t", None, "x", {})
        log.insert_event("t", None, "task_completed", {})
        following.result(PATIENCE)
        assert seen == [1, 2, 3]


def test_a_commit_that_is_ended_in_the_middle_takes_place_once(url: str) -> None:
    with EventLog(url) as log:
        log.insert_event("t", None, "first", {})
        execute(
            url,
            """CREATE FUNCTION {schema}.wait() RETURNS trigger LANGUAGE plpgsql AS
            $$ BEGIN PERFORM pg_sleep(1); RETURN NEW; END $$""",
        )
        execute(
            url,
            """CREATE TRIGGER wait BEFORE INSERT ON {schema}.events
            FOR EACH ROW EXECUTE FUNCTION {schema}.wait()""",
        )
        second = start(lambda: log.insert_event("t", None, "second", {}))
        wait_until(lambda: query(url, IN_PG_SLEEP) == [(1,)])
        query(url, KILL_WRITERS)
        assert second.result(PATIENCE) > 1
        kinds = [event.event_type for event in log.query_events()]
    assert kinds == ["first", "second"]


def test_a_commit_with_a_lost_reply_is_not_done_again(server: Server, url: str) -> None:
    with TemporaryDirectory(prefix="pg", dir="/tmp") as folder, Proxy(server, folder) as proxy:
        through_proxy = url.replace(f"host={server.folder}", f"host={folder}")
        with EventLog(through_proxy) as log:
            assert log.insert_event("t", None, "first", {}) == 1
            proxy.drop_next_reply.set()
            assert log.insert_event("t", None, "second", {}) == 2
            assert log.insert_event("t", None, "third", {}) == 3
            assert proxy.dropped == 1
            kinds = [event.event_type for event in log.query_events()]
    assert kinds == ["first", "second", "third"]


class HostError(Exception):
    """What a signal handler of the host's raises."""


def test_an_append_that_is_interrupted_at_any_line_has_its_true_outcome(url: str) -> None:
    sink = RecordingSink()
    folder = str(ROOT / "orch_events" / "_storage" / "postgres")

    def raising(line: int) -> Tracer:
        """A trace function that raises at so many lines of the engine."""
        left = itertools.count(line, -1)

        def trace(frame: FrameType, event: str, _argument: object) -> Tracer | None:
            if not frame.f_code.co_filename.startswith(folder):
                return None
            if event == "line" and next(left) == 0:
                raise HostError
            return trace

        return trace

    tracing = sys.gettrace()
    with EventLog(url, sink=sink) as log:
        was_interrupted = True
        written: list[str] = []
        line = 0
        while was_interrupted:
            line += 1
            was_interrupted = False
            sys.settrace(raising(line))
            try:
                log.insert_event("t", None, f"at {line}", {})
            except HostError:
                was_interrupted = True
            finally:
                sys.settrace(tracing)
            written = [event.event_type for event in log.query_events()]
            assert [heard[2] for heard in sink.events] == written
    assert line > 20 and len(written) > 2


def test_under_constant_kills_nothing_is_lost_or_doubled(url: str) -> None:
    stop = threading.Event()

    def kill() -> None:
        while not stop.wait(0.01):
            query(url, KILL_WRITERS)

    with EventLog(url) as log:
        killing = start(kill)
        futures = [log.submit_event("t", None, "x", {"n": n}) for n in range(200)]
        ids = [log.insert_event("t", None, "y", {"n": n}) for n in range(100)]
        ids += [future.result(PATIENCE) for future in futures]
        stop.set()
        killing.result(PATIENCE)
        events = list(log.query_events("t"))
    assert sorted(ids) == [event.event_id for event in events]
    found = sorted(json.dumps([event.event_type, event.payload]) for event in events)
    expected = [
        json.dumps([k, {"n": n}]) for k, many in (("x", 200), ("y", 100)) for n in range(many)
    ]
    assert found == sorted(expected)


def test_a_server_that_is_away_is_an_error_at_the_deadline_and_no_end(
    server: Server, url: str
) -> None:
    with EventLog(url, busy_timeout=0.5) as log:
        log.insert_event("t", None, "before", {})
        server.stop()
        try:
            with pytest.raises(WriteError, match="perhaps written|not written"):
                log.insert_event("t", None, "meanwhile", {})
            with pytest.raises(
                WriteError, match="not written: "
            ):  # before the fate of that is known
                log.insert_event("t", None, "then", {})
            with pytest.raises(OrchEventsError) as caught:
                EventLog(url)
            assert "hidden" not in str(caught.value)
        finally:
            server.start()
        log.insert_event("t", None, "after", {})
        kinds = [event.event_type for event in log.query_events()]
    assert kinds == ["before", "after"]


def is_longer(seen: list[int], than: int) -> bool:
    return len(seen) > than


def test_a_restarted_server_is_found_again_by_writers_readers_and_followers(
    server: Server, url: str
) -> None:
    def write() -> list[int]:
        return [log.insert_event("t", None, "x", {"n": n}) for n in range(150)]

    with EventLog(url, busy_timeout=PATIENCE) as log, EventReader(url) as reader:
        seen: list[int] = []
        events = reader.follow_events("t", until_finished=True)
        following = start(lambda: seen.extend(event.event_id for event in events))
        writing = start(write)
        for n in (1, 2, 3):
            wait_until(partial(is_longer, seen, 20 * n))
            server.stop(how="immediate" if n % 2 else "fast")
            server.start()
        ids = writing.result(PATIENCE)
        log.insert_event("t", None, "task_completed", {})
        following.result(PATIENCE)
        stored = list(reader.query_events("t"))
    assert [event.event_id for event in stored] == seen
    assert [event.event_id for event in stored[:-1]] == ids
    assert [event.payload for event in stored[:-1]] == [{"n": n} for n in range(150)]


def test_a_machine_that_is_gone_in_the_middle_of_a_cleanup_keeps_nobody_from_writing(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_lock, "_LONGEST_IDLE", "100ms")
    with EventLog(url, busy_timeout=PATIENCE) as log, closing(raw(url)) as gone:
        gone.execute("BEGIN")
        log_lock.lock_log(gone, parse_location(url), PATIENCE)
        assert log.insert_event("t", None, "x") == 1


def test_a_hot_standby_can_be_read_and_followed_and_refuses_events(
    server: Server, url: str
) -> None:
    EventLog(url).close()
    with TemporaryDirectory(prefix="pg", dir="/tmp", ignore_cleanup_errors=True) as folder:
        standby = Server(Path(folder), primary=server)
        replica = url.replace(f"host={server.folder}", f"host={folder}")
        try:
            with EventLog(url) as log, EventReader(replica) as reader:
                seen: list[int] = []
                events = reader.follow_events("t", until_finished=True)
                following = start(lambda: seen.extend(event.event_id for event in events))
                ids = [log.insert_event("t", None, "x", {}) for _ in range(20)]
                ids.append(log.insert_event("t", None, "task_completed", {}))
                following.result(PATIENCE)
                assert seen == ids
            with pytest.raises(WriteError, match="read-only"), EventLog(replica) as log:
                log.insert_event("t", None, "x", {})
            _, found, _ = outcome("--db", replica, "doctor")
            assert "a replica: it can be read" in found and "a replica has no NOTIFY" in found
        finally:
            standby.stop()


@pytest.mark.skipif(not has_pooler(), reason="PgBouncer is not installed")
def test_a_pooler_in_transaction_mode_changes_nothing_but_the_waking(
    server: Server, url: str, tmp_path: Path
) -> None:
    with (
        TemporaryDirectory(prefix="pg", dir="/tmp", ignore_cleanup_errors=True) as folder,
        Pooler(server, Path(folder)) as pooler,
    ):
        pooled = url.replace(f"host={server.folder}", f"host={folder}")
        wait_until(pooler.accepts)
        with EventLog(pooled) as log, EventLog(pooled) as other, EventReader(pooled) as reader:
            seen: list[int] = []
            events = reader.follow_events("t", until_finished=True)
            following = start(lambda: seen.extend(event.event_id for event in events))

            def write(to: EventLog) -> list[int]:
                return [to.insert_event("t", None, "x", {"n": n}) for n in range(60)]

            writing = [start(partial(write, to)) for to in (log, other, log, other)]
            ids = sorted(event_id for job in writing for event_id in job.result(PATIENCE))
            ids += log.insert_events([("t", None, "x", {})] * 3000)
            ids.append(log.insert_event("t", None, "task_completed", {}))
            following.result(PATIENCE)
            assert seen == ids == list(range(1, 3242))
            assert [event.event_id for event in reader.query_events("t")] == ids
            assert log.stats().tasks == {"completed": 1}
            assert log.cleanup(keep_last=0, archive=tmp_path).events == 3241
        _, found, _ = outcome("--db", pooled, "doctor")
        assert "NOTIFY does not arrive" in found


def test_a_row_at_fault_fails_alone(url: str) -> None:
    with EventLog(url) as log:
        log.insert_event("t", None, "x", {})
        execute(url, "ALTER TABLE {schema}.events ADD CHECK (task_id <> 'bad')")
        host = raw(url)  # holds the log, so that the next commit takes several events
        host.execute("BEGIN")
        host.execute(f"LOCK {parse_location(url).schema}.events IN EXCLUSIVE MODE")
        first = log.submit_event("first", None, "x", {})
        futures = [log.submit_event(task, None, "x", {}) for task in ("a", "bad", "b")]
        host.execute("COMMIT")
        host.close()
        assert first.result(PATIENCE) > 1
        bad = futures.pop(1)
        for future in futures:
            assert future.result(PATIENCE) > 2
        assert isinstance(bad.exception(PATIENCE), WriteError)
        assert [event.task_id for event in log.query_events()] == ["t", "first", "a", "b"]


LONGEST_TASK: Final = os.urandom(1300).hex()


def test_what_the_server_could_not_hold_is_refused_at_the_call(url: str) -> None:
    async def append(event: tuple[str, str | None, str, dict[str, object]]) -> None:
        await log.insert_event_async(*event)

    bad: list[tuple[str, tuple[str, str | None, str, dict[str, object]]]] = [
        ("task_id", ("t\0", None, "x", {})),
        ("task_item_id", ("t", "i\0", "x", {})),
        ("event_type", ("t", None, "x\0", {})),
        ("payload.step", ("t", None, "x", {"step": "s\0"})),
        ("payload.step_scope", ("t", None, "x", {"step_scope": "s\0"})),
        ("task_id", (LONGEST_TASK + "x", None, "x", {})),
        ("task_id", ("é" * 1301, None, "x", {})),
    ]
    with EventLog(url) as log:
        for name, event in bad:
            for record in (log.insert_event, log.submit_event):
                with pytest.raises(PayloadError) as caught:
                    record(*event)
                assert caught.value.key_path == name
            with pytest.raises(PayloadError):
                asyncio.run(append(event))
            with pytest.raises(PayloadError) as caught:
                log.insert_events([("t", None, "x", {}), event])
            assert caught.value.key_path == f"events[1].{name}"
        assert list(log.query_events("t\0")) == []
        assert log.query_latest_step_log_paths("t\0") is None
        assert list(log.follow_events("t\0", after_id=1, until_finished=True, timeout=0)) == []
        assert log.insert_event(LONGEST_TASK, None, "task_started", {"pid": 1}) == 1
        log.insert_event(LONGEST_TASK, None, "task_completed", {})
        assert log.cleanup(keep_last=0).events == 2


def test_a_trigger_that_skips_a_row_fails_the_whole_batch(url: str) -> None:
    with EventLog(url) as log:
        execute(
            url,
            """CREATE FUNCTION {schema}.skip() RETURNS trigger LANGUAGE plpgsql AS
            $$ BEGIN RETURN CASE WHEN NEW.task_id = 'bad' THEN NULL ELSE NEW END; END $$""",
        )
        execute(
            url,
            """CREATE TRIGGER skip BEFORE INSERT ON {schema}.events
            FOR EACH ROW EXECUTE FUNCTION {schema}.skip()""",
        )
        with pytest.raises(WriteError):
            log.insert_events([("good", None, "x", {}), ("bad", None, "x", {})])
        assert list(log.query_events()) == []
        assert len(log.insert_events([("good", None, "x", {})] * 2)) == 2


def test_a_status_is_what_the_newest_event_says(url: str) -> None:
    with EventLog(url) as log:
        log.insert_event("t", None, "task_started", {})
        log.insert_event("t", None, "task_control", {"status": "paused"})
        log.insert_event("t", None, "task_control", {"other": 1})
        log.insert_event("u", None, "x", {})
        assert log.stats().tasks == {"paused": 1, "unknown": 1}
    status, stdout, _ = outcome("--db", url, "tasks", "--json")
    tasks = [json.loads(line) for line in stdout.splitlines()]
    assert status == 0
    assert [(task["task_id"], task["status"]) for task in tasks] == [
        ("u", "unknown"),
        ("t", "paused"),
    ]


def test_old_events_are_archived_deleted_and_restored(url: str, tmp_path: Path) -> None:
    with EventLog(url) as log:
        for task in ("a", "b"):
            log.insert_events(
                [(task, None, "step_started", {"step": "s", "n": n}) for n in range(5)]
            )
        log.insert_event("a", None, "task_completed", {})
        log.insert_event("b", None, "task_started", {})
        before = list(log.query_events())
        assert log.cleanup(older_than=timedelta(days=1), dry_run=True).events == 0
        assert log.cleanup(keep_last=0, dry_run=True).events == 6
        done = log.cleanup(keep_last=0, archive=tmp_path)
        assert (done.events, done.tasks) == (6, 1)
        assert [event.event_id for event in log.query_events()] == [6, 7, 8, 9, 10, 12]
        with pytest.raises(PrunedError) as caught:
            list(log.query_events(after_id=2))
        assert caught.value.first_available_id == 6
        with pytest.raises(PrunedError):
            list(log.query_events("a", after_id=1))
        assert len(list(log.query_events("b", after_id=6))) == 5
        (file,) = done.archived
        assert "hidden" not in file
        status, stdout, _ = outcome("--db", url, "emit", "--jsonl", file, "--restore")
        assert (status, stdout) == (0, "events recorded: 6\n")
        assert list(log.query_events()) == before
        assert log.insert_event("c", None, "x", {}) == 13
        assert len(list(log.query_events("a", after_id=1))) == 5


def test_an_archive_of_which_nothing_was_deleted_is_taken_back(url: str, tmp_path: Path) -> None:
    with EventLog(url, busy_timeout=0.1) as log:
        log.insert_event("t", None, "task_completed", {})
        with closing(raw(url)) as other:
            other.execute("BEGIN")
            log_lock.lock_log(other, parse_location(url), PATIENCE)
            with pytest.raises(WriteError, match="lock timeout"):
                log.cleanup(keep_last=0, archive=tmp_path)
        assert list(tmp_path.iterdir()) == []
        (file,) = log.cleanup(keep_last=0, archive=tmp_path).archived
        assert Path(file).exists()


def test_a_task_that_begins_again_keeps_its_events(url: str) -> None:
    with EventLog(url) as log:
        log.insert_events([("t", None, "x", {})] * 3)
        log.insert_event("t", None, "task_completed", {})
        log.insert_event("t", None, "task_started", {})
        assert log.cleanup(keep_last=0).events == 0
        assert log.cleanup(keep_last=2, only_finished=False).events == 3
        assert [event.event_id for event in log.query_events()] == [4, 5]


def test_a_role_that_must_not_create_tables_records_in_those_of_an_administrator(url: str) -> None:
    role = f"clerk_{os.getpid()}"
    schema = parse_location(url).schema
    status, ddl, _ = outcome("--db", url, "doctor", "--ddl")
    assert status == 0
    for statement in ddl.split(";\n")[:-1]:
        execute(url, statement)
    execute(url, f"CREATE ROLE {role} LOGIN")
    execute(url, f"GRANT USAGE ON SCHEMA {schema} TO {role}")
    execute(url, f"GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA {schema} TO {role}")
    execute(url, f"GRANT USAGE, SELECT ON ALL SEQUENCES IN SCHEMA {schema} TO {role}")
    with EventLog(url.replace("//orch:hidden@", f"//{role}@")) as log:
        assert log.insert_event("t", None, "x", {}) == 1
        assert len(list(log.query_events())) == 1


@pytest.mark.parametrize(
    ("revoked", "missing"),
    [
        ("SELECT ON {schema}.events", "read"),
        ("INSERT ON {schema}.events", "record"),
        ("USAGE ON SEQUENCE {schema}.events_id", "record"),
        ("DELETE ON {schema}.events", "clean up"),
        ("SELECT, INSERT, DELETE ON {schema}.events", "read, record, clean up"),
    ],
)
def test_doctor_says_what_a_role_may_not_do(url: str, revoked: str, missing: str) -> None:
    EventLog(url).close()
    schema = parse_location(url).schema
    role = f"guest_{schema}"
    execute(url, f"CREATE ROLE {role} LOGIN")
    execute(url, f"GRANT USAGE ON SCHEMA {schema} TO {role}")
    execute(url, f"GRANT ALL ON ALL TABLES IN SCHEMA {schema} TO {role}")
    execute(url, f"GRANT ALL ON ALL SEQUENCES IN SCHEMA {schema} TO {role}")
    execute(url, f"REVOKE {revoked} FROM {role}")
    _, found, _ = outcome("--db", url.replace("//orch:hidden@", f"//{role}@"), "doctor")
    assert f"without: {missing}: this user may not {missing}: GRANT" in found


def test_doctor_finds_a_newer_schema(url: str) -> None:
    EventLog(url).close()
    execute(url, "UPDATE {schema}.version SET number = 2")
    status, found, _ = outcome("--db", url, "doctor")
    assert status == 1 and "newer" in found and "privileges" not in found


def test_a_log_that_does_not_exist_is_not_made_by_reading(url: str) -> None:
    with pytest.raises(LogNotFoundError, match="no event log in schema"):
        EventReader(url)
    with EventReader(url, must_exist=False) as reader:
        with pytest.raises(LogNotFoundError):
            next(iter(reader.query_events()))
        EventLog(url).close()
        assert list(reader.query_events()) == []


def test_a_schema_that_is_dropped_under_an_open_log_is_an_error(url: str) -> None:
    with EventLog(url) as log:
        log.insert_event("t", None, "x", {})
        assert len(list(log.query_events())) == 1
        execute(url, "DROP SCHEMA {schema} CASCADE")
        with pytest.raises(SchemaError, match="cannot read"):
            list(log.query_events())
        with pytest.raises(SchemaError, match="not written"):
            log.insert_event("t", None, "x", {})


def test_six_at_once_make_one_log(url: str) -> None:
    def record() -> int:
        with EventLog(url) as log:
            return log.insert_event("t", None, "x", {})

    makers = [start(record) for _ in range(6)]
    assert sorted(maker.result(PATIENCE) for maker in makers) == [1, 2, 3, 4, 5, 6]


def test_a_sequence_that_would_break_the_order_of_ids_is_refused(url: str) -> None:
    EventLog(url).close()
    execute(url, "ALTER SEQUENCE {schema}.events_id CACHE 20")
    with pytest.raises(SchemaError, match="CACHE 20"):
        EventLog(url)


def test_a_newer_schema_is_refused(url: str) -> None:
    EventLog(url).close()
    execute(url, "UPDATE {schema}.version SET number = 2")
    for opened in (EventLog, EventReader):
        with pytest.raises(SchemaError, match="newer"):
            opened(url)


def test_nothing_is_left_after_a_close(url: str) -> None:
    with EventLog(url) as log:
        log.insert_event("t", None, "x", {})
        assert [event.event_id for event in log.query_events("t")] == [1]
        assert [event.event_id for event in log.follow_events("t", timeout=0)] == [1]
    wait_until(lambda: library_threads() == [])
    assert query(url, "SELECT count(*) FROM {schema}.commits") == [(0,)]


def test_no_message_shows_the_password(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = url.replace("/events?", "/nowhere?")
    monkeypatch.setenv("ORCH_EVENTS_DB", wrong)
    for words in (
        ["events", "t"],
        ["doctor"],
        ["events", "-h"],
        ["run", "--task", "t", "--", "true"],
    ):
        _, stdout, stderr = outcome(*words)
        assert "hidden" not in stdout + stderr
    with pytest.raises(OrchEventsError) as caught:
        EventLog(wrong)
    assert "hidden" not in str(caught.value) + repr(caught.value)


def connects(driver: str, url: str, **options: Any) -> Callable[[], PostgresConnection]:
    """A host's function that connects to the database of `url` with this driver."""
    module = pytest.importorskip(driver)
    return partial(module.connect, parse_location(url).url, **options)


drivers = pytest.mark.parametrize("driver", ["psycopg", "psycopg2"])


@drivers
def test_a_log_lives_on_connections_that_the_host_makes(
    driver: str, url: str, tmp_path: Path
) -> None:
    database = PostgresDatabase(connects(driver, url), parse_location(url).schema)

    async def append() -> int:
        async with EventLog(database) as log:
            return await log.insert_event_async("t", None, "x", {})

    with EventLog(database) as log, EventReader(database) as reader:
        assert (
            log.insert_events([(text, text, text or "x", {"step": text}) for text in ODD])[-1] == 12
        )
        assert [event.task_id for event in reader.query_events()] == ODD
        seen: list[int] = []
        events = reader.follow_events("t", until_finished=True)
        following = start(lambda: seen.extend(event.event_id for event in events))
        assert asyncio.run(append()) == 13
        wait_until(lambda: seen == [13])
        query(url, KILL_ALL_OTHERS)
        assert log.insert_event("t", None, "task_completed", {}) == 14
        following.result(PATIENCE)
        assert seen == [13, 14]
        assert log.cleanup(keep_last=0, archive=tmp_path).events == 3  # one is of no task
        assert log.stats().events == 11
    assert [event.event_id for event in query_step_events(database, "t")] == []


@drivers
def test_an_event_is_part_of_the_hosts_transaction(driver: str, url: str) -> None:
    schema = parse_location(url).schema
    connection: Any = connects(driver, url)()
    record = partial(insert_event_with_conn, connection, "t", None, "ordered", schema=schema)
    with pytest.raises(SchemaError):
        record({})
    connection.rollback()
    EventLog(url).close()
    record({"n": 1})
    connection.rollback()
    with EventReader(url) as reader:
        event_id = record({"n": 2})
        with pytest.raises(PayloadError, match="NUL"):
            record({"step": "\0"})
        assert list(reader.query_events()) == []
        connection.commit()
        assert [event.event_id for event in reader.query_events()] == [event_id]
    connection.close()
    with pytest.raises(WriteError):
        record({})


def test_the_hosts_ways_of_reading_rows_change_nothing(url: str) -> None:
    rows = pytest.importorskip("psycopg.rows")
    raw_cursor = pytest.importorskip("psycopg").RawCursor
    schema = parse_location(url).schema
    for options in ({"row_factory": rows.dict_row}, {"cursor_factory": raw_cursor}):
        connect = connects("psycopg", url, **options)
        with EventLog(PostgresDatabase(connect, schema)) as log:
            log.insert_event("t", None, "x", {})
            connection: Any = connect()
            last_id = insert_event_with_conn(connection, "t", None, "x", {}, schema=schema)
            connection.commit()
            connection.close()
            assert list(log.query_events())[-1].event_id == last_id


@drivers
def test_a_host_that_cannot_connect_is_an_error_at_the_call(driver: str, url: str) -> None:
    error = pytest.importorskip(driver).OperationalError
    connect = connects(driver, url)
    is_away = False

    def may_connect() -> PostgresConnection:
        if is_away:
            raise error("the host says no")
        return connect()

    database = PostgresDatabase(may_connect, parse_location(url).schema)
    with EventLog(database, busy_timeout=0.2) as log:
        log.insert_event("t", None, "x", {})
        is_away = True
        query(url, KILL_ALL_OTHERS)
        with pytest.raises(WriteError, match="the host says no"):
            log.insert_event("t", None, "x", {})
        with pytest.raises(ReadError, match="the host says no"):
            list(EventReader(database).query_events())
        is_away = False
        assert log.insert_event("t", None, "x", {}) > 1


def test_what_is_no_connection_for_a_log_is_refused(url: str) -> None:
    with closing(sqlite3.connect(":memory:")) as wrong:
        not_postgres: Any = wrong
        with pytest.raises(OrchEventsError, match=r"psycopg2: sqlite3\.Connection"):
            EventLog(PostgresDatabase(lambda: not_postgres))
    with pytest.raises(OrchEventsError, match="encoding"):
        EventLog(PostgresDatabase(connects("psycopg", url, client_encoding="latin1")))
    with pytest.raises(OrchEventsError, match="lower-case"):
        EventLog(PostgresDatabase(connects("psycopg", url), "Bad"))
    not_one: Any = object()
    with pytest.raises(OrchEventsError, match="object"):
        insert_event_with_conn(not_one, "t", None, "x", {})


def test_the_commands_take_the_url(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["--db", url, "run", "--task", "t", "--quiet", "--", "sh", "-c", "echo hello"]
    assert outcome(*words)[0] == 0
    _, listed, _ = outcome("--db", url, "events", "t")
    assert "step_finished" in listed
    assert "hello\n" in outcome("--db", url, "logs", "t")[1]
    assert "sh" in outcome("--db", url, "trace", "t")[1]
    assert outcome("--db", url, "watch", "t", "--once")[0] == 0
    assert "step_spawned" in outcome("--db", url, "stats")[1]
    status, found, _ = outcome("--db", url, "doctor")
    assert status == 0 and "by NOTIFY" in found and "read, record, clean up" in found


def test_a_command_that_begins_while_the_server_is_away_is_recorded_when_it_comes(
    server: Server, url: str, tmp_path: Path
) -> None:
    with EventLog(url):
        pass
    command = "touch begun; until [ -e go ]; do sleep 0.05; done; exit 3"
    words = ("--db", url, "run", "--task", "t", "--", "sh", "-c", command)
    server.stop()
    try:
        process = subprocess.Popen(
            [sys.executable, "-m", "orch_events", *words],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": python_path()},
            stderr=subprocess.PIPE,
            text=True,
        )
        assert process.stderr is not None
        first = process.stderr.readline()
        wait_until((tmp_path / "begun").exists)
    finally:
        server.start()
    (tmp_path / "go").touch()
    _, rest = process.communicate(timeout=PATIENCE)
    assert first.startswith("orch-events: events wait for the log: ") and "hidden" not in first
    assert (process.returncode, rest) == (3, "")
    with EventReader(url) as reader:
        kinds = [event.event_type for event in reader.query_events("t")]
    assert kinds == ["step_started", "step_spawned", "step_finished"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_a_forked_child_is_refused_and_does_no_harm(url: str, tmp_path: Path) -> None:
    source = """
import os, sys
from orch_events import EventLog, ForkedError
log = EventLog(sys.argv[1])
log.insert_event("t", None, "x", {})
child = os.fork()
if child == 0:
    try:
        log.insert_event("t", None, "child", {})
    except ForkedError:
        sys.exit(3)
_, status = os.waitpid(child, 0)
print(os.waitstatus_to_exitcode(status), log.insert_event("t", None, "x", {}))
log.close()
"""
    assert run_script(tmp_path, source, url) == "3 2\n"


def test_a_copy_without_the_other_engine_works(url: str, tmp_path: Path) -> None:
    ignored = shutil.ignore_patterns("sqlite", "cli", "__pycache__")
    shutil.copytree(ROOT / "orch_events", tmp_path / "orch_events", ignore=ignored)
    source = """
import sys
from orch_events import EventLog
with EventLog(sys.argv[1]) as log:
    print(log.insert_event("t", None, "x", {}), len(list(log.query_events())))
"""
    printed = subprocess.check_output(
        [sys.executable, "-c", source, url], cwd=tmp_path, text=True, timeout=PATIENCE
    )
    assert printed == "1 1\n"
