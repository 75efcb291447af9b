# SPDX-License-Identifier: MIT
"""Reads a selection page by page, and raises an error for a reader that comes to a gap of pruned events.

Each gap raises `PrunedError` once: for a reader that starts at it, and for one that was overtaken by a
cleanup. Events that are left before the gap come first. Whether events were pruned is asked after a
page was read, so all that was missing from the page is known of.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, NamedTuple

from .._storage.interface import (
    MAX_ID,
    Page,
    ReadSession,
    Selection,
)
from .._values.errors import PrunedError
from .read_sessions import ReadSessions

PAGE_ROWS: Final = 2048
"""Rows of one page at most. Every step of a query gives up the GIL, which costs 5 ms beside a busy
thread, so large pages are faster there (38,000 rows/s against 20,000 with 512); parsing one page holds
the GIL for about 10 ms."""


@dataclass(slots=True, eq=False, repr=False)
class Cursor:
    """How far one reader has read."""

    after_id: int
    gaps_acknowledged: int | None = None
    """Number of pruned events that this reader already knows about; ``None`` before the first page."""
    read_id: int = 0
    """The newest event read."""
    status: str | None = None
    """The task's, when it was last asked for."""
    asked_id: int = 0
    """The status has been asked for with all events up to this one."""


class _Part(NamedTuple):
    page: Page
    has_more: bool


def pages(
    sessions: ReadSessions,
    selection: Selection,
    cursor: Cursor,
    limit: int | None = None,
) -> Iterator[Page]:
    """Everything selected that is in the log now, at most `limit` rows; moves `cursor`.

    Raises `PrunedError` where the events that come next were pruned.
    """
    rows = PAGE_ROWS
    up_to = MAX_ID
    while limit is None or limit > 0:
        wanted = rows
        if limit is not None:
            wanted = min(rows, limit)
        with sessions.lend() as session:
            page = session.page(selection, cursor.after_id, up_to, wanted)
            part = _Part(page, len(page.ids) == page.limit)
            if page.was_pruned:
                part = _before_gap(
                    session,
                    sessions.path,
                    selection,
                    cursor,
                    part,
                )
            if cursor.gaps_acknowledged is None:
                cursor.gaps_acknowledged = 0
            if part.has_more and up_to == MAX_ID:
                # Later pages end here, or a fast writer would keep this reader for ever.
                up_to = session.last_id()
        page = part.page
        if page.ids:
            cursor.after_id = page.ids[-1]
            cursor.read_id = page.ids[-1]
            rows = min(PAGE_ROWS, page.limit * 2)
            yield page
            if limit is not None:
                limit -= len(page.ids)
        if not part.has_more:
            return


def _before_gap(
    session: ReadSession,
    path: str,
    selection: Selection,
    cursor: Cursor,
    part: _Part,
) -> _Part:
    """What of a page comes before the newest event that was pruned ahead of `cursor`.

    All of it if there is no gap, or the reader has got the error for it. A reader that starts here gets the
    error at once, unless the very next event is there, as it is for one that goes on as the error says.
    """
    page = part.page
    pruned = session.pruned(selection.task_id, cursor.after_id)
    starts_here = cursor.gaps_acknowledged is None
    if starts_here and cursor.after_id == 0:  # it wants all there is
        cursor.gaps_acknowledged = pruned.events
    if pruned.last_id <= cursor.after_id or pruned.events <= (cursor.gaps_acknowledged or 0):
        return part
    before = page
    if not page.ids or page.ids[-1] > pruned.last_id:  # empty: events committed since count too
        before = session.page(selection, cursor.after_id, pruned.last_id, page.limit)
    if before.ids and (not starts_here or before.ids[0] == cursor.after_id + 1):
        return _Part(before, True)
    first = pruned.last_id + 1
    if before.ids:
        first = before.ids[0]
    elif page.ids:
        first = page.ids[0]
    raise PrunedError(
        f"{path}: events after {cursor.after_id} were pruned; the next is {first}", first
    )
