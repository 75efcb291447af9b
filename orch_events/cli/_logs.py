# SPDX-License-Identifier: MIT
"""``logs``: what a task's steps have written, from the files themselves.

The rule: which file is shown from where until when, and as whose, is decided here; how, in `_outputs`.
"""

import sys
import time
from argparse import ArgumentParser
from contextlib import nullcontext, suppress
from typing import Final

from .. import Event, EventReader, LogNotFoundError
from .._events import LOG_PATH_EVENT_TYPES
from ._arguments import Options, count, is_log, text
from ._feed import Feed
from ._outputs import Output, Outputs
from ._render import say
from ._steps import Run, Steps

__all__ = ["logs"]

_POLL: Final = 0.05
"""Seconds between two looks at the files of a running step: below what an eye notices, and 0.4 % of a core in all.
Events wake us by themselves; for files there is nothing that does so everywhere."""
_IDLE: Final = 1.0
"""The same while no step runs, for what somebody left behind may still write."""
_LINGER: Final = 0.2
"""Seconds from the task's end to the last look: whoever copies output into the files may be that far behind."""
_ALL: Final = sys.maxsize


class _Options(Options):
    task: str
    follow: bool = False
    lines: int | None = None
    step: str | None = None
    stream: str | None = None


def logs(parser: ArgumentParser, words: list[str]) -> int:
    """Show the output of a task's steps."""
    parser.epilog = (
        "Shows all there is; with -n or -f, the end of what the running steps have written, or else the latest one."
        " -f goes on until the task has ended (if nobody records its end, as with 'run --task', until Ctrl-C)."
        " '==> step (stdout) <==' tells whose output follows, unless, without -f, there is only one file. While several"
        " steps run, each line begins with its step and item instead. A terminal gets control characters as escapes,"
        " but for tabs and line ends; a file or a pipe gets every byte as it is."
    )
    parser.add_argument("task", metavar="TASK", type=text)
    parser.add_argument("-f", "--follow", action="store_true", help="go on with what is written, and the next steps")
    parser.add_argument("-n", "--lines", metavar="N", type=_lines, help="the last N lines, or 'all' (with -f: 10)")
    parser.add_argument("--step", metavar="NAME", help="only this step")
    only = parser.add_mutually_exclusive_group()
    for stream in ("stdout", "stderr"):
        only.add_argument(f"--{stream}", dest="stream", action="store_const", const=stream, help=f"only {stream}")
    options = parser.parse_args(words, _Options())
    steps = Steps()
    with EventReader(options.db, must_exist=not options.follow) as reader:
        with suppress(LogNotFoundError) if options.follow else nullcontext():
            for event in reader.query_events(options.task):
                steps.fold(event)
        with Outputs() as outputs:
            view = _View(options, steps, outputs)
            found = view.begin()
            if options.follow:
                with Feed(reader, options.task, steps.last_id) as feed:
                    view.follow(feed)
                time.sleep(_LINGER)
            view.finish()
    if not found and not options.follow:
        say("no output is recorded" if steps.last_id else f"no events of task {options.task!r}")
        return 1
    return 0


def _lines(word: str) -> int:
    return _ALL if word == "all" else count(word)


class _View:
    """Which runs' files are shown."""

    def __init__(self, options: _Options, steps: Steps, outputs: Outputs) -> None:
        self._options = options
        self._steps = steps
        self._outputs = outputs

    def begin(self) -> bool:
        """Open, or without -f show, what there is already; whether there is anything."""
        follow, lines = self._options.follow, self._options.lines
        lines = (10 if follow else _ALL) if lines is None else lines
        latest = {run.paths: run for run in self._steps.runs}
        runs = [run for run in self._steps.runs if latest[run.paths] is run and self._files(run)]
        if lines != _ALL:
            now = time.time()
            runs = [run for run in runs if self._steps.state(run, now) == "running"] or runs[-1:]
        self._outputs.marked = follow or sum(len(self._files(run)) for run in runs) > 1
        for run in runs:
            self._open(run, None if lines == _ALL else lines)
            self._drain_ended()
            if not follow:
                self.finish()
        return bool(runs)

    def follow(self, feed: Feed) -> None:
        """Show what is new, until the task has ended."""
        while not feed.ended:
            for event in feed.take(self.read()):
                self.hear(event)

    def hear(self, event: Event) -> None:
        """Take in the next event: a step may have begun or ended."""
        run = self._steps.fold(event)
        if run is not None and event.event_type in LOG_PATH_EVENT_TYPES:
            self._open(run)
        self._drain_ended()

    def read(self) -> float:
        """Show what is new in the files; how many seconds later to look again."""
        if self._outputs.read(self._mixed()):
            return 0.0
        return _IDLE if all(output.done for output in self._outputs.open) else _POLL

    def finish(self) -> None:
        """Show what is left, and close all files."""
        self._outputs.drain(self._outputs.open, self._mixed())
        self._outputs.close(self._outputs.open)

    def _open(self, run: Run, lines: int | None = None) -> None:
        """Open a run's files, if they are not; close those of the runs that have ended, and those it had before."""
        outputs, files = self._outputs, self._files(run)
        kept = {output.tail.path: output for output in outputs.open if output.tail.path in files.values()}
        if not files or any(output.run is run for output in kept.values()):
            return
        left = [o for o in outputs.open if (o.done or o.run is run) and o.tail.path not in kept]
        outputs.drain(left, self._mixed())
        outputs.close(left)
        for stream, path in files.items():
            if path in kept:
                kept[path].assign(run, stream)
            else:
                outputs.open.append(Output(run, stream, path, lines))

    def _drain_ended(self) -> None:
        """Show all of a run that has ended, before another begins. Its files stay open for what may yet come."""
        ended = [output for output in self._outputs.open if not output.done and output.run.outcome is not None]
        self._outputs.drain(ended, self._mixed())

    def _mixed(self) -> bool:
        """Whether several runs are writing."""
        now, outputs = time.time(), self._outputs.open
        return len({o.run for o in outputs if not o.done and self._steps.state(o.run, now) != "lost"}) > 1

    def _files(self, run: Run) -> dict[str, str]:
        """The files of a run that are wanted, by stream."""
        if run.paths is None or self._options.step not in (None, run.step, run.paths.phase):
            return {}
        _, stdout, stderr = run.paths
        files = {"stdout": stdout, "stderr": "" if stderr == stdout else stderr}
        wanted = files if self._options.stream is None else (self._options.stream,)
        db = self._options.db
        return {name: path for name, path in files.items() if path and name in wanted and not is_log(path, db)}
