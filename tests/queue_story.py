# SPDX-License-Identifier: MIT
"""What a few threads do to one commit queue in one schedule, and what must be true of it afterwards.

The seed decides both: who calls what, which faults the store has, who is interrupted, and who goes on at each step.

`python -m tests.queue_story SEED [PLOT]` runs the schedule of a seed again and prints its trace.
"""

import asyncio
import concurrent.futures._base
import gc
import logging
import os
import selectors
import signal
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from random import Random
from typing import Any, Final, NamedTuple
from unittest.mock import patch

from orch_events import ForkedError, LogClosedError, OrchEventsError, QueueFullError, WriteError
from orch_events._core import (
    async_append,
    commit_queue,
    committing,
    pending,
    sink_delivery,
    thread_start,
)
from orch_events._core.commit_queue import CommitQueue
from orch_events._core.lazy_future import LazyFuture
from orch_events._core.sink_delivery import EventSink
from orch_events._storage.interface import WriteSession
from orch_events._storage.self_deadlock import WRITING
from orch_events._values.new_events import NewRow

from .list_store import Fault, ListStore, ListWriteSession
from .scheduler import REAL_PATIENCE, Queues, Scheduler, Shared, StandInLock, Workers, replaced

TIMEOUT: Final = 5.0
"""Of the queue, in simulated seconds."""

LOST_IN_WAIT: Final = 300.0
"""Simulated seconds that no schedule takes unless it hangs."""

PATIENT: Final = ("sleep", "end of callers", "Thread.join")
"""Waiting for these is no sign of a lost wake-up. The writer thread may end some milliseconds late."""

OPERATIONS: Final = (
    *("append", "append", "append", "append_two"),
    *("submit", "submit", "submit", "ask", "wait"),
    *("flush", "pause"),
)


FAULTS: Final = (
    *("none", "none", "none"),
    *("store fails", "store refuses a", "store raises", "store raises after commit"),
    *("handler raises", "handler raises", "handler submits", "kills writer"),
)


class Plot(NamedTuple):
    """What a story is about."""

    callers: Mapping[str, Sequence[str]]
    """What each calls, one after the other. A signal handler interrupts `a`."""
    fault: str = "none"
    latest: int = 12
    """The last of the places where an interruption may come."""
    capacity: int = 2
    delays: Sequence[float] = ()
    """Of the commits, the first one last."""
    failing_starts: int = 0
    """Threads that cannot be started."""
    hears: bool = False
    """Whether there is a sink."""
    twice: bool = False
    """Whether an interruption comes twice."""
    sink_forks: bool = False
    """Whether the sink forks, at its first event, and returns in the child too."""


PLOTS: Final[dict[str, Plot]] = {
    "two close": Plot({"a": ["append"], "b": ["close"], "c": ["close"]}),
    "close during a long commit": Plot({"a": ["append"], "b": ["close"]}, delays=(0.7,)),
    "the thread is killed": Plot({"a": ["submit", "wait"]}, "kills writer"),
    "the thread is killed while others wait for room": Plot(
        {"a": ["submit"] * 2, "loop": ["coroutines"]}, "kills writer", latest=40, capacity=1
    ),
    "a submit is interrupted while others wait for room": Plot(
        {"a": ["submit"], "loop": ["coroutines"]}, "handler raises", latest=25, capacity=1
    ),
    "no thread starts, and who commits is interrupted": Plot(
        {"a": ["submit"], "loop": ["coroutines"]}, "store raises", failing_starts=6
    ),
    "two interruptions": Plot(
        {"a": ["append", "submit", "flush"], "b": ["submit", "append"]},
        "handler raises",
        latest=60,
        twice=True,
    ),
    "two interruptions where no thread starts": Plot(
        {"a": ["submit"] * 2, "b": ["append"]},
        "handler raises",
        latest=30,
        failing_starts=6,
        twice=True,
    ),
    "two interruptions and a close": Plot(
        {"a": ["append", "submit", "close"], "b": ["submit", "append", "close"]},
        "handler raises",
        latest=100,
        twice=True,
    ),
    "a fork while others write": Plot(
        {"a": ["fork"], "b": ["submit", "append"], "c": ["submit"] * 2, "loop": ["coroutines"]}
    ),
    "a fork in a sink": Plot(
        {"a": ["append", "submit", "append"], "b": ["submit"] * 3}, hears=True, sink_forks=True
    ),
    "a fork in a sink within a batch that is tried row by row": Plot(
        {"a": ["submit"] * 2, "b": ["submit"] * 4},
        "store refuses a",
        capacity=9,
        hears=True,
        sink_forks=True,
    ),
}
"""Each shows in some hundred schedules a fault that plots drawn at random show in some ten thousand."""


def drawn_plot(plans: Random) -> Plot:
    """Anything."""
    callers: dict[str, Sequence[str]] = {}
    for name in "abcd"[: plans.choice((1, 2, 2, 3, 3, 4))]:
        plan = plans.choices(OPERATIONS, k=plans.randint(1, 5))
        if plans.random() < 0.05:
            plan.insert(plans.randint(0, len(plan)), "close")
        callers[name] = plan
    if plans.random() < 0.2:
        callers["loop"] = ["coroutines"] * plans.randint(1, 2)
    if plans.random() < 0.3:
        callers["closer"] = ["pause"] * plans.randint(0, 1) + ["close"]
    delays = [plans.choice((0.01, 0.7)), *[0.001] * plans.randint(0, 3)]
    return Plot(
        callers,
        plans.choice(FAULTS),
        latest=plans.choice((20, 100)),
        capacity=plans.choice((1, 2, 2, 3)),
        delays=delays if plans.random() < 0.2 else (),
        failing_starts=plans.randint(1, 6) if plans.random() < 0.1 else 0,
        hears=plans.random() < 0.2,
    )


class Interrupted(BaseException):
    """What a signal handler raised."""


class ScheduledQueue(CommitQueue):
    """A queue at whose every look at its state somebody else may go on."""

    def __init__(
        self, scheduler: Scheduler, session: WriteSession, sink: EventSink | None, capacity: int
    ) -> None:
        self.scheduler = scheduler
        super().__init__(session, "story", "story", sink, capacity, TIMEOUT)


for _name in (
    "_admitted",
    "_commit_owner",
    "_entries",
    "_interrupting",
    "_is_asleep",
    "_is_open",
    "_refusal",
    "_started_thread",
    "_thread",
):
    setattr(ScheduledQueue, _name, Shared(_name))


class ScheduledSession(ListWriteSession):
    """A write session, one of whose commits may take a while."""

    def __init__(self, store: ListStore, scheduler: Scheduler, delays: Sequence[float]) -> None:
        super().__init__(store)
        self.rows_per_commit = scheduler.random.choice((1, 2, 100))
        self._scheduler = scheduler
        self._delays = list(delays)
        self._user: str | None = None
        self.is_working = False
        self.is_inherited = False
        """Whether this is the child of a fork, which may not use it."""

    def append(self, rows: Sequence[NewRow], deadline: float) -> int:
        self._enter("append")
        try:
            if self._delays:
                self.is_working = True
                self._scheduler.sleep(self._delays.pop())
            self._scheduler.look_for_signal()
            last_id = super().append(rows, deadline)
            self._scheduler.step("committed")
            self._scheduler.look_for_signal()
            return last_id
        finally:
            self.is_working = False
            self._user = None

    def close(self) -> None:
        self._enter("close")
        super().close()

    def _enter(self, what: str) -> None:
        """Only one task at a time uses the connection, and none once it is closed."""
        if self.is_inherited:
            self._scheduler.fail(f"{what} in the child of a fork")
        if self._user is not None:
            self._scheduler.fail(f"{what} while {self._user} uses the connection")
        self._user = f"{self._scheduler.current.name}: {what}"
        self._scheduler.step(what)


class ScheduledLoop(asyncio.BaseEventLoop):
    """An event loop that waits for nothing but calls from other threads, and in simulated time."""

    def __init__(self, scheduler: Scheduler) -> None:
        super().__init__()
        self.set_debug(False)
        self._scheduler = scheduler
        self._is_woken = False
        vars(self)["_selector"] = self

    def time(self) -> float:
        return self._scheduler.now

    def select(self, timeout: float | None) -> list[selectors.SelectorKey]:
        self._scheduler.wait("select", lambda: self._is_woken, timeout)
        self._is_woken = False
        return []

    def _process_events(self, _events: object) -> None:
        pass

    def _write_to_self(self) -> None:
        self._scheduler.step("wake loop")
        self._is_woken = True


class Promise:
    """One call, and what came of it."""

    def __init__(self, rows: Sequence[NewRow], began: int) -> None:
        self.rows = rows
        self.began = began
        """The number of the step at which the call began."""
        self.ended: float = float("inf")
        """That at which it was accepted at the latest."""
        self.outcome: int | BaseException | None = None
        self.future: Future[int] | None = None
        self.told = 0

    def __repr__(self) -> str:
        return "+".join(row[2] for row in self.rows)


class Caller:
    """One task and what it calls."""

    def __init__(self, story: "Story", name: str, plan: Sequence[str]) -> None:
        self._story = story
        self._plan = plan
        self.name = name
        self._promises: list[Promise] = []

    def play(self) -> None:
        for operation in self._plan:
            try:
                getattr(self, operation)()
            except (LogClosedError, ForkedError):
                return
            except QueueFullError:
                self._story.full()
            except WriteError as error:
                self._story.fault(error)
            except Interrupted:
                pass

    def _promise(self, rows: int = 1) -> Promise:
        promise = self._story.promise(self.name, rows)
        self._promises.append(promise)
        return promise

    def _append(self, rows: int) -> None:
        promise = self._promise(rows)
        try:
            self._story.acked(promise, self._story.queue.append(promise.rows))
        except BaseException as error:
            promise.outcome = error
            raise
        finally:
            promise.ended = self._story.moment()

    def append(self) -> None:
        self._append(1)

    def append_two(self) -> None:
        self._append(2)

    def submit(self) -> None:
        promise = self._promise()
        try:
            promise.future = self._story.queue.submit(promise.rows)
        except BaseException as error:
            promise.outcome = error
            raise
        finally:
            promise.ended = self._story.moment()

    def ask(self) -> None:
        """Look at what was submitted, without waiting."""
        for promise in self._promises:
            if promise.future is not None and promise.future.done():
                self._story.resolved(promise)

    def wait(self) -> None:
        for promise in self._promises:
            if promise.future is not None:
                self._story.resolved(promise)

    def flush(self) -> None:
        began = self._story.moment()
        self._story.queue.flush()
        self._story.flushed(began)

    def pause(self) -> None:
        self._story.scheduler.sleep(self._story.plans.choice((0.001, 0.03, 0.3, 0.6)))

    def fork(self) -> None:
        if not self._story.fork():
            return
        queue = self._story.queue
        rows = self._promise().rows
        for call in (
            lambda: queue.append(rows),
            lambda: queue.submit(rows),
            queue.flush,
            queue.close,
        ):
            try:
                call()
            except ForkedError:
                continue
            self._story.fail("a call in the child of a fork was not refused")
        raise ForkedError("this caller is the child's")

    def close(self) -> None:
        self._story.close()

    def coroutines(self) -> None:
        """Several appends of one event loop at once."""
        with asyncio.Runner(loop_factory=self._make_loop) as runner:
            runner.run(self._append_together())

    def _make_loop(self) -> ScheduledLoop:
        def complain(_loop: object, context: dict[str, Any]) -> None:
            if self._story.is_prompt:
                self._story.fail(f"the loop got {context}")

        loop = ScheduledLoop(self._story.scheduler)
        loop.set_exception_handler(complain)
        return loop

    async def _append_together(self) -> None:
        await asyncio.gather(
            *(self._append_async() for _ in range(self._story.plans.randint(1, 4)))
        )

    async def _append_async(self) -> None:
        promise = self._promise()
        plans = self._story.plans
        patience = plans.choice((0, 0.001, 0.3)) if plans.random() < 0.2 else None
        try:
            async with asyncio.timeout(patience):
                last_id = await async_append.append(self._story.queue, promise.rows)
            self._story.acked(promise, last_id)
        except TimeoutError:
            self._story.has_abandoned = True
        except QueueFullError as error:
            promise.outcome = error
            self._story.full()
        except WriteError as error:
            promise.outcome = error
            self._story.fault(error)
        except OrchEventsError as error:
            promise.outcome = error
        finally:
            promise.ended = self._story.moment()


class Story:
    """One schedule of one plot, and the checks."""

    def __init__(self, seed: int, workers: Workers, plot: Plot | None) -> None:
        self.scheduler = scheduler = Scheduler(seed, workers)
        self.plans = plans = Random(-seed - 1)
        self._plot = plot = plot or drawn_plot(plans)
        scheduler.when_quiet = self._is_stuck
        self._is_handling = False
        """Whether a signal handler runs that submits."""
        self.has_abandoned = False
        """Whether a caller has not waited for its outcome."""
        self.promises: list[Promise] = []
        self._heard: list[str] = []
        """What the sink was told."""
        self._flushed: list[tuple[int, list[Promise]]] = []
        self._open_callers = 0
        self._forks_left = int(plot.sink_forks)
        self.is_prompt = True
        """Whether all goes on without waiting for a timeout: so it must where nothing was interrupted."""
        self._store = ListStore("story")
        self._session = ScheduledSession(self._store, scheduler, plot.delays)
        self._store.open_sessions = 1

    def run(self) -> None:
        """Raises `AssertionError`, with the trace, where anything is wrong."""
        WRITING.clear()  # after a schedule that was abandoned
        with stand_ins(self):
            sink = self if self._plot.hears else None
            self.queue = ScheduledQueue(self.scheduler, self._session, sink, self._plot.capacity)
            for name, plan in self._plot.callers.items():
                self._enter(Caller(self, name, plan))
            self.scheduler.spawn("last", self._end)
            self.scheduler.cannot_start = self._plot.failing_starts
            self._add_fault(self._plot.fault)
            self.scheduler.run()
            if self.scheduler.failure is None:
                self._check()

    def fail(self, what: str) -> None:
        self.scheduler.fail(what)

    def moment(self) -> int:
        return len(self.scheduler.trace)

    # -------------------------------------------------------------------------------------- plans

    def _enter(self, caller: Caller) -> None:
        def play() -> None:
            try:
                caller.play()
            finally:
                self._open_callers -= 1

        self._open_callers += 1
        self.scheduler.spawn(caller.name, play)

    def _end(self) -> None:
        """After all callers: close, and look at what is left."""
        self.scheduler.wait("end of callers", lambda: not self._open_callers)
        if self.plans.random() < 0.1:
            self.scheduler.main_thread.is_alive = lambda: False
        self.close()
        thread = vars(self.queue)["_thread"]
        if thread is not None and thread.is_alive():
            self.fail("close has left the writer thread running")
        for promise in self.promises:
            if promise.future is None:
                continue
            if not promise.future.done():
                self.fail(f"{promise} was lost at close")
                return
            self.resolved(promise)

    def _add_fault(self, kind: str) -> None:
        faults = self._store.faults
        if kind == "store fails":
            faults.append(Fault(affects_all=self.plans.random() < 0.5))
        elif kind == "store refuses a":
            faults.append(Fault(refused_task="a"))
        elif kind == "handler submits":
            self._interrupt("a", self._submit_in_handler)
        elif kind != "none":
            self.is_prompt = False
            if kind == "handler raises":
                self._interrupt("a", self._raise_in_handler)
            elif kind == "kills writer":
                self._interrupt("writer1", self._raise_in_handler)
            else:
                faults.append(Fault(raised=Interrupted(), after_commit=kind.endswith("commit")))

    def _interrupt(self, victim: str, handler: Callable[[], None]) -> None:
        countdowns = [self.plans.randint(1, self._plot.latest)]
        if self._plot.twice:
            countdowns.append(self.plans.randint(1, 8))
        self.scheduler.interrupt(victim, countdowns, handler)

    def _raise_in_handler(self) -> None:
        raise Interrupted

    def _submit_in_handler(self) -> None:
        promise = self.promise("handler", 1)
        self._is_handling = True
        try:
            promise.future = self.queue.submit(promise.rows)
        except LogClosedError as error:
            promise.outcome = error
        except QueueFullError as error:
            promise.outcome = error
            self.full()
        finally:
            self._is_handling = False
        # When it is queued is known only when what it has interrupted is over.

    def fork(self) -> bool:
        """Go on in a child too, in which there is no other task; whether this is that child."""
        if sys.platform == "win32":
            return False  # which has no forks
        reading, writing = os.pipe()
        with warnings.catch_warnings():
            # Of a fork with threads, which is what this is about.
            warnings.simplefilter("ignore", DeprecationWarning)
            child = os.fork()
        if child == 0:
            signal.alarm(round(REAL_PATIENCE))
            self._session.is_inherited = True
            self._forks_left = 0
            self.is_prompt = False  # nobody who would wake this task has come along
            self.scheduler.be_child(lambda: self._end_child(writing))
            self.queue.forked()
            return True
        os.close(writing)
        with open(reading, encoding="utf-8") as pipe:
            complaint = pipe.read()
        if os.waitpid(child, 0)[1] or complaint:
            self.fail(f"in the child of a fork: {complaint}")
        return False

    def _end_child(self, writing: int) -> None:
        scheduler = self.scheduler
        errors = [error for _, error in scheduler.errors]
        if scheduler.failure or errors:
            os.write(writing, f"{scheduler.failure or errors}\n{scheduler.story()}".encode())
        os._exit(0)

    # ------------------------------------------------------------------- what is told on the way

    def promise(self, caller: str, count: int) -> Promise:
        first = len(self.promises)
        rows: list[NewRow] = [
            (caller, None, f"{caller}{first}.{n}", "{}", "", None, None, None) for n in range(count)
        ]
        promise = Promise(rows, self.moment())
        self.promises.append(promise)
        return promise

    def acked(self, promise: Promise, last_id: int) -> None:
        """The rows must be stored, with these ids, whenever a caller hears so."""
        promise.outcome = last_id
        ids = range(last_id - len(promise.rows) + 1, last_id + 1)
        stored = self._store.rows[ids.start - 1 : ids.stop - 1]
        if [row for _, row in stored] != list(promise.rows) or ids.start < 1:
            self.fail(f"{promise} was acked as {last_id} and is not there")

    def resolved(self, promise: Promise) -> None:
        assert promise.future is not None
        if promise.outcome is not None:
            return
        try:
            last_id = promise.future.result()
        except OrchEventsError as error:
            promise.outcome = error
            self.fault(error)
        else:
            self.acked(promise, last_id)

    def fault(self, error: OrchEventsError) -> None:
        """A failure was told: only those of the store, or of an interruption, are true."""
        if self.is_prompt and str(error) != "no":
            self.fail(f"a caller was told {error!r}")

    def full(self) -> None:
        """A caller was told that there was no room, though nothing here takes that long."""
        if not self.scheduler.time_flows:
            self.fail("a queue that moves on was said to be full")

    def emit(
        self, _task: str, _item: str | None, event_type: str, _payload: Mapping[str, object], /
    ) -> None:
        self.scheduler.step("emit")
        self._heard.append(event_type)
        self.scheduler.look_for_signal()
        if self._forks_left:
            self._forks_left -= 1
            self.fork()

    def flushed(self, began: int) -> None:
        before = [promise for promise in self.promises if promise.ended < began]
        self._flushed.append((self._store.last_id, before))

    def close(self) -> None:
        try:
            self.queue.close()
        except WriteError as error:
            if self.is_prompt and not self.has_abandoned:
                self.fail(f"close raised what somebody else was told: {error!r}")

    def _is_stuck(self) -> str | None:
        """Everybody waits: is that right?"""
        if self.scheduler.now > 1000 + LOST_IN_WAIT:
            return "hangs"
        if not self.is_prompt or self._session.is_working:
            return None
        if (
            self._is_handling
        ):  # room may have been made for the call that the handler has interrupted
            return None
        if vars(self.queue)["_entries"]:
            return "the queue stands still, and nobody was woken"
        for task in self.scheduler.tasks:
            if not task.name.startswith("writer") and task.reason not in PATIENT:
                return f"{task.name} was not woken"
        return None

    # ------------------------------------------------------------------------------- when all is over

    def _check(self) -> None:
        queue = self.queue
        state = vars(queue)
        left = {
            name: state[name]
            for name in (
                *("_commit_owner", "_entries", "_admitted", "_interrupting", "_waiting"),
                *("_depth", "_changing", "_closing", "_is_open"),
            )
            if state[name]
        }
        if left or state["_lock"].owner is not None or ("story" in {key for key, _ in WRITING}):
            self.fail(f"left behind: {left}, {WRITING}")
        for name, error in self.scheduler.errors:
            if not isinstance(error, Interrupted):
                self.fail(f"{name} raised {error!r}")
        if self._store.open_sessions:
            self.fail("the connection was not closed")
        for promise in self.promises:
            self._check_outcome(promise)
        self._check_rows()
        for last_id, before in self._flushed:
            for promise in before:
                if isinstance(promise.outcome, int) and promise.outcome > last_id:
                    self.fail(f"flush did not wait for {promise}")

    def _check_outcome(self, promise: Promise) -> None:
        outcome = promise.outcome
        if isinstance(outcome, int):
            self.acked(promise, outcome)
            return
        count = sum(row in promise.rows for _, row in self._store.rows)
        if outcome is None or isinstance(outcome, Interrupted):
            if count not in (0, len(promise.rows)):
                self.fail(f"{promise} was written in part, or twice")
        elif isinstance(outcome, WriteError) and self._is_innocent(promise):
            self.fail(f"{promise} was told that it was refused, and it was another that was")
        elif count and not (self._plot.twice and "perhaps" in str(outcome)):
            self.fail(f"{promise} failed with {outcome!r} and is there")

    def _is_innocent(self, promise: Promise) -> bool:
        """Whether the store has refused nothing of this call."""
        refused = [fault.refused_task for fault in self._store.faults if fault.refused_task]
        return bool(refused) and promise.rows[0][0] not in refused

    def _check_rows(self) -> None:
        """All are of calls, each there once, and in the order in which they were accepted."""
        heard = self._heard
        if len(heard) != len(set(heard)):
            self.fail(f"the sink heard something twice: {heard}")
        calls = {row[2]: promise for promise in self.promises for row in promise.rows}
        names = [row[2] for _, row in self._store.rows]
        if len(names) != len(set(names)):
            self.fail(f"committed twice: {names}")
        if heard != [name for name in names if name in heard] or (
            self.is_prompt and self._plot.hears and heard != names
        ):
            self.fail(f"the sink heard {heard} of {names}")
        latest: Promise | None = None
        for name in names:
            promise = calls[name]
            if latest is not None and promise.ended < latest.began:
                self.fail(f"{latest} was committed before {promise}, which was accepted first")
            if latest is None or promise.began > latest.began:
                latest = promise


class CountingLock(StandInLock):
    """The lock of a blocking entry: released once, unless somebody was interrupted."""

    def __init__(self, story: Story) -> None:
        super().__init__(story.scheduler)
        self._story = story

    def release(self) -> None:
        if self._is_free and self._story.is_prompt:
            self._story.fail("an entry was told twice")
        super().release()


@contextmanager
def stand_ins(story: Story) -> Iterator[None]:
    """Within the body, the commit queue runs under the story's scheduler."""
    scheduler = story.scheduler
    threading = scheduler.threading()
    counting = scheduler.threading()
    counting.Lock = lambda: CountingLock(story)
    time = scheduler.time()
    queues = Queues(scheduler)

    class CountingFuture(LazyFuture):
        def tell(self, outcome: int | Exception) -> None:
            scheduler.step("tell")
            if story.is_prompt and self._outcome is not None:
                story.fail("a future was told twice")
            super().tell(outcome)

    replacing: dict[Any, object] = {
        (commit_queue, "threading"): threading,
        (commit_queue, "time"): time,
        (commit_queue, "SimpleQueue"): queues,
        (commit_queue, "LazyFuture"): CountingFuture,
        (commit_queue, "register"): lambda _holder: None,
        (pending, "threading"): counting,
        (committing, "time"): time,
        (sink_delivery, "threading"): threading,
        (thread_start, "threading"): threading,
        (thread_start, "_thread"): scheduler.low_threading(),
        (thread_start, "SimpleQueue"): queues,
        (concurrent.futures._base, "threading"): threading,
    }
    gc.disable()  # a finalizer would run at another step each time
    try:
        with replaced(replacing):
            yield
    finally:
        gc.enable()


@contextmanager
def stage() -> Iterator[Workers]:
    """Where schedules can be run, one after the other. What they lose, as they were told to, is not logged."""
    with Workers() as workers, patch.object(logging.getLogger("orch_events"), "disabled", True):
        yield workers
        gc.collect()


def run(seed: int, workers: Workers, about: str = "") -> Story:
    """Run the schedule of `seed`; `about` names one of `PLOTS`, or the plot is drawn too."""
    story = Story(seed, workers, PLOTS[about] if about else None)
    story.run()
    failure = story.scheduler.failure
    if failure is not None:
        again = f"python -m tests.queue_story {seed} {about and repr(about)}".rstrip()
        raise AssertionError(f"{failure}\n{story.scheduler.story()}\n{failure}\nagain: {again}")
    return story


if __name__ == "__main__":
    with stage() as the_workers:
        print(run(int(sys.argv[1]), the_workers, *sys.argv[2:]).scheduler.story())
