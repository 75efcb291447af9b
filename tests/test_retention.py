# SPDX-License-Identifier: MIT
"""`cleanup`: which events go, compared with a computation that knows nothing of SQL; and beside writers."""

import os
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime, timedelta, timezone
from operator import methodcaller
from pathlib import Path
from statistics import median
from typing import Any, Final, NamedTuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from orch_events import Cleanup, EventLog, LogClosedError, PrunedError
from orch_events._maintenance import retention
from orch_events._storage.interface import Prunable, RetentionRules
from orch_events._storage.sqlite.maintenance_session import SqliteMaintenanceSession

from .engines import only_files
from .helpers import (
    PATIENCE,
    ROOT,
    all_statements,
    execute,
    outside,
    start,
    wait_until,
    write_locked,
)

BOTH_ENGINES = True

CUTOFF: Final = datetime(2026, 3, 1, 12, tzinfo=UTC)
STATUSES: Final = {"task_started", "task_paused", "task_completed", "task_failed", "task_cancelled"}
EAST = timezone(timedelta(hours=5))
WEST = timezone(-timedelta(hours=5))
ENDS: Final = STATUSES - {"task_started", "task_paused"}


NO_TIMES: Final = (
    "yesterday",
    "2020-13-45T99:99:99.999999+00:00",
    "2020-02-30T00:00:00.000000+00:00",
    "0000-00-00T00:00:00.000000+00:00",
    "0000-01-01T00:00:00.000000+00:00",
    "2020-01-01T23:59:60.000000+00:00",
    "2020-01-01T00:00:00.000000+00:00\0x",
)


class Row(NamedTuple):
    """An event as some other program may have written it."""

    task_id: str
    event_type: str
    age: timedelta | None
    """Before the cutoff; ``None`` for a time that is none."""
    form: int = 0
    """How the time is written; or which that is none."""

    @property
    def created_at(self) -> str:
        if self.age is None:
            return NO_TIMES[self.form]
        at = CUTOFF - self.age
        east = at.astimezone(timezone(timedelta(hours=5, minutes=30)))
        west = at.astimezone(timezone(-timedelta(hours=11)))
        return [
            at.isoformat(timespec="microseconds"),
            at.strftime("%Y-%m-%d %H:%M:%S.%f"),
            at.strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
            at.strftime("%Y-%m-%dt%H:%M:%S.%fz"),
            at.strftime("%Y-%m-%dT%H:%M:%S.%f999+00:00"),
            east.isoformat(timespec="microseconds"),
            west.isoformat(" ", timespec="microseconds"),
        ][self.form]


FORMS: Final = 7


def store(path: Path, rows: list[Row]) -> None:
    """Rows with the ids 1, 2, 3 …"""
    sql = "INSERT INTO events(task_id, event_type, payload_json, created_at) VALUES (?, ?, '{}', ?)"
    outside(path, sql, [(row.task_id, row.event_type, row.created_at) for row in rows])


def ids(path: Path) -> set[int]:
    return {i for (i,) in outside(path, "SELECT id FROM events")}


def expected(
    rows: dict[int, Row], older_than: bool, keep_last: int | None, only_finished: bool
) -> set[int]:
    """The ids that must go."""
    doomed: set[int] = set()
    for task in {row.task_id for row in rows.values()}:
        own = sorted(i for i, row in rows.items() if row.task_id == task)
        statuses = [i for i in own if rows[i].event_type in STATUSES]
        if only_finished and (not statuses or rows[statuses[-1]].event_type not in ENDS):
            continue
        go = own[: len(own) - (keep_last or 0)] if (keep_last or 0) < len(own) else []
        if older_than:
            go = [i for i in go if (age := rows[i].age) is not None and age > timedelta()]
        if len(go) < len(own) and statuses:
            go = [i for i in go if i != statuses[-1]]
        doomed.update(go)
    return doomed


ages = st.one_of(
    st.sampled_from(
        [
            timedelta(),
            timedelta(microseconds=1),
            -timedelta(microseconds=1),
            timedelta(hours=5),
            None,
        ]
    ),
    st.timedeltas(min_value=timedelta(days=-3), max_value=timedelta(days=3)),
)
events = st.builds(
    Row,
    task_id=st.sampled_from(["a", "b", "b ", "ü\0"]),
    event_type=st.sampled_from(
        ["task_started", "task_completed", "task_failed", "task_paused", "x", "step_finished"]
    ),
    age=ages,
    form=st.integers(0, FORMS - 1),
)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    rows=st.lists(events, max_size=25),
    older_than=st.booleans(),
    keep_last=st.none() | st.integers(0, 6),
    only_finished=st.booleans(),
    batch=st.integers(1, 4) | st.just(5000),
)
def test_what_goes(
    tmp_path: Path,
    rows: list[Row],
    older_than: bool,
    keep_last: int | None,
    only_finished: bool,
    batch: int,
) -> None:
    path = tmp_path / f"{time.perf_counter_ns()}.db"
    if not older_than and keep_last is None:
        keep_last = 0
    with EventLog(path) as log:
        store(path, rows)
        numbered = dict(enumerate(rows, 1))
        doomed = expected(numbered, older_than, keep_last, only_finished)

        def clean(dry_run: bool) -> Cleanup:
            cutoff = CUTOFF if older_than else None
            return log.cleanup(
                older_than=cutoff,
                keep_last=keep_last,
                only_finished=only_finished,
                batch=batch,
                dry_run=dry_run,
            )

        foreseen = clean(True)
        assert ids(path) == set(numbered), "a dry run deletes nothing"
        done = clean(False)
        left = set(numbered) - doomed
        gone = len({row.task_id for row in rows}) - len({numbered[i].task_id for i in left})
        assert (ids(path), done.events, done.tasks) == (left, len(doomed), gone)
        assert (foreseen.events, foreseen.tasks) == (len(doomed), gone)
        assert clean(False).events == 0, "the same cutoff, the same events"
        assert log.insert_event("new", None, "x", {}) == len(rows) + 1, "ids are not given again"


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    rows=st.lists(events, min_size=1, max_size=25),
    stop=st.integers(1, 8),
    only_finished=st.booleans(),
)
def test_interrupted_anywhere_it_goes_on(
    tmp_path: Path, rows: list[Row], stop: int, only_finished: bool
) -> None:
    path = tmp_path / f"{time.perf_counter_ns()}.db"
    count = 0

    def progress(so_far: Cleanup) -> None:
        nonlocal count
        count += 1
        left = {rows[event_id - 1].task_id for event_id in ids(path)}
        assert so_far.tasks == len({row.task_id for row in rows} - left)
        if count == stop:
            raise KeyboardInterrupt

    with EventLog(path) as log:
        store(path, rows)
        doomed = expected(dict(enumerate(rows, 1)), True, None, only_finished)
        try:
            log.cleanup(older_than=CUTOFF, only_finished=only_finished, batch=1, progress=progress)
        except KeyboardInterrupt:
            log.cleanup(older_than=CUTOFF, only_finished=only_finished, batch=1)
        assert ids(path) == set(range(1, len(rows) + 1)) - doomed


def finished(task: str, count: int) -> list[Row]:
    kinds = ["task_started", *["step_heartbeat"] * (count - 2), "task_completed"]
    return [Row(task, kind, timedelta(days=1)) for kind in kinds]


def test_what_is_no_time_is_never_old(log: EventLog, path: Path) -> None:
    store(path, [Row(f"t{form}", "task_completed", None, form) for form in range(FORMS)])
    assert log.cleanup(older_than=timedelta(0), only_finished=False).events == 0


def any_cleanup(log: EventLog, **options: object) -> None:
    """As a program without type checks may call it."""
    methodcaller("cleanup", **options)(log)


def test_what_makes_no_sense_is_refused(log: EventLog) -> None:
    for keep_last, max_bytes, batch in (
        (None, None, 1),
        (-1, None, 1),
        (None, -1, 1),
        (1, None, 0),
    ):
        with pytest.raises(ValueError, match="cleanup needs|must"):
            log.cleanup(keep_last=keep_last, max_bytes=max_bytes, batch=batch)
    for wrong in (10**30, 1.5, "3"):
        for name in ("keep_last", "max_bytes"):
            with pytest.raises(ValueError, match="must be whole numbers"):
                any_cleanup(log, **{name: wrong})
    for when in (
        timedelta.max,
        datetime.max.replace(tzinfo=WEST),
        datetime.min.replace(tzinfo=EAST),
        5,
        "30d",
    ):
        with pytest.raises(ValueError, match=r"neither an age nor a moment, or out of range: \w"):
            any_cleanup(log, older_than=when)
    log.close()
    with pytest.raises(LogClosedError):
        log.cleanup(keep_last=1)


def test_ages_and_moments_without_a_zone(log: EventLog, path: Path) -> None:
    store(path, finished("t", 5))
    assert (
        log.cleanup(older_than=CUTOFF.replace(tzinfo=None) - timedelta(days=1), dry_run=True).events
        == 0
    )
    assert log.cleanup(older_than=CUTOFF.replace(tzinfo=None), dry_run=True).events == 5
    assert log.cleanup(older_than=timedelta(days=36500), dry_run=True).events == 0
    assert log.cleanup(older_than=timedelta()).events == 5


@pytest.mark.parametrize(
    "options",
    [
        {"older_than": timedelta(days=-1)},
        {"older_than": timedelta(microseconds=-1)},
        {"older_than": datetime(9000, 1, 1)},
        {"older_than": datetime.max},
        {"older_than": datetime.min.replace(tzinfo=EAST)},
        {"keep_last": 1, "gzip": True},
        {"keep_last": 1, "archive": ""},
        {},
    ],
    ids=str,
)
def test_what_makes_no_sense_is_refused_and_nothing_goes(
    log: EventLog, path: Path, options: dict[str, Any]
) -> None:
    store(path, finished("t", 5))
    with pytest.raises(ValueError, match=r"older_than|gzip|archive"):
        log.cleanup(**options)
    assert len(ids(path)) == 5


def fill(path: Path, tasks: int, count: int, size: int = 300) -> None:
    """Finished tasks, eight at a time side by side, of a day ago."""
    kinds = ["task_started", *["step_heartbeat"] * (count - 2), "task_completed"]
    at = (datetime.now(UTC) - timedelta(days=1)).isoformat(timespec="microseconds")
    payload = f'{{"text":"{"x" * size}"}}'
    rows = list[tuple[str, str, str, str]]()
    for first in range(0, tasks, 8):
        names = [f"task-{n}" for n in range(first, min(first + 8, tasks))]
        rows += [(name, kind, payload, at) for kind in kinds for name in names]
    sql = "INSERT INTO events(task_id, event_type, payload_json, created_at) VALUES (?, ?, ?, ?)"
    outside(path, sql, rows)


@only_files
def test_a_size_is_kept_to_and_the_file_shrinks(log: EventLog, path: Path) -> None:
    fill(path, 80, 100)
    log.insert_events([("live", None, "task_started", {})] * 10)
    before = path.stat().st_size
    goal = 1_000_000
    seen: list[Cleanup] = []
    done = log.cleanup(max_bytes=goal, progress=seen.append)
    assert goal * 0.9 < path.stat().st_size <= goal
    assert (done.bytes_freed, done.bytes_reusable) == (before - path.stat().st_size, 0)
    assert ids(path) == set(range(done.events + 1, 8011)), (
        "the oldest, no more than needed, no hole"
    )
    assert seen[-1] == done and [c.events for c in seen] == sorted(c.events for c in seen)
    assert log.cleanup(max_bytes=goal).events == 0
    assert log.cleanup(max_bytes=0).events == 8000 - done.events
    assert len(log.query_step_events("live") + list(log.query_events())) == 10, (
        "what has not ended stays"
    )


@only_files
def test_a_file_made_without_auto_vacuum_says_so(path: Path) -> None:
    execute(path, "PRAGMA journal_mode=WAL", "CREATE TABLE mine(x)")
    with EventLog(path) as log:
        fill(path, 8, 100)
        done = log.cleanup(keep_last=0)
        assert (done.events, done.bytes_freed) == (800, 0)
        assert done.bytes_reusable > 100_000
        log.insert_event("t", None, "x")
        assert log.stats().event_bytes < done.bytes_reusable


def test_it_waits_for_others_and_leaves_no_transaction(path: Path) -> None:
    with EventLog(path, busy_timeout=0.2) as log:
        store(path, finished("t", 50))
        with (
            write_locked(path),
            pytest.raises(
                Exception,
                match="cleanup stopped: (database is locked|canceling statement due to lock timeout)",
            ),
        ):
            log.cleanup(keep_last=0)
        with write_locked(path):
            job = start(lambda: log.cleanup(keep_last=0))
            time.sleep(0.05)
        assert job.result(PATIENCE).events == 50


def test_a_task_that_begins_again_meanwhile_keeps_what_is_left(log: EventLog, path: Path) -> None:
    store(path, finished("t", 500) + finished("u", 500))

    def again(so_far: Cleanup) -> None:
        if so_far.events and not restarted:
            restarted.append(log.insert_event("t", None, "task_started", {}))

    restarted: list[int] = []
    done = log.cleanup(older_than=CUTOFF, batch=100, progress=again)
    assert restarted and done.events == 600
    assert ids(path) == {*range(101, 501), *restarted}


def test_one_that_goes_on_meanwhile_without_a_status_loses_all_that_is_old(
    log: EventLog, path: Path
) -> None:
    store(path, [Row("t", "x", timedelta(days=1))] * 500)

    def go_on(_: Cleanup) -> None:
        log.insert_event("t", None, "x", {})

    assert log.cleanup(older_than=CUTOFF, only_finished=False, progress=go_on).events == 500
    assert min(ids(path)) == 501


@only_files
def test_every_commit_is_bounded_and_others_come_between(log: EventLog, path: Path) -> None:
    fill(path, 80, 100)
    with all_statements() as statements:
        log.cleanup(keep_last=0, batch=150)
    text = "\n".join(statements)
    commits = text.count("\nCOMMIT")
    assert commits >= 8000 / 150
    assert text.count("BEGIN IMMEDIATE") == commits
    assert "VACUUM" not in text.replace("incremental_vacuum", ""), "never the whole file"
    assert len(statements) < 30 * commits


# -------------------------------------------------------------------------------------------------------- at length


CLEAN: Final = """
import os, sys, time
from datetime import datetime
from orch_events import EventLog

def progress(_):
    while os.path.exists(sys.argv[3]):
        time.sleep(0.01)

with EventLog(sys.argv[1]) as log:
    print(log.cleanup(older_than=datetime.fromisoformat(sys.argv[2]), progress=progress))
"""
"""It pauses, between two commits, as long as a file is there."""


@only_files
@pytest.mark.long
def test_a_million_of_more_go_beside_a_writer(path: Path) -> None:
    with EventLog(path) as log:
        fill(path, 800, 1250, 100)
        cutoff = datetime.now(UTC)
        store(path, [Row("young", "x", -timedelta(days=9000))] * 200_000)
        before = path.stat().st_size
        acked: list[int] = []
        stop = threading.Event()
        waits: list[float] = []
        pause = path.with_name("pause")

        def write() -> None:
            while not stop.is_set():
                began = time.perf_counter()
                acked.append(log.insert_event("live", None, "step_heartbeat", {"n": len(acked)}))
                waits.append(time.perf_counter() - began)
                time.sleep(0.002)

        seen: list[int] = []
        reading = start(
            lambda: seen.extend(e.event_id for e in log.follow_events("live", stop=stop))
        )
        writing = start(write)
        command = [sys.executable, "-c", CLEAN, str(path), cutoff.isoformat(), str(pause)]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        beside: list[
            float
        ] = []  # the p99 of the acks of each phase; and in between, of those while it pauses
        alone: list[float] = []
        with subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, text=True
        ) as process:
            wait_until(lambda: len(ids(path)) < 1_200_000)
            while process.poll() is None:
                for seconds, p99 in ((2, beside), (0.5, alone)):
                    first = len(waits)
                    time.sleep(seconds)
                    times = sorted(waits[first:]) or [seconds]
                    if process.poll() is None:
                        p99.append(times[len(times) * 99 // 100])
                    if p99 is beside:
                        pause.touch()
                    time.sleep(0.1)
                pause.unlink()
            done = process.stdout.read() if process.stdout else ""
        assert "events=1000000, tasks=800" in done, done
        wait_until(lambda: len(seen) >= len(acked) - 5)
        stop.set()
        writing.result(PATIENCE)
        reading.result(PATIENCE)
        found = [median(times) * 1000 for times in (alone, beside)]
        print(
            f"p99 of an ack, median of {len(beside)} phases: {found[0]:.2f} ms alone, {found[1]:.2f} ms beside it"
        )
        assert ids(path) == {*range(1_000_001, 1_200_001), *acked}
        assert seen == acked[: len(seen)]
        assert path.stat().st_size < before * 0.3
        with pytest.raises(PrunedError):
            next(iter(log.follow_events(after_id=5)))
        assert found[1] < 30 * found[0], (
            "4 is usual; without the pauses between the commits it is 1,000"
        )


def test_what_is_recorded_meanwhile_does_not_make_a_hole_in_what_is_kept(
    log: EventLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each look at the next rows comes later than the one before; which events are the newest must not move."""
    select = SqliteMaintenanceSession.select_prunable

    def select_and_record(
        session: SqliteMaintenanceSession, rules: RetentionRules, after_id: int, count: int
    ) -> Prunable:
        found = select(session, rules, after_id, count)
        log.insert_events([("t", None, "x", {})] * 3)
        return found

    monkeypatch.setattr(retention, "_ROWS_LOOKED_AT", 4)
    monkeypatch.setattr(SqliteMaintenanceSession, "select_prunable", select_and_record)
    log.insert_events([("t", None, "x", {})] * 20)
    assert log.cleanup(keep_last=10, only_finished=False).events == 10
    left = [event.event_id for event in log.query_events("t", after_id=10)]
    assert left == list(range(11, 11 + len(left))) and len(left) >= 10
