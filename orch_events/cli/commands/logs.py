# SPDX-License-Identifier: MIT
"""``logs``: what a task's steps have written, from the files themselves.

Which files are shown, from where, until when, and as the output of which run, is decided here; how, in `output_view`.
"""

import os
import sys
import time
from argparse import ArgumentParser, ArgumentTypeError
from typing import Final

from ... import Event
from ..._values.event_types import LOG_PATH_EVENT_TYPES
from ..arguments import (
    Options,
    Reader,
    add_optional_task,
    add_wait,
    chosen_task,
    count,
    log_may_be_missing,
    name,
)
from ..event_feed import EventFeed
from ..model.event_meaning import step_kind
from ..model.step_run import StepRun
from ..model.task_state import TaskState
from ..output_view import Outputs
from ..recorded_paths import is_elsewhere
from ..show.messages import say

__all__ = ["logs"]

_POLL: Final = 0.05
"""Seconds between two looks at the files of a running step: below what an eye notices, and 0.4 % of a core in all.
Events arrive by themselves; for files there is nothing that works everywhere."""

_IDLE_POLL: Final = 1.0
"""The same while no step runs, for what a process left behind may still write."""

_LINGER: Final = 0.2
"""Seconds from the task's end to the last look: the output may be copied into the files with some delay."""

_FOLLOWED_LINES: Final = 10
"""Lines of each file that come first with -f, unless -n says otherwise."""

_ALL: Final = sys.maxsize

_STEPS_NAMED: Final = 5
"""Steps that a message names where there is no output of the one asked for."""


class _Options(Options):
    task: str | None = None
    follow: bool = False
    lines: int | None = None
    step: str | None = None
    item: str | None = None
    stream: str | None = None
    wait: bool = False


def logs(parser: ArgumentParser, words: list[str]) -> int:
    """Show the output of a task's steps."""
    parser.epilog = (
        "Shows all there is; with -n or -f, the end of what the running steps have written, or else the latest one."
        " -f goes on until the task has ended (if nobody records its end, as with 'run --task', until Ctrl-C)."
        " '==> step (stdout) <==' says which output follows, unless, without -f, there is only one file. While several"
        " steps run, each line begins with its step and item instead; a line ends at a line feed. A terminal gets"
        " control characters as escapes, except tabs and line ends, and of a progress bar, which a carriage return"
        " writes over, the latest state. A file or a pipe gets every byte as it is, carriage returns too. A file that"
        " cannot be shown is named on stderr, and the exit status is 1; a symbolic link is not followed."
    )
    add_optional_task(parser)
    parser.add_argument(
        "-f", "--follow", action="store_true", help="go on with what is written, and the next steps"
    )
    parser.add_argument(
        "-n",
        "--lines",
        metavar="N",
        type=_lines,
        help="the last N lines, or 'all' (with -f: 10)",
    )
    parser.add_argument("--step", metavar="NAME", type=name, help="only this step")
    parser.add_argument("--item", metavar="ID", type=name, help="only what ran for this item")
    only = parser.add_mutually_exclusive_group()
    for stream in ("stdout", "stderr"):
        only.add_argument(
            f"--{stream}",
            dest="stream",
            action="store_const",
            const=stream,
            help=f"only {stream}",
        )
    add_wait(parser)
    options = parser.parse_args(words, _Options())
    if options.wait and not options.follow:
        parser.error("--wait goes with -f")
    task = TaskState()
    with Reader(options.db, must_exist=not options.wait) as reader:
        task_id = chosen_task(reader, options.task, options.wait)
        if task_id is None:
            return 1
        with log_may_be_missing(options.wait):
            task.apply_all(reader.query_events(task_id))
        with Outputs(options.db) as outputs:
            view = _LogsView(options, task_id, task, outputs)
            if options.follow:
                view.begin_following()
                with EventFeed(reader, task_id, task.last_id) as feed:
                    view.follow(feed)
                time.sleep(_LINGER)
                view.finish()
            else:
                view.show_once()
    if view.has_output() and not outputs.failed:
        return 0
    return 1


def _lines(word: str) -> int:
    if word == "all":
        return _ALL
    try:
        return count(word)
    except ValueError:
        raise ArgumentTypeError(f"not a number of lines, nor 'all': {word!r}") from None


class _LogsView:
    """The files of which runs are shown."""

    def __init__(
        self,
        options: _Options,
        task_id: str,
        task: TaskState,
        outputs: Outputs,
    ) -> None:
        self._options = options
        self._task_id = task_id
        self._task = task
        self._outputs = outputs
        self._has_said_nothing = False

    def show_once(self) -> None:
        """Show what there is, one run after another."""
        lines = self._options.lines
        if lines is None:
            lines = _ALL
        runs = self._runs_to_show(lines)
        self._outputs.marked = sum(len(self._files(run)) for run in runs) > 1
        for run in runs:
            self._open(run, lines)
            self.finish()

    def begin_following(self) -> None:
        """Open the files that are there already, at the lines asked for."""
        lines = self._options.lines
        if lines is None:
            lines = _FOLLOWED_LINES
        self._outputs.marked = True
        for run in self._runs_to_show(lines):
            self._open(run, lines)
            self._drain_ended()
        if any(run.outcome is not None for run in self._task.runs):
            self.has_output()  # if there is none, this is probably all there will ever be to say

    def _runs_to_show(self, lines: int) -> list[StepRun]:
        """The latest run of each file; if only some lines are asked for, the running ones, or else the last."""
        latest = {run.paths: run for run in self._task.runs}
        runs = [run for run in self._task.runs if latest[run.paths] is run and self._files(run)]
        if lines == _ALL:
            return runs
        now = time.time()
        running = [run for run in runs if self._task.run_state(run, now) == "running"]
        return running or runs[-1:]

    def has_output(self) -> bool:
        """Whether the events so far name any file to be shown. If not, standard error says so, once."""
        if any(self._files(run) for run in self._task.runs):
            return True
        if not self._has_said_nothing:
            self._has_said_nothing = True
            say(self._why_nothing())
        return False

    def _why_nothing(self) -> str:
        """Why there is nothing to show."""
        step = self._options.step
        item = self._options.item
        recorded = [run for run in self._task.runs if run.paths is not None]
        if not recorded:
            steps = "are not recorded"
            if self._task.runs:
                steps = "were recorded without them"
            return f"the log names no output files for task {self._task_id!r}: its steps {steps}"
        if item is not None and not any(run.item == item for run in recorded):
            return f"no output for an item {item!r}"
        if step is None or any(_is_named(run, step) for run in recorded):
            return f"no {self._options.stream or 'such output'} is recorded"
        names = sorted({run.step for run in recorded})
        more = ""
        if len(names) > _STEPS_NAMED:
            more = ", …"
        return f"no output of a step {step!r}, but of: {', '.join(names[:_STEPS_NAMED])}{more}"

    def follow(self, feed: EventFeed) -> None:
        """Show what is new, until the task has ended."""
        while not feed.ended:
            pause = self._show_new()
            for event in feed.take(pause):
                self._apply(event)

    def _apply(self, event: Event) -> None:
        """Take in the next event: a step may have begun or ended."""
        run = self._task.apply(event)
        if run is not None and step_kind(event.event_type) in LOG_PATH_EVENT_TYPES:
            self._open(run, _ALL)
        self._drain_ended()

    def _show_new(self) -> float:
        """Show what is new in the files; returns after how many seconds to look again."""
        if self._outputs.read(self._is_mixed()):
            return 0.0
        if all(output.done for output in self._outputs.open):
            return _IDLE_POLL
        return _POLL

    def finish(self) -> None:
        """Show what is left, and close all files."""
        self._outputs.drain(self._outputs.open, self._is_mixed())
        self._outputs.close(self._outputs.open)

    def _open(self, run: StepRun, lines: int) -> None:
        """Open a run's files, unless they are open; close those it had before, and those of runs that have ended."""
        outputs = self._outputs
        files = self._files(run)
        kept = {output.path: output for output in outputs.open if output.path in files.values()}
        if not files or any(output.run is run for output in kept.values()):
            return
        left = [
            output
            for output in outputs.open
            if (output.done or output.run is run) and output.path not in kept
        ]
        outputs.drain(left, self._is_mixed())
        outputs.close(left)
        if is_elsewhere(run) and any(os.path.lexists(path) for path in files.values()):
            say(f"{run.label}: recorded on host {run.host!r}; shown is a file of this one")
        for stream, path in files.items():
            if path in kept:
                kept[path].assign(run, stream)
            else:
                outputs.add(run, stream, path, None if lines == _ALL else lines)

    def _drain_ended(self) -> None:
        """Show all of a run that has ended, before another begins. Its files stay open for what may yet come."""
        ended = [
            output
            for output in self._outputs.open
            if not output.done and output.run.outcome is not None
        ]
        self._outputs.drain(ended, self._is_mixed())

    def _is_mixed(self) -> bool:
        """Whether several runs are writing."""
        now = time.time()
        writing = set[StepRun]()
        for output in self._outputs.open:
            if not output.done and self._task.run_state(output.run, now) != "lost":
                writing.add(output.run)
        return len(writing) > 1

    def _files(self, run: StepRun) -> dict[str, str]:
        """The files of a run that are asked for, by stream."""
        step = self._options.step
        stream = self._options.stream
        item = self._options.item
        if run.paths is None or (step is not None and not _is_named(run, step)):
            return {}
        if item is not None and run.item != item:
            return {}
        files = dict[str, str]()
        stdout = run.paths.stdout_path
        stderr = run.paths.stderr_path
        if stdout and stream in (None, "stdout"):
            files["stdout"] = stdout
        if stderr and stderr != stdout and stream in (None, "stderr"):
            files["stderr"] = stderr
        return files


def _is_named(run: StepRun, step: str) -> bool:
    return run.step == step or (run.paths is not None and run.paths.phase == step)
