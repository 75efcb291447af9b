# SPDX-License-Identifier: MIT
"""JSON text in and out: what a payload may be, and when a stored text counts as JSON.

Whether a text or a value is acceptable JSON is decided here, and nothing here knows columns, SQLite or threads. The
measure for reading is serde_json, the parser of the program whose files we share; `parse` says how it is stricter.
"""

import json
import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Final, TypeAlias, cast

from ._errors import PayloadError

JsonValue: TypeAlias = None | bool | int | float | str | list["JsonValue"] | dict[str, "JsonValue"]
JsonObject: TypeAlias = dict[str, JsonValue]

MAX_DEPTH: Final = 127
"""Containers a payload may nest; serde_json refuses the 128th."""

_TOO_BIG: Final = 2**1024 - 2**970  # the least integer that rounds to infinity
# A string, skipped whole (to the end of the text if it has none), or one bracket.
_BRACKET: Final = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*(?:"|\\?\Z)|([\[{])|([\]}])', re.DOTALL)
# A surrogate pair or any other escape, skipped whole; else a lone surrogate, in group 1.
_LONE_SURROGATE: Final = re.compile(r"\\(?:u[dD][89abAB]..\\u[dD][c-fC-F]..|u([dD][89a-fA-F]..)|.)", re.DOTALL)
# No JSON number goes on with a digit after a leading zero, so dates inside strings do not match.
_NEGATIVE_ZERO: Final = re.compile(r"-0(?![0-9.eE])")
_FIFTEEN_DIGITS: Final = re.compile("[0-9]{15}")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"the number {text[:20]} is out of range")
    return value


def _exact_int(text: str) -> int | float:
    value = _finite(text)
    return value if text == "-0" else int(text)


# `parse_float` and `parse_constant` (NaN, Infinity) cost nothing until they fire; `parse_int` costs 0.1 µs for every
# integer, so only texts that may need it pay for it.
_FAST: Final = json.JSONDecoder(parse_float=_finite, parse_constant=_finite)
_EXACT: Final = json.JSONDecoder(parse_float=_finite, parse_constant=_finite, parse_int=_exact_int)


def brackets(text: str) -> int:
    """An upper bound of the nesting depth of `text`, at the price of two substring counts."""
    return text.count("{") + text.count("[")


def _too_deep(text: str, max_depth: int = MAX_DEPTH) -> bool:
    if brackets(text) > max_depth:
        depth = 0
        for match in _BRACKET.finditer(text):
            depth += 1 if match[1] else -1 if match[2] else 0
            if depth > max_depth:
                return True
    return False


def _has_huge_int(text: str) -> bool:
    # An integer beyond the double range has 309 digits. Of so many in a row, 15 are among the samples taken at every
    # 20th place; ordinary text practically never has that.
    return len(text) >= 309 and _FIFTEEN_DIGITS.search(text[::20]) is not None


def _decode_shallow(text: str) -> JsonValue:
    # Substring tests first: over 250 bytes they cost 0.8 µs together, one regular expression 9 µs, the parser 3 µs.
    if ("\\ud" in text or "\\uD" in text) and any(match[1] for match in _LONE_SURROGATE.finditer(text)):
        raise ValueError("lone surrogate escape")
    if not text.isascii():
        text.encode()  # invalid UTF-8 in the file reaches us as lone surrogates; UnicodeEncodeError is a ValueError
    if ("-0" in text and _NEGATIVE_ZERO.search(text)) or _has_huge_int(text):
        return cast("JsonValue", _EXACT.decode(text))
    return cast("JsonValue", _FAST.decode(text))


def parse(text: str, max_depth: int = MAX_DEPTH) -> JsonValue:
    """The JSON value of a stored text; `ValueError` where serde_json would refuse it.

    `json.loads` takes ``NaN`` and ``Infinity``, numbers beyond the double range, lone surrogate escapes in any string
    or key (also an overwritten duplicate), more than 127 nested containers, and ``-0``, which is a float here, for an
    integer. Floats are correctly rounded and integers keep every digit.
    """
    if _too_deep(text, max_depth):
        raise ValueError("nested too deep")
    return _decode_shallow(text)


def parse_or_none(text: str) -> JsonValue:
    """`parse`, with ``None`` for a text that is not JSON, as the reference's `unwrap_or_default` has it."""
    try:
        return parse(text)
    except ValueError:
        return None


def _plain(value: object) -> dict[str, object]:
    """`json` knows `dict` only; a `types.MappingProxyType` or any other mapping has the same JSON form."""
    if isinstance(value, Mapping):
        return dict(cast("Mapping[str, object]", value))
    raise TypeError(f"{type(value).__name__} has no JSON form")


# `check_circular` is off because a cycle is refused as too deep; it would cost 0.1 µs a container.
_ENCODER: Final = json.JSONEncoder(
    ensure_ascii=False, check_circular=False, allow_nan=False, separators=(",", ":"), default=_plain
)


def encode(payload: object) -> str:
    """The compact JSON text of `payload`, which `parse` reads back equal (tuples as lists, keys as strings).

    Raises `PayloadError` naming the key path for anything that would not come back: numbers beyond the double
    range, lone surrogates, values without a JSON form, cycles, and more than 127 nested containers.
    """
    plain: object = payload
    if type(payload) is not dict and not isinstance(payload, Mapping):
        raise PayloadError(f"payload: expected a mapping, not {type(payload).__name__}", "payload")
    try:
        text = _ENCODER.encode(plain)
        if not text.isascii():
            text.encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise next(_faults(plain, "payload"), PayloadError(f"payload: {error}", "payload")) from error
    if _too_deep(text) or _has_huge_int(text):
        for fault in _faults(plain, "payload"):
            raise fault
    return text


# A string that no payload contains by accident or guesses by intent; stands between payloads handled together.
SENTINEL: Final = f"orch_events {os.urandom(16).hex()}"
SEPARATOR: Final = f',"{SENTINEL}",'


def encode_many(payloads: Sequence[Mapping[str, object]]) -> list[str] | None:
    """`encode` for a run of payloads in 1.9 µs each instead of 3.4; ``None`` when one of them needs a closer look."""
    if not all(type(payload) is dict for payload in payloads):
        return None
    items: list[object] = [SENTINEL] * (2 * len(payloads) - 1)
    items[::2] = payloads
    try:
        joined = _ENCODER.encode(items)[1:-1]
        if not joined.isascii():
            joined.encode()
    except (TypeError, ValueError, RecursionError):
        return None
    texts = joined.split(SEPARATOR)
    doubtful = brackets(joined) - len(payloads) >= MAX_DEPTH or _has_huge_int(joined) or len(texts) != len(payloads)
    return None if doubtful else texts


def parse_many(joined: str, count: int) -> list[JsonValue]:
    """`parse_or_none` for `count` texts joined by `SEPARATOR`, in one run of the parser where possible.

    Sentinels at exactly the odd places prove that each text was one whole JSON value: an incomplete one swallows the
    sentinel after it, and one that is more than one value moves those that follow.
    """
    try:
        values = _decode_shallow(f"[{joined}]")
    except (ValueError, RecursionError):
        values = None
    if isinstance(values, list) and len(values) == 2 * count - 1 and values[1::2] == [SENTINEL] * (count - 1):
        del values[1::2]
        spare = brackets(joined) - sum(isinstance(value, (dict, list)) for value in values)
        if spare < MAX_DEPTH or all(brackets(text) <= MAX_DEPTH for text in joined.split(SEPARATOR)):
            return values
    return [parse_or_none(text) for text in joined.split(SEPARATOR)]


def check_text(name: str, value: object) -> str:
    """`value` as a plain `str` that SQLite can store, else `PayloadError`."""
    if type(value) is str and value.isascii():
        return value
    if not isinstance(value, str):
        raise PayloadError(f"{name}: expected a string, not {type(value).__name__}", name)
    for fault in _faults(value, name):
        raise fault
    return str.__str__(value)  # members of a `StrEnum` become plain strings


def _faults(value: object, where: str, depth: int = 1) -> Iterator[PayloadError]:
    """What `encode` must refuse in `value`, which is at `where`. Walks slowly; only a refused payload pays for it."""
    match value:
        case str():
            try:
                value.encode()
            except UnicodeEncodeError as error:
                yield PayloadError(f"{where}: lone surrogate at index {error.start}", where)
        case int() if not abs(value) < _TOO_BIG:
            yield PayloadError(f"{where}: integer out of range", where)
        case float() if not abs(value) < _TOO_BIG:
            yield PayloadError(f"{where}: {value} is not JSON", where)
        case None | int() | float():
            pass
        case Mapping() | list() | tuple() if depth > MAX_DEPTH:
            yield PayloadError(f"{where[:120]}…: circular, or more than {MAX_DEPTH} containers deep", where)
        case Mapping() | list() | tuple():
            container = cast("Mapping[object, object] | Sequence[object]", value)
            for key, item in container.items() if isinstance(container, Mapping) else enumerate(container):
                if type(key) is int and not abs(key) < _TOO_BIG:  # its digits may be too many to print
                    yield PayloadError(f"{where}: a key out of range", where)
                    continue
                place = f"{where}.{key}" if isinstance(key, str) and key.isidentifier() else f"{where}[{key!r}]"
                if not isinstance(key, (str, int, float, type(None))):
                    yield PayloadError(f"{place}: a key must be a string, not {type(key).__name__}", place)
                yield from _faults(key, place, depth)
                yield from _faults(item, place, depth + 1)
        case _:
            yield PayloadError(f"{where}: {type(value).__name__} has no JSON form", where)
