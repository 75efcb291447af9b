# SPDX-License-Identifier: MIT
"""``cleanup``: delete old events, into an archive if wanted."""

import os
import re
import time
from argparse import ArgumentParser, ArgumentTypeError, BooleanOptionalAction
from collections.abc import Sequence
from datetime import timedelta
from typing import Final

from ... import (
    Cleanup,
    EventLog,
    EventReader,
)
from ..._values.byte_amount import amount
from ..._values.limits import MAX_LINE_BYTES
from ..arguments import (
    Options,
    age,
    count,
    moment_of,
    path,
)
from ..model.abandoned_tasks import abandoned_tasks
from ..output_files import output_folder
from ..show.messages import Progress, say
from ..show.terminal_text import printable

__all__ = ["cleanup"]

_BYTES: Final = {"b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12}


def _size(word: str) -> int:
    match = re.fullmatch(r"(\d{1,15})([kmgt]?b)", word.lower(), re.ASCII)
    if not match:
        raise ArgumentTypeError(f"not a size such as 500MB, 2GB or 64kB: {word!r}")
    return int(match[1]) * _BYTES[match[2]]


class _Options(Options):
    older_than: timedelta | None = None
    keep_last: int | None = None
    max_size: int | None = None
    archive: str | None = None
    gzip: bool = False
    with_output: bool = False
    logs: list[str] | None = None
    dry_run: bool = False
    all: bool = False
    abandoned: bool | None = None


def cleanup(parser: ArgumentParser, words: list[str]) -> int:
    """Delete old events of tasks that have ended."""
    parser.add_argument(
        "--older-than", metavar="AGE", type=age, help="those older than 90s, 15m, 1.5h, 30d or 4w"
    )
    parser.add_argument(
        "--keep-last", metavar="N", type=count, help="but not the N newest of any task"
    )
    parser.add_argument(
        "--max-size",
        metavar="SIZE",
        type=_size,
        help="the oldest, until the log fits into 500MB, say",
    )
    parser.add_argument(
        "--archive",
        metavar="DIR",
        type=path,
        help="first write them there, for 'emit --jsonl FILE --restore'",
    )
    parser.add_argument("--gzip", action="store_true", help="compress the archive")
    parser.add_argument(
        "--with-output",
        action="store_true",
        help="move the output files of 'run' there too, and do not delete them; 'logs' will not find them there",
    )
    parser.add_argument(
        "--logs",
        metavar="DIR",
        type=_directory,
        action="append",
        help="where 'run' has kept output, if it was told a place; may be given several times",
    )
    parser.add_argument("--dry-run", action="store_true", help="only say how many there are")
    parser.add_argument(
        "--all", action="store_true", help="also those of tasks that have not ended"
    )
    parser.add_argument(
        "--abandoned",
        action=BooleanOptionalAction,
        help="whether tasks count as ended that have been silent for AGE and should be running, but all of whose runs "
        + "have ended or are lost, and so cannot go on; one that never showed a heartbeat may (default: with "
        + "--older-than, yes)",
    )
    options = parser.parse_args(words, _Options())
    _check(parser, options)
    with EventReader(options.db) as reader:  # or a log would be created
        abandoned = _abandoned(reader, options)
    folders = [output_folder(options.db), *(options.logs or [])]
    reporting = _Reporting()
    with EventLog(options.db) as log:
        try:
            done = log.cleanup(
                older_than=options.older_than,
                keep_last=options.keep_last,
                max_bytes=options.max_size,
                only_finished=not options.all,
                dry_run=options.dry_run,
                archive=options.archive,
                gzip=options.gzip,
                abandoned=abandoned,
                output=folders,
                archive_output=options.with_output,
                progress=reporting.show,
            )
        except ValueError as error:
            parser.error(str(error))
        except BaseException:
            reporting.progress.end()
            if reporting.done.events:
                _print_outcome(reporting.done, "deleted before it was stopped; again, it goes on:")
            raise
    reporting.progress.end()
    _print_outcome(done, "to delete:" if options.dry_run else "deleted:")
    _print_output(done, options, folders)
    if abandoned:
        print(f"tasks that counted as ended, having been silent for so long: {len(abandoned):,}")
    if done.too_large:
        return 1
    return 0


def _directory(word: str) -> str:
    if not os.path.isdir(path(word)):
        raise ArgumentTypeError(f"no such directory: {word!r}")
    return word


def _check(parser: ArgumentParser, options: _Options) -> None:
    if options.older_than is None and options.keep_last is None and options.max_size is None:
        parser.error("one of --older-than, --keep-last and --max-size is needed")
    if options.gzip and options.archive is None:
        parser.error("--gzip needs --archive")
    if options.with_output and options.archive is None:
        parser.error("--with-output needs --archive")
    if options.abandoned and options.older_than is None:
        parser.error("--abandoned needs --older-than")


def _abandoned(reader: EventReader, options: _Options) -> list[str]:
    """The tasks that are to count as ended."""
    if options.older_than is None or options.all or options.abandoned is False:
        return []
    return list(abandoned_tasks(reader, moment_of(options.older_than), time.time()))


class _Reporting:
    """Shows how far the cleanup is, and remembers it."""

    def __init__(self) -> None:
        self.done = Cleanup()
        self.progress = Progress()

    def show(self, so_far: Cleanup) -> None:
        self.done = so_far
        text = f"{so_far.found:,} events found, {so_far.events:,} deleted"
        if so_far.bytes_freed:
            text += f", {amount(so_far.bytes_freed)} given back"
        self.progress.show(f"{text} ")


def _print_output(
    done: Cleanup,
    options: _Options,
    folders: Sequence[str],
) -> None:
    """What became of the files of `run`."""
    verb = "moved" if options.with_output else "deleted"
    if options.dry_run:
        verb = "to move" if options.with_output else "to delete"
    if done.output_files:
        print(f"{verb}: {done.output_files:,} files with their output")
    if done.output_missing:
        places = " nor ".join(map(repr, folders))
        say(f"{done.output_missing:,} files with their output are not in {places}; see --logs")


def _print_outcome(done: Cleanup, what: str) -> None:
    print(f"{what} {done.events:,} events; tasks gone with them: {done.tasks:,}")
    for file in done.archived:
        print(f"archived: {printable(file)}")
    if done.too_large:
        kept = ", ".join(f"event {event_id}" for event_id in done.too_large)
        limit = amount(MAX_LINE_BYTES)
        say(f"kept, because a line of an archive has at most {limit}: {kept}")
    if done.bytes_freed:
        print(f"given back: {amount(done.bytes_freed)}")
    if done.bytes_reusable:
        free = amount(done.bytes_reusable)
        print(f"free inside the file, to be used again: {free}; a VACUUM would give it back")
