# SPDX-License-Identifier: MIT
"""Waiting for sockets, of any number: `select.select` refuses descriptors above 1,023."""

import select
import sys
from collections.abc import Sequence
from math import ceil


def readable(sockets: Sequence[int], seconds: float) -> list[int]:
    """Those that can be read from, once there are some or after so many seconds."""
    if sys.platform == "win32":  # where the numbers are no indexes
        found: list[int] = select.select(sockets, (), (), seconds)[0]
        return found
    else:
        poll = select.poll()
        for descriptor in sockets:
            poll.register(descriptor, select.POLLIN)
        return [descriptor for descriptor, _ in poll.poll(ceil(1000 * seconds))]
