# SPDX-License-Identifier: MIT
"""Sinks: told of what is durable and of nothing else, and never able to harm the log that tells them."""

import logging
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Final

import pytest

from orch_events import (
    EventLog,
    FanoutSink,
    OrchEventsError,
    RecordingSink,
    TracingEventSink,
    WriteError,
)

from .helpers import PATIENCE, Gate, execute, outside, poison, start, stored

BOTH_ENGINES = True

WAYS: Final[dict[str, Callable[[EventLog, str], object]]] = {
    "insert_event": lambda log, kind: log.insert_event("t", None, kind, {}),
    "insert_events": lambda log, kind: log.insert_events([("t", None, kind, {})] * 3),
    "submit_event": lambda log, kind: log.submit_event("t", None, kind, {}).result(PATIENCE),
}
way = pytest.mark.parametrize("write", WAYS.values(), ids=WAYS)


class Calling:
    """A sink that runs `action` at every event."""

    def __init__(self, action: Callable[[], object]) -> None:
        self.action = action

    def emit(
        self, _task: str, _item: str | None, _type: str, _payload: Mapping[str, object], /
    ) -> None:
        self.action()


@way
def test_a_sink_hears_only_what_all_the_world_can_read(
    path: Path, write: Callable[[EventLog, str], object]
) -> None:
    heard: list[int] = []
    written: list[int] = []

    def look() -> None:
        heard.append(len(heard) + 1)
        ((count,),) = outside(path, "SELECT count(*) FROM events")
        written.append(count)

    with EventLog(path, sink=Calling(look)) as log:
        for _ in range(5):
            write(log, "x")
    assert len(heard) == len(written) == len(stored(path))
    assert all(count >= number for count, number in zip(written, heard, strict=True))


def test_a_sink_that_fails_again_after_it_worked_is_logged_again(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class Choosy:
        def emit(
            self, _task: str, _item: str | None, kind: str, _payload: Mapping[str, object], /
        ) -> None:
            if kind == "bad":
                raise ValueError("no")

    with EventLog(path, sink=Choosy()) as log:
        for kind in ("bad", "bad", "good", "bad", "bad", "bad"):
            log.insert_event("t", None, kind, {})
    complaints = [record for record in caplog.records if "the sink failed" in record.message]
    assert len(complaints) == 2


def test_a_sink_may_answer_an_event_that_another_thread_submitted_while_it_was_called(
    path: Path,
) -> None:
    gate = Gate()
    answers: list[str] = []

    class Answering:
        def emit(
            self, task: str, item: str | None, kind: str, payload: Mapping[str, object], /
        ) -> None:
            if kind == "first":
                gate.emit(task, item, kind, payload)
            if kind == "question":
                log.submit_event("t", None, "answer", {})
                answers.append(kind)

    with EventLog(path, sink=Answering()) as log:
        first = start(lambda: log.insert_event("t", None, "first", {}))
        assert gate.waiting.wait(PATIENCE)
        log.submit_event("t", None, "question", {})
        gate.open()
        first.result(PATIENCE)
        log.flush()
        log.flush()
        assert answers == ["question"]
    assert [row.event_type for row in stored(path)] == ["first", "question", "answer"]


@way
def test_a_sink_never_hears_of_what_was_not_written(
    path: Path, write: Callable[[EventLog, str], object]
) -> None:
    sink = RecordingSink()
    with EventLog(path, sink=sink) as log:
        execute(path, poison())
        for kind in ("good", "bad", "good"):
            try:
                write(log, kind)
            except WriteError:
                assert kind == "bad"
    assert {event[2] for event in sink.events} == {"good"}
    assert len(sink.events) == len(stored(path))


@way
def test_a_raising_sink_is_logged_once_and_changes_nothing(
    path: Path, write: Callable[[EventLog, str], object], caplog: pytest.LogCaptureFixture
) -> None:
    heard = RecordingSink()
    with EventLog(path, sink=FanoutSink([Calling(lambda: 1 / 0), heard])) as log:
        for _ in range(5):
            write(log, "x")
    assert len(heard.events) == len(stored(path)) >= 5
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    assert caplog.records[0].exc_info is not None


CALLS_BACK: Final[dict[str, Callable[[EventLog], object]]] = {
    "insert_event": lambda log: log.insert_event("t", None, "x", {}),
    "insert_events": lambda log: log.insert_events([("t", None, "x", {})]),
    "flush": lambda log: log.flush(),
    "close": lambda log: log.close(),
}


@way
@pytest.mark.parametrize("call", CALLS_BACK.values(), ids=CALLS_BACK)
def test_a_sink_that_calls_back_gets_an_error_in_place_of_a_deadlock(
    path: Path, write: Callable[[EventLog, str], object], call: Callable[[EventLog], object]
) -> None:
    refusals: list[str] = []

    def call_back() -> None:
        with pytest.raises(OrchEventsError) as caught:
            call(log)
        refusals.append(str(caught.value))

    with EventLog(path, sink=Calling(call_back)) as log:
        start(lambda: write(log, "x")).result(PATIENCE)
        assert len(list(log.query_events())) == len(refusals), "nor is it half closed"
    assert len(refusals) == len(stored(path)) >= 1
    assert "commit" in refusals[0]


@way
def test_a_sink_may_submit_an_event_and_hears_of_it_but_may_neither_answer_it_nor_wait(
    path: Path, write: Callable[[EventLog, str], object]
) -> None:
    heard: list[str] = []
    refusals: list[str] = []

    class Answering:
        def emit(
            self, _task: str, _item: str | None, kind: str, _payload: Mapping[str, object], /
        ) -> None:
            heard.append(kind)
            try:
                log.submit_event("t", None, f"answer to {kind}", {}).result()
            except OrchEventsError as error:
                refusals.append(str(error))

    with EventLog(path, sink=Answering()) as log:
        start(lambda: write(log, "x")).result(PATIENCE)
        log.flush()
    kinds = [row.event_type for row in stored(path)]
    assert heard == kinds
    assert kinds.count("answer to x") == kinds.count("x") >= 1
    assert len(kinds) == 2 * kinds.count("x") == len(refusals)
    assert {"wait" in refusal or "answer" in refusal for refusal in refusals} == {True}


def test_a_sink_may_read_and_may_write_to_another_log(path: Path, tmp_path: Path) -> None:
    with EventLog(tmp_path / "other.db") as other:
        seen: list[int] = []

        def mirror() -> None:
            seen.append(len(list(log.query_events())))
            other.insert_event("t", None, "mirrored", {})

        with EventLog(path, sink=Calling(mirror)) as log:
            for _ in range(3):
                log.insert_event("t", None, "x", {})
    assert seen == [1, 2, 3]
    assert len(stored(tmp_path / "other.db")) == 3


class Recorder(logging.Handler):
    """A handler that keeps the program's log records in the event log, as naively as can be."""

    def __init__(self, log: EventLog) -> None:
        super().__init__(logging.DEBUG)
        self.log = log

    def emit(self, record: logging.LogRecord) -> None:
        self.log.insert_event("log", None, "log_record", {"message": record.getMessage()})


@pytest.fixture
def recorded(path: Path) -> Iterator[EventLog]:
    """A log whose sink writes to `logging`, and whose program's `logging` writes to the log."""
    root = logging.getLogger()
    level = root.level
    with EventLog(path, sink=TracingEventSink()) as log:
        handler = Recorder(log)
        root.addHandler(handler)
        root.setLevel(logging.DEBUG)
        try:
            yield log
        finally:
            root.removeHandler(handler)
            root.setLevel(level)


@way
def test_logging_into_the_log_that_logs_does_not_deadlock(
    recorded: EventLog, path: Path, write: Callable[[EventLog, str], object]
) -> None:
    start(lambda: write(recorded, "x")).result(PATIENCE)
    start(lambda: logging.getLogger("app").warning("hello")).result(PATIENCE)
    start(lambda: write(recorded, "y")).result(PATIENCE)
    assert [row.event_type for row in stored(path)].count("log_record") == 1
    assert {"x", "y"} < {row.event_type for row in stored(path)}


def test_a_lost_event_may_be_reported_to_the_log_that_lost_it(
    recorded: EventLog, path: Path
) -> None:
    execute(path, poison())
    recorded.submit_event("t", None, "bad", {})
    with pytest.raises(WriteError):
        start(recorded.flush).result(PATIENCE)
    start(lambda: recorded.submit_event("t", None, "good", {}).result(PATIENCE)).result(PATIENCE)
    assert "good" in {row.event_type for row in stored(path)}


def test_a_host_chooses_other_levels_for_the_types_it_names(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    levels = {"sandbox_denied": logging.WARNING, "task_failed": logging.CRITICAL}
    caplog.set_level(logging.DEBUG, logger="orch_events")
    for chosen, expected in (
        (None, ["DEBUG", "ERROR", "INFO"]),
        ({}, ["DEBUG", "ERROR", "INFO"]),
        (levels, ["WARNING", "CRITICAL", "INFO"]),
    ):
        caplog.clear()
        with EventLog(path, sink=TracingEventSink(levels=chosen)) as log:
            for kind in ("sandbox_denied", "task_failed", "step_finished"):
                log.insert_event("t", None, kind, {})
        assert [record.levelname for record in caplog.records] == expected
