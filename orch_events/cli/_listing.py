# SPDX-License-Identifier: MIT
"""``events`` and ``tasks``: what a log holds, as a table or as JSON lines that ``emit --jsonl`` reads back."""

import json
import os
import re
import sys
from argparse import ArgumentParser
from collections.abc import Iterable
from contextlib import suppress
from io import TextIOWrapper
from itertools import islice
from typing import Final

from .. import STEP_EVENT_TYPES, Event, EventReader, JsonObject, JsonValue
from .._events import TASK_STATUS, event_json, instant
from .._rows import TaskRow, read_tasks
from ._arguments import Options, Reader, count, text
from ._render import print_table

__all__ = ["event_row", "events", "tasks"]


_C1: Final = re.compile("[\x7f-\x9f]")
"""The control characters that JSON lets stand in a string, some of which drive terminals."""


def _print_json(lines: Iterable[str], flush: bool = False) -> None:
    if isinstance(sys.__stdout__, TextIOWrapper):
        # UTF-8, whatever the locale. Bytes of the file that are not UTF-8 reach us as lone surrogates, and this error
        # handler writes those as JSON's own escapes: \udc80.
        sys.__stdout__.reconfigure(encoding="utf-8", errors="backslashreplace", newline="\n")
    if os.isatty(1):
        lines = (_C1.sub(_escape, line) for line in lines)
    for line in lines:
        print(line, flush=flush)


def _escape(match: re.Match[str]) -> str:
    return f"\\u{ord(match.group()):04x}"


def _dump(value: JsonValue) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _local(created_at: str) -> str:
    """A stored time as the reader's clock shows it; the text itself if it is no time."""
    with suppress(OverflowError, OSError):
        if (at := instant(created_at)) is not None:
            return f"{at.astimezone():%m-%d %H:%M:%S}"
    return created_at


class _EventsOptions(Options):
    task: str
    type: str | None = None
    after: int = 0
    limit: int | None = None
    steps: bool = False
    json: bool = False
    follow: bool = False


_TITLES: Final = ("id", "time", "type", "step", "item", "details")
_TYPICAL: Final = ("100000", "12-31 23:59:59", "step_heartbeat", "name of a step", "an item", "")
"""A row to lay out a table by whose rows are still to come."""


def events(parser: ArgumentParser, words: list[str]) -> int:
    """List the events of a task."""
    parser.add_argument("task", metavar="TASK", type=text)
    parser.add_argument("--type", metavar="PREFIX", type=text, help="only types that begin with PREFIX")
    parser.add_argument("--after", metavar="ID", type=count, help="only events after the one with this id")
    parser.add_argument("--limit", metavar="N", type=count, help="at most N events")
    parser.add_argument("--steps", action="store_true", help="only the events of steps")
    parser.add_argument("--json", action="store_true", help="one JSON object a line, as 'emit --jsonl' reads them")
    parser.add_argument("-f", "--follow", action="store_true", help="go on until the task ends; wait for it to begin")
    options = parser.parse_args(words, _EventsOptions())
    with EventReader(options.db, must_exist=not options.follow) as reader:
        task, after, prefix = options.task, options.after, options.type
        if options.follow:
            found = reader.follow_events(task, after_id=after, until_finished=True)
            found = (event for event in found if event.event_type.startswith(prefix or ""))
        else:
            limit = None if options.steps else options.limit
            found = reader.query_events(task, event_type_prefix=prefix, after_id=after, limit=limit)
        if options.steps:
            found = (event for event in found if event.event_type in STEP_EVENT_TYPES)
        found = islice(found, options.limit)
        if options.json:
            _print_json(map(event_json, found), flush=options.follow)
        else:
            print_table(_TITLES, map(event_row, found), like=[_TYPICAL] if options.follow else ())
    return 0


def event_row(event: Event) -> tuple[str, ...]:
    payload, step, details = event.payload, "", event.payload_json
    if isinstance(payload, dict):
        members = {key: value if isinstance(value, str) else _dump(value) for key, value in payload.items()}
        phase, step = members.pop("phase", ""), members.pop("step", "")
        step = step or phase
        members.pop("step_scope", None)
        details = " ".join(f"{key}={value}" for key, value in members.items())
    return str(event.event_id), _local(event.created_at), event.event_type, step, event.task_item_id or "", details


class _TasksOptions(Options):
    json: bool = False


def tasks(parser: ArgumentParser, words: list[str]) -> int:
    """List the tasks, the most recently active last."""
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    options = parser.parse_args(words, _TasksOptions())
    with Reader(options.db) as reader:
        found = reader.ask(read_tasks)
    if options.json:
        _print_json(_dump(_task(row)) for row in found)
    else:
        print_table(("task", "status", "events", "last id", "last event", "at"), map(_task_row, found))
    return 0


def _task(row: TaskRow) -> JsonObject:
    return {
        "task_id": row.task_id,
        "status": TASK_STATUS.get(row.status_event_type or ""),
        "events": row.events,
        "last_event_id": row.last_event_id,
        "last_event_type": row.last_event_type,
        "last_created_at": row.last_created_at,
    }


def _task_row(row: TaskRow) -> list[str]:
    members = {**_task(row), "last_created_at": _local(row.last_created_at)}
    return ["-" if value is None else str(value) for value in members.values()]
