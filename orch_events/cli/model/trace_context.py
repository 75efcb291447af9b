# SPDX-License-Identifier: MIT
"""The trace context of the W3C (https://www.w3.org/TR/trace-context/), as ``TRACEPARENT`` and payloads have it."""

import re
from typing import Final, NamedTuple, Self

__all__ = ["TraceContext"]

_IDS_AND_FLAGS: Final = r"-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}"

_TRACEPARENT: Final = re.compile(
    "00" + _IDS_AND_FLAGS + "|(?!00|ff)[0-9a-f]{2}" + _IDS_AND_FLAGS + "(-.*)?"
)
"""A later version may have more behind the flags."""

_KNOWN_FLAGS: Final = 0b11


class TraceContext(NamedTuple):
    """Where in a trace something was called."""

    trace_id: str
    span_id: str
    """The caller's."""
    flags: int

    @classmethod
    def parse(cls, text: str) -> Self | None:
        """``None`` for a malformed one."""
        if not _TRACEPARENT.fullmatch(text):
            return None
        _, trace_id, span_id, flags, *_ = text.split("-")
        return cls(trace_id, span_id, int(flags, 16) & _KNOWN_FLAGS)

    def within(self, span_id: str) -> str:
        """The context of what is called from a span of this trace, as a ``TRACEPARENT``."""
        return f"00-{self.trace_id}-{span_id}-{self.flags:02x}"
