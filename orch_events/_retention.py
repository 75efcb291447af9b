# SPDX-License-Identifier: MIT
"""Retention: the order in which events go, in batches beside live writers, archived before they do; and `Stats`.

No SQL here: what a single transaction does is decided in `_upkeep`.
"""

import contextlib
import os
import re
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from functools import partial
from typing import Final, NamedTuple

from ._connection import PAGE_BYTES, data_version
from ._events import TASK_STATUS, event_json, instant
from ._rows import MAX_ID, read_last_id
from ._upkeep import Rules, checkpoint, forget, plan, prune, read_edge, read_events, read_size, read_totals
from ._upkeep import read_types, vacuum

BATCH: Final = 5000
"""Events that one commit deletes at most; it takes fewer to stay near `_HELD`."""

_HELD: Final = 0.003
"""How long a commit may keep the write lock, in seconds. SQLite looks again after 1, 2 and 5 ms, so that with a pause
as long in between whoever waits gets it after one commit."""

_PAUSE: Final = 0.02
"""How long to leave whoever writes alone, in seconds: so that of a hundred commits one has to wait. With both, the p99
of acks rose 1.3 to 3 times beside a cleanup; with 5 ms, 5 times."""

_WINDOW: Final = 4096
"""Rows looked at in one step: 20 ms without any lock."""

_PART: Final = 500_000
"""Events decided on, and archived in one file, before they go: 4 MB of ids, some 150 MB of text."""

_VACUUM_PAGES: Final = 100
"""Pages given back in one commit: 3 ms."""

_EXACT: Final = 100_000
"""Events whose types are all counted, in 40 ms; of more, a sample is."""


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


@dataclass(kw_only=True, eq=False, repr=False)
class Cleaning:
    """One cleanup, on a connection of its own. May be left by an exception anywhere, and begun again."""

    connection: sqlite3.Connection
    path: str
    rules: Rules
    max_bytes: int | None
    batch: int
    dry_run: bool
    archive: str | None
    gzip: bool
    timeout: float
    progress: Callable[[Cleanup], object] | None
    done: Cleanup = Cleanup()

    def run(self) -> Cleanup:
        self.connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, PAGE_BYTES)
        before, _ = read_size(self.connection)
        if self.rules.cutoff is not None or self.max_bytes is None:
            self._prune(None)
        self.rules = self.rules._replace(cutoff=None)
        while self.max_bytes is not None:
            size, free = read_size(self.connection)
            events = sum(count for _, _, count in read_totals(self.connection))
            so_far, excess = self.done, size - free - self.max_bytes
            if excess > 0 < events:
                self.done = Cleanup() if self.dry_run else so_far
                self._prune(-(-excess * events // (size - free)))
            if self.dry_run or self.done.events == so_far.events:
                self.done = self.done if self.done.events > so_far.events else so_far
                break
        if not self.dry_run:
            forget(self.connection, self.timeout)
            free, left = MAX_ID, read_size(self.connection)[1]
            while 0 < left < free:
                vacuum(self.connection, _VACUUM_PAGES, self.timeout)
                free, (size, left) = left, read_size(self.connection)
                self._tell(self.done._replace(bytes_freed=max(0, before - size), bytes_reusable=left))
        return self.done

    def _tell(self, done: Cleanup) -> None:
        """Between two commits: let others write."""
        self.done = done
        checkpoint(self.connection)
        if self.progress is not None:
            self.progress(done)
        before = data_version(self.connection)
        time.sleep(_HELD)
        if data_version(self.connection) != before:
            time.sleep(_PAUSE)

    def _prune(self, wanted: int | None) -> None:
        count = 100
        for ids, known_id in self._parts(wanted):
            if self.dry_run:
                tasks = self.done.tasks + sum(last < 0 for last in ids)
                self.done = self.done._replace(events=self.done.events + len(ids), tasks=tasks)
                continue
            if self.archive is not None:
                file = self._write(self.archive, sorted(map(abs, ids)))
                self.done = self.done._replace(archived=(*self.done.archived, file))
            start = 0
            while start < len(ids):
                some = ids[start : start + count]
                events, tasks, held, known_id = prune(self.connection, some, known_id, self.timeout)
                start += count
                self._tell(self.done._replace(events=self.done.events + events, tasks=self.done.tasks + tasks))
                count = max(1, min(self.batch, int(count * min(2.0, max(0.5, _HELD / max(held, 1e-6))))))

    def _parts(self, wanted: int | None) -> Iterator[tuple[Sequence[int], int]]:
        """The ids that are to go, the oldest first and about `wanted`, some at a time; with the newest event that was
        looked at."""
        from array import array  # by who needs it, since each import of the library would pay for it

        end, after_id, left = read_last_id(self.connection), 0, MAX_ID if wanted is None else wanted
        while after_id < end and left > 0:
            ids = array("q")
            known_id = read_last_id(self.connection) if self.rules.only_finished else MAX_ID
            while after_id < end and left > 0 and len(ids) < _PART:
                found, after_id = plan(self.connection, self.rules, after_id, min(_WINDOW, left))
                ids.extend(found)
                left -= len(found)
            if ids:
                yield ids, known_id

    def _write(self, folder: str, ids: Sequence[int]) -> str:
        """Write the events as `events --json` prints them; the file has its name when all of it is on the disk."""
        os.makedirs(folder, exist_ok=True)
        for left in os.scandir(folder):  # by one that was killed, a day ago so that it is not what another writes
            with contextlib.suppress(OSError):
                if re.fullmatch(r"\.orch_events-\w{16}", left.name) and left.stat().st_mtime < time.time() - 86_400:
                    os.unlink(left)
        stem, now = os.path.splitext(os.path.basename(self.path))[0], datetime.now(timezone.utc)
        ending = ".jsonl.gz" if self.gzip else ".jsonl"
        name = os.path.join(folder, f"{stem}-{now:%Y%m%dT%H%M%S.%fZ}-{ids[0]}-{ids[-1]}{ending}")
        temporary = os.path.join(folder, f".orch_events-{os.urandom(8).hex()}")
        try:
            with open(temporary, "xb", opener=partial(os.open, mode=0o600)) as file:
                events = read_events(self.connection, ids)
                lines = (f"{event_json(event)}\n".encode(errors="backslashreplace") for event in events)
                if self.gzip:
                    import gzip

                    with gzip.open(file, "wb", 6) as stream:
                        stream.writelines(lines)
                else:
                    file.writelines(lines)
                file.flush()
                os.fsync(file.fileno())
            os.rename(temporary, name)
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary)
            raise
        if os.name != "nt":
            descriptor = os.open(folder, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        return name


class Stats(NamedTuple):
    """Figures of a log at one moment (nearly: they are read one after the other)."""

    events: int
    tasks: Mapping[str, int]
    """Tasks by status: ``running``, ``paused``, ``completed``, ``failed``, ``cancelled``, or ``unknown``."""
    event_types: Mapping[str, int]
    """Events by type, the most frequent first; estimated if `sampled` is less than `events`."""
    sampled: int
    """How many events were looked at for their type."""
    oldest: str | None
    newest: str | None
    """When the first and the last event were recorded, as stored."""
    file_bytes: int
    wal_bytes: int
    event_bytes: float
    """What an event takes in the file on the average, indexes included."""
    days: Mapping[str, int]
    """Events of each of the last days, in UTC, by the ids of its first and last: with those pruned in between."""


def read_stats(connection: sqlite3.Connection, path: str, days: int) -> Stats:
    totals = read_totals(connection)
    events = sum(count for _, _, count in totals)
    types = read_types(connection, events if events > _EXACT else 0)
    sampled = sum(types.values())
    oldest, newest = read_edge(connection, newest=False), read_edge(connection, newest=True)
    size, free = read_size(connection)
    return Stats(
        events=events,
        tasks={TASK_STATUS.get(kind or "", "unknown"): tasks for kind, tasks, _ in totals},
        event_types={kind: round(count * events / (sampled or 1)) for kind, count in types.items()},
        sampled=sampled,
        oldest=oldest and oldest[1],
        newest=newest and newest[1],
        file_bytes=os.stat(path).st_size,
        wal_bytes=os.stat(f"{path}-wal").st_size if os.path.exists(f"{path}-wal") else 0,
        event_bytes=(size - free) / events if events else 0.0,
        days=_days(connection, newest[0] + 1 if newest else 0, days),
    )


def _days(connection: sqlite3.Connection, end: int, count: int) -> dict[str, int]:
    """Found by halving, since the order of ids is nearly that of times: 20 rows are read for a day of a million."""
    from bisect import bisect_left

    def first(event_id: int) -> tuple[int, str]:
        return read_edge(connection, newest=False, from_id=event_id) or (end, "")

    def at(event_id: int) -> datetime:
        return instant(first(event_id)[1]) or datetime.min.replace(tzinfo=timezone.utc)

    today = datetime.now(timezone.utc).replace(hour=0, minute=0, second=0, microsecond=0)
    starts = [today - timedelta(days=days) for days in range(count - 1, -1, -1)]
    places = [*(bisect_left(range(end), start, key=at) for start in starts), end]
    # A place is behind the last event before it: a hole that follows belongs to no day.
    return {f"{day:%Y-%m-%d}": max(0, stop - first(place)[0]) for day, place, stop in zip(starts, places, places[1:])}
