# SPDX-License-Identifier: MIT
"""The figures of a log: counts, sizes, and its events on each of the last days."""

from bisect import bisect_left
from datetime import (
    UTC,
    datetime,
    timedelta,
)
from typing import Final

from .._storage.interface import Moment, ReadSession
from .._values.stats import Stats
from .._values.timestamps import instant

_EXACT_COUNT_LIMIT: Final = 100_000
"""Up to so many events, the types of all are counted, in 40 ms; of more, those of a sample."""


def read_stats(session: ReadSession, days: int) -> Stats:
    """The figures, and the events on each of the last `days`."""
    totals = session.status_totals()
    events = sum(total.events for total in totals)
    if events > _EXACT_COUNT_LIMIT:
        types = session.sample_event_types(events)
    else:
        types = session.event_types()
    sampled = sum(types.values())
    oldest = session.oldest()
    newest = session.newest()
    size = session.size()
    event_bytes = 0.0
    if events:
        event_bytes = size.used_bytes / events
    return Stats(
        events=events,
        tasks={total.status: total.tasks for total in totals if total.tasks},
        event_types={kind: round(count * events / sampled) for kind, count in types.items()},
        sampled=sampled,
        oldest=_time_of(oldest),
        newest=_time_of(newest),
        file_bytes=size.file_bytes,
        wal_bytes=size.wal_bytes,
        event_bytes=event_bytes,
        days=_events_per_day(session, newest, days),
    )


def _time_of(moment: Moment | None) -> str | None:
    if moment is None:
        return None
    return moment.created_at


def _events_per_day(session: ReadSession, newest: Moment | None, count: int) -> dict[str, int]:
    """Found by halving, since ids are nearly in the order of times: 20 rows are read for a million events."""
    end = 0
    if newest is not None:
        end = newest.event_id + 1

    def first(event_id: int) -> Moment:
        """The first event from there on; a moment at the end if there is none."""
        moment = session.oldest(event_id)
        if moment is None:
            return Moment(end, "")
        return moment

    def time_at(event_id: int) -> datetime:
        at = instant(first(event_id).created_at)
        if at is None:
            return datetime.min.replace(tzinfo=UTC)
        return at

    today = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    starts = [today - timedelta(days=days) for days in range(count - 1, -1, -1)]
    places = [bisect_left(range(end), start, key=time_at) for start in starts]
    places.append(end)
    # A place is behind the last event before it: a hole that follows belongs to no day.
    return {
        f"{day:%Y-%m-%d}": max(0, stop - first(place).event_id)
        for day, place, stop in zip(starts, places, places[1:])
    }
