# SPDX-License-Identifier: MIT
"""``trace``: what happened in a task, and when, as a tree with a timeline; as JSON, for trace viewers, or as a page."""

import json
import os
import secrets
import time
from argparse import ArgumentParser
from contextlib import suppress
from itertools import chain

from ..arguments import (
    Options,
    Reader,
    add_optional_task,
    chosen_task,
    is_log,
    path,
    unknown_task,
)
from ..failure_output import FailureOutput
from ..model.task_trace import Trace
from ..model.trace_document import document
from ..show.chrome_trace import trace_event_lines
from ..show.html_page import page
from ..show.machine_output import print_json, print_text
from ..show.messages import say
from ..show.otlp_trace import otlp_json
from ..show.table import screen_width
from ..show.terminal_text import drawn
from ..show.trace_text import ASCII_FORMS, trace_text

__all__ = ["trace"]


class _Options(Options):
    task: str | None = None
    format: str = "text"
    html: str | None = None


def trace(parser: ArgumentParser, words: list[str]) -> int:
    """Show what happened in a task."""
    parser.epilog = (
        "Start and end are counted from the task's beginning. In the timeline, ▒ is a step that still runs, ░ one that"
        " is lost, · one that was skipped. Below it stands what is odd, if anything. A task that"
        " has not ended is shown as it is so far."
    )
    add_optional_task(parser)
    form = parser.add_mutually_exclusive_group()
    form.add_argument(
        "--json",
        dest="format",
        action="store_const",
        const="json",
        help="one JSON object",
    )
    form.add_argument(
        "--format",
        choices=("text", "json", "chrome", "otlp"),
        help="chrome: what ui.perfetto.dev and chrome://tracing open; otlp: one line that OpenTelemetry collectors take"
        + " as application/json at /v1/traces",
    )
    form.add_argument(
        "--html",
        metavar="FILE",
        type=path,
        help="write one page that needs nothing else, with timeline and tables; - is stdout",
    )
    options = parser.parse_args(words, _Options())
    if options.html is not None and is_log(options.html, options.db):
        parser.error("that FILE is the log")
    with Reader(options.db) as reader:
        task_id = chosen_task(reader, options.task)
        if task_id is None:
            return 1
        events = reader.query_events(task_id)
        first = next(events, None)
        if first is None:  # a cleanup was faster
            say(unknown_task(reader, task_id))
            return 1
        pruned = reader.ask(lambda log: log.pruned(task_id, first.event_id))
        traced = Trace(task_id, pruned.events)
        events = chain((first,), events)
        if options.format == "chrome":
            print_json(trace_event_lines(traced, events, time.time))
            return 0
        for event in events:
            traced.apply(event)
    _show(traced, options)
    return 0


def _show(trace: Trace, options: _Options) -> None:
    now = time.time()
    if options.format == "otlp":
        print_text(f"{otlp_json(trace, now)}\n")
        return
    if options.format == "json":
        whole = document(trace, now)
        print_json([json.dumps(whole, ensure_ascii=False, separators=(",", ":"))])
        return
    outputs = FailureOutput(options.db).of(trace.task.runs)
    if options.html == "-":
        print_text(page(trace, now, outputs))
    elif options.html is not None:
        _write(options.html, page(trace, now, outputs))
    else:
        for line in trace_text(trace, now, screen_width(), outputs):
            print(drawn(line, ASCII_FORMS))


def _write(file: str, content: str) -> None:
    """Write a file such that a reader finds the old one or the whole new one. An error names that file."""
    try:
        if os.path.exists(file) and not os.path.isfile(file):
            with open(file, "w", encoding="utf-8", newline="\n") as stream:
                stream.write(content)  # a pipe or a device is written, not replaced
        else:
            _replace(os.path.realpath(file), content)
    except OSError as error:
        raise OSError(error.errno, error.strerror, file) from error


def _replace(path: str, content: str) -> None:
    draft = f"{path}.{secrets.token_hex(4)}.tmp"
    try:
        with open(draft, "x", encoding="utf-8", newline="\n") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(draft, path)
    except BaseException:
        with suppress(OSError):
            os.unlink(draft)
        raise
