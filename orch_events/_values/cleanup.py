# SPDX-License-Identifier: MIT
"""What a cleanup is asked to do, and what it reports. The work is done in `_maintenance`, which may be deleted."""

from datetime import datetime
from typing import Final, NamedTuple

BATCH: Final = 5000
"""Events that one commit of a cleanup deletes at most; it takes fewer to hold the lock for a moment only."""


class CleanupPlan(NamedTuple):
    """The checked arguments of `EventLog.cleanup`."""

    cutoff: datetime | None
    """In UTC."""
    keep_last: int
    only_finished: bool
    max_bytes: int | None
    batch: int
    dry_run: bool
    archive: str | None
    gzip: bool
    abandoned: frozenset[str]
    output: tuple[str, ...]
    archive_output: bool


class Cleanup(NamedTuple):
    """What a cleanup did; in a dry run, what it would do."""

    events: int = 0
    tasks: int = 0
    """Tasks of which nothing is left."""
    bytes_freed: int = 0
    """By how much the file shrank."""
    bytes_reusable: int = 0
    """Free space left inside the file: if it was made without ``auto_vacuum``, only a VACUUM gives it back."""
    archived: tuple[str, ...] = ()
    """The files written, in the order of their events."""
    too_large: tuple[int, ...] = ()
    """Events that were to go and stay, since no line of an archive may be as long: other programs can record such."""
    output_files: int = 0
    """Files with the output of ``orch-events run`` that went with the events that named them."""
    output_missing: int = 0
    """Files that deleted events named and that were not found where their output was looked for."""
    found: int = 0
    """Events found that may go. It grows ahead of `events`: for an archive, by some hundred thousand."""
