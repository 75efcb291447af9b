# SPDX-License-Identifier: MIT
"""Who is told of what was pruned, when, and how to go on: `PrunedError`."""

import asyncio
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import pytest

from orch_events import Event, EventLog, EventReader, PrunedError
from orch_events._storage.sqlite import pruned_table, read_session
from orch_events._storage.sqlite.pruned_table import read_pruned

from .engines import only_files
from .helpers import PATIENCE, all_statements, execute, start, wait_until
from .terminal import outcome
from .test_retention import CUTOFF, Row, finished, ids, store

BOTH_ENGINES = True


def everything(read: Callable[[int], Iterator[Event]], after_id: int) -> list[int]:
    """What somebody reads who goes on as the error says."""
    found: list[int] = []
    for _ in range(50):
        try:
            found.extend(event.event_id for event in read(after_id))
            return found
        except PrunedError as error:
            assert error.first_available_id > after_id
            after_id = error.first_available_id - 1
    raise AssertionError("told for ever")


@pytest.fixture
def pruned(log: EventLog, path: Path) -> Iterator[EventReader]:
    """1…10 of a, all gone; 11…20 of b, alive; 21…30 of c, of which 30 is left, and 29, which ended it."""
    rows = finished("a", 10) + [Row("b", "x", timedelta(days=1))] * 10
    rows += [*finished("c", 9), Row("c", "x", -timedelta(days=1))]
    store(path, rows)
    with EventReader(path) as reader:
        assert log.cleanup(older_than=CUTOFF).events == 18
        assert ids(path) == {*range(11, 21), 29, 30}
        yield reader


@pytest.mark.parametrize(
    ("task", "after_id", "first"),
    [
        (None, 0, None), (None, 3, 11), (None, 9, 11), (None, 10, None), (None, 20, 29), (None, 28, None),
        ("a", 0, None), ("a", 4, 11), ("a", 10, None), ("a", 500, None),
        ("b", 0, None), ("b", 3, None), ("b", 15, None), ("b", 40, None),
        ("c", 0, None), ("c", 5, 29), ("c", 27, 29), ("c", 28, None), ("c", 30, None),
        ("unknown", 5, None),
    ],
)  # fmt: skip
def test_which_readers_are_told_of_a_gap_at_once(
    pruned: EventReader, task: str | None, after_id: int, first: int | None
) -> None:
    reads: list[Callable[[], object]] = [
        lambda: next(iter(pruned.query_events(task, after_id=after_id)), None),
        lambda: next(iter(pruned.follow_events(task, after_id=after_id, timeout=0)), None),
        lambda: next(iter(pruned.query_events(task, after_id=after_id, limit=1)), None),
    ]
    if task is not None:
        reads += [
            lambda: pruned.query_step_events(task, after_id=after_id),
            lambda: list(pruned.follow_step_events(task, after_id=after_id, timeout=0)),
        ]
    if (task, after_id) == (None, 10):  # 11 is there, so the gap is told of when it is come to
        assert [event.event_id for event in pruned.query_events(limit=3, after_id=10)] == [
            11,
            12,
            13,
        ]
        with pytest.raises(PrunedError):
            list(pruned.follow_events(after_id=10, timeout=0))
        return
    for read in reads:
        if first is None:
            read()
        else:
            with pytest.raises(PrunedError) as caught:
                read()
            if task != "a":
                assert caught.value.first_available_id == first or "step" in str(read)


def test_going_on_as_the_error_says_reads_all_that_is_left(pruned: EventReader) -> None:
    left = [*range(11, 21), 29, 30]
    for after_id in range(31):
        for task, own in ((None, left), ("a", []), ("b", left[:10]), ("c", left[10:])):
            wanted = [i for i in own if i > after_id]
            assert everything(lambda at: pruned.query_events(task, after_id=at), after_id) == wanted
            assert (
                everything(lambda at: pruned.follow_events(task, after_id=at, timeout=0), after_id)
                == wanted
            )


@only_files
def test_a_waiting_follower_gets_an_error_for_events_that_came_and_went(
    log: EventLog, path: Path
) -> None:
    log.insert_event("t", None, "task_started", {})
    with EventReader(path) as reader:
        following = reader.follow_events("t")
        assert next(following).event_id == 1
        log.cleanup(older_than=CUTOFF, only_finished=False, keep_last=1)
        insert = "INSERT INTO events(task_id, event_type, payload_json, created_at) SELECT 't', 'x', '{}', '2020-01-01'"
        table = "CREATE TABLE orch_events_pruned(last_id INTEGER PRIMARY KEY, task_id TEXT UNIQUE, events INTEGER)"
        marks = "INSERT INTO orch_events_pruned VALUES (0, NULL, 1), (2, 't', 1)"
        # All in one commit, as the follower may be that slow.
        execute(
            path, "BEGIN", insert, insert, table, marks, "DELETE FROM events WHERE id = 2", "COMMIT"
        )
        with pytest.raises(PrunedError) as caught:
            next(following)
        assert caught.value.first_available_id == 3
        assert next(iter(reader.follow_events("t", after_id=2))).event_id == 3


def test_an_iterator_half_way_is_told_and_one_ahead_is_not(log: EventLog, path: Path) -> None:
    store(path, finished("t", 5000))
    half, ahead, behind = (log.query_events() for _ in range(3))
    assert next(half).event_id == next(behind).event_id == 1
    assert [next(ahead).event_id for _ in range(5000)][-1] == 5000
    assert log.cleanup(older_than=CUTOFF).events == 5000
    assert list(ahead) == []
    with pytest.raises(PrunedError) as caught:
        list(half)
    assert caught.value.first_available_id == 5001
    assert list(log.query_events()) == []


def test_a_follower_from_the_start_is_not_told_of_what_had_gone(log: EventLog, path: Path) -> None:
    store(path, [Row("t", "x", -timedelta(days=1)), *[Row("t", "x", timedelta(days=1))] * 2])
    assert log.cleanup(older_than=CUTOFF, only_finished=False).events == 2
    following = log.follow_events("t", timeout=PATIENCE)
    assert next(following).event_id == 1
    job = start(lambda: next(following).event_id)
    time.sleep(0.05)
    assert log.insert_event("t", None, "x", {}) == job.result(PATIENCE) == 4
    with pytest.raises(PrunedError) as caught:
        next(log.follow_events("t", after_id=1))
    assert caught.value.first_available_id == 4


def test_a_follower_at_the_end_misses_nothing_and_is_not_told(log: EventLog, path: Path) -> None:
    store(path, finished("t", 3000))
    seen: list[int] = []
    stop = threading.Event()

    def read() -> None:
        seen.extend(event.event_id for event in log.follow_events(after_id=3000, stop=stop))

    job = start(read)
    cleaning = start(lambda: log.cleanup(older_than=CUTOFF, batch=50))
    expected = [log.insert_event("u", None, "x", {"n": n}) for n in range(300)]
    assert cleaning.result(PATIENCE).events == 3000
    expected.append(log.insert_event("u", None, "x", {}))
    wait_until(lambda: len(seen) == len(expected))
    stop.set()
    job.result(PATIENCE)
    assert seen == expected == list(range(3001, 3302))


@only_files
def test_what_comes_and_goes_between_two_looks_hides_nothing(
    log: EventLog, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The page was empty; until the pruned are asked for, 13 is committed, and 12 and 14 are committed and pruned."""
    store(path, finished("a", 10))
    assert log.cleanup(older_than=CUTOFF).events == 10  # or nobody would ask
    interrupted: list[int] = []

    def read_late(
        connection: sqlite3.Connection, task: str | None, after_id: int
    ) -> tuple[int, int]:
        if not interrupted:
            old = timedelta(days=1)
            store(
                path, [Row("b", "x", old), Row("live", "x", old), Row("b", "task_completed", old)]
            )
            interrupted.append(log.cleanup(older_than=CUTOFF).events)
        return read_pruned(connection, task, after_id)

    following = log.follow_events(after_id=10, timeout=PATIENCE)
    assert log.insert_event("live", None, "x", {}) == next(following).event_id == 11
    monkeypatch.setattr(read_session, "read_pruned", read_late)
    execute(path, "CREATE TABLE other(x)")  # a commit to look for, and nothing to find
    assert next(following).event_id == 13
    assert interrupted == [2]
    with pytest.raises(PrunedError) as caught:
        next(following)
    assert caught.value.first_available_id == 15


def test_coroutines_are_told_too(pruned: EventReader) -> None:
    async def main() -> None:
        for events in (
            pruned.query_events_async(after_id=3),
            pruned.follow_events_async(after_id=3),
        ):
            with pytest.raises(PrunedError):
                async for _ in events:
                    pass

    asyncio.run(main())


def test_one_of_those_forgotten_comes_back_and_goes_again(
    log: EventLog, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for engine in ("sqlite", "postgres"):
        module = f"orch_events._storage.{engine}.pruned_table"
        monkeypatch.setattr(f"{module}._REMEMBERED", 1)
    log.insert_event("alive", None, "x")
    store(path, [row for task in "abc" for row in finished(task, 3)])
    (file,) = log.cleanup(older_than=CUTOFF, archive=path.parent).archived
    back = path.with_name("back.jsonl")
    back.write_text("".join(Path(file).read_text().splitlines(keepends=True)[3:]))
    assert outcome("--db", path, "emit", "--jsonl", back, "--restore")[0] == 0
    log.insert_event("c", None, "task_started", {})
    assert log.cleanup(older_than=CUTOFF).events == 3
    for task, after_id in (("a", 2), ("b", 5)):
        with pytest.raises(PrunedError):
            list(log.query_events(task, after_id=after_id))


@only_files
def test_tasks_that_are_gone_are_merged_into_one_row_but_for_the_newest(
    log: EventLog, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pruned_table, "_REMEMBERED", 2)
    monkeypatch.setattr(pruned_table, "_MERGED_AT_ONCE", 1)
    store(path, finished("alive", 2))
    log.cleanup(older_than=CUTOFF)
    log.insert_event("alive", None, "task_started")
    store(path, [row for task in "abcdefgh" for row in finished(task, 2)])
    assert log.cleanup(older_than=CUTOFF).tasks == 8
    with closing(sqlite3.connect(path)) as connection:
        rows = connection.execute(
            "SELECT last_id, task_id, events FROM orch_events_pruned"
        ).fetchall()
    assert rows == [
        *[(-15, None, 18), (0, None, 18)],
        *[(2, "alive", 2), (17, "g", 2), (19, "h", 2)],
    ]


@only_files
@pytest.mark.long
def test_what_is_remembered_stays_bounded(log: EventLog, path: Path) -> None:
    rows = [row for n in range(12_000) for row in finished(f"t{n}", 2)]
    store(path, [Row("alive", "x", timedelta(days=1)), *rows, Row("alive", "x", timedelta(days=1))])
    assert log.cleanup(older_than=CUTOFF).tasks == 12_000
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT count(*) FROM orch_events_pruned").fetchone()[0] <= 10_003
    for task in ("t0", "t11999", None):
        with pytest.raises(PrunedError):
            list(log.query_events(task, after_id=2))
    assert len(list(log.query_events("alive", after_id=1))) == 1


@only_files
def test_where_nothing_was_pruned_no_table_is_made_and_no_statement_spent(
    log: EventLog, path: Path
) -> None:
    store(path, finished("t", 10))
    log.cleanup(older_than=CUTOFF - timedelta(days=365))
    with closing(sqlite3.connect(path)) as connection:
        assert not connection.execute(
            "SELECT 1 FROM sqlite_master WHERE name LIKE '%pruned'"
        ).fetchall()
    with all_statements() as statements, EventReader(path) as reader:
        before = len(statements)
        reader.query_step_events("t", after_id=3)
    assert len(statements) == before + 1
