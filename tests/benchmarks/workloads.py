# SPDX-License-Identifier: MIT
"""What the work is and how it is clocked. Each function does one piece of it, in a process and a directory of its own.

Rule: the clock covers what an event costs (encoding, timestamp, SQL, commit; decoding when read), not opening the log
nor making up the events. A workload's first figure is compared: a rate (``…/s``), or something that should be small.
"""

import asyncio
import faulthandler
import math
import os
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from functools import partial
from itertools import islice
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import Final, NamedTuple, TypeAlias

from orch_events import EventLog

from .candidates import TASK, NewEvent
from .registry import CANDIDATES

Figures: TypeAlias = dict[str, float]


def fresh_process() -> ProcessPoolExecutor:
    """One that kills itself should it hang."""
    kill = partial(faulthandler.dump_traceback_later, 300, exit=True)
    return ProcessPoolExecutor(1, get_context("spawn"), kill)


def heartbeats(size: int) -> list[NewEvent]:
    """Events with 230 bytes of payload, numbered by `elapsed_secs`; every hundredth says that a step was spawned."""
    usual: dict[str, object] = {
        "step": "implement",
        "step_id": "s1",
        "step_scope": "task",
        "stdout_bytes": 4096,
    }
    usual |= {
        "stderr_bytes": 256,
        "stdout_delta_bytes": 0,
        "stderr_delta_bytes": 4,
        "stagnant_heartbeats": 3,
    }
    usual |= {"pid": 12345, "pid_alive": True, "output_state": "low_output"}
    kinds = ["step_heartbeat" if n % 100 else "step_spawned" for n in range(size)]
    return [(TASK, "item-1", kind, {**usual, "elapsed_secs": n}) for n, kind in enumerate(kinds)]


def seconds(job: Callable[[], object]) -> float:
    started = time.perf_counter()
    job()
    return time.perf_counter() - started


@contextmanager
def beside(busy: bool) -> Iterator[None]:
    """If `busy`, there is a thread beside the body that runs Python and lets go of the GIL only when asked to."""

    def spin() -> None:
        while busy:
            pass

    thread = threading.Thread(target=spin, daemon=True)
    thread.start()
    yield
    busy = False
    thread.join()


def acked(threads: int, busy: bool, name: str, path: str, size: int) -> Figures:
    """Each thread appends `size` events, the next when the one before is acked."""

    def work(events: list[NewEvent]) -> tuple[float, float]:
        started = time.perf_counter()
        for event in events:
            log.append(event)
        return started, time.perf_counter()

    parts = [heartbeats(size) for _ in range(threads)]
    with closing(CANDIDATES[name].open(path)) as log, ThreadPoolExecutor(threads) as pool:
        list(pool.map(work, [part[:5] for part in parts]))
        with beside(busy):
            started, ended = zip(*pool.map(work, parts))
    return {"events/s": threads * size / (max(ended) - min(started))}


def awaited(name: str, path: str, size: int) -> Figures:
    """Each of 200 coroutines appends `size` events, likewise."""

    async def work(events: list[NewEvent]) -> None:
        for event in events:
            await log.append_async(event)

    async def together() -> None:
        await asyncio.gather(*map(work, parts))

    parts = [heartbeats(size) for _ in range(200)]
    with closing(CANDIDATES[name].open(path)) as log, asyncio.Runner() as runner:
        runner.run(work(heartbeats(20)))
        return {"events/s": 200 * size / seconds(lambda: runner.run(together()))}


def at_once(reading: bool, busy: bool, name: str, path: str, size: int) -> Figures:
    """`size` events written until durable, or read back."""
    events = heartbeats(size)
    with closing(CANDIDATES[name].open(path)) as log:
        if reading:
            log.bulk(events)
        with beside(busy):
            return {"events/s": size / seconds(log.read if reading else lambda: log.bulk(events))}


def append_alone(name: str, path: str, size: int, begin: float) -> tuple[float, float]:
    """One process of `crowded`: when it began and ended."""
    events = heartbeats(size)
    with closing(CANDIDATES[name].open(path)) as log:
        for event in events[:5]:
            log.append(event)
        time.sleep(max(0.0, begin - time.monotonic()))
        started = time.monotonic()
        for event in events:
            log.append(event)
        return started, time.monotonic()


def crowded(name: str, path: str, size: int) -> Figures:
    """Eight processes append `size` events each, each the next when the one before is acked."""
    CANDIDATES[name].open(path).close()
    with ExitStack() as stack:
        processes = [stack.enter_context(fresh_process()) for _ in range(8)]
        begin = time.monotonic() + 2  # by then all have started
        jobs = [process.submit(append_alone, name, path, size, begin) for process in processes]
        started, ended = zip(*(job.result() for job in jobs))
    return {"events/s": 8 * size / (max(ended) - min(started))}


def heard(name: str, path: str, size: int) -> list[float]:
    """The other process of `woken`: when it heard of each event."""
    with closing(CANDIDATES[name].open(path)) as log:
        return [time.monotonic() for _ in islice(log.listen(), size)]


def woken(name: str, path: str, size: int) -> Figures:
    """From the ack in one process to the delivery in another, every 20 ms; and what it costs to wait there."""

    def cpu() -> float:
        threads = [
            int(file.read_text().split()[0])
            for file in Path(f"/proc/{other}/task").glob("*/schedstat")
        ]
        return sum(threads) / 1e9 if threads else math.nan

    with closing(CANDIDATES[name].open(path)) as log, fresh_process() as process:
        other = process.submit(os.getpid).result()
        acks = list[float]()
        hearing = process.submit(heard, name, path, size)
        time.sleep(0.7)  # the pauses between its looks grow to their full length
        before = cpu()
        pause = size / 150
        time.sleep(pause)
        idle = 100 * (cpu() - before) / pause
        for event in heartbeats(size):
            log.append(event)
            acks.append(time.monotonic())
            time.sleep(0.02)
        late = sorted(1000 * (then - at) for then, at in zip(hearing.result(), acks))
    return {
        "median ms": median(late),
        "p99 ms": late[size * 99 // 100],
        "worst ms": late[-1],
        "idle CPU %": idle,
    }


def grown(name: str, path: str, size: int) -> Figures:
    """`size` events of one task: asking for its latest spawned step, and appending in turn with a new log."""

    def ask() -> float:
        return 1e6 * median(seconds(log.latest) for _ in range(50))

    who = CANDIDATES[name]
    took = {True: 0.0, False: 0.0}
    events = heartbeats(50)
    with closing(who.open(path)) as log:
        log.bulk(heartbeats(10_000))
        early = ask()
        for _ in range(10_000, size, 30_000):
            log.bulk(heartbeats(30_000))
        late = ask()
    with closing(who.open(path)) as big, closing(who.open(f"{path}-new")) as new:
        for turn in range(21):
            for log in (big, new):
                spent = seconds(partial(list, map(log.append, events)))
                if turn > 0:  # the first warms up
                    took[log is big] += spent
    rate = took[False] / took[True]
    return {
        "latest µs": late,
        "of 10,000 events": early,
        "growth": late / early,
        "append rate, big ÷ new": rate,
    }


def remembered(name: str, path: str, size: int) -> Figures:
    """Peak memory of a process that appends, reads and follows `size` events, then goes on to ten times as many."""
    import resource  # not on Windows

    found = Figures()
    with EventLog(path) as log:
        for label, new, total in (("N", size, size), ("10 N", 9 * size, 10 * size)):
            for _ in range(new // 1000):
                for event in heartbeats(1000):
                    log.submit_event(*event)
            log.flush()
            for job, events in {
                "append": iter(()),
                "read": log.query_events(),
                "follow": log.follow_events(),
            }.items():
                deque(islice(events, total), 0)
                found[f"{job} {label}, MB"] = (
                    resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
                )
    return found


def ticking(name: str, path: str, size: int) -> Figures:
    """How late a callback due every 1 ms is at worst, while `size` events are read and a tenth as many appended."""
    delays = list[float]()
    events = heartbeats(size // 10)

    async def tick() -> None:
        while True:
            due = time.perf_counter() + 0.001
            await asyncio.sleep(0.001)
            delays.append(1000 * (time.perf_counter() - due))

    async def main() -> Figures:
        ticker = asyncio.create_task(tick())
        await asyncio.sleep(0.2)
        idle = max(delays)
        delays.clear()
        reading = asyncio.ensure_future(log.read_async())
        tasks = list[asyncio.Future[object]]()
        for n in range(
            0, len(events), 50
        ):  # to make them all at once would itself hold up the loop
            tasks += [
                asyncio.ensure_future(log.append_async(event)) for event in events[n : n + 50]
            ]
            await asyncio.sleep(0)
        for task in tasks:
            await task
        await reading
        await asyncio.sleep(0.01)
        ticker.cancel()
        return {"worst ms": max(delays), "idle ms": idle}

    with closing(CANDIDATES[name].open(path)) as log:
        log.bulk(heartbeats(size))
        return asyncio.run(main())


def imported(name: str, path: str, size: int) -> Figures:
    """How long the import takes, alone and as a multiple of that of the standard modules it needs."""

    def took(code: str) -> float:
        # Isolated, or PYTHONDONTWRITEBYTECODE would have us compiled anew each time and the standard modules not.
        command = [
            sys.executable,
            "-I",
            "-c",
            f"import sys; sys.path.append({os.getcwd()!r}); {code}",
        ]
        return min(seconds(partial(subprocess.run, command, check=True)) for _ in range(size))

    modules = "sqlite3, json, logging, threading, dataclasses, concurrent.futures, datetime"
    nothing, standard, ours = map(took, ("pass", f"import {modules}", "import orch_events"))
    return {
        "ms": 1000 * (ours - nothing),
        "× the standard modules": (ours - nothing) / (standard - nothing),
    }


class Workload(NamedTuple):
    title: str
    run: Callable[[str, str, int], Figures]
    size: int
    quick: int
    steady: int = 1
    """How many times more for candidates that are `steady`."""


WORKLOADS: Final = {
    "W1": Workload("one thread, each event acked", partial(acked, 1, False), 1000, 500),
    "W2": Workload("eight threads, each event acked", partial(acked, 8, False), 200, 60),
    "W3": Workload("200 coroutines, each event acked", awaited, 10, 5),
    "W4": Workload("a batch, until it is durable", partial(at_once, False, False), 100_000, 10_000),
    "W5bulk": Workload(
        "a batch, beside a busy Python thread", partial(at_once, False, True), 1000, 250, 20
    ),
    "W5threads": Workload(
        "eight threads, each event acked, beside a busy thread", partial(acked, 8, True), 12, 5, 5
    ),
    "W6": Workload("a task's steps read back", partial(at_once, True, False), 100_000, 10_000),
    "W6c": Workload("the same, beside a busy thread", partial(at_once, True, True), 2000, 2000, 10),
    "W7": Workload("from the ack to the delivery in another process", woken, 300, 60),
    "W8": Workload("eight processes, each event acked", crowded, 200, 60),
    "W9": Workload("a big log beside a new one", grown, 1_000_000, 100_000),
    "memory": Workload(
        "peak memory after N events and after ten times as many", remembered, 100_000, 10_000
    ),
    "import": Workload("the import, in a new interpreter", imported, 20, 5),
    "loop": Workload("the worst delay of a 1 ms ticker", ticking, 100_000, 20_000),
}
