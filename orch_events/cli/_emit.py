# SPDX-License-Identifier: MIT
"""``emit``: one event from the command line's words, or many from JSON lines.

The rule for JSON lines: each is recorded, or told of with its number and the reason. What was recorded before a line
that stops the import stays recorded.
"""

import errno
import os
import sys
import time
from argparse import ArgumentParser
from collections.abc import Iterator, Mapping
from io import BufferedReader
from json import JSONDecodeError
from types import UnionType
from typing import Final, TypeAlias, cast

from .. import EventLog, JsonObject, JsonValue
from .._payload import MAX_DEPTH, parse
from ._arguments import Options
from ._render import say

__all__ = ["emit"]


class _Options(Options):
    task: str | None = None
    type: str | None = None
    fields: list[str]
    item: str | None = None
    payload: str = "{}"
    jsonl: str | None = None
    keep_going: bool = False


def emit(parser: ArgumentParser, words: list[str]) -> int:
    """Record one event and print its id, or record a file of them."""
    parser.add_argument("task", metavar="TASK", nargs="?")
    parser.add_argument("type", metavar="TYPE", nargs="?")
    parser.add_argument("fields", metavar="key=value", nargs="*", help="a value is JSON if it can be, else a string")
    parser.add_argument("--item", metavar="ID", help="the item the event is about")
    parser.add_argument("--payload", metavar="JSON", help="an object, to which key=value adds")
    parser.add_argument("--jsonl", metavar="FILE", help="record a file ('-' is stdin) as 'events --json' writes it")
    parser.add_argument("--keep-going", action="store_true", help="skip bad lines of the file instead of stopping")
    options = parser.parse_intermixed_args(words, _Options())
    if options.jsonl is not None:
        if options.task is not None or options.item is not None or options.payload != "{}":
            parser.error("--jsonl takes everything from the file")
        return _import(options.jsonl, options.db, options.keep_going)
    if options.task is None or options.type is None:
        parser.error("TASK and TYPE are needed, or --jsonl")
    try:
        payload = _payload(options.payload, options.fields)
    except ValueError as error:
        parser.error(str(error))
    with EventLog(options.db) as log:
        print(log.insert_event(options.task, options.item, options.type, payload))
    return 0


def _payload(text: str, fields: list[str]) -> JsonObject:
    payload = _value(text)
    if not isinstance(payload, dict):
        raise ValueError("--payload must be a JSON object")
    for field in fields:
        key, equals, value = field.partition("=")
        if not equals:
            raise ValueError(f"not of the form key=value: {field!r}")
        payload[key] = _value(value)
    return payload


def _value(text: str) -> JsonValue:
    try:
        return parse(text)
    except ValueError:
        return text


# ------------------------------------------------------------------------------------------------------ JSON lines

_BATCH_EVENTS: Final = 1000
_BATCH_BYTES: Final = 1 << 20
"""What one commit holds at most: some 10 ms of work, so that other writers get their turn in between."""
_MAX_LINE: Final = 64 << 20
"""Longest line, in bytes, so that a file without line ends cannot fill the memory."""

_NewEvent: TypeAlias = tuple[str, str | None, str, JsonObject]
_MEMBERS: Final[Mapping[str, type | UnionType]] = {
    "task_id": str,
    "task_item_id": str | None,
    "event_type": str,
    "payload": dict,
}


def _import(path: str, db: str, keep_going: bool) -> int:
    if path != "-" and os.path.exists(db) and os.path.samefile(path, db):
        raise OSError(errno.EINVAL, "this is the log itself", path)  # not even to be opened, see `_connection`
    with open(0 if path == "-" else path, "rb", closefd=path != "-") as stream, EventLog(db) as log:
        importing = _Import(log, keep_going)
        try:
            importing.record(stream)
        finally:
            importing.tell()
    return 1 if importing.failure else 0


class _Import:
    """The import of one file: what became of its lines so far."""

    def __init__(self, log: EventLog, keep_going: bool) -> None:
        self._log = log
        self._keep_going = keep_going
        self._recorded = self._bad = 0
        self._progress_due = 0.0 if os.isatty(2) else float("inf")
        self.failure = ""
        """Why the latest bad line is bad."""

    def record(self, stream: BufferedReader) -> None:
        batch, size = list[_NewEvent](), 0
        for number, line in enumerate(_lines(stream), 1):
            try:
                event = _event(line)
            except ValueError as error:
                self.failure = f"line {number}: {error}"
                if not self._keep_going:
                    break
                self._bad += 1
                say(self.failure)
                continue
            if event is not None:
                batch.append(event)
                size += len(line)
            if len(batch) >= _BATCH_EVENTS or size >= _BATCH_BYTES:
                self._commit(batch)
                batch, size = list[_NewEvent](), 0
        self._commit(batch)

    def _commit(self, batch: list[_NewEvent]) -> None:
        self._recorded += len(self._log.insert_events(batch))
        if (now := time.monotonic()) >= self._progress_due:
            self._progress_due = now + 0.1
            print(f"\r{self._recorded:,} events", end="", file=sys.stderr, flush=True)

    def tell(self) -> None:
        """How it went, also when the log failed or the user has had enough."""
        print(end="\r" if os.isatty(2) else "", file=sys.stderr)
        print(f"events recorded: {self._recorded}", flush=True)
        if self._bad:
            say(f"bad lines skipped: {self._bad}")
        elif self.failure:
            say(f"{self.failure}; events recorded before it: {self._recorded}")


def _lines(stream: BufferedReader) -> Iterator[bytes]:
    """The lines of `stream`; of one that is too long, its beginning."""
    while line := stream.readline(_MAX_LINE):
        yield line
        while len(line) == _MAX_LINE and not line.endswith(b"\n"):
            line = stream.readline(_MAX_LINE)


def _event(line: bytes) -> _NewEvent | None:
    """The event of one line, ``None`` for a blank one; `ValueError` with the reason when it is neither."""
    if line.isspace():
        return None
    if len(line) == _MAX_LINE:
        raise ValueError(f"longer than {_MAX_LINE} bytes")
    try:
        value = parse(line.decode(), MAX_DEPTH + 1)  # the event itself is a level
    except JSONDecodeError as error:
        raise ValueError(f"not JSON: {error.msg} at column {error.colno}") from error
    if not isinstance(value, dict):
        raise ValueError("not a JSON object")
    if "payload_json" in value and "payload" not in value:
        raise ValueError("its payload was not JSON where it comes from, and cannot be recorded anew")
    for name, kind in _MEMBERS.items():
        if not isinstance(value.get(name), kind):
            raise ValueError(f"{name} is missing or of the wrong type")
    members: list[JsonValue] = [value.get(name) for name in _MEMBERS]
    return cast("_NewEvent", tuple(members))
