# SPDX-License-Identifier: MIT
"""``tasks``: the tasks of a log, as a table or as JSON lines."""

import os
import shutil
import time
from argparse import ArgumentParser
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from datetime import timedelta
from itertools import chain, islice
from typing import Final, cast

from ... import Event, JsonObject, TaskSummary
from ..._storage.interface import MAX_ID
from ..._values.timestamps import instant
from ..arguments import (
    Options,
    Reader,
    age,
    count,
    moment_of,
    name,
)
from ..model.event_meaning import subject
from ..model.task_state import TaskState
from ..show.local_time import short_time, titled_with_zone
from ..show.machine_output import print_json
from ..show.messages import say
from ..show.table import Column, print_table
from ..show.units import span
from .events import dump_json

_OTHER_LINES: Final = 3
"""Of a screen: the titles, that there are more, and the prompt."""

_LISTED: Final = 20
"""Tasks listed where there is no screen, unless more are asked for."""

_TELLING_EVENTS: Final = 5
"""Events of a task's beginning that may say what it is about."""


class _TasksOptions(Options):
    status: str | None = None
    since: timedelta | None = None
    limit: int | None = None
    all: bool = False
    json: bool = False
    no_task: bool = False


def tasks(parser: ArgumentParser, words: list[str]) -> int:
    """List the tasks, the most recently active first."""
    parser.epilog = (
        "A task's status is what its newest event of task_started, task_completed, task_failed and the like says,"
        " and 'unknown' if there is none, as with 'run --task'. The columns failed and running count its steps."
    )
    only = parser.add_mutually_exclusive_group()
    only.add_argument("--status", metavar="STATUS", type=name, help="only tasks with this status")
    for status in ("failed", "running"):
        only.add_argument(
            f"--{status}",
            dest="status",
            action="store_const",
            const=status,
            help=f"the same as --status {status}",
        )
    parser.add_argument(
        "--since",
        metavar="AGE",
        type=age,
        help="only tasks that were active in the last 90s, 15m, 1.5h, 30d or 4w",
    )
    how_many = parser.add_mutually_exclusive_group()
    how_many.add_argument(
        "--limit",
        metavar="N",
        type=count,
        help="at most N (default: as many as fit on the screen; with --json, all)",
    )
    how_many.add_argument("--all", action="store_true", help="all of them")
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    parser.add_argument(
        "--no-task",
        action="store_true",
        help="also a line for the events of no task, which \"events ''\" lists",
    )
    options = parser.parse_args(words, _TasksOptions())
    limit = options.limit
    if limit is None and not options.all and not options.json:
        limit = _fitting()
    with Reader(options.db) as reader:
        found = _found(reader, options, limit)
        listed = list(islice(found, limit))
        if options.json:
            print_json(dump_json(_task(task)) for task in listed)
        elif not listed:
            say("no tasks yet" if reader.query_tasks(limit=1) == [] else "no such tasks")
        else:
            print_table(_columns(), _rows(reader, listed))
            if options.limit is None and next(found, None) is not None:
                say("there are more: --all, --limit N")
    return 0


def _fitting() -> int:
    if os.isatty(1):
        return max(1, shutil.get_terminal_size().lines - _OTHER_LINES)
    return _LISTED


def _found(
    reader: Reader,
    options: _TasksOptions,
    limit: int | None,
) -> Iterator[TaskSummary]:
    """Those that are asked for, and one more than `limit` if there are more."""
    since = None if options.since is None else moment_of(options.since)
    wanted = None if limit is None else min(limit + 1, MAX_ID)
    found = reader.query_tasks(status=options.status, since=since, limit=wanted)
    if not options.no_task:
        return iter(found)
    rows = reader.ask(lambda log: log.tasks(MAX_ID, MAX_ID))
    return chain(found, (row for row in rows if not row.task_id))


def _task(task: TaskSummary) -> JsonObject:
    known = cast("JsonObject", asdict(task))
    if not task.task_id:
        known["status"] = None
    return known


def _columns() -> list[Column]:
    return [
        Column("task", least=12),
        Column("status", least=9),
        Column(titled_with_zone("started"), spare=3),
        Column("took", spare=2),
        Column("events", spare=6),
        Column("failed", spare=4),
        Column("running", spare=5),
        Column("about", spare=1, least=10),
    ]


def _rows(reader: Reader, listed: Iterable[TaskSummary]) -> Iterator[tuple[str, ...]]:
    now = time.time()
    for task in listed:
        state = TaskState()
        about = None
        for number, event in enumerate(_events(reader, task.task_id)):
            state.apply(event)
            if about is None and number < _TELLING_EVENTS:
                payload = event.payload
                if isinstance(payload, dict):
                    about = subject(payload)
        failed = sum(run.outcome == "failed" for run in state.runs)
        running = sum(state.run_state(run, now) == "running" for run in state.runs)
        yield (
            task.task_id or "''",  # as `events` is asked for those of no task
            task.status if task.task_id else "-",
            short_time(task.first_created_at),
            _took(task, now),
            str(task.events),
            str(failed or ""),
            str(running or ""),
            about or "",
        )


def _events(reader: Reader, task_id: str) -> Iterator[Event]:
    try:
        return reader.query_events(task_id)
    except ValueError:  # another program has given it a name that is not Unicode
        return iter(())


def _took(task: TaskSummary, now: float) -> str:
    first = instant(task.first_created_at)
    last = instant(task.last_created_at)
    if first is None or last is None:
        return ""
    end = now if task.status == "running" else last.timestamp()
    return span(max(0.0, end - first.timestamp()))
