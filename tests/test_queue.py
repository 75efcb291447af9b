# SPDX-License-Identifier: MIT
"""The commit queue: room in it, its order, and what a thread leaves behind that is killed in the middle of its work."""

import asyncio
import ctypes
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Any, Final

import pytest

from orch_events import EventLog, LogClosedError, OrchEventsError, QueueFullError, WriteError
from orch_events._core import commit_queue
from orch_events._core.commit_queue import CommitQueue, _Claim
from orch_events._core.committing import Committer
from orch_events._core.pending import Entry
from orch_events._core.thread_start import start_thread

from .engines import only_files
from .helpers import (
    PATIENCE,
    Gate,
    Tracer,
    execute,
    poison,
    start,
    stored,
    traced,
    wait_until,
    write_connection,
    write_locked,
)

BOTH_ENGINES = True

SOON: Final = 5.0
"""Seconds to wait for room: longer than it takes, shorter than `PATIENCE`."""


def test_a_flush_needs_no_room(path: Path) -> None:
    gate = Gate()
    with EventLog(path, sink=gate, queue_capacity=1, busy_timeout=0.1) as log:
        log.submit_event("t", None, "committing", {})
        assert gate.waiting.wait(PATIENCE)
        log.submit_event("t", None, "queued", {})
        flushed = start(log.flush)
        time.sleep(0.3)
        gate.open()
        assert flushed.result(PATIENCE) is None


def test_calls_that_wait_for_room_get_in_as_soon_as_there_is_some(path: Path) -> None:
    gate = Gate()

    async def main() -> list[int]:
        log.submit_event("t", None, "committing", {})
        assert gate.waiting.wait(PATIENCE)
        waiting = [asyncio.create_task(append(n)) for n in range(7)]
        await asyncio.sleep(0.1)
        gate.open()
        return await asyncio.gather(*waiting)

    async def append(number: int) -> int:
        return await log.insert_event_async("t", None, "x", {"n": number})

    with EventLog(path, sink=gate, queue_capacity=3, busy_timeout=SOON) as log:
        ids = start(lambda: asyncio.run(main())).result(PATIENCE)
    assert sorted(ids) == list(range(2, 9))
    assert [row.payload.get("n") for row in stored(path)[1:]] == list(range(7))


def test_a_sink_may_submit_though_the_queue_is_full(path: Path) -> None:
    """No room would come before it returns."""

    class Answering:
        def emit(self, _task: str, _item: str | None, event_type: str, _payload: object, /) -> None:
            if event_type == "asked":
                for answer in ("first", "second", "third"):
                    log.submit_event("t", None, answer, {})

    with EventLog(path, sink=Answering(), queue_capacity=1, busy_timeout=0.2) as log:
        log.insert_event("t", None, "asked", {})
        log.flush()
    assert [row.event_type for row in stored(path)] == ["asked", "first", "second", "third"]


def test_the_place_of_one_that_left_goes_to_the_next(path: Path) -> None:
    """It was cancelled between being let in and hearing of it."""
    gate = Gate()

    async def main() -> int:
        log.submit_event("t", None, "committing", {})
        assert gate.waiting.wait(PATIENCE)
        log.submit_event("t", None, "queued", {})
        first = asyncio.create_task(log.insert_event_async("t", None, "first", {}))
        second = asyncio.create_task(log.insert_event_async("t", None, "second", {}))
        await asyncio.sleep(0.05)
        gate.open()
        wait_until(lambda: len(log._queue._waiting) < 2)  # while the loop stands still
        first.cancel()
        return await second

    with EventLog(path, sink=gate, queue_capacity=1, busy_timeout=SOON) as log:
        assert start(lambda: asyncio.run(main())).result(PATIENCE) >= 3
    assert "second" in [row.event_type for row in stored(path)]


@only_files
def test_a_lock_held_elsewhere_is_waited_for_once_a_batch(path: Path) -> None:
    with EventLog(path, busy_timeout=0.3) as log:
        log.insert_event("t", None, "first", {})
        with traced(write_connection(log)) as statements, write_locked(path):
            futures = [log.submit_event("t", None, "x", {}) for _ in range(20)]
            wait_until(lambda: any(future.done() for future in futures))
            errors = [future.exception(PATIENCE) for future in futures]
        assert {type(error) for error in errors} == {WriteError}
        batches = [statement for statement in statements if statement.startswith("INSERT")]
        assert len({statement for statement in batches if ") WHERE" not in statement}) <= 1
        assert log.insert_event("t", None, "last", {}) == 2


def test_each_call_of_a_closed_log_gets_an_error_of_its_own(log: EventLog) -> None:
    log.close()
    errors = []
    for _ in range(2):
        with pytest.raises(LogClosedError) as caught:
            log.insert_event("t", None, "x", {})
        errors.append(caught.value)
    assert errors[0] is not errors[1]


def test_a_future_is_resolved_though_the_writer_thread_is_killed_while_it_resolves_it(
    path: Path,
) -> None:
    killed_at: list[int] = []

    def trace_line(frame: FrameType, event: str, _argument: object) -> Tracer:
        if event == "line" and not killed_now and frame.f_lineno not in killed_at:
            killed_now.append(frame.f_lineno)
            killed_at.append(frame.f_lineno)
            raise SystemExit
        return trace_line

    def trace_call(frame: FrameType, _event: str, _argument: object) -> Tracer | None:
        return trace_line if frame.f_code.co_name in ("_notify", "resolve_future") else None

    before = threading.gettrace() or (lambda *_: None)
    for number in range(1, 20):
        killed_now: list[int] = []
        with EventLog(path) as log:
            threading.settrace(trace_call)
            try:
                future = log.submit_event("t", None, "x", {})
            finally:
                threading.settrace(before)
            assert future.result(SOON) == number
        if not killed_now:
            break
    assert len(killed_at) > 3


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_coroutine_gets_its_failure_once_though_the_writer_thread_is_killed_on_the_way(
    path: Path,
) -> None:
    killed_at: list[tuple[str, int]] = []

    def trace_line(frame: FrameType, event: str, _argument: object) -> Tracer:
        place = (frame.f_code.co_name, frame.f_lineno)
        if event == "line" and not killed_now and place not in killed_at:
            killed_now.append(place)
            killed_at.append(place)
            raise SystemExit
        return trace_line

    def trace_call(frame: FrameType, _event: str, _argument: object) -> Tracer | None:
        return trace_line if frame.f_code.co_name in ("post_acks", "_notify_loops") else None

    async def append() -> None:
        with pytest.raises(WriteError):
            await asyncio.wait_for(log.insert_event_async("t", None, "bad", {}), SOON)

    before = threading.gettrace() or (lambda *_: None)
    for _ in range(30):
        killed_now: list[tuple[str, int]] = []
        with EventLog(path) as log:
            if not killed_at:
                execute(path, poison())
            threading.settrace(trace_call)
            try:
                asyncio.run(append())
            finally:
                threading.settrace(before)
        if not killed_now:
            break
    assert len(killed_at) > 3


def test_the_queue_holds_no_more_after_its_thread_was_killed(path: Path) -> None:
    gate = Gate()
    killed: list[str] = []

    def trace_call(frame: FrameType, _event: str, _argument: object) -> None:
        if frame.f_code.co_name == "_process" and not killed:
            killed.append("_process")
            raise SystemExit

    before = threading.gettrace() or (lambda *_: None)
    with EventLog(path, sink=gate, queue_capacity=1, busy_timeout=0.1) as log:
        threading.settrace(trace_call)
        try:
            log.submit_event("t", None, "committing", {})
        finally:
            threading.settrace(before)
        assert gate.waiting.wait(PATIENCE)
        assert killed
        log.submit_event("t", None, "queued", {})
        with pytest.raises(QueueFullError):
            log.submit_event("t", None, "too many", {})
        gate.open()


def test_the_failure_of_a_caller_that_was_interrupted_while_it_waited_is_not_lost(
    path: Path,
) -> None:
    threads: list[int] = []

    def append() -> int:
        threads.append(threading.get_ident())
        return log.insert_event("t", None, "bad", {})

    with EventLog(path) as log:
        execute(path, poison())
        with write_locked(path):
            leading = start(lambda: log.insert_event("t", None, "x", {}))
            wait_until(lambda: log._queue._commit_owner is not None)
            waiting = start(append)
            wait_until(lambda: log._queue._entries and log._queue._thread is not None)
            interrupt = ctypes.pythonapi.PyThreadState_SetAsyncExc
            assert interrupt(ctypes.c_ulong(threads[0]), ctypes.py_object(KeyboardInterrupt)) == 1
            assert isinstance(waiting.exception(PATIENCE), KeyboardInterrupt)
        leading.result(PATIENCE)
        with pytest.raises(WriteError):
            start(log.flush).result(PATIENCE)


def test_a_caller_hears_of_its_outcome_though_nobody_could_wake_it(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who committed for it was killed on the way, and again at the second try."""

    def killed(_entry: object) -> None:
        raise SystemExit

    monkeypatch.setattr("orch_events._core.pending.BlockingEntry.wake_caller", killed)
    with EventLog(path) as log:
        with write_locked(path):
            leading = start(lambda: log.insert_event("t", None, "x", {}))
            wait_until(lambda: log._queue._commit_owner is not None)
            waiting = start(lambda: log.insert_event("t", None, "x", {}))
            wait_until(lambda: log._queue._entries)
        assert leading.result(PATIENCE) == 1
        assert waiting.result(SOON) == 2


@pytest.mark.parametrize("way", ["insert_event", "submit_event"])
def test_a_sink_may_not_record_in_its_log_that_was_opened_again(path: Path, way: str) -> None:
    """On whichever thread it is called."""
    refusals: list[str] = []

    class Elsewhere:
        def emit(self, *_: object) -> None:
            try:
                again.insert_event("t", None, "answer", {})
            except OrchEventsError as error:
                refusals.append(str(error))

    with EventLog(path) as again, EventLog(path, sink=Elsewhere()) as log:
        getattr(log, way)("t", None, "asked", {})
        log.flush()
    assert len(refusals) == 1 and "in the middle of a commit" in refusals[0]


def test_how_many_failures_were_not_told_of_is_said(log: EventLog, path: Path) -> None:
    log.insert_event("t", None, "x", {})
    execute(path, poison())
    for count, notes in ((1, []), (2, ["and 1 more events were lost"])):
        for _ in range(count):
            log.submit_event("t", None, "bad", {})
        with pytest.raises(WriteError) as caught:
            log.flush()
        assert getattr(caught.value, "__notes__", []) == notes


def test_a_commit_for_several_event_loops_wakes_each_in_its_own_thread(path: Path) -> None:
    gate = Gate()
    complaints: list[object] = []

    async def append() -> tuple[int, int, int]:
        loop = asyncio.get_running_loop()
        loop.set_debug(True)  # so that a call from another thread is an error
        loop.set_exception_handler(lambda _, context: complaints.append(context))
        waiting = asyncio.ensure_future(log.insert_event_async("t", None, "x", {}))
        woken_in: list[int] = []
        waiting.add_done_callback(lambda _: woken_in.append(threading.get_ident()))
        event_id = await asyncio.wait_for(waiting, SOON)
        return event_id, woken_in[0], threading.get_ident()

    with EventLog(path, sink=gate) as log:
        first = start(lambda: log.insert_event("t", None, "first", {}))
        assert gate.waiting.wait(PATIENCE)
        loops = [start(lambda: asyncio.run(append())) for _ in range(3)]
        wait_until(lambda: len(log._queue._entries) == 3)
        gate.open()
        outcomes = [loop.result(PATIENCE) for loop in loops]
        first.result(PATIENCE)
    assert sorted(event_id for event_id, _, _ in outcomes) == [2, 3, 4]
    assert all(woken_in == own for _, woken_in, own in outcomes)
    assert complaints == []


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize("function", ["_process", "_take_or_sleep", "_deliver"])
def test_what_a_killed_writer_thread_has_taken_is_committed_in_its_order(
    path: Path, function: str
) -> None:
    """Killed where it has taken a batch and not begun, where it takes one, or where it delivers."""
    killed: list[str] = []

    def trace_call(frame: FrameType, _event: str, _argument: object) -> Tracer | None:
        name = frame.f_code.co_name
        taken = name != "_take_or_sleep" or len(log._queue._entries) > 0
        if name == function and not killed and taken:
            killed.append(name)
            raise SystemExit
        return None

    before = threading.gettrace() or (lambda *_: None)
    with EventLog(path, queue_capacity=50, busy_timeout=SOON) as log:
        with write_locked(path):
            leading = start(lambda: log.insert_event("t", None, "x", {"n": -1}))
            wait_until(lambda: log._queue._commit_owner is not None)
            threading.settrace(trace_call)
            try:
                futures = [log.submit_event("t", None, "x", {"n": n}) for n in range(50)]
            finally:
                threading.settrace(before)
        leading.result(PATIENCE)
        start(log.flush).result(PATIENCE)
        assert killed == [function]
        more = [log.submit_event("t", None, "x", {"n": n}) for n in range(50, 100)]
        for future in (*futures, *more):
            future.result(PATIENCE)
    assert [row.payload["n"] for row in stored(path)] == list(range(-1, 100))


# ------------------------------------------------- what `test_schedules` has found, step by step


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_future_is_resolved_though_the_writer_thread_is_killed_as_it_begins(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    genuine = CommitQueue._register_thread
    submitted = threading.Event()
    killed: list[threading.Thread] = []

    def register_and_die(queue: CommitQueue, thread: threading.Thread) -> bool:
        is_registered = genuine(queue, thread)
        if not killed:
            killed.append(thread)
            submitted.wait(PATIENCE)
            raise SystemExit
        return is_registered

    monkeypatch.setattr(CommitQueue, "_register_thread", register_and_die)
    with EventLog(path) as log:
        future = log.submit_event("t", None, "x", {})
        submitted.set()
        assert future.result(SOON) == 1
    killed[0].join(PATIENCE)


def test_close_waits_for_a_writer_thread_that_begins_late(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    genuine_join, genuine_process = CommitQueue._join, CommitQueue._process
    late: list[threading.Thread] = []
    joined_again = threading.Event()

    def start_later(thread: threading.Thread, _patience: float) -> bool:
        late.append(thread)
        return True

    def join_and_begin(queue: CommitQueue) -> None:
        if late[0].ident is not None:
            joined_again.set()
        genuine_join(queue)
        if late[0].ident is None:
            assert start_thread(late[0], PATIENCE)

    def process_and_linger(queue: CommitQueue, claim: _Claim) -> None:
        genuine_process(queue, claim)
        joined_again.wait(1)
        time.sleep(0.3)

    monkeypatch.setattr(commit_queue, "start_thread", start_later)
    monkeypatch.setattr(CommitQueue, "_join", join_and_begin)
    monkeypatch.setattr(CommitQueue, "_process", process_and_linger)
    log = EventLog(path)
    future = log.submit_event("t", None, "x", {})
    log.close()
    assert not late[0].is_alive()
    assert future.result(0) == 1


def test_an_owner_that_is_done_wakes_the_thread_that_is_falling_asleep(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate()
    genuine = CommitQueue._take_batch

    def take_batch(queue: CommitQueue, thread: int) -> _Claim | None:
        """Found the connection owned, and the owner is done before the thread can sleep."""
        claim = genuine(queue, thread)
        if claim is None and not leader.done():
            gate.open()
            leader.result(PATIENCE)
        return claim

    monkeypatch.setattr(commit_queue, "_LONGEST_SLEEP", 2 * SOON)
    with EventLog(path, sink=gate) as log:
        leader = start(lambda: log.insert_event("t", None, "led", {}))
        assert gate.waiting.wait(PATIENCE)
        monkeypatch.setattr(CommitQueue, "_take_batch", take_batch)
        assert log.submit_event("t", None, "queued", {}).result(SOON) == 2


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_caller_hears_of_room_though_the_thread_that_tells_it_is_killed(path: Path) -> None:
    gate = Gate()
    calls: list[threading.Thread] = []

    def when_room() -> None:
        calls.append(threading.current_thread())
        if len(calls) == 1:
            raise SystemExit

    with EventLog(path, sink=gate, queue_capacity=1) as log:
        committing = log.submit_event("t", None, "committing", {})
        assert gate.waiting.wait(PATIENCE)
        queued = log.submit_event("t", None, "queued", {})
        row = ("t", None, "waits", "{}", "2026-01-01T00:00:00.000000Z", None, None, None)
        assert not log._queue.try_enqueue(Entry([row]), when_room)
        gate.open()
        assert [committing.result(PATIENCE), queued.result(PATIENCE)] == [1, 2]
        wait_until(lambda: len(calls) == 2)
    calls[0].join(PATIENCE)


def test_what_a_handler_submits_while_another_thread_closes_the_log_is_refused_or_written(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = EventLog(path)
    genuine = CommitQueue._change
    me = threading.get_ident()

    def change(queue: CommitQueue, step: Any, argument: Any) -> object:
        """In this thread: interrupted, and when it goes on the log is closed."""
        if threading.get_ident() != me:
            return genuine(queue, step, argument)
        start(log.close).result(PATIENCE)
        return None

    monkeypatch.setattr(CommitQueue, "_change", change)
    with pytest.raises(LogClosedError):
        log.submit_event("t", None, "x", {})
    assert stored(path) == []


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_an_exception_right_after_the_commit_makes_no_outcome_wrong(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    genuine = Committer._assign_ids
    interrupted: list[int] = []

    def assign_ids(committer: Committer, batch: Sequence[Entry], last_id: int) -> None:
        if not interrupted:
            interrupted.append(last_id)
            raise KeyboardInterrupt
        genuine(committer, batch, last_id)

    monkeypatch.setattr(Committer, "_assign_ids", assign_ids)
    with EventLog(path) as log:
        assert log.submit_event("t", None, "x", {}).result(SOON) == 1
    assert interrupted == [1]


def test_a_caller_looks_for_the_thread_at_the_moment_at_which_it_ends(
    log: EventLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = [threading.Thread()]
    seen = property(lambda _queue: looks.pop() if looks else None, lambda _queue, _thread: None)
    monkeypatch.setattr(CommitQueue, "_thread", seen, raising=False)
    log._queue._keep_going()
    assert not looks
