# SPDX-License-Identifier: MIT
"""``cleanup``: delete old events, into an archive if wanted."""

import re
from argparse import ArgumentParser, ArgumentTypeError
from datetime import timedelta
from typing import Final

from .. import Cleanup, EventLog, EventReader
from ._arguments import Options, count
from ._render import Progress, amount, printable

__all__ = ["cleanup"]

_SECONDS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
_BYTES: Final = {"b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12}


def _age(word: str) -> timedelta:
    match = re.fullmatch(r"(\d+)([smhdw])", word, re.ASCII)
    try:
        return timedelta(seconds=int(match[1]) * _SECONDS[match[2]] if match else float("nan"))
    except (ValueError, OverflowError):
        raise ArgumentTypeError(f"not an age such as 90s, 15m, 12h, 30d or 4w: {word!r}") from None


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
    dry_run: bool = False
    all: bool = False


def cleanup(parser: ArgumentParser, words: list[str]) -> int:
    """Delete old events of tasks that have ended."""
    parser.add_argument("--older-than", metavar="AGE", type=_age, help="those older than 90s, 15m, 12h, 30d or 4w")
    parser.add_argument("--keep-last", metavar="N", type=count, help="but not the N newest of any task")
    parser.add_argument("--max-size", metavar="SIZE", type=_size, help="the oldest, until the log fits into 500MB, say")
    parser.add_argument("--archive", metavar="DIR", help="first write them there, for 'emit --jsonl FILE --restore'")
    parser.add_argument("--gzip", action="store_true", help="compress the archive")
    parser.add_argument("--dry-run", action="store_true", help="only tell how many there are")
    parser.add_argument("--all", action="store_true", help="also those of tasks that have not ended")
    options = parser.parse_args(words, _Options())
    if options.older_than is None and options.keep_last is None and options.max_size is None:
        parser.error("one of --older-than, --keep-last and --max-size is needed")
    if options.gzip and options.archive is None:
        parser.error("--gzip needs --archive")
    with EventReader(options.db):  # or a log would be created
        pass
    progress, done = Progress(), Cleanup()

    def hear(so_far: Cleanup) -> None:
        nonlocal done
        done = so_far
        freed = f", {amount(done.bytes_freed)} given back" if done.bytes_freed else ""
        progress.show(f"{done.events:,} events deleted{freed} ")

    with EventLog(options.db) as log:
        try:
            done = log.cleanup(
                older_than=options.older_than, keep_last=options.keep_last, max_bytes=options.max_size,
                only_finished=not options.all, dry_run=options.dry_run,
                archive=options.archive, gzip=options.gzip, progress=hear,
            )
        except ValueError as error:
            parser.error(str(error))
        except BaseException:
            progress.end()
            _tell(done, "deleted before it was stopped; again, it goes on:")
            raise
    progress.end()
    _tell(done, "to delete:" if options.dry_run else "deleted:")
    return 0


def _tell(done: Cleanup, what: str) -> None:
    print(f"{what} {done.events:,} events; tasks gone with them: {done.tasks:,}")
    for file in done.archived:
        print(f"archived: {printable(file)}")
    if done.bytes_freed:
        print(f"given back: {amount(done.bytes_freed)}")
    if done.bytes_reusable:
        print(f"free inside the file, to be used again: {amount(done.bytes_reusable)}; a VACUUM would give it back")
