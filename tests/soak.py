# SPDX-License-Identifier: MIT
"""A soak: what a busy orchestrator does to a log, for hours; nothing it takes may grow.

    python -m tests.soak LOG [--seconds 3600] [--rate 200]

LOG is a file that does not exist yet, or the URL of an empty schema. In this process, three threads: tasks begin, beat
and end, `rate` events a second in all, some from coroutines; a follower reads them; every so often what has aged goes.
The log is closed and opened again meanwhile, and another process records too. Printed are samples of memory,
descriptors, threads and size; in the end the last third of them is compared with the third before it. What was acked
and not yet deleted is read back and compared too.
"""

import argparse
import asyncio
import os
import sys
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from statistics import median
from typing import Final, NamedTuple

from orch_events import EventLog, EventReader, PrunedError

from .terminal import outcome

MOST_GROWTH: Final = 1.1
"""Of the median of a figure, from one third of the samples to the next."""

KEPT: Final = 0.05
"""The age that is kept, as a share of the whole time: so many times over is all that is in the log exchanged."""

SAMPLES: Final = 60
RESTARTS: Final = 20
CLEANUPS: Final = 60


class Sample(NamedTuple):
    """What it takes at one moment."""

    memory: int
    """Resident, in bytes."""
    descriptors: int
    threads: int
    size: int
    """Of the database, in bytes."""


def sample(log: EventLog) -> Sample:
    stats = log.stats()
    with open("/proc/self/statm", encoding="ascii") as statm:
        pages = int(statm.read().split()[1])
    return Sample(
        memory=pages * os.sysconf("SC_PAGE_SIZE"),
        descriptors=len(os.listdir("/proc/self/fd")),
        threads=threading.active_count(),
        size=stats.file_bytes + stats.wal_bytes,
    )


class Soak:
    """One log under load. Each part runs in a thread of its own until `stop` is set."""

    def __init__(self, path: str, seconds: float, rate: float) -> None:
        self.path = path
        self.seconds = seconds
        self.rate = rate
        self.stop = threading.Event()
        self.log = EventLog(path)
        self.restarting = threading.Lock()
        """Held by the writer for an append, and by what closes the log and opens it again."""
        self.last_acked = 0
        self.acked = 0
        self.followed = 0
        self.deleted = 0

    def write(self) -> None:
        number = 0
        began = time.monotonic()
        while not self.stop.is_set():
            number += 1
            with self.restarting:
                self.last_acked = self.append(number)
            self.acked += 1
            early = number / self.rate - (time.monotonic() - began)
            if early > 0:
                self.stop.wait(early)

    def append(self, number: int) -> int:
        """The next event of eight tasks side by side, each of a hundred events."""
        task, turn = divmod(number // 8, 100)
        task_id = f"task-{task}-{number % 8}"
        payload: dict[str, object] = {"step": f"step-{turn % 5}", "stdout_bytes": number}
        if turn == 0:
            return self.log.insert_event(task_id, None, "task_started", {"goal": "soak"})
        if turn == 99:
            return self.log.insert_event(task_id, None, "task_completed")
        if turn % 10 == 0:
            return asyncio.run(
                self.log.insert_event_async(task_id, "item", "step_finished", payload)
            )
        if turn % 3 == 0:
            return self.log.submit_event(task_id, "item", "step_heartbeat", payload).result()
        return self.log.insert_event(task_id, "item", "step_heartbeat", payload)

    def follow(self) -> None:
        after_id = 0
        with EventReader(self.path) as reader:
            while not self.stop.is_set():
                try:
                    for event in reader.follow_events(after_id=after_id, stop=self.stop):
                        assert event.event_id > after_id
                        after_id = event.event_id
                        self.followed += 1
                except PrunedError as gap:
                    after_id = gap.first_available_id - 1

    def clean(self) -> None:
        while not self.stop.wait(self.seconds / CLEANUPS):
            with EventLog(self.path) as log:
                age = timedelta(seconds=KEPT * self.seconds)
                self.deleted += log.cleanup(older_than=age).events

    def restart(self) -> None:
        while not self.stop.wait(self.seconds / RESTARTS):
            with self.restarting:
                self.log.close()
                self.log = EventLog(self.path)
            code, _, complaint = outcome("--db", self.path, "emit", "guest", "note")
            assert code == 0, complaint

    def run(self) -> list[Sample]:
        failures: list[BaseException] = []

        def guarded(part: Callable[[], None]) -> None:
            try:
                part()
            except BaseException as error:
                failures.append(error)
                self.stop.set()
                raise

        parts = [self.write, self.follow, self.clean, self.restart]
        threads = [threading.Thread(target=guarded, args=(part,)) for part in parts]
        for thread in threads:
            thread.start()
        samples: list[Sample] = []
        while len(samples) < SAMPLES and not self.stop.wait(self.seconds / SAMPLES):
            with self.restarting:
                samples.append(sample(self.log))
            print(*samples[-1], self.acked, self.followed, self.deleted, sep="\t", flush=True)
        self.stop.set()
        for thread in threads:
            thread.join()
        self.log.close()
        if failures:
            raise failures[0]
        return samples


def growth(samples: list[Sample]) -> dict[str, float]:
    """How many times as much each figure is in the last third of the samples as in the third before it."""
    third = len(samples) // 3
    before = samples[-2 * third : -third]
    after = samples[-third:]
    return {
        name: median(getattr(one, name) for one in after)
        / median(getattr(one, name) for one in before)
        for name in Sample._fields
    }


def soak(path: str, seconds: float, rate: float) -> dict[str, float]:
    """The growth of each figure; raises what went wrong meanwhile."""
    print("memory", "descriptors", "threads", "size", "acked", "followed", "deleted", sep="\t")
    soaked = Soak(path, seconds, rate)
    samples = soaked.run()
    with EventReader(path) as reader:
        last_id = max((event.event_id for event in reader.query_events()), default=0)
        assert last_id >= soaked.last_acked
    assert soaked.deleted > 0
    return growth(samples)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("log")
    parser.add_argument("--seconds", type=float, default=3600)
    parser.add_argument("--rate", type=float, default=200)
    options = parser.parse_args()
    grown = soak(options.log, options.seconds, options.rate)
    for name, times in grown.items():
        print(f"{name}: {times:.3f} times as much in the last third as in the one before")
    return 0 if max(grown.values()) <= MOST_GROWTH else 1


if __name__ == "__main__":
    sys.exit(main())
