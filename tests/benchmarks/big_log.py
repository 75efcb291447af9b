# SPDX-License-Identifier: MIT
"""Makes a big log, for measuring what looks at all of it.

    python -m tests.benchmarks.big_log big.db                     2,000,000 events in 20,000 tasks of the last 60 days
    python -m tests.benchmarks.big_log big.db --tasks 1000

Each task has 100 events: 14 steps, which start, have five heartbeats and finish. One step in twenty fails, and with
it its task; in one task of fifty the end is missing.
"""

import argparse
import random
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Final

from orch_events._values.new_events import NewRow, new_row
from orch_events.cli.backlog_log import BacklogLog

DAYS: Final = 60
STEPS: Final = 14
HEARTBEATS: Final = 5
BATCH: Final = 10_000


def task_rows(number: int, began: datetime, chance: random.Random) -> Iterator[NewRow]:
    """The 100 events of one task."""
    task = f"task-{number:06}"
    at = began

    def row(event_type: str, payload: dict[str, object], item: str | None = None) -> NewRow:
        return new_row((task, item, event_type, payload), at.isoformat(timespec="microseconds"))

    yield row("task_started", {"goal": f"build number {number}"})
    succeeded = True
    for step in range(STEPS):
        name = f"step-{step:02}"
        fields: dict[str, object] = {"step": name, "step_scope": "task", "pid": 1000 + step}
        seconds = chance.lognormvariate(3 + step / 10, 0.5)
        yield row("step_started", {**fields, "command": f"make {name}"})
        for beat in range(HEARTBEATS):
            at += timedelta(seconds=seconds / (HEARTBEATS + 1))
            told = {"elapsed_secs": int(seconds * beat / HEARTBEATS), "stdout_bytes": 100 * beat}
            yield row("step_heartbeat", {**fields, **told, "pid_alive": True})
        at += timedelta(seconds=seconds / (HEARTBEATS + 1))
        success = chance.random() >= 0.05
        succeeded = succeeded and success
        ended = {"success": success, "exit_code": 0 if success else 1}
        yield row("step_finished", {**fields, **ended, "duration_ms": int(seconds * 1000)})
    if chance.random() >= 0.02:
        yield row("task_completed" if succeeded else "task_failed", {})
    else:
        yield row("note", {"text": "the machine is gone"})


def make(path: str, tasks: int) -> int:
    """The number of events."""
    chance = random.Random(1)
    begin = datetime.now(UTC) - timedelta(days=DAYS)
    rows: list[NewRow] = []
    events = 0
    with BacklogLog(path, durability="normal") as log:
        for number in range(tasks):
            began = begin + timedelta(days=DAYS) * number / tasks
            rows += task_rows(number, began, chance)
            if len(rows) >= BATCH or number == tasks - 1:
                log.insert_rows(rows)
                events += len(rows)
                rows = []
    return events


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Make a big log.")
    parser.add_argument("path", metavar="FILE")
    parser.add_argument("--tasks", type=int, default=20_000)
    options = parser.parse_args()
    print(f"{make(options.path, options.tasks):,} events")
