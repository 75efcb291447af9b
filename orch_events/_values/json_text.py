# SPDX-License-Identifier: MIT
"""When a stored text counts as JSON, and what it holds.

The measure is serde_json, the parser of the reference program: both write to the same files;
`parse` says where it is stricter than `json.loads`. How a payload becomes text is decided in
`json_encoding`.

Almost every text takes the fast path: a few substring tests, then the C scanner of `json`. Only a
text that could need it pays for a regular expression or for a hook at each integer.
"""

import json
import math
import re
from typing import (
    Final,
    TypeAlias,
    cast,
)

from .limits import MAX_DEPTH, MAX_VALUES

JsonValue: TypeAlias = bool | int | float | str | list["JsonValue"] | dict[str, "JsonValue"] | None

JsonObject: TypeAlias = dict[str, JsonValue]

# A string, skipped whole (up to the end of the text if it is not closed), or one bracket.
# Possessive quantifiers, or a text of nothing but escapes would take 60 times its size in memory.
_STRING_OR_BRACKET: Final = re.compile(
    r'"[^"\\]*+(?:\\.[^"\\]*+)*+(?:"|\\?\Z)|([\[{])|([\]}])', re.DOTALL
)

# In a text without escapes: a string, skipped whole, or what stands before a value.
_STRING_OR_START_OF_VALUE: Final = re.compile(r'"[^"]*+"?|([,\[{])')

# A surrogate pair or any other escape, skipped whole; else a lone surrogate, in group 1.
_LONE_SURROGATE: Final = re.compile(
    r"\\(?:u[dD][89abAB]..\\u[dD][c-fC-F]..|u([dD][89a-fA-F]..)|.)", re.DOTALL
)

# No JSON number goes on with a digit after a leading zero, so dates inside strings do not match.
_NEGATIVE_ZERO: Final = re.compile(r"-0(?![0-9.eE])")

_FIFTEEN_DIGITS: Final = re.compile("[0-9]{15}")


def _finite_float(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"the number {text[:20]} is out of range")
    return value


def _exact_int(text: str) -> int | float:
    value = _finite_float(text)
    if text == "-0":
        return value
    return int(text)


# `parse_float` and `parse_constant` (NaN, Infinity) cost nothing until they are called. `parse_int`
# costs 0.1 µs for every integer, so only a text that may need it is decoded with it.
_FAST_DECODER: Final = json.JSONDecoder(parse_float=_finite_float, parse_constant=_finite_float)
_EXACT_DECODER: Final = json.JSONDecoder(
    parse_float=_finite_float, parse_constant=_finite_float, parse_int=_exact_int
)


def count_brackets(text: str) -> int:
    """An upper bound of the nesting depth of `text`, for the price of two substring counts."""
    return text.count("{") + text.count("[")


def is_too_deep(text: str, max_depth: int = MAX_DEPTH) -> bool:
    """Whether the JSON in `text` nests more than `max_depth` containers."""
    if count_brackets(text) <= max_depth:
        return False
    depth = 0
    for match in _STRING_OR_BRACKET.finditer(text):
        if match[1]:
            depth += 1
        elif match[2]:
            depth -= 1
        if depth > max_depth:
            return True
    return False


def has_many_values(text: str, limit: int = MAX_VALUES) -> bool:
    """Whether the JSON in `text` has more than `limit` values: commas and opening brackets outside
    of strings.

    Builds no value, and stops as soon as the answer is known.
    """
    if count_brackets(text) + text.count(",") <= limit:
        return False
    found = 0
    for match in _STRING_OR_START_OF_VALUE.finditer(text.replace("\\\\", "").replace('\\"', "")):
        if match[1]:
            found += 1
        if found > limit:
            return True
    return False


def may_have_huge_int(text: str) -> bool:
    """Whether `text` may hold an integer beyond the double range. Ordinary text practically never
    does.

    Such an integer has 309 digits. Of so many in a row, 15 are among the samples taken at every
    20th character.
    """
    return len(text) >= 309 and _FIFTEEN_DIGITS.search(text[::20]) is not None


def has_lone_surrogate(text: str) -> bool:
    """Whether a string or key in `text` has an escape that is half of a surrogate pair."""
    if "\\ud" not in text and "\\uD" not in text:
        return False
    return any(match[1] for match in _LONE_SURROGATE.finditer(text))


def decode_shallow(text: str) -> JsonValue:
    """`parse` for a text of known depth.

    The substring tests cost 0.8 µs for 250 bytes; one regular expression would cost 9 µs, the
    scanner itself 3 µs.
    """
    if has_lone_surrogate(text):
        raise ValueError("lone surrogate escape")
    if not text.isascii():
        # Invalid UTF-8 of the file arrives as lone surrogates; UnicodeEncodeError is a ValueError.
        text.encode()
    if "-0" in text and _NEGATIVE_ZERO.search(text):
        return cast("JsonValue", _EXACT_DECODER.decode(text))
    if may_have_huge_int(text):
        return cast("JsonValue", _EXACT_DECODER.decode(text))
    return cast("JsonValue", _FAST_DECODER.decode(text))


def parse(text: str, max_depth: int = MAX_DEPTH) -> JsonValue:
    """The JSON value of a stored text; `ValueError` where serde_json would refuse it.

    `json.loads` accepts ``NaN`` and ``Infinity``, numbers beyond the double range, lone surrogate
    escapes in any string or key (also in a duplicate that is overwritten), and more than 127 nested
    containers; it reads ``-0``, a float to serde_json, as an integer. Floats are correctly rounded
    and integers keep every digit.
    """
    if is_too_deep(text, max_depth):
        raise ValueError("nested too deep")
    return decode_shallow(text)


def parse_or_none(text: str) -> JsonValue:
    """`parse`, with ``None`` for a text that is not JSON.

    As the reference's `unwrap_or_default` has it.
    """
    try:
        return parse(text)
    except ValueError:
        return None
