# SPDX-License-Identifier: MIT
"""Text that is safe on a terminal, and its width there.

Text from a log or a user reaches a terminal through `printable` alone, since a payload may hold escape sequences.
"""

import re
import sys
import unicodedata
from collections.abc import Callable
from typing import Final

__all__ = ["cut", "drawn", "escaped", "printable", "printable_lines", "text_width"]

_LAYOUT: Final = re.compile("([\t\n\r]+)")

_MARKS: Final = 6
"""Combining marks on one letter, at most: no script needs more."""


def printable(text: str) -> str:
    r"""`text` with whatever could end a line or drive a terminal written as an escape, such as ``\x1b``."""
    if text.isascii() and text.isprintable():
        return text
    return escaped(text, _python_escape)


def printable_lines(text: str) -> str:
    """The same, but tabs, line ends and carriage returns stay, with which progress is written over in place."""
    parts = _LAYOUT.split(text)
    parts[::2] = map(printable, parts[::2])
    return "".join(parts)


def escaped(text: str, escape: Callable[[str], str]) -> str:
    """`text` with everything escaped that would not be seen where it stands.

    That is controls, characters that turn the direction of writing or have no width, spaces that look like others, and
    marks piled up.
    """
    if not text.isprintable():
        text = "".join(char if char.isprintable() else escape(char) for char in text)
    if text.isascii():
        return text

    def escape_mark(match: re.Match[str]) -> str:
        return escape(match.group())

    return _piled_marks().sub(escape_mark, text)


def _python_escape(char: str) -> str:
    return char.encode("unicode_escape").decode()


_known_pattern: re.Pattern[str] | None = None


def _piled_marks() -> re.Pattern[str]:
    """Finds the marks on one letter beyond those that some script has use for: they cover other lines."""
    global _known_pattern
    if _known_pattern is None:
        found = (chr(code) for code in range(0x300, 0x10000) if _is_mark(chr(code)))
        marks = "".join(found) + "\U000e0100-\U000e01ef"
        _known_pattern = re.compile(f"(?<=[{marks}]{{{_MARKS}}})[{marks}]")
    return _known_pattern


def _is_mark(char: str) -> bool:
    return unicodedata.category(char) in ("Mn", "Me")


def text_width(text: str) -> int:
    """Columns of the screen that printable `text` takes."""
    if text.isascii():
        return len(text)
    return sum(map(_char_width, text))


def _char_width(char: str) -> int:
    if _is_mark(char):
        return 0
    if unicodedata.east_asian_width(char) in "WF":
        return 2
    return 1


def cut(text: str, width: int | None) -> str:
    """Printable `text` in `width` columns, if there is a limit, with an ellipsis if that loses anything."""
    if width is None or text_width(text) <= width:
        return text
    used = 0
    for index, char in enumerate(text):
        used += _char_width(char)
        if used >= width:
            return text[:index] + "…"
    return text


def drawn(text: str, ascii_forms: dict[int, int]) -> str:
    """`text` with its drawing characters, or with `ascii_forms` of them where stdout is not Unicode."""
    stdout = sys.__stdout__
    if stdout is None or stdout.encoding.lower().startswith("utf"):
        return text
    return text.translate(ascii_forms)
