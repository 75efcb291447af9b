# SPDX-License-Identifier: MIT
"""From a payload to JSON text that reads back equal, or to a `PayloadError` with the key path.

The fast path encodes first and then looks at what the text cannot show: types of keys, depth, huge
integers. A payload that is refused, or that holds other mappings and keys than `dict` and `str`, is
copied value by value instead; the copy finds the place of the fault.
"""

import json
import math
from collections.abc import (
    Callable,
    Iterable,
    Mapping,
    Sequence,
)
from typing import Final, cast

from .errors import PayloadError
from .json_text import (
    JsonValue,
    is_too_deep,
    may_have_huge_int,
)
from .limits import MAX_DEPTH

_LEAST_INFINITE_INT: Final = 2**1024 - 2**970
"""The least integer that rounds to infinity as a double."""


class _UnknownType(TypeError):
    """`json` has met a value that is neither of its own types nor of a subclass of one."""


def _refuse_unknown(value: object) -> object:
    raise _UnknownType(f"{type(value).__name__} has no JSON form")


# `check_circular` is off because a cycle is refused as too deep; it would cost 0.1 µs a container.
_ENCODER: Final = json.JSONEncoder(
    ensure_ascii=False,
    check_circular=False,
    allow_nan=False,
    separators=(",", ":"),
    default=_refuse_unknown,
)
_type_of = cast("Callable[[object], object]", type)
_KEY_TYPES: Final = frozenset[object]((str,))
_SCALAR_TYPES: Final = frozenset[object]((str, int, float, bool, type(None)))


def encode_value(value: object) -> str:
    """The compact JSON text of `value`.

    Raises `ValueError` for a lone surrogate, and what else `json` raises.
    """
    text = _ENCODER.encode(value)
    if not text.isascii():
        text.encode()  # a lone surrogate is a UnicodeEncodeError, which is a ValueError
    return text


def encode(payload: object) -> tuple[Mapping[str, object], str]:
    """What of `payload` is recorded, and its compact JSON text, which `parse` reads back equal
    (tuples as lists).

    The first is `payload` itself if it is a `dict`, else a plain copy: the methods of another
    mapping need not agree with each other, so what else is wanted of it has to come from the copy.

    Raises `PayloadError` naming the key path for what would not read back: keys that are no
    strings, numbers beyond the double range, lone surrogates, values without a JSON form, cycles,
    and more than 127 nested containers.
    """
    if _type_of(payload) is dict:
        known = cast("dict[str, object]", payload)
        try:
            text = encode_value(known)
        except (TypeError, ValueError, RecursionError) as error:
            _checked_copy(known)  # raises what is wrong, and where
            if not isinstance(error, _UnknownType):  # a mapping further inside has a copy
                raise
        else:
            # One type test for each key: 0.3 µs for twelve. A mapping further inside shows by its
            # brace.
            if text.count("{") > 1:
                is_plain = is_made_of_plain_types(known)
            else:
                is_plain = has_plain_keys(known)
            if is_plain and not is_too_deep(text) and not may_have_huge_int(text):
                return known, text
    copy = _checked_copy(payload)
    return copy, encode_value(copy)


def has_plain_keys(keys: Iterable[object]) -> bool:
    """Whether every key is exactly a `str`; a subclass may hash otherwise than its text."""
    return _KEY_TYPES.issuperset(map(_type_of, keys))


def is_made_of_plain_types(payload: dict[str, object]) -> bool:
    """Whether `payload` holds only the types that `json` makes, and tuples, with keys that are
    exactly `str`, at any depth.

    `json` writes a key that is a number, a bool or ``None`` as a string, so two keys may become
    one. A subclass of `dict` may list other items than it holds.
    """
    waiting: list[object] = [payload]
    while waiting:
        value = waiting.pop()
        items: Sequence[object]
        if type(value) is dict:
            known = cast("dict[str, object]", value)
            if not has_plain_keys(known):
                return False
            items = list(known.values())
        elif type(value) is list or type(value) is tuple:
            items = cast("Sequence[object]", value)
        elif isinstance(value, (str, int, float)):
            continue
        else:
            return False
        if not _SCALAR_TYPES.issuperset(map(_type_of, items)):
            waiting.extend(item for item in items if _type_of(item) not in _SCALAR_TYPES)
    return True


def check_text(name: str, value: object) -> str:
    """`value` as a plain `str` that a store can hold, else `PayloadError`."""
    if type(value) is str and value.isascii():
        return value
    if not isinstance(value, str):
        raise PayloadError(f"{name}: expected a string, not {type(value).__name__}", name)
    try:
        return _checked_text(value)
    except _Refusal as refusal:
        raise PayloadError(f"{name}: {refusal.reason}", name) from refusal.__cause__


class _Refusal(Exception):
    """Why a value cannot be recorded.

    The containers around it add where it is, from the inside out.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason
        self.path: list[str] = []


def _checked_copy(payload: object) -> dict[str, JsonValue]:
    """A copy of `payload` in the types that `json` makes.

    Raises the `PayloadError` that says what is wrong, and where.
    """
    if not isinstance(payload, Mapping):
        raise PayloadError(f"payload: expected a mapping, not {type(payload).__name__}", "payload")
    try:
        return _checked_mapping(cast("Mapping[object, object]", payload), 1)
    except _Refusal as refusal:
        where = "payload" + "".join(reversed(refusal.path))
        shown = where
        if len(where) > 500:
            shown = f"{where[:500]}…"
        raise PayloadError(f"{shown}: {refusal.reason}", where) from refusal.__cause__


def _checked(value: object, depth: int) -> JsonValue:
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return _checked_text(value)
    if isinstance(value, int):
        if not -_LEAST_INFINITE_INT < int.__int__(value) < _LEAST_INFINITE_INT:
            raise _Refusal("integer out of range")
        return int.__int__(value)
    if isinstance(value, float):
        if not math.isfinite(value):
            raise _Refusal(f"{float.__repr__(value)} is not JSON")
        return float.__float__(value)
    if isinstance(value, Mapping):
        return _checked_mapping(cast("Mapping[object, object]", value), depth)
    if isinstance(value, (list, tuple)):
        return _checked_list(cast("Sequence[object]", value), depth)
    raise _Refusal(f"{type(value).__name__} has no JSON form")


def _checked_text(value: str) -> str:
    text = str.__str__(value)  # a member of a `StrEnum` becomes a plain string
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise _Refusal(f"lone surrogate at index {error.start}") from error
    return text


def _check_depth(depth: int) -> None:
    if depth > MAX_DEPTH:
        raise _Refusal(f"circular, or more than {MAX_DEPTH} containers deep")


def _checked_mapping(value: Mapping[object, object], depth: int) -> dict[str, JsonValue]:
    _check_depth(depth)
    copy: dict[str, JsonValue] = {}
    for key, item in list(value.items()):
        try:
            if not isinstance(key, str):
                raise _Refusal(f"a key must be a string, not {type(key).__name__}")
            name = _checked_text(key)
            if name in copy:
                raise _Refusal("this key comes twice")
            copy[name] = _checked(item, depth + 1)
        except _Refusal as refusal:
            refusal.path.append(_path_of_key(key))
            raise
    return copy


def _checked_list(value: Sequence[object], depth: int) -> list[JsonValue]:
    _check_depth(depth)
    copy: list[JsonValue] = []
    for index, item in enumerate(value):
        try:
            copy.append(_checked(item, depth + 1))
        except _Refusal as refusal:
            refusal.path.append(f"[{index}]")
            raise
    return copy


def _path_of_key(key: object) -> str:
    """The part that a key adds to a key path."""
    if isinstance(key, str):
        name = str.__str__(key)
        if name.isidentifier():
            return f".{name}"
        return f"[{name!r}]"
    try:
        return f"[{key!r}]"
    except ValueError:  # an integer of more digits than Python prints
        return f"[{type(key).__name__}]"
