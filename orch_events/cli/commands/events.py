# SPDX-License-Identifier: MIT
"""``events``: the events of a task, or of all, as a table or as JSON lines that ``emit --jsonl`` takes back."""

import json
from argparse import ArgumentParser
from collections import deque
from collections.abc import Iterator
from datetime import timedelta
from itertools import chain, islice
from typing import Final

from ... import (
    STEP_EVENT_TYPES,
    Event,
    JsonValue,
)
from ..._storage.interface import Selection
from ..._storage.pages import page_events
from ..._values.archive_lines import event_json
from ..._values.timestamps import is_since
from ..arguments import (
    Options,
    Reader,
    add_wait,
    age,
    count,
    expect_task,
    log_may_be_missing,
    moment_of,
    text,
)
from ..show.local_time import short_time, titled_with_zone
from ..show.machine_output import print_json
from ..show.table import Column, print_table


def dump_json(value: JsonValue) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


class _EventsOptions(Options):
    task: str | None = None
    type: str | None = None
    since: timedelta | None = None
    after: int = 0
    last: int | None = None
    limit: int | None = None
    steps: bool = False
    json: bool = False
    follow: bool = False
    wait: bool = False


_TYPICAL: Final = ("100000", "12-31 23:59:59", "step_heartbeat", "name of a step", "an item", "")
_TYPICAL_WITH_TASK: Final = (
    "100000",
    "12-31 23:59:59",
    "20261231-235959-abcdef",
    "step_heartbeat",
    "name of a step",
    "an item",
    "",
)
"""Rows by which a table is laid out before its rows have come."""


def event_columns(with_task: bool = False) -> list[Column]:
    """The columns of a table of events."""
    task = [Column("task", least=8)] if with_task else []
    return [
        Column("id", spare=3),
        Column(titled_with_zone("time"), spare=2),
        *task,
        Column("type", least=14),
        Column("step", spare=1, least=8),
        Column("item", spare=5, least=6),
        Column("details", spare=4, least=8),
    ]


def events(parser: ArgumentParser, words: list[str]) -> int:
    """List the events of a task, or of all."""
    parser.add_argument(
        "task",
        metavar="TASK",
        nargs="?",
        type=text,
        help="only those of one task; '' for the events of no task",
    )
    parser.add_argument(
        "--since",
        metavar="AGE",
        type=age,
        help="only those that are not older than 90s, 15m, 1.5h, 30d or 4w",
    )
    parser.add_argument(
        "--type", metavar="PREFIX", type=text, help="only types that begin with PREFIX"
    )
    parser.add_argument(
        "--after", metavar="ID", type=count, help="only events after the one with this id"
    )
    parser.add_argument("--limit", metavar="N", type=count, help="at most N events")
    parser.add_argument(
        "-n", "--last", metavar="N", type=count, help="of what there is, only the last N"
    )
    parser.add_argument("--steps", action="store_true", help="only the events of steps")
    parser.add_argument(
        "--json", action="store_true", help="one JSON object a line, as 'emit --jsonl' reads them"
    )
    parser.add_argument(
        "-f",
        "--follow",
        action="store_true",
        help="go on until the task ends; without one, until Ctrl-C",
    )
    add_wait(parser)
    options = parser.parse_args(words, _EventsOptions())
    if options.wait and not options.follow:
        parser.error("--wait goes with -f")
    with Reader(options.db, must_exist=not options.wait) as reader:
        if options.task is not None and not expect_task(reader, options.task, options.wait):
            return 1
        if options.last is None:
            found = _events(reader, options, options.after)
        else:
            with log_may_be_missing(options.wait):
                found = _last_events(reader, options, options.last)
        found = islice(found, options.limit)
        columns = event_columns(with_task=options.task is None)
        row = event_row if options.task is not None else _row_with_task
        if options.json:
            print_json(map(event_json, found), flush=options.follow)
        elif options.follow:
            typical = _TYPICAL if options.task is not None else _TYPICAL_WITH_TASK
            print_table(columns, map(row, found), like=[typical])
        else:
            print_table(columns, map(row, found))
    return 0


def _events(reader: Reader, options: _EventsOptions, after_id: int) -> Iterator[Event]:
    if not options.follow:
        found = reader.query_events(options.task, event_type_prefix=options.type, after_id=after_id)
        return _wanted(options, found)
    until_finished = options.task is not None
    found = reader.follow_events(options.task, after_id=after_id, until_finished=until_finished)
    prefix = options.type or ""
    return _wanted(options, (event for event in found if event.event_type.startswith(prefix)))


def _last_events(reader: Reader, options: _EventsOptions, wanted: int) -> Iterator[Event]:
    """The last of what there is, and then, if it is followed, what comes.

    They are looked for in ever more of the end of the log.
    """
    end = reader.ask(lambda log: log.last_id())
    looked_at = max(1, wanted)
    while True:
        begin = max(options.after, end - looked_at)
        left = reader.remaining_pages(Selection(options.task, options.type), begin)
        found = (event for page in left for event in page_events(page))
        last = deque(_wanted(options, found), wanted)
        if len(last) == wanted or begin == options.after:
            break
        looked_at *= 4
    if not options.follow:
        return iter(last)
    if last:
        end = max(end, last[-1].event_id)
    return chain(last, _events(reader, options, end))


def _wanted(options: _EventsOptions, events: Iterator[Event]) -> Iterator[Event]:
    if options.steps:
        events = (event for event in events if event.event_type in STEP_EVENT_TYPES)
    if options.since is not None:
        cutoff = moment_of(options.since)
        events = (event for event in events if is_since(event.created_at, cutoff))
    return events


def _row_with_task(event: Event) -> tuple[str, ...]:
    event_id, at, *rest = event_row(event)
    return event_id, at, event.task_id, *rest


def event_row(event: Event) -> tuple[str, ...]:
    """The cells of an event's line in a table of `event_columns`."""
    step = ""
    details = event.payload_json
    payload = event.payload
    if isinstance(payload, dict):
        members = {key: _member_text(value) for key, value in payload.items()}
        phase = members.pop("phase", "")
        step = members.pop("step", "") or phase
        members.pop("step_scope", None)
        details = " ".join(f"{key}={text}" for key, text in members.items())
    return (
        str(event.event_id),
        short_time(event.created_at),
        event.event_type,
        step,
        event.task_item_id or "",
        details,
    )


def _member_text(value: JsonValue) -> str:
    if isinstance(value, str):
        return value
    return dump_json(value)
