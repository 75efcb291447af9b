# SPDX-License-Identifier: MIT
"""``steps``: over all tasks, how often each step fails, how long it takes, and what has changed."""

from argparse import ArgumentParser
from datetime import timedelta
from typing import Final, cast

from ... import JsonObject
from ..._storage.interface import Selection
from ..arguments import (
    Options,
    Reader,
    age,
    moment_of,
)
from ..model.step_figures import END_TYPES, StepFigures, StepTable
from ..show.machine_output import print_json
from ..show.messages import say
from ..show.table import Column, print_table
from ..show.units import span
from .events import dump_json

__all__ = ["steps"]

_DEFAULT_AGE: Final = timedelta(days=7)


class _Options(Options):
    since: timedelta = _DEFAULT_AGE
    slowest: bool = False
    json: bool = False


def steps(parser: ArgumentParser, words: list[str]) -> int:
    """Sum up the runs of each step in all tasks."""
    parser.epilog = (
        "'change' is that of the median against the time before: with --since 7d, against the"
        " seven days before those."
    )
    parser.add_argument(
        "--since",
        metavar="AGE",
        type=age,
        help="runs that ended in the last 90s, 15m, 1.5h, 30d or 4w (default: 7d)",
    )
    parser.add_argument(
        "--slowest", action="store_true", help="the slowest first, instead of what fails most"
    )
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    options = parser.parse_args(words, _Options())
    with Reader(options.db) as reader:
        found = list(_read(reader, options.since).figures())
    found.sort(key=_slowness if options.slowest else _failures, reverse=True)
    if options.json:
        print_json(dump_json(cast("JsonObject", step._asdict())) for step in found)
    elif not found:
        say(f"no step has ended in the last {span(options.since.total_seconds())}")
    else:
        print_table(_columns(), map(_row, found))
    return 0


def _read(reader: Reader, since: timedelta) -> StepTable:
    table = StepTable(moment_of(since, times=2), moment_of(since))
    for page in reader.remaining_pages(Selection(event_types=END_TYPES)):
        columns = zip(
            page.event_types,
            page.task_ids,
            page.task_item_ids,
            page.created_ats,
            page.payloads.values(),
            strict=True,
        )
        for event_type, task_id, item_id, created_at, payload in columns:
            if isinstance(payload, dict):
                table.apply(
                    event_type,
                    task_id,
                    item_id,
                    created_at,
                    payload,
                )
    return table


def _failures(step: StepFigures) -> tuple[float, ...]:
    return step.failed, step.failed_share, step.runs


def _slowness(step: StepFigures) -> tuple[float, ...]:
    return step.p95_ms or 0, step.median_ms or 0


def _columns() -> list[Column]:
    return [
        Column("step", least=12),
        Column("runs", spare=3),
        Column("failed"),
        Column("share", spare=2),
        Column("median"),
        Column("p95", spare=1),
        Column("change", spare=4),
    ]


def _row(step: StepFigures) -> tuple[str, ...]:
    return (
        step.step,
        str(step.runs),
        str(step.failed or ""),
        f"{step.failed_share:.0%}" if step.failed else "",
        _span(step.median_ms),
        _span(step.p95_ms),
        _change(step),
    )


def _span(milliseconds: float | None) -> str:
    return "" if milliseconds is None else span(milliseconds / 1000)


def _change(step: StepFigures) -> str:
    if step.median_ms is None or not step.median_ms_before:
        return ""
    return f"{step.median_ms / step.median_ms_before - 1:+.0%}"
