# SPDX-License-Identifier: MIT
"""`stats` and ``orch-events stats``, compared with what a full count says."""

import asyncio
import json
import sqlite3
import time
from collections import Counter
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from orch_events import EventLog, EventReader, Stats

from .engines import only_files
from .helpers import all_statements, outside
from .terminal import outcome, terminal

BOTH_ENGINES = True

STATUS = {
    "task_started": "running", "task_paused": "paused", "task_completed": "completed",
    "task_failed": "failed", "task_cancelled": "cancelled",
}  # fmt: skip
kinds = st.sampled_from([*STATUS, "step_heartbeat", "x"])


def insert(path: Path, rows: list[tuple[str, str, str]]) -> None:
    sql = "INSERT INTO events(task_id, event_type, created_at, payload_json) VALUES (?, ?, ?, '{}')"
    outside(path, sql, rows)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.lists(st.tuples(st.sampled_from("abc"), kinds, st.integers(0, 5))))
def test_it_is_what_a_count_says(tmp_path: Path, events: list[tuple[str, str, int]]) -> None:
    path = tmp_path / f"{time.perf_counter_ns()}.db"
    now = datetime.now(UTC)
    events = sorted(events, key=lambda event: -event[2])
    rows = [(task, kind, (now - timedelta(days=days)).isoformat()) for task, kind, days in events]
    with EventLog(path) as log:
        insert(path, rows)
        found = log.stats(days=3)
    last = {task: kind for task, kind, _ in events if kind in STATUS}
    statuses = Counter(
        STATUS[last[task]] if task in last else "unknown"
        for task in {task for task, _, _ in events}
    )
    days = Counter(at[:10] for _, _, at in rows)
    assert (found.events, found.sampled) == (len(events), len(events))
    assert found.tasks == statuses and found.event_types == Counter(kind for _, kind, _ in events)
    assert (found.oldest, found.newest) == ((rows[0][2], rows[-1][2]) if rows else (None, None))
    assert found.days == {
        day: days[day] for n in (2, 1, 0) if (day := f"{now - timedelta(days=n):%Y-%m-%d}")
    }
    assert found.file_bytes > 0 and (found.event_bytes > 0) == bool(rows)


BIG = """
WITH RECURSIVE k(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM k WHERE n < {count})
INSERT INTO events(id, task_id, event_type, payload_json, created_at)
SELECT n + {hole} * (n > {half}), 't' || (n % 50), CASE abs(random()) % 10 WHEN 0 THEN 'b' ELSE 'a' END,
    '{{"text":"' || hex(zeroblob(100)) || '"}}', '2026-01-01T00:00:00.000000+00:00' FROM k"""


def big(path: Path, count: int, hole: int) -> None:
    """One event in ten a ``b``, of large payloads, with a hole in the ids."""
    with EventLog(path) as log, closing(sqlite3.connect(path, isolation_level=None)) as connection:
        log.flush()
        connection.execute("PRAGMA synchronous = OFF")
        connection.execute(BIG.format(count=count, hole=hole, half=count // 10))


@only_files
@pytest.mark.long
@pytest.mark.parametrize("hole", [50_000_000, pytest.param(50_000, marks=pytest.mark.long)])
def test_of_many_a_sample_is_taken(path: Path, hole: int) -> None:
    big(path, 150_000, hole)
    with EventReader(path) as reader, all_statements() as statements:
        found = reader.stats()
        assert asyncio.run(reader.stats_async()).events == found.events == 150_000
    assert 5_000 < found.sampled <= 11_000
    assert found.event_types["b"] == pytest.approx(15_000, rel=0.2)
    assert sum(found.event_types.values()) == pytest.approx(150_000, abs=5)
    assert not any("payload_json" in statement for statement in statements)
    assert found.tasks == {"unknown": 50}


@only_files
@pytest.mark.long
def test_what_is_thin_weighs_little(path: Path) -> None:
    big(path, 150_000, 105_000)
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE events SET event_type = 'thin', id = -id WHERE id <= 15000")
        connection.execute("UPDATE events SET id = id * -8 WHERE id < 0")
    with EventReader(path) as reader:
        assert reader.stats().event_types["thin"] == pytest.approx(15_000, rel=0.3)


def test_a_hole_belongs_to_no_day(log: EventLog, path: Path) -> None:
    now = datetime.now(UTC)
    rows = [
        ("t", "x", (now - timedelta(days=days)).isoformat())
        for days in range(20, -1, -1)
        for _ in range(100)
    ]
    insert(
        path, [("lost", "task_started", rows[0][2]), *rows, ("t", "task_completed", rows[-1][2])]
    )
    log.cleanup(older_than=timedelta(days=3))
    days = [f"{now - timedelta(days=days):%Y-%m-%d}" for days in range(8, -1, -1)]
    assert log.stats(days=9).days == dict(zip(days, [0] * 6 + [100, 100, 101]))


def stats(path: Path, *words: str) -> tuple[int, str, str]:
    return outcome("--db", path, "stats", *words)


@only_files
def test_on_the_command_line(path: Path) -> None:
    with EventLog(path) as log:
        log.insert_events([("t", None, "task_started", {}), *[("t", None, "e\x1b[31m", {})] * 3])
        log.insert_event("u", None, "task_failed", {})
        members = json.loads(stats(path, "--json")[1])
    assert Stats(**members).tasks == {"running": 1, "failed": 1}
    shown = stats(path)[1]
    today = datetime.now(UTC).date().isoformat()
    assert {"events    5", "tasks     2"} <= set(shown.splitlines())
    assert f"{today}  {'█' * 40}" in shown and "≈" not in shown
    assert "\x1b" not in shown and r"e\x1b[31m" in shown
    with terminal("--db", path, "stats", columns=50) as screen:
        screen.wait_for(today, "failed")
        assert screen.end() == 0
    status, stdout, stderr = stats(path.with_name("none.db"))
    assert (status, stdout, stderr.count("\n")) == (1, "", 1)


@only_files
def test_where_stdout_is_not_utf_8(path: Path) -> None:
    big(path, 101_000, 0)
    with EventLog(path) as log:
        log.insert_event("t", None, "x", {})
    shown = outcome("--db", path, "stats", PYTHONIOENCODING="latin-1")[1]
    assert "  ~ " in shown and f"  {'#' * 40}  " in shown and "\\" not in shown


@only_files
def test_of_an_empty_log(log: EventLog, path: Path) -> None:
    found = log.stats()
    assert (found.events, found.tasks, found.event_types, found.newest) == (0, {}, {}, None)
    assert stats(path)[0] == 0
