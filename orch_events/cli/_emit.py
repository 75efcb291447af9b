# SPDX-License-Identifier: MIT
"""``emit``: one event from the command line's words, or many from JSON lines.

The rule for JSON lines: each is recorded, or told of with its number and the reason. What was recorded before a line
that stops the import stays recorded. With ``--restore`` events keep their ids, times and spelling, and one that is
there already is passed over.
"""

import errno
import gzip
import json
import os
import zlib
from argparse import ArgumentParser
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from io import BufferedIOBase
from json import JSONDecodeError
from types import UnionType
from typing import Final, Generic, TypeAlias, TypeVar, cast

from .. import Event, EventLog, JsonObject, JsonValue, WriteError
from .._connection import open_for_writing, translated
from .._payload import MAX_DEPTH, parse
from .._reader import BUSY_TIMEOUT
from .._upkeep import restore
from ._arguments import Options, is_log, text
from ._render import Progress, say

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


def emit(parser: ArgumentParser, words: list[str]) -> int:
    """Record one event and print its id, or record a file of them."""
    parser.add_argument("task", metavar="TASK", nargs="?", type=text)
    parser.add_argument("type", metavar="TYPE", nargs="?", type=text)
    parser.add_argument("fields", metavar="key=value", nargs="*", help="a value is JSON if it can be, else a string")
    parser.add_argument("--item", metavar="ID", type=text, help="the item the event is about")
    parser.add_argument("--payload", metavar="JSON", help="an object, to which key=value adds")
    parser.add_argument("--jsonl", metavar="FILE", help="record a file ('-' is stdin) as 'events --json' writes it")
    parser.add_argument("--restore", action="store_true", help="with the ids and times they had; not those still there")
    parser.add_argument("--keep-going", action="store_true", help="skip bad lines of the file instead of stopping")
    options = parser.parse_intermixed_args(words, _Options())
    if options.jsonl is not None:
        if options.task is not None or options.item is not None or options.payload != "{}":
            parser.error("--jsonl takes everything from the file")
        return _import(options.jsonl, options.db, options.keep_going, options.restore)
    if options.restore:
        parser.error("--restore needs --jsonl")
    if options.task is None or options.type is None:
        parser.error("TASK and TYPE are needed, or --jsonl")
    try:
        payload = _payload(options.payload, options.fields)
    except ValueError as error:
        parser.error(str(error))
    with EventLog(options.db) as log:
        print(log.insert_event(options.task, options.item, options.type, payload))
    return 0


def _payload(given: str, fields: list[str]) -> JsonObject:
    payload = _value(given)
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
_ARCHIVED: Final[Mapping[str, type | UnionType]] = {
    "event_id": int,
    "task_id": str,
    "task_item_id": str | None,
    "event_type": str,
    "created_at": str,
}


def _import(path: str, db: str, keep_going: bool, restoring: bool) -> int:
    if path != "-" and is_log(path, db):
        raise OSError(errno.EINVAL, "this is the log itself", path)
    with open(0 if path == "-" else path, "rb", closefd=path != "-") as file, EventLog(db) as log:
        stream = gzip.open(file) if file.peek(2)[:2] == b"\x1f\x8b" else file
        if not restoring:

            def insert(events: list[_NewEvent]) -> tuple[int, int]:
                return (count := len(log.insert_events(events))), count

            return _Import(_event, insert, keep_going).run(stream, path)
        with closing(open_for_writing(os.path.abspath(db), "full", BUSY_TIMEOUT)) as connection:

            def put_back(events: list[Event]) -> tuple[int, int]:
                with translated(WriteError, db, "not written"):
                    return restore(connection, events)

            return _Import(_archived, put_back, keep_going).run(stream, path)


_T = TypeVar("_T")


class _Import(Generic[_T]):
    """The import of one file: what became of its lines so far."""

    def __init__(
        self, decode: Callable[[bytes], _T | None], store: Callable[[list[_T]], tuple[int, int]], keep_going: bool
    ) -> None:
        self._decode = decode
        self._store = store
        """Returns how many it has come to terms with, in order, and how many of them are new."""
        self._keep_going = keep_going
        self._recorded = self._there = self._bad = 0
        self._progress = Progress()
        self._failure = ""
        """Why the latest bad line is bad."""

    def run(self, stream: BufferedIOBase, path: str) -> int:
        """Record what can be; the exit status."""
        try:
            self._record(stream)
        except (EOFError, zlib.error) as error:
            raise OSError(errno.EINVAL, f"the compressed file is damaged: {error}", path) from error
        finally:
            self._tell()
        return 1 if self._failure else 0

    def _record(self, stream: BufferedIOBase) -> None:
        batch, size = list[tuple[int, _T]](), 0
        for number, line in enumerate(_lines(stream), 1):
            try:
                event = self._decode(line)
            except ValueError as error:
                if self._goes_on(number, str(error)):
                    continue
                break
            if event is not None:
                batch.append((number, event))
                size += len(line)
            if len(batch) >= _BATCH_EVENTS or size >= _BATCH_BYTES:
                if not self._commit(batch):
                    return
                batch, size = list[tuple[int, _T]](), 0
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

    def _tell(self) -> None:
        """How it went, also when the log failed or the user has had enough."""
        self._progress.end()
        there = f" (there already: {self._there})" if self._there else ""
        print(f"events recorded: {self._recorded}{there}", flush=True)
        if self._bad:
            say(f"bad lines skipped: {self._bad}")
        elif self._failure:
            say(f"{self._failure}; events recorded before it: {self._recorded}")


def _lines(stream: BufferedIOBase) -> Iterator[bytes]:
    """The lines of `stream`; of one that is too long, its beginning."""
    while line := stream.readline(_MAX_LINE):
        yield line
        while len(line) == _MAX_LINE and not line.endswith(b"\n"):
            line = stream.readline(_MAX_LINE)


def _event(line: bytes) -> _NewEvent | None:
    """The event of one line, ``None`` for a blank one; `ValueError` with the reason when it is neither."""
    value = _members(line, lambda text: parse(text, MAX_DEPTH + 1), _MEMBERS)  # the event itself is a level
    if value is None:
        return None
    members: list[JsonValue] = [value.get(name) for name in _MEMBERS]
    return cast("_NewEvent", tuple(members))


def _archived(line: bytes) -> Event | None:
    """Likewise, with the text of its payload as it was, unless somebody has since formatted the line anew."""
    value = _members(line, _loads, _ARCHIVED)
    if value is None:
        return None
    event_id, *rest = (value.get(name) for name in _ARCHIVED)
    if type(event_id) is not int or not 0 < event_id < 1 << 63:
        raise ValueError("event_id is not from 1 to 2**63-1")
    text = line.decode()
    payload = text[text.find('"payload":') + 10 : text.rfind(',"created_at":')]
    if "payload" not in value:
        if not isinstance(odd := value.get("payload_json"), str):
            raise ValueError("payload is missing")
        payload = odd
    elif _value(payload) != value["payload"]:
        payload = json.dumps(value["payload"], ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        parse(payload)
    texts = cast("Sequence[str]", rest)
    "".join(text or "" for text in (*texts, payload)).encode("utf-8", "surrogateescape")  # as they will be stored
    task, item, kind, at = texts
    return Event(
        event_id=event_id, task_id=task, task_item_id=item, event_type=kind, payload_json=payload, created_at=at
    )


def _loads(text: str) -> JsonValue:
    """`json.loads`; unlike `parse` it takes the escapes by which bytes are written that are no UTF-8."""
    try:
        return cast("JsonValue", json.loads(text))
    except RecursionError:
        raise ValueError("nested too deep") from None


def _members(
    line: bytes, load: Callable[[str], JsonValue], members: Mapping[str, type | UnionType]
) -> JsonObject | None:
    if line.isspace():
        return None
    if len(line) == _MAX_LINE:
        raise ValueError(f"longer than {_MAX_LINE} bytes")
    try:
        value = load(line.decode())
    except JSONDecodeError as error:
        raise ValueError(f"not JSON: {error.msg} at column {error.colno}") from error
    if not isinstance(value, dict):
        raise ValueError("not a JSON object")
    if "payload_json" in value and "payload" not in value and "payload" in members:
        raise ValueError("its payload was not JSON where it comes from, and cannot be recorded anew")
    for name, kind in members.items():
        if not isinstance(value.get(name), kind):
            raise ValueError(f"{name} is missing or of the wrong type")
    return value
