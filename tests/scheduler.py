# SPDX-License-Identifier: MIT
"""A deterministic scheduler: one seed is one schedule of threads, and gives that schedule again.

The tasks are real threads of which exactly one runs at a time: each waits for a baton of its own, and who has it hands
it to the next. It does so only inside the stand-ins below, which take the place of `threading`, `queue` and `time` in
the modules under test: at each of their calls, and at each look at an attribute that is `Shared`, a random generator
decides who goes on. A task that waits is chosen only when what it waits for has come or its time is over.

Time is simulated. It goes on when everybody waits, to the first moment at which a wait ends; and now and then when
not, since a machine may be slow.

One task may be interrupted, once or twice, as by a signal handler, where CPython looks for signals: while a call waits,
after it has returned, and where a function of the library begins; but not where nothing is called.

What fails a schedule: everybody waits for ever, or it goes on for ever, or whatever the test itself looks for, by
`Scheduler.fail` and when everybody waits by `Scheduler.when_quiet`. The tasks are then ended by `Abandoned`.
"""

import inspect
import math
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import count, groupby
from queue import Empty
from random import Random
from types import FrameType, ModuleType, SimpleNamespace
from typing import Any, Final, NamedTuple

from .helpers import LIBRARY

MOST_STEPS: Final = 20_000
"""After which a schedule counts as one that never ends."""

REAL_PATIENCE: Final = 60.0
"""Seconds of real time after which the scheduler itself is at fault."""


class Abandoned(BaseException):
    """Ends the tasks of a schedule that has failed."""


class Step(NamedTuple):
    """One entry of the trace."""

    now: float
    task: str
    reason: str


class Worker(threading.Thread):
    """A real thread that runs one task after the other."""

    def __init__(self) -> None:
        super().__init__(name="scheduled", daemon=True)
        self.baton = threading.Lock()
        self.baton.acquire()
        self.job: Callable[[], None] | None = None

    def run(self) -> None:
        while True:
            self.baton.acquire()
            job = self.job
            if job is None:
                return
            job()


class Workers:
    """The real threads of many schedules: starting them anew for each would take longer than the schedules."""

    def __init__(self) -> None:
        self._all: list[Worker] = []
        self.idle: list[Worker] = []

    def take(self) -> Worker:
        if self.idle:
            return self.idle.pop()
        worker = Worker()
        self._all.append(worker)
        worker.start()
        return worker

    def __enter__(self) -> "Workers":
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self._all:
            worker.job = None
            worker.baton.release()
        for worker in self._all:
            worker.join(REAL_PATIENCE)


class Task:
    """What runs in one thread."""

    def __init__(self, name: str, ident: int, worker: Worker, is_slow: bool) -> None:
        self.name = name
        self.ident = ident
        self.worker = worker
        self.is_slow = is_slow
        """Whether it is chosen seldom while others can go on."""
        self.reason = "not begun"
        self.ready: Callable[[], bool] | None = None
        """What it waits for."""
        self.deadline = math.inf
        self.is_deaf = False
        """Whether no signal can be heard in what it waits for."""
        self.is_signalled = False
        self.is_ended = False
        self.thread: Any = None
        """What `current_thread` is."""

    def is_runnable(self, now: float) -> bool:
        return self.ready is None or self.is_signalled or now >= self.deadline or self.ready()


class Scheduler:
    """One schedule. Not for a second run."""

    def __init__(self, seed: int, workers: Workers) -> None:
        self.random = Random(seed)
        self.now = 1000.0
        self.trace: list[Step] = []
        self.tasks: list[Task] = []
        """Those that have not ended, in the order of their starts."""
        self.errors: list[tuple[str, BaseException]] = []
        """What tasks have raised."""
        self.failure: str | None = None
        self.when_quiet: Callable[[], str | None] = lambda: None
        """Called when everybody waits: what is wrong with that."""
        self.cannot_start = 0
        """So many starts of a thread fail."""
        self.main_thread = SimpleNamespace(is_alive=lambda: True)
        self._workers = workers
        self._current: Task | None = None
        over = threading.Lock()
        over.acquire()
        self._over = over
        self._at_end: Callable[[], object] = over.release
        self._is_alone = False
        self._chance = self.random.random
        self._inertia = self.random.choice((0.3, 0.7, 0.9, 0.97))
        """How likely it is that who runs goes on."""
        self._slowness = self.random.choice((0.0, 0.0, 0.3))
        self.time_flows = self.random.choice((0.0, 0.0, 0.02))
        """How likely it is at a choice that time goes on although somebody could."""
        self._victim: str | None = None
        self._countdowns: list[int] = []
        self._handler: Callable[[], None] = lambda: None
        self._numbers = count(1)

    # -------------------------------------------------------------------------------------- tasks

    def spawn(self, name: str, target: Callable[[], object], thread: object = None) -> Task:
        if self._is_alone:
            self.fail(f"{name} was started in the child of a fork")
            raise Abandoned
        taken = {task.ident for task in self.tasks}
        # That of an ended thread at once, which is what may do harm.
        ident = next(number for number in count(1) if number not in taken)
        task = Task(name, ident, self._workers.take(), self._chance() < self._slowness)
        task.thread = thread or SimpleNamespace(ident=ident, is_alive=lambda: not task.is_ended)
        task.worker.job = lambda: self._run(task, target)
        self.tasks.append(task)
        return task

    def _run(self, task: Task, target: Callable[[], object]) -> None:
        tracer = sys.gettrace()
        if task.name == self._victim:
            sys.settrace(self._trace_call)
        try:
            if self.failure is None:
                target()
        except Abandoned:
            pass
        except BaseException as error:
            self.errors.append((task.name, error))
        sys.settrace(tracer)
        task.is_ended = True
        self.tasks.remove(task)
        self._workers.idle.append(task.worker)
        self._current = successor = self._choose() if self.tasks else None
        if successor is None:
            self._at_end()
        else:
            successor.worker.baton.release()

    def run(self) -> None:
        """Until every task has ended."""
        self._current = first = self._choose()
        first.worker.baton.release()
        if not self._over.acquire(timeout=REAL_PATIENCE):
            raise AssertionError(f"a task runs without any step\n{self.story()}")

    def be_child(self, at_end: Callable[[], object]) -> None:
        """After a fork: the other tasks have not come along. When this one ends, `at_end` is called."""
        self.tasks = [self.current]
        self._is_alone = True
        self._at_end = at_end

    @property
    def current(self) -> Task:
        assert self._current is not None
        return self._current

    def fail(self, what: str) -> None:
        if self.failure is None:
            self.failure = what

    def story(self) -> str:
        """The trace, a line for each time that somebody goes on."""
        lines: list[str] = []
        for (now, task), steps in groupby(self.trace, key=lambda step: (step.now, step.task)):
            reasons = ", ".join(step.reason for step in steps)
            lines.append(f"{now - 1000:9.4f} {task:>10}: {reasons}")
        return "\n".join(lines)

    # ------------------------------------------------------------------------------------ choices

    def step(self, reason: str) -> None:
        """Somebody else may go on here."""
        task = self._current
        if task is None:  # the story is being set up
            return
        self._record(task, reason)
        if self._chance() >= self._inertia:
            self._hand_over(task)

    def wait(
        self,
        reason: str,
        ready: Callable[[], bool],
        seconds: float | None = None,
        is_deaf: bool = False,
    ) -> bool:
        """Whether `ready` holds, which it does unless the time was over first."""
        task = self._current
        if task is None:
            return ready()
        self._record(task, reason)
        if not is_deaf:
            self.look_for_signal()
        deadline = math.inf if seconds is None else self.now + seconds
        try:
            while True:
                task.ready = ready
                task.deadline = deadline
                task.is_deaf = is_deaf
                if not ready() or self._chance() >= self._inertia:
                    self._hand_over(task)
                if not task.is_signalled:
                    return ready()
                task.is_signalled = False
                task.ready = None
                self._interrupt(task)
        finally:
            task.ready = None

    def _record(self, task: Task, reason: str) -> None:
        if self.failure is not None:
            raise Abandoned
        task.reason = reason
        self.trace.append(Step(self.now, task.name, reason))
        if len(self.trace) > MOST_STEPS:
            self.fail("it goes on for ever")
            raise Abandoned

    def _hand_over(self, task: Task) -> None:
        successor = self._choose()
        if successor is not task:
            self._current = successor
            successor.worker.baton.release()
            task.worker.baton.acquire()
        if self.failure is not None:
            raise Abandoned

    def _choose(self) -> Task:
        if self.failure is None:
            self._signal_who_waits()
            if self.time_flows and self._chance() < self.time_flows:
                self._advance()
        while self.failure is None:
            runnable = [task for task in self.tasks if task.is_runnable(self.now)]
            if runnable:
                fast = [task for task in runnable if not task.is_slow]
                if fast and self._chance() < 0.95:
                    runnable = fast
                return runnable[int(self._chance() * len(runnable))]
            complaint = self.when_quiet()
            if complaint is not None:
                self.fail(f"{complaint}; {self._waiting()}")
            elif not self._advance():
                self.fail(f"everybody waits for ever; {self._waiting()}")
        current = self._current
        if current is not None and not current.is_ended:
            return current
        return self.tasks[0]

    def _advance(self) -> bool:
        """To the first moment at which a wait ends."""
        deadline = min((task.deadline for task in self.tasks if task.ready), default=math.inf)
        if deadline == math.inf:
            return False
        self.now = max(self.now, deadline)
        return True

    def _waiting(self) -> str:
        return ", ".join(f"{task.name} waits ({task.reason})" for task in self.tasks)

    # ------------------------------------------------------------------------------------ signals

    def interrupt(
        self,
        victim: str,
        countdowns: Sequence[int],
        handler: Callable[[], None],
    ) -> None:
        """Call `handler` in the task of that name, at the so manieth place where it may be interrupted.

        With two numbers also at the so manieth after that, which may be in the middle of `handler`.
        """
        self._victim = victim
        self._countdowns = [*countdowns]
        self._handler = handler

    def look_for_signal(self) -> None:
        task = self._current
        if task is not None and task.name == self._victim:
            self._countdowns[0] -= 1
            if self._countdowns[0] <= 0:
                self._interrupt(task)

    def _trace_call(self, frame: FrameType, _event: str, _argument: object) -> None:
        # Not in a generator: what a trace function raises as it goes on passes by its handlers, unlike a signal's.
        is_generator = frame.f_code.co_flags & inspect.CO_GENERATOR
        if frame.f_code.co_filename.startswith(LIBRARY) and not is_generator:
            self.look_for_signal()

    def _signal_who_waits(self) -> None:
        if self._victim is None:
            return
        for task in self.tasks:
            if task.name == self._victim and task.ready is not None and not task.is_deaf:
                self._countdowns[0] -= 1
                if self._countdowns[0] <= 0:
                    task.is_signalled = True

    def _interrupt(self, task: Task) -> None:
        del self._countdowns[0]
        if not self._countdowns:
            self._victim = None
        self.trace.append(Step(self.now, task.name, "INTERRUPTED"))
        reason = task.reason
        self._handler()
        task.reason = reason

    # ---------------------------------------------------------------------------------- stand-ins

    def threading(self) -> SimpleNamespace:
        """What stands for the module `threading`."""
        return SimpleNamespace(
            Thread=lambda target, name, daemon: StandInThread(self, target, name),
            Lock=lambda: StandInLock(self),
            RLock=lambda: StandInRLock(self),
            Condition=lambda: StandInCondition(self),
            get_ident=self._get_ident,
            current_thread=lambda: self.current.thread,
            main_thread=lambda: self.main_thread,
        )

    def low_threading(self) -> SimpleNamespace:
        """What stands for the module `_thread`."""
        return SimpleNamespace(start_new_thread=self._start_new_thread)

    def time(self) -> SimpleNamespace:
        """What stands for the module `time`."""
        return SimpleNamespace(monotonic=self._monotonic, sleep=self.sleep)

    def _get_ident(self) -> int:
        ident = self.current.ident
        self.look_for_signal()
        return ident

    def _start_new_thread(self, target: Callable[[], object], arguments: tuple[()]) -> None:
        self.step("_thread.start_new_thread")
        if self.cannot_start > 0:
            self.cannot_start -= 1
            raise RuntimeError("can't start new thread")
        self.spawn(f"starter{next(self._numbers)}", target)
        self.look_for_signal()

    def _monotonic(self) -> float:
        self.now += 1e-6
        self.look_for_signal()
        return self.now

    def sleep(self, seconds: float) -> None:
        self.wait("sleep", lambda: False, seconds)
        self.look_for_signal()


class StandInThread:
    """For `threading.Thread`."""

    def __init__(self, scheduler: Scheduler, target: Callable[[], object], name: str) -> None:
        self._scheduler = scheduler
        self._target = target
        self._task: Task | None = None
        self._name = f"{name.split()[-1]}{next(scheduler._numbers)}"
        self.ident: int | None = None

    def start(self) -> None:
        scheduler = self._scheduler
        scheduler.step("Thread.start")
        scheduler.look_for_signal()
        if scheduler.cannot_start > 0:
            scheduler.cannot_start -= 1
            raise RuntimeError("can't start new thread")
        self._task = scheduler.spawn(self._name, self._run, self)
        scheduler.wait("Thread.start", lambda: self.ident is not None)
        scheduler.look_for_signal()

    def _run(self) -> None:
        self.ident = self._scheduler.current.ident
        self._target()

    def is_alive(self) -> bool:
        return self.ident is not None and self._task is not None and not self._task.is_ended

    def join(self, seconds: float | None = None) -> None:
        self._scheduler.wait("Thread.join", lambda: not self.is_alive(), seconds)
        self._scheduler.look_for_signal()


class StandInLock:
    """For `threading.Lock`."""

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self._is_free = True

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        seconds = 0 if not blocking else None if timeout < 0 else timeout
        is_taken = self._scheduler.wait("Lock.acquire", lambda: self._is_free, seconds)
        if is_taken:
            self._is_free = False
        self._scheduler.look_for_signal()
        return is_taken

    def release(self) -> None:
        self._scheduler.step("Lock.release")
        if self._is_free:
            raise RuntimeError("release unlocked lock")
        self._is_free = True
        self._scheduler.look_for_signal()


class StandInRLock:
    """For `threading.RLock`."""

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self.owner: Task | None = None
        self._depth = 0

    def acquire(self) -> bool:
        self.take()
        self._scheduler.look_for_signal()
        return True

    def take(self, is_deaf: bool = False) -> None:
        """`acquire`, after which no signal is heard: so it is under `with`."""
        scheduler = self._scheduler
        if self.owner is None or self.owner is not scheduler.current:
            scheduler.wait("RLock.acquire", lambda: self.owner is None, is_deaf=is_deaf)
            self.owner = scheduler.current
        self._depth += 1

    def release(self) -> None:
        scheduler = self._scheduler
        if self.owner is None or self.owner is not scheduler.current:
            raise RuntimeError("cannot release un-acquired lock")
        scheduler.step("RLock.release")
        self._depth -= 1
        if not self._depth:
            self.owner = None
        scheduler.look_for_signal()


class StandInCondition:
    """For `threading.Condition`, as `concurrent.futures.Future` uses it."""

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self._lock = StandInRLock(scheduler)
        self._waiters: list[list[None]] = []
        """Each is empty until it is notified."""

    def __enter__(self) -> None:
        self._lock.take()

    def __exit__(self, *_: object) -> None:
        self._lock.release()

    def wait(self, timeout: float | None = None) -> bool:
        notes: list[None] = []
        self._waiters.append(notes)
        self._lock._depth = 0
        self._lock.owner = None
        try:
            return self._scheduler.wait("Condition.wait", lambda: bool(notes), timeout)
        finally:
            self._waiters.remove(notes)
            self._lock.take(is_deaf=True)

    def notify_all(self) -> None:
        for notes in self._waiters:
            notes.append(None)


class StandInQueue:
    """For `queue.SimpleQueue`."""

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self._items: deque[None] = deque()

    def put(self, item: None) -> None:
        self._scheduler.step("SimpleQueue.put")
        self._items.append(item)
        self._scheduler.look_for_signal()

    def get(self, timeout: float | None = None) -> None:
        if not self._scheduler.wait("SimpleQueue.get", lambda: bool(self._items), timeout):
            self._scheduler.look_for_signal()
            raise Empty
        self._items.popleft()
        self._scheduler.look_for_signal()


class Queues:
    """For the class `queue.SimpleQueue` itself, which may be subscripted before it is called."""

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler

    def __getitem__(self, _item_type: object) -> "Queues":
        return self

    def __call__(self) -> StandInQueue:
        return StandInQueue(self._scheduler)


class Shared:
    """An attribute that several threads look at without a lock: at each look, somebody else may go on first."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._read = name
        self._written = f"{name}="

    def __get__(self, owner: Any, _type: type) -> Any:
        owner.scheduler.step(self._read)
        return vars(owner)[self._name]

    def __set__(self, owner: Any, value: object) -> None:
        owner.scheduler.step(self._written)
        vars(owner)[self._name] = value


@contextmanager
def replaced(stand_ins: dict[tuple[ModuleType, str], object]) -> Iterator[None]:
    """Within the body, these names of these modules stand for something else."""
    genuine = {place: vars(place[0])[place[1]] for place in stand_ins}
    try:
        for (module, name), stand_in in stand_ins.items():
            setattr(module, name, stand_in)
        yield
    finally:
        for (module, name), value in genuine.items():
            setattr(module, name, value)
