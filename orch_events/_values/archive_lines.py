# SPDX-License-Identifier: MIT
"""An event as one line of JSON, the format of archives and of ``events --json``: writing, reading, and its limits.

Written: ``{"event_id":…,"task_id":…,"task_item_id":…,"event_type":…,"payload":…,"created_at":…}``, in this order and
without spaces; the payload is the stored text itself, so that numbers keep their spelling. A payload that is not JSON,
or has more values than can be recorded, is the string ``payload_json`` instead: then it takes no more memory than its
text to read the line.

Read: in any order and with any spaces. `archived_event` gives back the stored event, with the text of its payload as it
was if the line is as it was written. `new_event` gives what is needed to record an event anew.
"""

import json
import re
from collections import Counter
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from types import UnionType
from typing import Final, cast

from .errors import PayloadError
from .events import Event
from .json_text import (
    JsonObject,
    JsonValue,
    has_many_values,
    parse,
)
from .limits import (
    MAX_DEPTH,
    MAX_EVENT_BYTES,
    MAX_LINE_BYTES,
    MAX_NAME_BYTES,
    MAX_VALUES,
)
from .timestamps import instant

_LARGEST_ID: Final = (1 << 63) - 1

_OTHER_VALUES: Final = 10
"""Values that the members of a line around its payload may count for."""

# ----------------------------------------------------------------------------------------------------------- writing

_ENCODER: Final = json.JSONEncoder(ensure_ascii=False)


def _dump(text: str | None) -> str:
    return _ENCODER.encode(text)


def event_json(event: Event) -> str:
    """The event as one line of JSON."""
    text = event.payload_json
    if _can_be_payload(text):
        # A JSON text has line breaks between tokens only.
        payload = '"payload":' + text.replace("\n", " ").replace("\r", " ")
    else:
        payload = '"payload_json":' + _dump(text)
    return _line(
        event.event_id,
        event.task_id,
        event.task_item_id,
        event.event_type,
        payload,
        event.created_at,
    )


def _can_be_payload(text: str) -> bool:
    return not has_many_values(text) and _is_json(text)


def _is_json(text: str) -> bool:
    try:
        parse(text)
    except ValueError:
        return False
    return True


def _line(
    event_id: int,
    task: str,
    item: str | None,
    kind: str,
    payload: str,
    created_at: str,
) -> str:
    names = f'"task_id":{_dump(task)},"task_item_id":{_dump(item)}'
    rest = f'"event_type":{_dump(kind)},{payload},"created_at":{_dump(created_at)}'
    return f'{{"event_id":{event_id},{names},{rest}}}'


def check_size(
    task: str,
    item: str | None,
    kind: str,
    payload: str,
    created_at: str,
) -> None:
    """Raise `PayloadError` for an event that is too large to be recorded.

    An archive would not hold it, or it would cost all readers too much memory.
    """
    for where, text in (("task_id", task), ("task_item_id", item or ""), ("event_type", kind)):
        size = len(text.encode())
        if size > MAX_NAME_BYTES:
            raise PayloadError(f"{where}: {size:,} bytes; at most {MAX_NAME_BYTES:,}", where)
    if has_many_values(payload):
        raise PayloadError(f"payload: more than {MAX_VALUES:,} values", "payload")
    line = _line(
        _LARGEST_ID,
        task,
        item,
        kind,
        f'"payload":{payload}',
        created_at,
    )
    size = len(line.encode())
    if size > MAX_EVENT_BYTES:
        raise PayloadError(
            f"payload: with it, the event is a line of {size:,} bytes; at most {MAX_EVENT_BYTES:,}",
            "payload",
        )


# ----------------------------------------------------------------------------------------------------------- reading

_NEW_MEMBERS: Final[Mapping[str, type | UnionType]] = {
    "task_id": str,
    "task_item_id": str | None,
    "event_type": str,
    "payload": dict,
}

_ARCHIVED_MEMBERS: Final[Mapping[str, type | UnionType]] = {
    "event_id": int,
    "task_id": str,
    "task_item_id": str | None,
    "event_type": str,
    "created_at": str,
}

_STRING: Final = r'"[^"\\]*+(?:\\.[^"\\]*+)*+"'

_BEFORE_PAYLOAD: Final = (
    rf'{{"event_id":\d{{1,19}},"task_id":{_STRING},"task_item_id":(?:{_STRING}|null),'
    rf'"event_type":{_STRING},"payload":'
)

_BEHIND_PAYLOAD: Final = ',"created_at":'

_AFTER_PAYLOAD: Final = rf"{_BEHIND_PAYLOAD}{_STRING}}}\s*"


def new_event(line: bytes) -> tuple[str, str | None, str, JsonObject] | None:
    """The event to be recorded from a line, without its id and time; ``None`` for a blank line.

    Raises `ValueError` with the reason when it is neither. Limits of size are not checked here.
    """
    text = _bounded_text(line)
    if text is None:
        return None
    members = _object(text, _parse_line)
    load_json(text)
    if "payload_json" in members and "payload" not in members:
        raise ValueError(
            "its payload was not JSON where it comes from, and cannot be recorded anew"
        )
    _check_members(members, _NEW_MEMBERS)
    if members["event_type"] == "":
        raise ValueError("event_type is empty")
    return (
        cast("str", members["task_id"]),
        cast("str | None", members.get("task_item_id")),
        cast("str", members["event_type"]),
        cast("JsonObject", members["payload"]),
    )


def recorded_at(line: bytes) -> datetime:
    """When the event of a line was recorded, in UTC. Raises `ValueError` if the line does not say."""
    text = _bounded_text(line)
    moment = None
    if text is not None:
        told = _object(text, load_json).get("created_at")
        if isinstance(told, str):
            moment = instant(told)
    if moment is None:
        raise ValueError("created_at is missing, or no time")
    try:
        return moment.astimezone(UTC)
    except OverflowError:
        raise ValueError("created_at is a time of no year from 1 to 9999") from None


def archived_event(line: bytes) -> Event | None:
    """The event that was written as a line; ``None`` for a blank line.

    Raises `ValueError` with the reason when it is neither.
    """
    text = _bounded_text(line)
    if text is None:
        return None
    payload = _written_payload(text)
    if payload is None:
        members = _object(text, load_json)
        payload = _reformatted_payload(members)
    else:
        # Its own members are not needed, and its text is known to be JSON.
        end = text.rfind(_BEHIND_PAYLOAD)
        begin = end - len(payload)
        members = _object(f"{text[:begin]}null{text[end:]}", load_json)
    _check_members(members, _ARCHIVED_MEMBERS)
    event_id = members["event_id"]
    if type(event_id) is not int or not 0 < event_id <= _LARGEST_ID:
        raise ValueError("event_id is not from 1 to 2**63-1")
    event = Event(
        event_id=event_id,
        task_id=cast("str", members["task_id"]),
        task_item_id=cast("str | None", members.get("task_item_id")),
        event_type=cast("str", members["event_type"]),
        payload_json=payload,
        created_at=cast("str", members["created_at"]),
    )
    names = (event.task_id, event.task_item_id or "", event.event_type, event.created_at)
    for stored in (*names, payload):
        stored.encode("utf-8", "surrogateescape")  # as it will be stored
    return event


def _written_payload(text: str) -> str | None:
    """The text of the payload in a line as it was written; ``None`` if the line was formatted anew."""
    before = re.match(_BEFORE_PAYLOAD, text)
    end = text.rfind(_BEHIND_PAYLOAD)
    if before is None or end < before.end() or re.fullmatch(_AFTER_PAYLOAD, text[end:]) is None:
        return None
    payload = text[before.end() : end]
    return payload if _is_json(payload) else None


def _reformatted_payload(members: JsonObject) -> str:
    """The text of a payload from a line that was formatted anew, or of one that was not JSON."""
    if "payload" in members:
        payload = json.dumps(
            members["payload"], ensure_ascii=False, allow_nan=False, separators=(",", ":")
        )
        parse(payload)
        return payload
    payload_json = members.get("payload_json")
    if not isinstance(payload_json, str):
        raise ValueError("payload is missing")
    return payload_json


def _bounded_text(line: bytes) -> str | None:
    """The text of a line that takes bounded memory to parse; ``None`` of a blank one."""
    if not line or line.isspace():
        return None
    if len(line) > MAX_LINE_BYTES:
        raise ValueError(f"longer than {MAX_LINE_BYTES:,} bytes")
    text = line.decode()
    if has_many_values(text, MAX_VALUES + _OTHER_VALUES):
        raise ValueError(f"more than {MAX_VALUES:,} values")
    return text


def _parse_line(text: str) -> JsonValue:
    return parse(text, MAX_DEPTH + 1)  # the event itself is a level


def _object(text: str, load: Callable[[str], JsonValue]) -> JsonObject:
    try:
        value = load(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON: {error.msg} at column {error.colno}") from error
    if not isinstance(value, dict):
        raise ValueError("not a JSON object")
    return value


def _check_members(members: JsonObject, kinds: Mapping[str, type | UnionType]) -> None:
    for member, kind in kinds.items():
        if not isinstance(members.get(member), kind):
            raise ValueError(f"{member} is missing or of the wrong type")


def load_json(text: str) -> JsonValue:
    """`json.loads` that refuses an object with a key twice, since one of its values would be lost.

    Unlike `parse` it takes the escapes by which bytes are written that are not UTF-8.
    """
    try:
        return cast("JsonValue", _LOADER.decode(text))
    except RecursionError:
        raise ValueError("nested too deep") from None


def _unique_members(pairs: list[tuple[str, JsonValue]]) -> JsonObject:
    members = dict(pairs)
    if len(members) < len(pairs):
        counts = Counter(key for key, _ in pairs)
        twice = next(key for key, count in counts.items() if count > 1)
        raise ValueError(f"a key is given twice: {twice!r}")
    return members


_LOADER: Final = json.JSONDecoder(object_pairs_hook=_unique_members)
