# SPDX-License-Identifier: MIT
"""Every call fails once, as SQLite tests itself: a life of a log is run again and again, and in run n the n-th call that
reaches the storage fails, until a run is over before that. Then the same with all later calls failing too.

After each run: what a caller was told is true, nothing is left behind, and the log works again.
"""

import asyncio
import gc
import sys
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import AbstractContextManager, closing, contextmanager, suppress
from functools import partial
from itertools import count
from pathlib import Path
from typing import Final, NamedTuple, TypeVar

import pytest

from orch_events import EventLog, EventReader, OrchEventsError, PrunedError, ReadError, WriteError
from orch_events._values.archive_lines import archived_event

from .engines import only_files
from .failing_calls import (
    SEAM_FAULTS,
    SQLITE_FAULTS,
    Faults,
    SqliteFault,
    current_store,
    failing_connections,
    failing_sessions,
)
from .following import descriptors
from .helpers import (
    PATIENCE,
    NewEvent,
    Stored,
    execute,
    library_threads,
    outside,
    start,
    stored,
    wait_until,
)

BOTH_ENGINES = True

T = TypeVar("T")

SHORT: Final = 0.01
"""The `busy_timeout` of a log that meets locks that never go."""


OF_A_ROW: Final = ("SQLITE_CONSTRAINT", "SQLITE_INTERRUPT")
"""Faults that may be those of a single event."""

BATCH: Final = [f"batch-{n}" for n in range(6)]


def events(*names: str) -> list[NewEvent]:
    return [("t", None, name, {}) for name in names]


class Found(NamedTuple):
    """An event as it is stored or archived; each story gives every event a name of its own."""

    event_id: int
    name: str


def archived_in(folder: Path) -> list[list[Found]]:
    """What is in each file of an archive. There is nothing else in the folder, and each is whole."""
    files = list[list[Found]]()
    for file in sorted(folder.iterdir()) if folder.exists() else ():
        assert file.suffix == ".jsonl", "a temporary file is left"
        lines = map(archived_event, file.read_bytes().splitlines())
        files.append([Found(event.event_id, event.event_type) for event in lines if event])
        assert files[-1]
    return files


class Story:
    """One life of a log, and what its callers were told."""

    def __init__(self, path: Path, name: str, busy_timeout: float, faults: Faults) -> None:
        self.path = path
        self.archive = path.with_name("archive")
        self.told: dict[str, int] = {}
        """The id of each event that was acked."""
        self.refused: set[str] = set()
        self.unknown: set[str] = set()
        """Events that are perhaps written."""
        self.heard: list[str] = []
        """What the sink was called with."""
        self.log: EventLog | None = None
        self._name = name
        """SQLite's, of every error that is met."""
        self._busy_timeout = busy_timeout
        self._faults = faults
        self._answers: dict[str, Future[int]] = {}

    def emit(
        self, _task: str, _item: str | None, event_type: str, _payload: Mapping[str, object], /
    ) -> None:
        """Hear of an event. Three answers to the first are queued while it is committed: they share a commit."""
        self.heard.append(event_type)
        if event_type == "first" and self.log is not None:
            for name in ("answer-1", "answer-2", "answer-3"):
                self._answers[name] = self.log.submit_event("t", None, name, {})

    # ------------------------------------------------------------------------------------------------------- telling it

    def tell(self) -> None:
        """The whole of it. Only errors of the storage end a step, and the next one comes all the same."""
        self.log = self._attempt(self._open) or self._attempt(self._open)
        if self.log is None:
            return
        log = self.log
        self._record(["first"], lambda: log.insert_event("t", None, "first", {}))
        for name, future in self._answers.items():
            self._record([name], lambda: future.result(PATIENCE))
        if self._name in OF_A_ROW and not self._faults.lasting:
            assert self._answers.keys() <= self.told.keys()  # each was tried again by itself
        self._record(BATCH, lambda: log.insert_events(events(*BATCH))[-1])
        self._record(["sent"], lambda: log.submit_event("t", None, "sent", {}).result(PATIENCE))
        log.submit_event("t", None, "dropped", {})  # its future is dropped: `flush` tells
        self._record(["dropped"], lambda: self._flush(log, "dropped"))
        self._record(["async"], lambda: asyncio.run(log.insert_event_async("t", None, "async", {})))
        self._record(
            ["async-1", "async-2"],
            lambda: asyncio.run(log.insert_events_async(events("async-1", "async-2")))[-1],
        )
        self._record(["going-on"], lambda: log.insert_event("other", None, "going-on", {}))
        self._record(["task_completed"], lambda: log.insert_event("t", None, "task_completed", {}))
        for step in (
            self._follow,
            self._query,
            self._read_on_a_loop,
            self._list_tasks,
            self._look_at_stats,
            self._clean,
        ):
            self._attempt(partial(step, log))
        self._attempt(self.restore)

    def _open(self) -> EventLog:
        return EventLog(self.path, sink=self, busy_timeout=self._busy_timeout)

    def _attempt(self, step: Callable[[], T]) -> T | None:
        try:
            return step()
        except OrchEventsError as error:
            self._check(error)
            return None

    def _check(self, error: OrchEventsError) -> None:
        """It says what is wrong, and where."""
        assert isinstance(error, WriteError | ReadError), repr(error)
        assert error.sqlite_errorname == self._name, repr(error)
        assert error.path and error.path in str(error)

    def _record(self, names: list[str], step: Callable[[], int]) -> None:
        """Record events by `step`, which gives the id of the last."""
        try:
            last_id = step()
        except OrchEventsError as error:
            self._check(error)
            is_unknown = "perhaps" in str(error)
            (self.unknown if is_unknown else self.refused).update(names)
        else:
            first_id = last_id - len(names) + 1
            self.told.update((name, first_id + place) for place, name in enumerate(names))

    def _flush(self, log: EventLog, name: str) -> int:
        """Wait for the event of that name; its id."""
        log.flush()
        return {row.event_type: row.event_id for row in self._stored_quietly()}[name]

    def _check_read(self, names: Iterable[str], told: Iterable[str]) -> None:
        """A reader gets all there is, in its order, or an error."""
        read = list(names)
        assert [name for name in read if name not in self.unknown] == sorted(
            told, key=self.told.__getitem__
        )

    def _follow(self, log: EventLog) -> None:
        followed = [event.event_type for event in log.follow_events("t", timeout=0.0)]
        self._check_read(followed, self.told.keys() - {"going-on"})

    def _query(self, log: EventLog) -> None:
        self._check_read((event.event_type for event in log.query_events()), self.told)
        assert log.query_step_events("t") == []
        assert log.query_latest_step_log_paths("t") is None

    def _read_on_a_loop(self, log: EventLog) -> None:
        async def read() -> tuple[list[str], list[str]]:
            queried = [event.event_type async for event in log.query_events_async()]
            following = log.follow_events_async("t", timeout=0.0)
            return queried, [event.event_type async for event in following]

        queried, followed = asyncio.run(read())
        self._check_read(queried, self.told)
        self._check_read(followed, self.told.keys() - {"going-on"})

    def _list_tasks(self, log: EventLog) -> None:
        found = sum(task.events for task in log.query_tasks())
        assert len(self.told) <= found <= len(self.told) + len(self.unknown)

    def _look_at_stats(self, log: EventLog) -> None:
        events = log.stats(days=2).events
        assert len(self.told) <= events <= len(self.told) + len(self.unknown)

    def _clean(self, log: EventLog) -> None:
        try:
            done = log.cleanup(keep_last=0, batch=3, archive=self.archive)
        except WriteError:
            with self._faults.suspended():
                self._check_withdrawn()
                self._check_gaps(log)
            raise
        is_known = self.told.keys() | self.refused >= {"task_completed"}
        if is_known and not self.unknown:
            gone = len(self.told) - ("going-on" in self.told)
            assert done.events == (gone if "task_completed" in self.told else 0)
        with self._faults.suspended():
            self._check_gaps(log)

    def _check_withdrawn(self) -> None:
        """No file is left of which all is still in the log, or each try that fails would leave another."""
        if self._faults.lasting:  # it could not be found out
            return
        there = {row.event_id for row in stored(self.path)}
        for file in archived_in(self.archive):
            assert not {event_id for event_id, _ in file} <= there

    def _check_gaps(self, log: EventLog) -> None:
        """A reader is told that it has missed something if it has, and only then."""
        if self.unknown:
            return
        there = {row.event_id for row in stored(self.path)}
        ids = sorted(event_id for name, event_id in self.told.items() if name != "going-on")
        for after_id in (ids[0], ids[len(ids) // 2], ids[-1]):
            has_missed = any(event_id > after_id and event_id not in there for event_id in ids)
            for task_id in ("t", None):
                assert self._is_told_of_gap(log, task_id, after_id) == has_missed

    def _is_told_of_gap(self, log: EventLog, task_id: str | None, after_id: int) -> bool:
        try:
            list(log.query_events(task_id, after_id=after_id))
        except PrunedError:
            return True
        return False

    def restore(self) -> None:
        """Bring back whatever was archived."""
        if not self.archive.exists():
            return
        store = current_store(self.path)
        with closing(store.open_for_maintenance("full", self._busy_timeout)) as session:
            for file in sorted(self.archive.iterdir()):
                events = [archived_event(line) for line in file.read_bytes().splitlines()]
                whole = [event for event in events if event is not None]
                before = self._stored_quietly()
                try:
                    assert session.restore(whole)[0] == len(events)
                except WriteError as error:
                    assert "perhaps" in str(error) or self._stored_quietly() == before
                    raise

    def _stored_quietly(self) -> list[Stored]:
        with self._faults.suspended():
            return stored(self.path)

    # --------------------------------------------------------------------------------------------------- looking at it

    def check_outcomes(self) -> None:
        """What was acked is in the log once, or in the archive; what was refused is nowhere."""
        rows = [Found(row.event_id, row.event_type) for row in stored(self.path)]
        assert len({name for _, name in rows}) == len(rows)
        found = set(rows).union(*archived_in(self.archive))
        assert {Found(event_id, name) for name, event_id in self.told.items()} <= found
        assert {name for _, name in found} <= self.told.keys() | self.unknown
        assert len({name for _, name in found}) == len(found)  # at most once, and with one id
        batch = [name for _, name in sorted(found) if name.startswith("batch-")]
        assert batch in ([], BATCH)
        assert self.heard == sorted(self.told, key=self.told.__getitem__)

    def live_on(self, log: EventLog) -> None:
        """Without faults the log works: all there was comes back, and all can be done."""
        self.restore()
        self._record(["once more"], lambda: log.insert_event("t", None, "once more", {}))
        self._record(
            ["at last"], lambda: log.submit_event("t", None, "at last", {}).result(PATIENCE)
        )
        log.flush()
        assert {"once more", "at last"} <= self.told.keys()
        self._query(log)
        self._follow(log)
        before = stored(self.path)
        log.cleanup(keep_last=0, only_finished=False, archive=self.archive)
        assert stored(self.path) == []
        self.restore()
        assert stored(self.path) == before
        assert not self._is_told_of_gap(log, "t", before[0].event_id)


@contextmanager
def nothing_left() -> Iterator[None]:
    """After the body there are no threads of the library, and as many descriptors as before."""
    is_known = sys.platform == "linux"
    before = sorted(descriptors()) if is_known else []
    yield
    wait_until(lambda: not library_threads())
    gc.collect()  # a statement that a traceback holds, in a cycle, keeps the file of its closed connection open
    assert is_known is False or sorted(descriptors()) == before


def live(story: Story, faults: Faults, failing: AbstractContextManager[None]) -> None:
    """Tell `story` with `faults`, and look at what it has left."""
    with nothing_left():
        with failing:
            story.tell()
            log = story.log
            if log is not None and faults.lasting:
                log.close()
        faults.end()
        if log is None or faults.lasting:
            log = EventLog(story.path, sink=story)
        with log:
            story.check_outcomes()
            story.live_on(log)
            story.check_outcomes()


def run_all(
    folder: Path,
    run: Callable[[Path, Faults], object],
    lasting: bool,
    first: int = 1,
    step: int = 1,
) -> int:
    """Run with a fault at each call, or at every so many, each time with a new path for a log; how many calls there
    are."""
    for number in count(first, step):
        place = folder / str(number)
        place.mkdir()
        faults = Faults(number, lasting)
        try:
            run(place / "events.db", faults)
        except BaseException as error:
            error.add_note(f"call {number} was made to fail: {faults.failed}")
            raise
        if faults.calls < number:
            return faults.calls
    raise AssertionError("no end")


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """A few events are worked on in several parts, as otherwise only thousands are."""
    monkeypatch.setattr("orch_events._storage.sqlite.inserting.MAX_ROWS", 4)
    monkeypatch.setattr("orch_events._storage.sqlite.archiving._EVENTS_AT_ONCE", 4)
    monkeypatch.setattr("orch_events._core.paging.PAGE_ROWS", 8)
    monkeypatch.setattr("orch_events._maintenance.retention._ROWS_LOOKED_AT", 8)
    monkeypatch.setattr("orch_events._maintenance.retention._EVENTS_PER_ARCHIVE", 8)


LASTING: Final = pytest.mark.parametrize("lasting", [False, True], ids=["once", "from then on"])


def stride(step: int) -> pytest.MarkDecorator:
    """Of the calls: every so many in the default tests, as good as all of them in the long ones."""
    return pytest.mark.parametrize("step", [step, pytest.param(1, marks=pytest.mark.long)])


def first_of(step: int, kind: str, kinds: Iterable[str], lasting: bool) -> int:
    """With which call to begin, so that those of different faults are different ones."""
    combinations = [(each, again) for each in kinds for again in (False, True)]
    return 1 + combinations.index((kind, lasting)) * step // len(combinations)


def run_at_seam(folder: Path, kind: str, lasting: bool, step: int) -> int:
    fault = SEAM_FAULTS[kind]

    def run(path: Path, faults: Faults) -> None:
        story = Story(path, fault.name, 10.0, faults)
        live(story, faults, failing_sessions(faults, fault))

    return run_all(folder, run, lasting, first_of(step, kind, SEAM_FAULTS, lasting), step)


@only_files
@stride(61)
@LASTING
@pytest.mark.parametrize("kind", SEAM_FAULTS)
def test_each_call_of_a_session_may_fail(
    tmp_path: Path, kind: str, lasting: bool, step: int
) -> None:
    assert run_at_seam(tmp_path, kind, lasting, step) > 60


@pytest.mark.long
@LASTING
@pytest.mark.parametrize("kind", ["refused", "lost"])
def test_calls_of_a_session_may_fail_on_either_engine(
    tmp_path: Path, kind: str, lasting: bool
) -> None:
    assert run_at_seam(tmp_path, kind, lasting, 13) > 60


@only_files
@stride(113)
@LASTING
@pytest.mark.parametrize("kind", SQLITE_FAULTS)
def test_each_call_of_sqlite_may_fail(tmp_path: Path, kind: str, lasting: bool, step: int) -> None:
    fault = SQLITE_FAULTS[kind]

    def run(path: Path, faults: Faults) -> None:
        story = Story(path, fault.name, SHORT, faults)
        live(story, faults, failing_connections(faults, fault))

    if lasting and step == 1:  # from one call to the next little changes
        step = 3
    first = first_of(step, kind, SQLITE_FAULTS, lasting)
    assert run_all(tmp_path, run, lasting, first, step) > 150


# ----------------------------------------------------------------------------------------------------------- other stories

OLD_TABLE: Final = """
CREATE TABLE events(id INTEGER PRIMARY KEY AUTOINCREMENT, task_id TEXT NOT NULL, task_item_id TEXT,
    event_type TEXT NOT NULL, payload_json TEXT NOT NULL, created_at TEXT NOT NULL)"""
OLD_ROW: Final = """(task_id, event_type, payload_json, created_at) VALUES ('t', 'step_started', '{"step": "qa"}', '')"""
COLUMNS: Final = "SELECT group_concat(name) FROM pragma_table_info('events')"
OURS: Final = "SELECT count(*) FROM sqlite_master WHERE name LIKE 'orch_events%'"


@only_files
@stride(17)
@LASTING
@pytest.mark.parametrize("kind", SQLITE_FAULTS)
def test_a_file_from_elsewhere_becomes_a_log_or_stays_as_it_was(
    tmp_path: Path, kind: str, lasting: bool, step: int
) -> None:
    """It lacks three columns, which are filled from the payloads."""
    fault = SQLITE_FAULTS[kind]
    is_changed = set[bool]()

    def run(path: Path, faults: Faults) -> None:
        execute(path, OLD_TABLE, f"INSERT INTO events {OLD_ROW}", f"INSERT INTO events {OLD_ROW}")
        before = outside(path, COLUMNS)
        with nothing_left(), failing_connections(faults, fault), suppress(WriteError):
            EventLog(path, busy_timeout=SHORT).close()
        faults.end()
        is_changed.add(outside(path, COLUMNS) != before)
        assert outside(path, OURS) == [(4 if outside(path, COLUMNS) != before else 0,)]
        with EventReader(path) as reader:
            assert [event.step for event in reader.query_step_events("t")] == ["qa", "qa"]
        with EventLog(path) as log:
            assert log.insert_event("t", None, "x", {}) == 3
        assert outside(path, "SELECT step FROM events") == [("qa",), ("qa",), (None,)]

    run_all(tmp_path, run, lasting, first_of(step, kind, SQLITE_FAULTS, lasting), step)
    assert is_changed == {False, True}


class FaultsOfWatcher(Faults):
    """Every call of a watcher's thread fails, and no other."""

    def __init__(self) -> None:
        super().__init__(0, lasting=True)

    def strike(self, call: str) -> bool:
        self.calls += self.is_watcher()
        return self.is_watcher() and not self.are_over


@only_files
@pytest.mark.parametrize("fault", SQLITE_FAULTS.values(), ids=SQLITE_FAULTS)
def test_a_follower_misses_nothing_of_the_time_in_which_its_watcher_failed(
    path: Path, fault: SqliteFault
) -> None:
    faults = FaultsOfWatcher()
    names = ["0", "1", "2", "3"]
    with nothing_left(), failing_connections(faults, fault), EventLog(path) as log:
        log.insert_event("t", None, "0", {})
        following = log.follow_events("t")
        followed = [next(following).event_type]
        for name in names[1:]:
            log.insert_event("t", None, name, {})
        wait_until(lambda: faults.calls > 2)
        faults.end()
        followed += [start(lambda: next(following)).result(PATIENCE).event_type for _ in names[1:]]
        assert isinstance(following, Generator)
        following.close()
    assert followed == names
