# SPDX-License-Identifier: MIT
"""Which threads are inside a transaction that writes, so that none of them waits for itself.

A signal handler may interrupt such a transaction. If it then wrote to the same log by another handle
of this process, it would wait for a lock that its own thread holds.
"""

from typing import Final

WRITING: Final[set[tuple[str, int]]] = set()
"""The key of a store, and the ident of a thread that writes to it or is about to begin."""
