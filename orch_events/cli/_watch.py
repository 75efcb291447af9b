# SPDX-License-Identifier: MIT
"""``watch``: a task's steps as a table that stays up to date, on a terminal; elsewhere its events, a line each.

The rule: what events mean is decided in `_steps`; here, what it looks like. A frame follows from the state, the time
and the window's size alone.
"""

import os
import sys
import time
from argparse import ArgumentParser
from collections import Counter
from contextlib import suppress
from typing import Final

from .. import EventType, LogNotFoundError, observed_step_scope_label
from .._rows import read_last_id
from ._arguments import Options, Reader, text
from ._feed import Feed
from ._listing import event_row
from ._render import amount, cut, printable, say, screen_width, span, table, tinted
from ._screen import Screen
from ._steps import Run, Steps

__all__ = ["watch"]

_TICK: Final = 1.0
"""Seconds between two frames at most, since durations tick in seconds."""


class _Options(Options):
    task: str | None = None
    once: bool = False


def watch(parser: ArgumentParser, words: list[str]) -> int:
    """Show a task's steps until it ends; 0 if it has completed."""
    parser.epilog = (
        "Exits with 0 when the task has completed, with 1 when it failed or was cancelled. A task whose end nobody"
        " records, as with 'run --task', is watched until Ctrl-C. A step without an end is lost when three of its"
        " heartbeats are missing; before it is known how often they come, when there has been none for 30 s. Not on a"
        " terminal: a line for each event of the well-known types, and for what needs attention."
    )
    latest = "the task (default: the most recently active one)"
    parser.add_argument("task", metavar="TASK", nargs="?", type=text, help=latest)
    parser.add_argument("--once", action="store_true", help="print how things are now, and exit with 0")
    options = parser.parse_args(words, _Options())
    steps = Steps()
    with Reader(options.db, must_exist=options.once) as reader:
        task = _latest_task(reader, options.once) if options.task is None else options.task
        if not options.once:
            with Feed(reader, task) as feed:
                (_show if os.isatty(1) and os.environ.get("TERM") != "dumb" else _list)(task, steps, feed)
            return 0 if steps.status == "completed" else 1
        for event in reader.query_events(task):
            steps.fold(event)
    if not steps.last_id:
        say(f"no events of task {task!r}" if options.task else "no events yet")
        return 1
    print(*_frame(task, steps, time.time(), screen_width()), sep="\n")
    return 0


def _latest_task(reader: Reader, once: bool) -> str:
    """The task of the newest event, or of the first to come; ``""`` if there is none and it is not to be waited for."""
    last = 0
    with suppress(LogNotFoundError):
        last = reader.ask(read_last_id)
    if not last and not once:
        say("waiting for the first event")
    events = reader.follow_events(after_id=max(0, last - 1), timeout=0 if once else None)
    return next((event.task_id for event in events), "")


def _show(task: str, steps: Steps, feed: Feed) -> None:
    with Screen(feed.wake) as screen:
        while not feed.ended:
            for event in feed.take(min(_TICK, steps.changes_in(time.time()))):
                steps.fold(event)
            screen.draw(_frame(task, steps, time.time(), *screen.size()))


def _list(_task: str, steps: Steps, feed: Feed) -> None:
    told = set[str]()
    while not feed.ended:
        for event in feed.take(min(_TICK, steps.changes_in(time.time()))):
            steps.fold(event)
            if event.event_type in _WELL_KNOWN:
                print("  ".join(printable(cell) for cell in event_row(event)[1:] if cell))
        problems = _problems(steps, time.time())
        for problem in problems:
            if problem not in told:
                print(f"! {problem}")
        told = set(problems)
        print(end="", flush=True)


# ----------------------------------------------------------------------------------------------------------- frames

_WELL_KNOWN: Final = frozenset(EventType)
_TITLES: Final = ("step", "scope", "item", "agent", "status", "duration", "details")
_COUNTED: Final = ("running", "succeeded", "failed", "skipped")
"""What the header counts even if there is none."""
_ALIVE: Final = {True: " alive", False: " dead", None: ""}


def _frame(task: str, steps: Steps, now: float, columns: int | None, lines: int | None = None) -> list[str]:
    """The picture of a task at the time `now`, in a window of that size if there is one."""
    width = sys.maxsize if columns is None else columns
    state = steps.task_state(now)
    facts = [state] if steps.cycle is None else [state, f"cycle {steps.cycle}"]
    facts = ["", *facts, span(int(steps.elapsed(now)))]
    name = cut(printable(f"task {task}"), max(1, width - len("  ".join(facts))))
    head = ["  ".join([name, *map(tinted, facts[1:])]), cut(_counts(steps.counts(now)), width)]
    if problems := "; ".join(_problems(steps, now)):
        head.append(tinted(cut(f"! {problems}", width), like="failed"))
    shown, hidden = _fit(steps.runs, len(steps.runs) if lines is None else max(0, lines - len(head) - 2))
    body = list(table(_TITLES, (_row(steps, run, now) for run in shown), columns)) if shown else []
    left = f"… {len(hidden)} more: {_counts(Counter(steps.state(run, now) for run in hidden))}"
    return [*head, *body, *([cut(left, width)] if hidden else [])][:lines]


def _counts(counts: Counter[str]) -> str:
    return ", ".join(f"{counts[state]} {state}" for state in (*_COUNTED, *sorted(counts.keys() - _COUNTED)))


def _problems(steps: Steps, now: float) -> list[str]:
    found = [] if steps.incident is None else [steps.incident]
    return found + [printable(f"{run.label}: {what}") for run in steps.runs if (what := steps.problem(run, now))]


def _fit(runs: list[Run], room: int) -> tuple[list[Run], list[Run]]:
    """Which of the runs to show in `room` lines and which not: all that run, but room for the failed and the latest."""
    if len(runs) <= room:
        return runs, []
    newest, share = runs[::-1], room // 6
    running = [run for run in newest if run.outcome is None]
    failed = [run for run in newest if run.outcome == "failed"]
    shown = set[Run]()
    for run in (*running[: room - 2 * share], *failed[:share], *newest[:share], *running, *failed, *newest):
        if len(shown) < room:
            shown.add(run)
    return [run for run in runs if run in shown], [run for run in runs if run not in shown]


def _row(steps: Steps, run: Run, now: float) -> tuple[str, ...]:
    state, told, details = steps.state(run, now), run.latest, list[str]()
    if state == "lost":
        details.append("end not recorded" if steps.finished else f"no heartbeat for {span(int(now - run.seen))}")
    if told.pid is not None and run.outcome is None:
        details.append(f"pid {told.pid}{_ALIVE[told.pid_alive if state == 'running' else None]}")
    streams = ("out", told.stdout_bytes, told.stdout_delta_bytes), ("err", told.stderr_bytes, told.stderr_delta_bytes)
    for name, total, new in streams:
        if total is not None:
            details.append(f"{name} {amount(total)}" + (f" +{amount(new)}" if new else ""))
    if state == "running" and told.output_state not in (None, "active"):
        details.append(f"{told.output_state}" + (f" ×{told.stagnant_heartbeats}" if told.stagnant_heartbeats else ""))
    if told.confidence is not None:
        details.append(f"confidence {told.confidence:g}")
    if run.exit_code:
        details.append(f"exit {run.exit_code}")
    details += [detail for detail in (run.reason, run.incident) if detail]
    duration, scope = steps.duration(run, now), observed_step_scope_label(run.scope)
    ticking = span(int(duration) if state == "running" else duration)
    return run.step, scope, run.item or "", run.agent or "", state, ticking, ", ".join(details)
