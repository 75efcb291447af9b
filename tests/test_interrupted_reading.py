# SPDX-License-Identifier: MIT
"""Reading and following, interrupted at any line by what a signal handler, a finalizer or a trace function may do."""

import errno
import gc
import sqlite3
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Final

import pytest

from orch_events import EventLog, EventReader, LogClosedError

from .following import BEAT, OTHER, descriptors, ids, nobody_stays, watchers
from .helpers import PATIENCE, STEP, interrupted_at_each_line, start, wait_until

BOTH_ENGINES = True

__all__ = ["nobody_stays"]  # a fixture


def never_hangs(scenario: Callable[[], object], interrupt: Callable[[], object], step: int) -> None:
    ended = start(lambda: interrupted_at_each_line(scenario, interrupt, step))
    assert ended.result(2 * PATIENCE) * step > 50


def open_and_close(path: Path) -> Callable[[], object]:
    def run() -> None:
        with EventReader(path) as reader:
            reader.query_latest_step_log_paths("t")

    return run


def follow_from_the_start(path: Path) -> Callable[[], object]:
    def run() -> None:
        with EventReader(path) as reader:
            found = ids(reader.follow_step_events("t", timeout=0))
            assert found == sorted(set(found))

    return run


def follow_twice(path: Path) -> Callable[[], object]:
    """The second joins the first one's watcher."""

    def run() -> None:
        with EventReader(path) as reader:
            waiting = reader.follow_events("t")
            next(waiting)
            assert next(reader.follow_events("t", timeout=0)).event_id == 1

    return run


@pytest.mark.parametrize(
    "scenario",
    [open_and_close, follow_from_the_start, pytest.param(follow_twice, marks=pytest.mark.long)],
)
@pytest.mark.parametrize("wait", [False, True], ids=["submit", "insert"])
@STEP
def test_events_may_be_recorded_at_any_moment(
    path: Path, scenario: Callable[[Path], Callable[[], object]], wait: bool, step: int
) -> None:
    with EventLog(path, durability="normal") as log:
        log.insert_event(*BEAT)
        calls = 0

        def record() -> None:
            nonlocal calls
            calls += 1
            if wait:
                log.insert_event(*OTHER)
            else:
                log.submit_event(*OTHER)

        never_hangs(scenario(path), record, step)
        log.flush()
        assert ids(log.query_events()) == list(range(1, calls + 2))


@STEP
def test_a_follower_may_be_told_to_stop_at_any_moment(path: Path, step: int) -> None:
    with EventLog(path) as log:
        log.insert_event(*BEAT)
        stops: list[threading.Event] = []

        def follow() -> None:
            stops.append(threading.Event())
            with EventReader(path) as reader:
                stream = reader.follow_events(stop=stops[-1])
                found = [next(stream, None)]
                stops[-1].set()
                found.extend(stream)
            assert [event.event_id for event in found if event is not None] == [1]

        never_hangs(follow, lambda: stops[-1].set(), step)


@STEP
def test_a_log_may_be_closed_at_any_moment(path: Path, step: int) -> None:
    with EventLog(path) as log:
        log.insert_event(*BEAT)
    opened: list[EventReader] = []

    def follow() -> None:
        opened.clear()
        reader = EventReader(path)
        opened.append(reader)
        with suppress(LogClosedError):
            for event in reader.follow_events():
                assert event.event_id == 1
                reader.close()
        reader.close()

    def close() -> None:
        for reader in opened:
            reader.close()

    never_hangs(follow, close, step)
    wait_until(lambda: not watchers())
    assert not [name for name in descriptors() if name.startswith(str(path))]


HANDLERS_ERRORS: Final = (
    TimeoutError,
    KeyboardInterrupt,
    lambda: FileNotFoundError(errno.ENOENT, "of the handler"),
    lambda: sqlite3.OperationalError("of the handler"),
    lambda: RuntimeError("of the handler"),
)


CLEANING_UP: Final = {"__del__", "_let_signals_in", "forget", "leave", "watching", "_watching"}
"""Functions that run in finalizers, of which Python drops what they raise, or that undo what was begun."""


def callers(frame: FrameType | None) -> Iterator[str]:
    while frame is not None:
        yield frame.f_code.co_name
        frame = frame.f_back


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # of a reader that was never returned
@STEP
@pytest.mark.parametrize("make", HANDLERS_ERRORS)
@pytest.mark.parametrize("scenario", [open_and_close, follow_from_the_start])
def test_what_a_signal_handler_raises_reaches_the_caller_as_itself(
    path: Path,
    scenario: Callable[[Path], Callable[[], object]],
    make: Callable[[], BaseException],
    step: int,
) -> None:
    with EventLog(path) as log:
        log.insert_event(*BEAT)
    raised: list[BaseException] = []
    changed: list[str] = []

    line = ""

    def run() -> None:
        raised.clear()
        try:
            scenario(path)()
        except BaseException as error:
            if raised and error is not raised[0]:
                changed.append(f"in line {line} {raised[0]!r} became {error!r}")
        else:
            if raised:
                changed.append(f"in line {line} {raised[0]!r} was swallowed")
        raised.clear()  # with its frames, which hold what they had opened

    def interrupt() -> None:
        nonlocal line
        caller = sys._getframe(2)
        line = f"{caller.f_code.co_name}:{caller.f_lineno}"
        if not CLEANING_UP & set(callers(caller)):
            raised.append(make())
            raise raised[0]

    never_hangs(run, interrupt, step)
    assert not changed, changed
    wait_until(lambda: not watchers())
    gc.collect()
    assert not [name for name in descriptors() if name.startswith(str(path))]
