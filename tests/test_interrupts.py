# SPDX-License-Identifier: MIT
"""What runs in the middle of a call of ours, a host's signal handler, a finalizer or a trace function, may call back.

`submit_event` is then accepted and written; what could only wait for the interrupted call is refused at once; nothing
ever hangs. Every line of the library that a call executes is interrupted, one in each run.
"""

import asyncio
import itertools
import threading
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Final

import pytest

from orch_events import EventLog, EventSink, OrchEventsError, TracingEventSink

from .helpers import (
    PATIENCE,
    STEP,
    LineTracer,
    NewEvent,
    interrupted_at_each_line,
    interrupted_at_line,
    library_threads,
    numbers,
    run_script,
    start,
    stored,
    wait_until,
)

Scenario = Callable[[EventLog], object]


def insert(log: EventLog) -> object:
    return log.insert_event("t", None, "own", {})


def through_the_thread(log: EventLog) -> object:
    """A blocking append that finds others in the queue."""
    log.submit_event("t", None, "own", {})
    return log.insert_event("t", None, "own", {})


def wait_for_the_future(log: EventLog) -> object:
    return log.submit_event("t", None, "own", {}).result(PATIENCE)


def flush(log: EventLog) -> object:
    log.submit_event("t", None, "own", {})
    log.flush()
    return None


def insert_many(log: EventLog) -> object:
    return log.insert_events([("t", None, "own", {})] * 3)


def insert_async(log: EventLog) -> object:
    async def main() -> None:
        await asyncio.gather(*(log.insert_event_async("t", None, "own", {}) for _ in range(2)))

    return asyncio.run(main())


def wait_for_room(log: EventLog) -> object:
    """With room for two."""
    return [log.submit_event("t", None, "own", {}) for _ in range(4)]


def clean_up(log: EventLog) -> object:
    log.insert_event("old", None, "task_started", {})
    log.insert_event("old", None, "task_completed", {})
    return log.cleanup(keep_last=0)


APPENDING: Final[dict[str, Scenario]] = {
    "insert_event": insert,
    "behind others": through_the_thread,
    "result": wait_for_the_future,
    "flush": flush,
    "insert_events": insert_many,
    "insert_event_async": insert_async,
    "full queue": wait_for_room,
}
BLOCKING: Final = pytest.mark.parametrize(
    "blocking", [False, True], ids=["submit_event", "insert_event"]
)


class Interrupt:
    """Calls back into a log, and keeps what came of it."""

    def __init__(self, log: EventLog, blocking: bool) -> None:
        self.log = log
        self.blocking = blocking
        self.accepted: list[Future[int]] = []
        self.recorded: list[int] = []
        self.refusals: list[str] = []
        self._numbers = itertools.count()
        self._types: list[str] = []

    def recorded_types(self) -> list[str]:
        """The types of the events accepted or recorded, in that order."""
        return self._types

    def __call__(self) -> None:
        event: NewEvent = ("handler", None, f"interrupt {next(self._numbers)}", {})
        try:
            if self.blocking:
                self.recorded.append(self.log.insert_event(*event))
            else:
                self.accepted.append(self.log.submit_event(*event))
            self._types.append(event[2])
        except OrchEventsError as error:
            self.refusals.append(str(error))


@STEP
@BLOCKING
@pytest.mark.parametrize("scenario", APPENDING.values(), ids=APPENDING)
def test_a_handler_may_record_at_each_line_of_appending(
    path: Path, scenario: Scenario, blocking: bool, step: int
) -> None:
    check_appending(path, scenario, blocking, step)


@BLOCKING
def test_a_handler_may_record_at_each_line_of_telling_a_sink(path: Path, blocking: bool) -> None:
    check_appending(path, insert, blocking, sink=TracingEventSink())


@STEP
@BLOCKING
def test_a_handler_may_record_at_each_line_of_cleaning_up(
    path: Path, blocking: bool, step: int
) -> None:
    check_appending(path, clean_up, blocking, step)


def check_appending(
    path: Path,
    scenario: Scenario,
    blocking: bool,
    step: int = 1,
    sink: EventSink | None = None,
) -> None:
    with EventLog(path, queue_capacity=2, sink=sink) as log:
        interrupt = Interrupt(log, blocking)
        interrupts = start(
            lambda: interrupted_at_each_line(lambda: scenario(log), interrupt, step)
        ).result(PATIENCE)
        log.flush()
        assert interrupts * step > 10
        assert len(interrupt.accepted) == (0 if blocking else interrupts)
        assert len(interrupt.recorded) == (interrupts - len(interrupt.refusals) if blocking else 0)
        assert all("submit_event" in refusal for refusal in interrupt.refusals)
        ids = [future.result(0) for future in interrupt.accepted] + interrupt.recorded
    kinds = {row.event_id: row.event_type for row in stored(path)}
    assert [kinds[event_id] for event_id in ids] == interrupt.recorded_types()


@STEP
@BLOCKING
def test_a_handler_may_record_at_each_line_of_closing(
    tmp_path: Path, blocking: bool, step: int
) -> None:
    """What comes after the log was closed is told so; what was accepted before is written."""
    logs = (EventLog(tmp_path / f"{n}.db") for n in itertools.count())
    used: list[Interrupt] = []

    def close() -> None:
        used[-1].log.submit_event("t", None, "own", {})
        used[-1].log.close()

    def interrupt() -> None:
        used[-1]()

    def run() -> None:
        more = True
        while more:
            used.append(Interrupt(next(logs), blocking))
            more = interrupted_at_line(1 + step * (len(used) - 1), close, interrupt)

    start(run).result(PATIENCE)
    assert len(used) > 10
    assert library_threads() == []
    for number, one in enumerate(used):
        ids = [future.result(0) for future in one.accepted] + one.recorded
        assert len(stored(tmp_path / f"{number}.db")) == 1 + len(ids)
        assert all("closed" in refusal or "submit_event" in refusal for refusal in one.refusals)


@STEP
@BLOCKING
def test_a_finalizer_may_record_at_each_line_of_the_writer_thread(
    tmp_path: Path, blocking: bool, step: int
) -> None:
    def run(number: int) -> bool:
        path = tmp_path / f"{number}.db"
        with EventLog(path) as log:
            interrupt = Interrupt(log, blocking)
            tracer = LineTracer(number, interrupt)
            before = threading.gettrace() or (lambda *_: None)
            threading.settrace(tracer)
            try:
                own = log.submit_event("t", None, "own", {}).result(PATIENCE)
                log.flush()
            finally:
                threading.settrace(before)
        wait_until(lambda: library_threads() == [])  # one that was interrupted at its end, too
        ids = [own, *(future.result(0) for future in interrupt.accepted), *interrupt.recorded]
        assert {row.event_id for row in stored(path)} == set(ids)
        return tracer.lines >= number

    number = 1
    while start(lambda: run(number)).result(PATIENCE):
        number += step
    assert number > 50


# -------------------------------------------------------------------------- what a handler raises

RAISING: Final = """
import json, random, signal, sys, time, warnings
from orch_events import EventLog

warnings.simplefilter("ignore", ResourceWarning)  # of a connection made in the moment of an exception

path, seconds = sys.argv[1], float(sys.argv[2])

class HostError(Exception):
    pass

def handler(*_):
    if armed:  # a signal may come late, by way of another thread
        raised.append(HostError("too slow"))
        raise raised[-1]

def unraisable(seen):
    # One that strikes within a finalizer or a weak reference's callback can reach nobody: the interpreter reports it.
    if seen.exc_type is not HostError:
        sys.__unraisablehook__(seen)

def call(kind):
    match kind:
        case 0:
            log.insert_events([("t", None, "batch", {})] * 2100)
        case 1:
            log.flush()
        case 2:
            log.submit_event("t", None, "x", {})
        case 3:
            list(log.query_events(limit=3))
        case 4:
            log.close()
        case _:
            acked.append(log.insert_event("t", None, "acked", {}))

raised, acked, hits, armed = [], [], 0, False
sys.unraisablehook = unraisable
signal.signal(signal.SIGALRM, handler)
log = EventLog(path)
end = time.monotonic() + seconds
while time.monotonic() < end or hits <= 10:
    raised.clear()
    kind = random.randrange(8)
    try:
        signal.setitimer(signal.ITIMER_REAL, random.uniform(2e-5, 2e-3))
        armed = True
        call(kind)
        armed = False
    except HostError as error:
        armed = False
        assert error is raised[-1]
        hits += 1
    if kind == 4:
        log.close()
        log = EventLog(path)
    log.insert_event("t", None, "after", {})
signal.setitimer(signal.ITIMER_REAL, 0)  # or it would end the process when its handler is gone
log.close()
print(json.dumps([hits, *acked]))
"""


@pytest.mark.parametrize("seconds", [0.2, pytest.param(20, marks=pytest.mark.long)])
def test_what_a_handler_raises_reaches_the_caller_as_itself(
    tmp_path: Path, path: Path, seconds: float
) -> None:
    hits, *acked = numbers(run_script(tmp_path, RAISING, path, seconds))
    assert hits > 10
    kinds = [row.event_type for row in stored(path)]
    assert {kinds[event_id - 1] for event_id in acked} <= {"acked"}
    assert kinds.count("batch") % 2100 == 0


RAISING_AT_EACH_RETURN: Final = """
import os, sys
import orch_events
from orch_events import EventLog

LIBRARY = os.path.dirname(orch_events.__file__)

class HostError(Exception):
    pass

def append(log):
    log.insert_event("t", None, "own", {})
    log.submit_event("t", None, "own", {})
    log.insert_events([("t", None, "own", {})] * 3)
    log.flush()

def interrupted_append(log, number):
    # A signal handler may raise at just these moments.
    returns = 0

    def profile(frame, event, argument):
        nonlocal returns
        if event == "c_return" and frame.f_code.co_filename.startswith(LIBRARY):
            returns += 1
            if returns == number:
                sys.setprofile(None)
                raise HostError

    sys.setprofile(profile)
    try:
        append(log)
    except HostError:
        pass
    finally:
        sys.setprofile(None)
    return returns >= number

number, more = 1, True
while more:
    with EventLog(f"{sys.argv[1]}-{number}") as log:
        more = interrupted_append(log, number)
        log.insert_event("t", None, "after", {})
    number += 1
print(number)
"""


def test_after_an_exception_at_any_return_of_a_function_written_in_c_the_log_goes_on(
    tmp_path: Path, path: Path
) -> None:
    """Also between the taking of a lock and the block that it guards; see github.com/python/cpython/issues/148874."""
    assert int(run_script(tmp_path, RAISING_AT_EACH_RETURN, path)) > 100


def test_an_interrupted_append_that_fails_later_is_raised_by_flush(path: Path) -> None:
    """It was accepted, and its caller has gone."""
    source = """
import signal, sqlite3, sys, threading
from orch_events import EventLog, WriteError

class Late(Exception):
    pass

def too_late(*_):
    raise Late

log = EventLog(sys.argv[1], busy_timeout=0.3)
other = sqlite3.connect(sys.argv[1], isolation_level=None)
other.execute("BEGIN IMMEDIATE")
future = log.submit_event("t", None, "x", {})
signal.signal(signal.SIGALRM, too_late)
signal.setitimer(signal.ITIMER_REAL, 0.1)
try:
    log.insert_event("t", None, "x", {})
except Late:
    print("late")
print(type(future.exception(30)).__name__)
try:
    log.flush()
except WriteError as error:
    print(error.sqlite_errorname)
other.close()
"""
    printed = run_script(path.parent, source, path, stderr="database is locked")
    assert printed.split() == ["late", "WriteError", "SQLITE_BUSY"]


# ------------------------------------------------------------------------------ real signals

HAMMERED: Final = """
import random, signal, sys, time
from orch_events import EventLog, EventReader, LogClosedError, OrchEventsError

path, seconds = sys.argv[1], float(sys.argv[2])
accepted, refused, depth, armed = [], 0, 0, False

def handler(*_):
    global refused, depth
    if depth < 3:  # it may itself be interrupted
        signal.setitimer(signal.ITIMER_VIRTUAL, random.uniform(2e-4, 2e-3))
    depth += 1
    try:
        accepted.append(log.submit_event("handler", None, "submitted", {}))
        accepted.append(log.submit_event("handler", None, "submitted", {}))
        log.insert_event("handler", None, "inserted", {})
    except LogClosedError:
        pass
    except OrchEventsError as error:
        assert "submit_event" in str(error), error
        refused += 1
    finally:
        depth -= 1
        if depth == 0 and armed:  # and leaves time to go on
            signal.setitimer(signal.ITIMER_VIRTUAL, random.uniform(5e-4, 3e-3))

signal.signal(signal.SIGVTALRM, handler)  # comes after so much work, so that there is some in between
end = time.monotonic() + seconds
while time.monotonic() < end or len(accepted) <= 20:
    log = EventLog(path, queue_capacity=4)
    armed = True
    signal.setitimer(signal.ITIMER_VIRTUAL, 0.0005)
    for n in range(30):
        log.insert_event("main", None, "x", {})
        log.submit_event("main", None, "x", {})
        log.submit_event("main", None, "x", {}).result(30)
    log.insert_events([("main", None, "x", {})] * 2100)
    log.flush()
    for event in log.follow_events("main", timeout=0.01, after_id=random.randrange(100)):
        pass
    log.close()
    armed = False
    signal.setitimer(signal.ITIMER_VIRTUAL, 0)
ids = [future.result(30) for future in accepted]
with EventReader(path) as reader:
    there = {event.event_id for event in reader.query_events("handler")}
assert len(set(ids)) == len(ids) and there >= set(ids), (len(ids), len(there))
print(len(ids), refused)
"""


@pytest.mark.parametrize("seconds", [0.2, pytest.param(20, marks=pytest.mark.long)])
def test_a_signal_handler_that_records_hangs_nothing_and_loses_nothing(
    tmp_path: Path, path: Path, seconds: float
) -> None:
    accepted, _refused = map(int, run_script(tmp_path, HAMMERED, path, seconds).split())
    assert accepted > 20


@pytest.mark.parametrize("call", ["log.insert_event(*event)", "log.flush()", "log.close()"])
def test_a_handler_that_would_wait_for_the_commit_it_interrupted_is_refused(
    tmp_path: Path, path: Path, call: str
) -> None:
    """The commit waits for a lock held elsewhere, and so stands still when the signal comes."""
    source = f"""
import signal, sqlite3, sys, threading
from orch_events import EventLog, EventSink, OrchEventsError, TracingEventSink

event = ("t", None, "x", {{}})

def handler(*_):
    print(log.submit_event(*event).running())
    try:
        {call}
    except OrchEventsError as error:
        print("submit_event" in str(error))
    try:
        log.submit_event(*event).result()
    except OrchEventsError as error:
        print("submit_event" in str(error))

log = EventLog(sys.argv[1])
other = sqlite3.connect(sys.argv[1], isolation_level=None, check_same_thread=False)
other.execute("BEGIN IMMEDIATE")
signal.signal(signal.SIGALRM, handler)
signal.setitimer(signal.ITIMER_REAL, 0.1)
threading.Timer(0.3, other.close).start()
print(log.insert_event(*event))
log.close()
"""
    assert run_script(tmp_path, source, path).split() == ["True", "True", "True", "1"]
    assert len(stored(path)) == 3
