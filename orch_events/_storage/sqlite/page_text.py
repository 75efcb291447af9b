# SPDX-License-Identifier: MIT
"""The payloads of a page as one text, as one step of a statement builds it: joined by a separator."""

from ..._values.joined_texts import SEPARATOR, parse_many
from ..._values.json_text import JsonValue


class JoinedPayloads:
    """The payloads of `count` rows."""

    def __init__(self, joined: str, count: int) -> None:
        self._joined = joined
        self._count = count

    def texts(self) -> list[str]:
        return self._joined.split(SEPARATOR)

    def values(self) -> list[JsonValue]:
        return parse_many(self._joined, self._count)
