# SPDX-License-Identifier: MIT
"""``watch``: a task's steps as a table that stays up to date, on a terminal; elsewhere its events, a line each.

With ``--all``, a line for each task that runs. What events mean is decided in `model.task_state`, the pictures in
`show.watch_frame` and `show.overview_frame`.
"""

import time
from argparse import ArgumentParser
from typing import Final

from ... import EventType
from ..arguments import (
    Options,
    Reader,
    add_optional_task,
    add_wait,
    chosen_task,
    log_may_be_missing,
)
from ..event_feed import EventFeed
from ..failure_output import FailureOutput
from ..model.event_meaning import ENDS, step_kind
from ..model.overview import Overview
from ..model.task_state import TaskState
from ..show.colours import has_screen
from ..show.overview_frame import overview_frame
from ..show.screen import Screen
from ..show.table import screen_width
from ..show.terminal_text import printable
from ..show.watch_frame import frame, problems
from .events import event_columns, event_row

__all__ = ["watch"]

_TICK: Final = 1.0
"""Seconds between two frames at most, since durations tick in seconds."""

_WELL_KNOWN: Final = frozenset(EventType)


class _Options(Options):
    task: str | None = None
    all: bool = False
    once: bool = False
    wait: bool = False


def watch(parser: ArgumentParser, words: list[str]) -> int:
    """Show a task's steps until it ends; 0 if it has completed."""
    parser.epilog = (
        "Exits with 0 when the task has completed, with 1 when it failed or was cancelled, and after q. A task whose end nobody"
        " records, as with 'run --task', is watched until q or Ctrl-C is pressed. A step without an end is lost when three of its"
        " heartbeats are missing; before it is known how often they come, when there has been none for 30 s. Not on a"
        " terminal: a line for each event of the well-known types, and for what needs attention."
    )
    add_optional_task(parser)
    parser.add_argument(
        "--all",
        action="store_true",
        help="a line for each task that runs, and for each that ends meanwhile; only on a terminal, or with --once",
    )
    parser.add_argument(
        "--once", action="store_true", help="print how things are now, and exit with 0"
    )
    add_wait(parser)
    options = parser.parse_args(words, _Options())
    if options.once and options.wait:
        parser.error("--once does not wait")
    if options.all and options.task is not None:
        parser.error("--all is of every task, and needs none")
    if options.all and not options.once and not has_screen():
        parser.error(
            "--all needs a terminal, or --once; 'events -f' prints the events of all tasks"
        )
    with Reader(options.db, must_exist=not options.wait) as reader:
        if options.all:
            return _watch_all(reader, options)
        task_id = chosen_task(reader, options.task, options.wait)
        if task_id is None:
            return 1
        failures = FailureOutput(options.db)
        if options.once:
            return _show_once(reader, task_id, failures)
        return _follow(reader, task_id, failures)


def _watch_all(reader: Reader, options: _Options) -> int:
    """Without ``--once``, until a key or a signal ends it."""
    overview = Overview(reader)
    after_id = 0
    with log_may_be_missing(options.wait):
        after_id = reader.ask(lambda log: log.last_id())
        overview.load()
    if options.once:
        now = time.time()
        print(*overview_frame(overview.tasks(now), now, screen_width()), sep="\n")
        return 0
    with EventFeed(reader, None, after_id) as feed, Screen(feed.wake) as screen:
        while not feed.ended:
            now = time.time()
            screen.draw(overview_frame(overview.tasks(now), now, *screen.size()))
            for event in feed.take(_TICK):
                overview.apply(event)
    return 0


def _show_once(reader: Reader, task_id: str, failures: FailureOutput) -> int:
    task = TaskState()
    task.apply_all(reader.query_events(task_id))
    picture = frame(
        task_id,
        task,
        time.time(),
        screen_width(),
        outputs=failures.of(task.runs),
    )
    for line in picture:
        print(line)
    return 0


def _follow(reader: Reader, task_id: str, failures: FailureOutput) -> int:
    task = TaskState()
    with EventFeed(reader, task_id) as feed:
        if has_screen():
            _draw_frames(task_id, task, feed, failures)
        else:
            _print_events(task, feed, failures)
    if task.status == "completed":
        return 0
    return 1


def _draw_frames(
    task_id: str,
    task: TaskState,
    feed: EventFeed,
    failures: FailureOutput,
) -> None:
    with Screen(feed.wake) as screen:
        while not feed.ended:
            for event in feed.take(_until_next_change(task)):
                task.apply(event)
            columns, lines = screen.size()
            screen.draw(
                frame(
                    task_id,
                    task,
                    time.time(),
                    columns,
                    lines,
                    failures.of(task.runs),
                )
            )


def _print_events(task: TaskState, feed: EventFeed, failures: FailureOutput) -> None:
    titles = [column.title for column in event_columns()]
    print("  ".join(titles[1:]), flush=True)  # without the id
    known_problems = set[str]()
    while not feed.ended:
        for event in feed.take(_until_next_change(task)):
            run = task.apply(event)
            if event.event_type in _WELL_KNOWN:
                cells = event_row(event)[1:]
                print("  ".join(printable(cell) for cell in cells if cell))
            if run is not None and step_kind(event.event_type) in ENDS:
                for output in failures.of([run]).values():
                    print(f"  {printable(output.path)}", *output.lines, sep="\n  ")
        found = problems(task, time.time())
        for problem in found:
            if problem not in known_problems:
                print(f"! {problem}")
        known_problems = set(found)
        print(end="", flush=True)


def _until_next_change(task: TaskState) -> float:
    return min(_TICK, task.changes_in(time.time()))
