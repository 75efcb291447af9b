# SPDX-License-Identifier: MIT
"""Retention: which events go, in short commits beside live writers, archived before they do.

The oldest events go first. They are decided on in parts, with an archive of some hundred thousand, so that memory and
the archive's files stay bounded. A part is first archived, if that is wanted, and then deleted in batches, each
sized so that its commit holds the write lock for `_MAX_LOCK_SECONDS`, with a pause after it. A cleanup may be
left by an exception anywhere, and begun again: an event is then in the log or in a file, or in both.
"""

import contextlib
import os
from collections.abc import (
    Callable,
    Generator,
    Iterator,
    Sequence,
)
from typing import Final, NamedTuple

from .._storage.interface import (
    MAX_ID,
    MaintenanceSession,
    RetentionRules,
)
from .._values.cleanup import Cleanup, CleanupPlan
from .._values.errors import WriteError
from .archive_file import write_archive
from .output_removal import OutputRemoval, Removed

_FIRST_BATCH: Final = 100

_MAX_LOCK_SECONDS: Final = 0.003
"""How long a commit may keep the write lock."""

_ROWS_LOOKED_AT: Final = 4096
"""Rows that one step looks at: 20 ms without any lock."""

_EVENTS_PER_ARCHIVE: Final = 500_000
"""Events decided on, and archived in one file, before they go: some 30 MB of ids, 150 MB of text."""

_EVENTS_PER_PART: Final = 20_000
"""The same where no archive is wanted: so the first go within a second."""

_NOTHING: Final = Cleanup()


class _Part(NamedTuple):
    ids: Sequence[int]
    """In the order in which they go."""
    last_ids: frozenset[int]
    """Those of them that are the last of their task."""
    no_restart_up_to: int | None
    rules: RetentionRules

    def without(self, kept: frozenset[int]) -> "_Part":
        if not kept:
            return self
        return self._replace(ids=[event_id for event_id in self.ids if event_id not in kept])


def clean(
    session: MaintenanceSession,
    log_name: str,
    plan: CleanupPlan,
    progress: Callable[[Cleanup], object] | None,
) -> Cleanup:
    """Carry out `plan` on the log of that name; `progress` is called after each commit."""
    cleaning = _Cleaning(session, log_name, plan)
    with contextlib.closing(cleaning.steps()) as steps:
        for so_far in steps:
            if progress is not None:
                progress(so_far)
    return cleaning.done


class _Cleaning:
    """One cleanup, on a session of its own."""

    def __init__(
        self,
        session: MaintenanceSession,
        log_name: str,
        plan: CleanupPlan,
    ) -> None:
        self.session = session
        self.log_name = log_name
        self.plan = plan
        self.rules = RetentionRules(
            plan.cutoff,
            plan.keep_last,
            plan.only_finished,
            plan.abandoned,
        )
        self.output: OutputRemoval | None = None
        if plan.output:
            kept_in = plan.archive if plan.archive_output else None
            goes_with_event = plan.only_finished and plan.keep_last == 0
            self.output = OutputRemoval(
                session,
                plan.output,
                kept_in,
                goes_with_event,
            )
        self.done = _NOTHING

    def steps(self) -> Generator[Cleanup, None, None]:
        """Do it; yields what was done so far after each commit, with no transaction open."""
        bytes_before = self.session.space().total
        if self.rules.cutoff is not None or self.plan.max_bytes is None:
            yield from self._prune(MAX_ID)
        self.rules = self.rules._replace(cutoff=None, abandoned=frozenset())
        if self.plan.max_bytes is not None:
            yield from self._shrink_to(self.plan.max_bytes)
        if not self.plan.dry_run:
            self.session.merge_forgotten_tasks()
            yield from self._give_space_back(bytes_before)

    def _shrink_to(self, max_bytes: int) -> Iterator[Cleanup]:
        """Delete the oldest events until the others fit into `max_bytes`, or no more may go."""
        while True:
            space = self.session.space()
            events = self.session.count_events()
            before = self.done
            used = space.total - space.free
            excess = used - max_bytes
            if excess > 0 and events > 0:
                if self.plan.dry_run:
                    self.done = _NOTHING
                yield from self._prune((excess * events + used - 1) // used)
            has_changed = (self.done.events, self.done.too_large) != (
                before.events,
                before.too_large,
            )
            if self.plan.dry_run or not has_changed:
                if self.done.events <= before.events:
                    self.done = before
                return

    def _give_space_back(self, bytes_before: int) -> Iterator[Cleanup]:
        free_before = MAX_ID
        free = self.session.space().free
        while 0 < free < free_before:
            self.session.give_back()
            free_before = free
            space = self.session.space()
            free = space.free
            freed = max(0, bytes_before - space.total)
            yield from self._report(self.done._replace(bytes_freed=freed, bytes_reusable=free))

    def _report(self, done: Cleanup) -> Iterator[Cleanup]:
        """Between two commits: say what was done, and let others write."""
        self.done = done
        self.session.merge_commits()
        yield done
        self.session.let_others_write(_MAX_LOCK_SECONDS)

    def _prune(self, wanted: int) -> Iterator[Cleanup]:
        """Archive and delete about `wanted` events."""
        batch = min(_FIRST_BATCH, self.plan.batch)
        for part in self._parts(wanted):
            if part is None:
                yield self.done
                continue
            if self.output is not None:
                self.output.note(sorted(part.ids))
            if self.plan.dry_run:
                self._count(part)
                continue
            file = None
            remaining = part
            if self.plan.archive is not None:
                file = self._write_archive(self.plan.archive, part)
                remaining = part.without(frozenset(self.done.too_large))
            events_before = self.done.events
            try:
                batch = yield from self._delete(remaining, batch)
            except BaseException:
                if file is not None and self.done.events == events_before:
                    self._withdraw(file, remaining.ids)
                with contextlib.suppress(WriteError, OSError):
                    self._remove_output()
                raise
            self._remove_output()

    def _count(self, part: _Part) -> None:
        """In a dry run: what would go."""
        self.done = self.done._replace(
            events=self.done.events + len(part.ids),
            tasks=self.done.tasks + len(part.last_ids),
        )
        if self.output is not None:
            self._add(self.output.count(sorted(part.last_ids)))

    def _remove_output(self) -> None:
        if self.output is not None:
            self._add(self.output.remove())

    def _add(self, removed: Removed) -> None:
        self.done = self.done._replace(
            output_files=self.done.output_files + removed.files,
            output_missing=self.done.output_missing + removed.missing,
        )

    def _delete(self, part: _Part, batch: int) -> Generator[Cleanup, None, int]:
        """Delete a part, batch by batch; returns the size of the next batch."""
        no_restart_up_to = part.no_restart_up_to
        start = 0
        while start < len(part.ids):
            some = part.ids[start : start + batch]
            start += batch
            deleted = self.session.delete(
                [event_id for event_id in some if event_id not in part.last_ids],
                [event_id for event_id in some if event_id in part.last_ids],
                no_restart_up_to,
                part.rules,
            )
            no_restart_up_to = deleted.no_restart_up_to
            yield from self._report(
                self.done._replace(
                    events=self.done.events + deleted.events, tasks=self.done.tasks + deleted.tasks
                )
            )
            # At most twice as many as before, or half as many.
            change = _MAX_LOCK_SECONDS / max(deleted.locked_seconds, 1e-6)
            batch = int(batch * min(2.0, max(0.5, change)))
            batch = max(1, min(self.plan.batch, batch))
        return batch

    def _write_archive(self, folder: str, part: _Part) -> str | None:
        """Write what is to go; the file's name, or ``None`` if every event is too large for it."""
        ids = sorted(part.ids)
        with contextlib.closing(self.session.events(ids)) as events:
            written = write_archive(
                folder,
                self.log_name,
                ids,
                events,
                self.plan.gzip,
            )
        self.done = self.done._replace(too_large=(*self.done.too_large, *written.too_large))
        if written.name is not None:
            self.done = self.done._replace(archived=(*self.done.archived, written.name))
        return written.name

    def _withdraw(self, file: str, ids: Sequence[int]) -> None:
        """Remove an archive of which nothing was deleted, or each try that fails would leave another."""
        with contextlib.suppress(WriteError):  # then it stays
            if self.session.count_present(ids) == len(ids):
                os.unlink(file)

    def _parts(self, wanted: int) -> Iterator[_Part | None]:
        """About `wanted` events that are to go, the oldest first, some at a time; ``None`` while it looks for them."""
        from array import array  # not at the top: each import of the library would pay for it

        end = self.session.last_id()
        rules = self.rules._replace(up_to=end)
        after_id = 0
        left = wanted
        most = _EVENTS_PER_PART if self.plan.archive is None else _EVENTS_PER_ARCHIVE
        while after_id < end and left > 0:
            ids = array("q")
            last_ids: set[int] = set()
            no_restart_up_to = MAX_ID
            if self.rules.only_finished:
                no_restart_up_to = self.session.last_id()
            kept = frozenset(self.done.too_large)
            while after_id < end and left > 0 and len(ids) < most:
                rows = min(_ROWS_LOOKED_AT, left)
                found = self.session.select_prunable(rules, after_id, rows)
                after_id = found.end
                selected = [event_id for event_id in found.ids if event_id not in kept]
                last = [event_id for event_id in found.last_ids if event_id not in kept]
                ids.extend(selected)
                ids.extend(last)
                last_ids.update(last)
                left -= len(selected) + len(last)
                found_now = self.done.found + len(selected) + len(last)
                self.done = self.done._replace(found=found_now)
                yield None
            if ids:
                yield _Part(
                    ids,
                    frozenset(last_ids),
                    no_restart_up_to,
                    rules,
                )
