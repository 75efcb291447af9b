# SPDX-License-Identifier: MIT
"""`steps`: over all tasks, how often each step fails and how long it takes."""

import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from .benchmarks.big_log import make
from .engines import only_files
from .terminal import outcome, record_past

BOTH_ENGINES = True


@pytest.fixture
def db(tmp_path: Path) -> Path:
    return tmp_path / "log.db"


def ended(step: str, days: float, **payload: object) -> tuple[timedelta, dict[str, object]]:
    """The end of a run so many days ago; its event's type and item may be given too."""
    event: dict[str, object] = {
        "task_item_id": payload.pop("item", None),
        "event_type": payload.pop("event_type", "step_finished"),
        "payload": {"step": step, **payload},
    }
    return timedelta(days=days), event


def steps(db: Path, *words: str) -> list[dict[str, Any]]:
    code, printed, complaint = outcome("--db", db, "steps", "--json", *words)
    assert (code, complaint) == (0, "")
    return [json.loads(line) for line in printed.splitlines()]


def test_each_step_has_its_figures_and_those_of_the_time_before(db: Path) -> None:
    record_past(
        db,
        *(ended("build", 10, success=True, duration_ms=n) for n in (100, 200, 300)),
        *(ended("build", 1, success=True, duration_ms=n) for n in range(1, 101)),
        ended("build", 1, success=False, duration_ms=1000),
        ended("build", 20, success=False, duration_ms=9),
        ended("test", 2, exit_code=1),
        ended("old", 9, success=True, duration_ms=5),
        ended("", 1, event_type="step_started"),
        (timedelta(days=1), {"event_type": "step_finished"}),
    )
    build = {
        "step": "build",
        "runs": 101,
        "failed": 1,
        "failed_share": 1 / 101,
        "median_ms": 51,
        "p95_ms": 96,
        "median_ms_before": 200,
    }
    nothing = {"median_ms": None, "p95_ms": None, "median_ms_before": None}
    test = {"step": "test", "runs": 1, "failed": 1, "failed_share": 1.0, **nothing}
    assert steps(db) == [test, build]
    assert list(steps(db)[1]) == list(build)
    assert steps(db, "--slowest") == [build, test]
    assert [step["step"] for step in steps(db, "--since", "30d")] == ["build", "test", "old"]
    assert [step["runs"] for step in steps(db, "--since", "999999999d")] == [105, 1, 1]


def test_a_timeout_and_the_end_that_follows_it_are_one_run(db: Path) -> None:
    record_past(
        db,
        ended("s", 1, event_type="step_timeout", pid=1, duration_ms=5),
        ended("s", 1, success=False, pid=1, timed_out=True),
        ended("s", 1, success=True, pid=1),
        ended("s", 1, event_type="step_timeout", pid=2),
        ended("s", 1, success=True, pid=3),
        ended("s", 1, success=True, pid=2, item="other"),
        ended("s", 1, event_type="chain_step_finished", success=False, parent_step="p"),
    )
    (found,) = steps(db)
    assert (found["runs"], found["failed"]) == (6, 3)


def test_the_table_says_what_has_changed(db: Path) -> None:
    assert outcome("--db", db, "emit", "t", "task_started")[0] == 0
    assert outcome("--db", db, "steps")[1:] == (
        "",
        "orch-events: no step has ended in the last 168h 00m\n",
    )
    record_past(
        db,
        ended("build", 10, success=True, duration_ms=2000),
        ended("build", 1, success=True, duration_ms=3000),
        ended("build", 1, success=False, duration_ms=5000),
    )
    title, row = outcome("--db", db, "steps")[1].splitlines()
    assert title.split() == ["step", "runs", "failed", "share", "median", "p95", "change"]
    assert row.split() == ["build", "2", "1", "50%", "3s", "5s", "+50%"]


@only_files
def test_of_a_big_log_each_run_is_counted(tmp_path: Path) -> None:
    assert make(str(tmp_path / "big.db"), 50) == 5000
    found = steps(tmp_path / "big.db", "--since", "100d")
    assert len(found) == 14 and {step["runs"] for step in found} == {50}
    assert 5 < sum(step["failed"] for step in found) < 60
