# SPDX-License-Identifier: MIT
"""``emit``: one event from the command line's words, or many from JSON lines.

Each JSON line is recorded, or named with its number and the reason. What was recorded before a line that stops the
import stays recorded. With ``--restore`` events keep their ids, times and spelling, and one that is there already is
passed over. With ``--keep-times`` they get new ids, in the order of their times, for logs of several machines to become
one. The format of a line is decided in `_values.archive_lines`.
"""

import errno
import sys
import zlib
from argparse import ArgumentParser
from collections.abc import (
    Callable,
    Iterable,
    Iterator,
)
from contextlib import closing
from functools import partial
from typing import (
    Final,
    Generic,
    TypeAlias,
    TypeVar,
)

from ... import (
    EventLog,
    JsonObject,
    JsonValue,
)
from ..._queries import BUSY_TIMEOUT
from ..._storage.open_store import open_store
from ..._values.archive_lines import (
    archived_event,
    load_json,
    new_event,
    recorded_at,
)
from ..._values.json_text import parse
from ..._values.limits import MAX_EVENT_BYTES, MAX_LINE_BYTES
from ..._values.new_events import NewRow, new_row
from ..._values.timestamps import timestamp
from ..arguments import (
    Options,
    is_log,
    name,
    path,
)
from ..backlog_log import BacklogLog
from ..enclosing_step import enclosing_task
from ..host_name import host_name
from ..input_lines import LineReader
from ..show.messages import Progress, say

__all__ = ["emit"]


class _Options(Options):
    task: str | None = None
    type: str | None = None
    fields: list[str]
    item: str | None = None
    payload: str = "{}"
    jsonl: str | None = None
    keep_going: bool = False
    restore: bool = False
    keep_times: bool = False
    task_prefix: str = ""


def emit(parser: ArgumentParser, words: list[str]) -> int:
    """Record one event and print its id, or record a file of them."""
    parser.add_argument(
        "task",
        metavar="TASK",
        nargs="?",
        type=name,
        help="may be left out in a command of 'run', for the task of that",
    )
    parser.add_argument("type", metavar="TYPE", nargs="?", type=name)
    parser.add_argument(
        "fields",
        metavar="key=text",
        nargs="*",
        help="a string of the payload; key:=JSON is any other value: 'cycle:=1', 'success:=true'",
    )
    parser.add_argument("--item", metavar="ID", type=name, help="the item the event is about")
    parser.add_argument(
        "--payload", metavar="JSON", help="an object, to which the fields are added"
    )
    parser.add_argument(
        "--jsonl",
        metavar="FILE",
        type=path,
        help="record a file ('-' is stdin) as 'events --json' writes it",
    )
    parser.add_argument(
        "--restore",
        action="store_true",
        help="with the ids and times they had; not those still there",
    )
    parser.add_argument(
        "--keep-times",
        action="store_true",
        help="with new ids, in the order of the times they had, and with these: to merge logs. That order holds within"
        + " the file; what is recorded twice is there twice",
    )
    parser.add_argument(
        "--task-prefix",
        metavar="TEXT",
        type=name,
        help="with --keep-times, before each task: 'web1/', say",
    )
    parser.add_argument(
        "--keep-going", action="store_true", help="skip bad lines of the file instead of stopping"
    )
    options = parser.parse_intermixed_args(words, _Options())
    if options.jsonl is not None:
        _check_import(parser, options)
        return _import(options.jsonl, options)
    for given, option in (
        (options.restore, "--restore"),
        (options.task_prefix, "--task-prefix"),
        (options.keep_times, "--keep-times"),
        (options.keep_going, "--keep-going"),
    ):
        if given:
            parser.error(f"{option} needs --jsonl")
    _join_enclosing_task(options)
    if options.task is None or options.type is None:
        parser.error("TASK and TYPE are needed, or --jsonl")
    if "=" in options.type:
        parser.error(
            f"not a TYPE: {options.type!r}; TASK is missing, or this is no command of 'run'"
        )
    try:
        payload = _payload(options.payload, options.fields)
    except ValueError as error:
        parser.error(str(error))
    if payload.keys() & _PATHS:
        payload.setdefault("host", host_name())
    with EventLog(options.db) as log:
        print(log.insert_event(options.task, options.item, options.type, payload))
    return 0


def _check_import(parser: ArgumentParser, options: _Options) -> None:
    if options.task is not None or options.item is not None or options.payload != "{}":
        parser.error("--jsonl takes everything from the file, and one file at a time")
    if options.restore and options.keep_times:
        parser.error("--restore keeps times and ids, --keep-times only times")
    if options.task_prefix and not options.keep_times:
        parser.error("--task-prefix needs --keep-times")


def _join_enclosing_task(options: _Options) -> None:
    """Within a step the task need not be given: then the first word is the type, and what follows are fields."""
    enclosing = enclosing_task(options.db)
    if enclosing is None or options.task is None:
        return
    if options.type is None or "=" in options.type:
        if options.type is not None:
            options.fields.insert(0, options.type)
        options.type = options.task
        options.task = enclosing


def _payload(given: str, fields: list[str]) -> JsonObject:
    try:
        payload = parse(given)
    except ValueError:
        payload = None
    if not isinstance(payload, dict):
        raise ValueError("--payload must be a JSON object")
    load_json(given)
    seen = set[str]()
    for field in fields:
        key, value = _field(field)
        if key in seen:
            raise ValueError(f"given twice: {key!r}")
        seen.add(key)
        payload[key] = value
    return payload


def _field(word: str) -> tuple[str, JsonValue]:
    """A member of the payload. Text is text, even if it looks like a number: ``0e12345`` may be a commit, ``1.10`` a version."""
    key, equals, value = word.partition("=")
    is_json = key.endswith(":")
    if is_json:
        key = key.removesuffix(":")
    if not equals or not key:
        raise ValueError(f"not of the form key=text or key:=JSON: {word!r}")
    if not is_json:
        return key, value
    try:
        parsed = parse(value)
    except ValueError as error:
        raise ValueError(f"not JSON: {word!r} ({error}); as text it is {key}={value}") from error
    load_json(value)
    return key, parsed


_PATHS: Final = {"stdout_path", "stderr_path"}
"""Beside these the host's name is recorded: on another machine they mean nothing."""

_BATCH_EVENTS: Final = 1000

_BATCH_BYTES: Final = 1 << 20
"""What one commit holds at most: some 10 ms of work, so that other writers get their turn in between."""

_SURELY_FITS: Final = MAX_EVENT_BYTES // 4
"""Bytes of a line with an event that is surely within the limit of size: no other spelling is four times as long."""

_NewEvent: TypeAlias = tuple[str, str | None, str, JsonObject]


def _import(path: str, options: _Options) -> int:
    db = options.db
    keep_going = options.keep_going
    is_stdin = path == "-"
    if is_stdin and sys.__stdin__ is None:
        raise OSError(errno.EBADF, "standard input is closed", path)
    if not is_stdin and is_log(path, db):
        raise OSError(errno.EINVAL, "this is the log itself", path)
    with (
        open(0 if is_stdin else path, "rb", buffering=0, closefd=not is_stdin) as file,
        LineReader(file.fileno(), MAX_LINE_BYTES) as source,
        BacklogLog(db) as log,
    ):
        if options.restore:
            with closing(open_store(db).open_for_maintenance("full", BUSY_TIMEOUT)) as session:
                restoring = _Import(archived_event, session.restore, keep_going)
                return restoring.run(_numbered(source.lines()), source, path)
        if options.keep_times:
            from ..time_sorting import in_order_of_time  # `tempfile` takes 5 ms

            def insert_rows(rows: list[NewRow]) -> tuple[int, int]:
                log.insert_rows(rows)
                return len(rows), len(rows)

            merging = _Import(partial(_dated_row, options.task_prefix), insert_rows, keep_going)
            return merging.run(in_order_of_time(source.lines()), source, path)

        def insert(events: list[_NewEvent]) -> tuple[int, int]:
            count = len(log.insert_events(events))
            return count, count

        recording = _Import(_recordable, insert, keep_going)
        return recording.run(_numbered(source.lines()), source, path)


_Lines: TypeAlias = Iterable[tuple[int, bytes] | None]
"""Each line with its number; ``None`` before the next is waited for."""


def _numbered(lines: Iterable[bytes | None]) -> Iterator[tuple[int, bytes] | None]:
    number = 0
    for line in lines:
        if line is None:
            yield None
        else:
            number += 1
            yield number, line


_T = TypeVar("_T")


class _Import(Generic[_T]):
    """The import of one file: what became of its lines so far."""

    def __init__(
        self,
        decode: Callable[[bytes], _T | None],
        store: Callable[[list[_T]], tuple[int, int]],
        keep_going: bool,
    ) -> None:
        self._decode = decode
        self._store = store
        """Returns how many of the events, in order, are in the log now, and how many of them are new."""
        self._keep_going = keep_going
        self._recorded = 0
        self._there = 0
        """Events that were there already."""
        self._bad = 0
        self._progress = Progress()
        self._failure = ""
        """Why the latest bad line is bad."""

    def run(
        self,
        lines: _Lines,
        source: LineReader,
        path: str,
    ) -> int:
        """Record what can be of the lines that come from `source`; the exit status."""
        try:
            self._record(lines)
            if isinstance(source.failure, (EOFError, zlib.error)):
                why = f"the compressed file is damaged: {source.failure}"
                raise OSError(errno.EINVAL, why, path) from source.failure
            if isinstance(source.failure, OSError):
                raise OSError(source.failure.errno, source.failure.strerror, path)
        finally:
            self._report()
        if source.stopped is not None:
            return 128 + source.stopped  # as a shell has it
        if self._failure:
            return 1
        return 0

    def _record(self, lines: _Lines) -> None:
        batch: list[tuple[int, _T]] = []
        size = 0
        for numbered_line in lines:
            if numbered_line is not None:
                number, line = numbered_line
                try:
                    event = self._decode(line)
                except ValueError as error:
                    if not self._goes_on(number, str(error)):
                        break
                    continue
                if event is not None:
                    batch.append((number, event))
                    size += len(line)
            # Record what was read before waiting for more.
            if numbered_line is None or len(batch) >= _BATCH_EVENTS or size >= _BATCH_BYTES:
                if not self._commit(batch):
                    return
                batch = []
                size = 0
        self._commit(batch)

    def _goes_on(self, number: int, why: str) -> bool:
        self._failure = f"line {number}: {why}"
        if self._keep_going:
            self._bad += 1
            say(self._failure)
        return self._keep_going

    def _commit(self, batch: list[tuple[int, _T]]) -> bool:
        while batch:
            done, new = self._store([event for _, event in batch])
            self._recorded += new
            self._there += done - new
            self._progress.show(f"{self._recorded:,} events")
            if done < len(batch) and not self._goes_on(batch[done][0], "another event has its id"):
                return False
            batch = batch[done + 1 :]
        return True

    def _report(self) -> None:
        """Say how it went, also when the log failed or the user has had enough."""
        self._progress.end()
        there = ""
        if self._there:
            there = f" (there already: {self._there})"
        print(f"events recorded: {self._recorded}{there}", flush=True)
        if self._bad:
            say(f"bad lines skipped: {self._bad}")
        elif self._failure:
            say(f"{self._failure}; events recorded before it: {self._recorded}")


def _dated_row(prefix: str, line: bytes) -> NewRow | None:
    """The row of one line, with its time and its task behind `prefix`; ``None`` for a blank line."""
    event = new_event(line)
    if event is None:
        return None
    task_id, item_id, event_type, payload = event
    if task_id:
        task_id = prefix + task_id
    moment = recorded_at(line)
    return new_row(
        (task_id, item_id, event_type, payload), moment.isoformat(timespec="microseconds")
    )


def _recordable(line: bytes) -> _NewEvent | None:
    """The event of one line, which can be recorded; ``None`` for a blank one; `ValueError` with the reason if neither."""
    event = new_event(line)
    if event is not None and len(line) > _SURELY_FITS:
        new_row(event, timestamp())  # raises `PayloadError`, which is a `ValueError`
    return event
