# SPDX-License-Identifier: MIT
"""Output that another program is to read: UTF-8 in any locale."""

import json
import os
import sys
from collections.abc import Iterable

from .output_streams import is_wrapper
from .terminal_text import escaped

__all__ = ["print_json", "print_text"]


def print_text(text: str) -> None:
    """Print a text as it is."""
    _print_utf_8()
    print(end=text)


def print_json(lines: Iterable[str], flush: bool = False) -> None:
    """Print lines of JSON; on a terminal, with JSON's escapes for what `printable` escapes."""
    _print_utf_8()
    on_terminal = os.isatty(1)
    for line in lines:
        print(escaped(line, _json_escape) if on_terminal else line, flush=flush)


def _print_utf_8() -> None:
    if is_wrapper(sys.stdout):
        # Bytes of the file that are not UTF-8 reach us as lone surrogates, and this error handler writes those as JSON's
        # own escapes: \udc80.
        sys.stdout.reconfigure(encoding="utf-8", errors="backslashreplace", newline="\n")


def _json_escape(char: str) -> str:
    if char == "\t":  # can only stand between two tokens, where no escape can
        return char
    return json.dumps(char)[1:-1]
