# SPDX-License-Identifier: MIT
"""Schedules of the watcher, each from a seed: see `scheduler` and `watcher_story`.

A schedule that fails prints its seed and its trace. `python -m tests.watcher_story SEED` runs that one again.
"""

from collections.abc import Iterator

import pytest

from orch_events._core import commit_watcher
from orch_events._core.commit_watcher import Watcher

from .queue_story import stage
from .scheduler import Workers
from .watcher_story import KEY, run

SEEDS = 1500

ENOUGH = 20_000
"""Schedules among which one must find a fault."""


@pytest.fixture
def workers() -> Iterator[Workers]:
    with stage() as workers:
        yield workers


def test_the_watcher_keeps_its_promises_in_any_schedule(workers: Workers) -> None:
    for seed in range(SEEDS):
        run(seed, workers)


@pytest.mark.long
def test_the_watcher_keeps_its_promises_in_very_many_schedules(workers: Workers) -> None:
    for seed in range(SEEDS, SEEDS + 50_000):
        run(seed, workers)


def failure_with(workers: Workers) -> str:
    """What the first schedule that fails says."""
    for seed in range(ENOUGH):
        try:
            run(seed, workers)
        except AssertionError as error:
            assert f"python -m tests.watcher_story {seed}" in str(error)
            return str(error).partition("\n")[0]
    raise AssertionError("no schedule has failed")


def test_a_watcher_that_ends_under_a_follower_is_found(
    workers: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It looks for followers twice, and rings at its end: without both, one may wait for ever."""

    def has_followers(watcher: Watcher) -> bool:
        if not watcher.bells:
            watcher.ending = True
        return not watcher.ending

    def end(watcher: Watcher) -> None:
        watcher.ending = watcher.ended = True
        commit_watcher._WATCHERS.pop(KEY, None)
        watcher._signal.close()

    monkeypatch.setattr(Watcher, "_has_followers", has_followers)
    monkeypatch.setattr(Watcher, "_end", end)
    assert "everybody waits for ever" in failure_with(workers)


def test_a_bell_that_is_left_behind_is_found(
    workers: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Watcher, "leave", lambda watcher, _bell: watcher.wake())
    assert "it goes on for ever" in failure_with(workers)
