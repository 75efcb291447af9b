# SPDX-License-Identifier: MIT
"""What some followers and committers do to the watcher of one store in one schedule, and what must be true then.

The seed decides both, as in `queue_story`: who follows how often, who commits when, who is interrupted, whether the
store goes away, and who goes on at each step. What must be true: each follower sees all that was committed soon after
it was, or is told that the store has gone; nobody waits for ever; in the end no watcher, no thread and no signal is left.

`python -m tests.watcher_story SEED` runs the schedule of a seed again and prints its trace.
"""

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from queue import Empty
from types import SimpleNamespace
from typing import Any, Final

from orch_events import ReadError
from orch_events._core import commit_watcher
from orch_events._core.commit_watcher import TICK, Watcher, committed, watching

from .queue_story import stage
from .scheduler import Scheduler, Shared, StandInQueue, Workers, replaced

KEY: Final = "store"

LATE: Final = 2.5 * TICK
"""After so long, in simulated seconds, a follower must have seen a commit even if each hint was lost."""


class HostError(BaseException):
    """What a signal handler raises."""


class CountedSignal:
    """For a store's `Signal`: tells of the number of commits."""

    look_again_after = 0.001

    def __init__(self, story: "Story") -> None:
        self._story = story
        self._scheduler = story.scheduler
        self._known = story.commits
        self._is_hinted = False
        self.is_closed = False
        story.signals.append(self)

    def start(self) -> None:
        self._use("Signal.start")

    def sleep(self, seconds: float) -> bool:
        self._use("Signal.sleep")
        is_hinted = self._scheduler.wait("Signal.sleep", lambda: self._is_hinted, seconds)
        self._is_hinted = False
        return is_hinted

    def wake(self) -> None:
        self._scheduler.step("Signal.wake")
        self._is_hinted = True
        self._scheduler.look_for_signal()

    def has_changed(self) -> bool:
        self._use("Signal.has_changed")
        before = self._known
        self._known = self._story.commits
        return self._known != before

    def is_gone(self) -> bool:
        self._scheduler.step("Signal.is_gone")
        return self._story.is_gone

    def close(self) -> None:
        self._scheduler.step("Signal.close")
        self.is_closed = True

    def _use(self, reason: str) -> None:
        self._scheduler.step(reason)
        if self.is_closed:
            self._scheduler.fail(f"{reason} after it was closed")


class Story:
    """One schedule."""

    def __init__(self, seed: int, workers: Workers) -> None:
        self.scheduler = scheduler = Scheduler(seed, workers)
        self.signals: list[CountedSignal] = []
        self.commits = 0
        self.committed_at: list[float] = []
        """When each of the commits was."""
        self.is_gone = False
        chance = scheduler.random
        self._store: Any = SimpleNamespace(
            key=KEY, path="events.db", open_signal=lambda: CountedSignal(self)
        )
        self._total = chance.choice((1, 3, 6))
        self._goes_away = chance.random() < 0.2
        followers = chance.choice((1, 2, 3))
        for number in range(followers):
            rounds = chance.choice((1, 1, 2, 4))
            scheduler.spawn(f"follower{number}", partial(self._follow, rounds))
        scheduler.spawn("committer", self._commit)
        if chance.random() < 0.3:
            scheduler.cannot_start = chance.choice((1, 2))
        if chance.random() < 0.5:
            victim = f"follower{chance.randrange(followers)}"
            handler = chance.choice((self._raise, self._follow_briefly, self._hint))
            scheduler.interrupt(victim, [chance.randrange(1, 60)], handler)

    # -------------------------------------------------------------------------------------- roles

    def _commit(self) -> None:
        for _ in range(self._total):
            if self.scheduler.random.random() < 0.5:
                self.scheduler.sleep(self.scheduler.random.choice((0.0001, 0.05, 1.0)))
            self.scheduler.step("commit")
            self.commits += 1
            self.committed_at.append(self.scheduler.now)
            committed(KEY)
        if self._goes_away:
            self.scheduler.sleep(0.05)
            self.is_gone = True

    def _follow(self, rounds: int) -> None:
        """Follow, leave and come again, the last time up to the last commit."""
        try:
            for turn in range(rounds):
                self._follow_to(self._total * (turn + 1) // rounds)
        except ReadError:
            if not self.is_gone:
                self.scheduler.fail("told that a store has gone which is there")
        except HostError:
            pass

    def _follow_to(self, goal: int) -> None:
        woken = StandInQueue(self.scheduler)

        def ring() -> bool:
            woken.put(None)
            return True

        came_at = self.scheduler.now
        with watching(self._store, ring) as watcher:
            seen = -1
            while seen < goal:
                watcher.check()
                before = seen
                self.scheduler.step("read")
                seen = self.commits
                self._check_delay(before, seen, came_at)
                if seen < goal:
                    self._wait(woken, TICK if watcher.ended else None)

    def _wait(self, woken: StandInQueue, seconds: float | None) -> None:
        with suppress(Empty):
            woken.get(timeout=seconds)

    def _check_delay(self, before: int, seen: int, came_at: float) -> None:
        for at in self.committed_at[max(before, 0) : seen]:
            since = self.scheduler.now - max(at, came_at)
            if since > LATE and not self.scheduler.time_flows:
                self.scheduler.fail(f"a commit was seen only after {since:.2f} s")

    # ----------------------------------------------------------------------------------- handlers

    def _raise(self) -> None:
        raise HostError

    def _follow_briefly(self) -> None:
        with watching(self._store, lambda: True):
            self.scheduler.step("read in a handler")

    def _hint(self) -> None:
        committed(KEY)

    # --------------------------------------------------------------------------------------- end

    def run(self) -> None:
        with self._stand_ins() as watchers:
            self.scheduler.run()
            if self.scheduler.failure is None:
                self._check_end(watchers)

    def _check_end(self, watchers: dict[str, Watcher]) -> None:
        scheduler = self.scheduler
        if scheduler.errors:
            scheduler.fail(f"raised: {scheduler.errors}")
        if watchers:
            scheduler.fail("a watcher is left")
        if not all(signal.is_closed for signal in self.signals):
            scheduler.fail("a signal is left open")

    @contextmanager
    def _stand_ins(self) -> Iterator[dict[str, Watcher]]:
        watchers: dict[str, Watcher] = {}

        class SharedWatcher(Watcher):
            scheduler = self.scheduler
            bells = Shared("bells")
            ending = Shared("ending")
            ended = Shared("ended")

        gc.disable()  # a finalizer would run at another step each time
        try:
            with replaced(
                {
                    (commit_watcher, "threading"): self.scheduler.threading(),
                    (commit_watcher, "time"): self.scheduler.time(),
                    (commit_watcher, "Watcher"): SharedWatcher,
                    (commit_watcher, "_WATCHERS"): watchers,
                    (commit_watcher, "register"): lambda _watcher: None,
                    (commit_watcher, "is_from_host"): lambda *_: False,
                }
            ):
                yield watchers
        finally:
            gc.enable()


def run(seed: int, workers: Workers) -> Story:
    """Run the schedule of `seed`."""
    story = Story(seed, workers)
    story.run()
    failure = story.scheduler.failure
    if failure is not None:
        again = f"python -m tests.watcher_story {seed}"
        raise AssertionError(f"{failure}\n{story.scheduler.story()}\n{failure}\nagain: {again}")
    return story


if __name__ == "__main__":
    with stage() as the_workers:
        print(run(int(sys.argv[1]), the_workers).scheduler.story())
