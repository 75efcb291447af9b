# SPDX-License-Identifier: MIT
"""Where a log is: the URL of a database and the name of the schema, and what of the URL may be shown.

``postgresql://user:password@host/database?orch_events_schema=name``; the schema is ``orch_events`` unless named. The
password never leaves this module but for the driver.
"""

import re
from typing import NamedTuple
from urllib.parse import (
    parse_qsl,
    urlencode,
    urlsplit,
    urlunsplit,
)
from zlib import crc32

from ..._values.errors import OrchEventsError

_SCHEMA_PARAMETER = "orch_events_schema"

_SCHEMA_NAME = re.compile(r"[a-z_][a-z0-9_]{0,62}")


class Location(NamedTuple):
    """One log."""

    url: str
    """For the driver; empty where the host connects."""
    label: str
    """For messages: the URL without password."""
    schema: str

    @property
    def lock_number(self) -> int:
        """The number of the log's advisory lock, signed 32 bits."""
        number = crc32(self.schema.encode())
        return number - (1 << 32) if number >= 1 << 31 else number


def parse_location(url: str) -> Location:
    """The location that a URL names; `OrchEventsError` for a schema's name that is none."""
    parts = urlsplit(url)
    schema = "orch_events"
    parameters = list[tuple[str, str]]()
    shown = list[tuple[str, str]]()
    for name, value in parse_qsl(parts.query, keep_blank_values=True):
        if name == _SCHEMA_PARAMETER:
            schema = value
            shown.append((name, value))
            continue
        parameters.append((name, value))
        if "password" not in name:
            shown.append((name, value))
    _check_schema(schema)
    user, at, host = parts.netloc.rpartition("@")
    user, _, _ = user.partition(":")
    label = parts._replace(netloc=f"{user}{at}{host}", query=urlencode(shown), fragment="")
    whole = parts._replace(query=urlencode(parameters))
    return Location(urlunsplit(whole), urlunsplit(label), schema)


def host_location(schema: str) -> Location:
    """The location of a log to which the host connects; `OrchEventsError` for a schema's name that is none."""
    _check_schema(schema)
    return Location("", f"PostgreSQL, schema {schema}", schema)


def _check_schema(schema: str) -> None:
    if _SCHEMA_NAME.fullmatch(schema) is None:
        raise OrchEventsError(
            f"the name of a schema is lower-case letters, digits and _, not {schema!r}"
        )


def shown_url(url: str) -> str:
    """A URL as it may be shown: without its password."""
    return parse_location(url).label
