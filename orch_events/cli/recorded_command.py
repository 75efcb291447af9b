# SPDX-License-Identifier: MIT
"""A command's words as they are recorded, without what is probably secret: a log is read by more people than a process list.

Masked are the values of variables of the environment whose names end in TOKEN, SECRET, PASSWORD or KEY, wherever they
stand; values that the command itself gives to such variables; and the password of a URL. Nothing else is known to be
secret, and what the command prints is kept as it is.
"""

import os
import re
import shlex
from typing import Final

__all__ = ["recorded_command"]

_SECRET_NAME: Final = r"\w*(?:TOKEN|SECRET|PASSWORD|KEY)"

_ARGUMENT: Final = re.compile(rf"({_SECRET_NAME})=.*", re.DOTALL)
"""A whole argument, as ``env`` takes it: its value may hold anything."""

_IN_SCRIPT: Final = re.compile(
    rf"""\b({_SECRET_NAME})=(?:"(?:\\.|[^"\\])*(?:"|$)|'[^']*(?:'|$)|\\.|[^\s;&|"'\\])+""",
    re.DOTALL,
)
"""In the text of a shell: pieces in quotes or without, up to what ends a word."""

_URL_PASSWORD: Final = re.compile(r"(\w://[^\s/:@]*):[^\s/@]+@")

_SHORTEST: Final = 4
"""Characters of a value that is looked for. A shorter one would be found in the middle of words."""

_MASK: Final = "***"


def recorded_command(words: list[str]) -> str:
    """One line, as a shell would read it."""
    values = [
        value
        for name, value in os.environ.items()
        if re.fullmatch(_SECRET_NAME, name) and len(value) >= _SHORTEST
    ]
    values.sort(key=len, reverse=True)  # one may be the beginning of another
    scripts = {index + 1 for index, word in enumerate(words) if word == "-c"}
    return shlex.join(_masked(word, values, index in scripts) for index, word in enumerate(words))


def _masked(word: str, values: list[str], is_script: bool) -> str:
    for value in values:
        word = word.replace(value, _MASK)
    argument = None if is_script else _ARGUMENT.fullmatch(word)
    if argument is not None:
        return f"{argument[1]}={_MASK}"
    word = _IN_SCRIPT.sub(rf"\1={_MASK}", word)
    return _URL_PASSWORD.sub(rf"\1:{_MASK}@", word)
