# SPDX-License-Identifier: MIT
"""Judges what a log did by what its callers and followers were told; knows nothing of the library.

A `History` is plain records: what was appended and how that was answered, what each follower was told in order, and what
is in the log in the end. `complaints` says in words what does not fit. Events are told apart by what they carry, so each
must carry something of its own.

An append that was not answered may have happened, as one that was cut off by the death of its caller: it is there whole
or not at all. An event that a cleanup may have removed need not be there; whether it was, is told by those who saw it.

The rules:

- what was answered is there, once, under the ids of the answer; what failed is not there; nothing else is there;
- the events of one append are there all or none, side by side and in order;
- an append that was answered before another was begun has the smaller ids, and so have the earlier ones of one caller;
- a follower sees each event once, in ascending order, as others know it, and all there are, but what is gone and before
  the end of a gap that it was told of, then or later: what is left inside of a gap may come first.
"""

from bisect import bisect_left, bisect_right
from collections import Counter, defaultdict
from collections.abc import Container, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple

NEVER: Final = float("inf")


class Seen(NamedTuple):
    """An event, as the log has it or as a follower was told."""

    event_id: int
    what: str


class Gap(NamedTuple):
    """A follower was told that events with ids smaller than `end` are gone."""

    end: int


@dataclass(frozen=True)
class Append:
    """Events that a caller wanted in the log together. A caller is one thread or task."""

    caller: str
    rows: Sequence[str]
    begun: float
    answered: float = NEVER
    outcome: Literal["ok", "failed", "unknown"] = "unknown"
    ids: Sequence[int] = ()


@dataclass(frozen=True)
class Follower:
    """One who wanted every event after `after`, and has come at least as far as `until`."""

    name: str
    told: Sequence[Seen | Gap]
    after: int = 0
    until: int = 0


@dataclass(frozen=True)
class History:
    """The appends of each caller are in the order of its calls, the log in its own."""

    appends: Sequence[Append]
    log: Sequence[Seen]
    followers: Sequence[Follower] = ()
    removable: Container[str] = ()
    """What cleanups may have removed."""


def complaints(history: History) -> list[str]:
    """What does not fit, in plain words; nothing of a history as it should be."""
    return list(_Judge(history).complaints())


class _Judge:
    def __init__(self, history: History) -> None:
        self._history = history
        self._log = dict(history.log)
        self._known = dict(self._log)
        """Every event that is or was in the log, by id; who knew it first is right."""
        self._ids: defaultdict[str, list[int]] = defaultdict(list)
        """The ids of what is carried: one each, as it should be."""
        for event_id, what in history.log:
            self._ids[what].append(event_id)

    def complaints(self) -> Iterator[str]:
        yield from self._of_the_records()
        for append in self._history.appends:
            if append.outcome == "ok":
                yield from self._learn("an answer", zip(append.ids, append.rows))
        for follower in self._history.followers:
            told = [record for record in follower.told if isinstance(record, Seen)]
            yield from self._learn(f"follower {follower.name}", told)
        yield from self._of_all_events()
        firsts = list[tuple[Append, int]]()
        for append in self._history.appends:
            first = self._first_id(append)
            if append.outcome == "failed":
                yield from self._of_failed(append)
            elif first is not None:
                yield from self._of_rows(append, first)
                firsts.append((append, first))
        yield from self._of_callers_order(firsts)
        yield from self._of_answers_order(firsts)
        ids = sorted(self._known)
        for follower in self._history.followers:
            yield from self._of_order(follower)
            yield from self._of_missed(follower, ids)

    def _of_the_records(self) -> Iterator[str]:
        """What makes the history itself unfit to be judged."""
        carried = Counter(what for append in self._history.appends for what in append.rows)
        for what, count in carried.items():
            if count > 1:
                yield f"{what} was appended {count} times: the history cannot tell them apart"
        for append in self._history.appends:
            if append.outcome == "ok" and len(append.ids) != len(append.rows):
                yield f"{_name(append)} was answered with {len(append.ids)} ids"
        last = 0
        for event_id, what in self._history.log:
            if event_id <= last:
                yield f"event {event_id}, {what}, comes after event {last} in the log"
            last = event_id

    def _learn(self, who: str, events: Iterable[tuple[int, str]]) -> Iterator[str]:
        """Take in what somebody was told."""
        for event_id, what in events:
            known = self._known.setdefault(event_id, what)
            if known != what:
                yield f"event {event_id} is {known}, and {what} as {who} has it"
            elif event_id not in self._ids[what]:
                self._ids[what].append(event_id)

    def _of_all_events(self) -> Iterator[str]:
        appended = {what for append in self._history.appends for what in append.rows}
        for what, ids in self._ids.items():
            if len(ids) > 1:
                yield f"{what} is there more than once, as {ids}"
            if ids and what not in appended:
                yield f"event {ids[0]}, {what}, was appended by nobody"

    def _first_id(self, append: Append) -> int | None:
        """The id of its first event, if it happened: told by any of its events."""
        if append.outcome == "ok":
            return append.ids[0] if append.ids else None
        found = ((nth, self._ids.get(what)) for nth, what in enumerate(append.rows))
        return next((ids[0] - nth for nth, ids in found if ids), None)

    def _of_failed(self, append: Append) -> Iterator[str]:
        for what in append.rows:
            for event_id in self._ids.get(what, ()):
                yield f"{_name(append)} failed, but {what} is there as event {event_id}"

    def _of_rows(self, append: Append, first: int) -> Iterator[str]:
        if append.outcome == "ok" and list(append.ids) != list(
            range(first, first + len(append.ids))
        ):
            yield f"{_name(append)} has ids that are not side by side: {list(append.ids)}"
            return
        for event_id, what in enumerate(append.rows, first):
            elsewhere = [other for other in self._ids.get(what, ()) if other != event_id]
            if elsewhere:
                yield f"{what} of {_name(append)} is event {elsewhere[0]} and not {event_id}"
            elif self._log.get(event_id) != what and what not in self._history.removable:
                yield f"event {event_id}, {what} of {_name(append)}, is missing"

    def _of_callers_order(self, firsts: list[tuple[Append, int]]) -> Iterator[str]:
        previous = dict[str, int]()
        for append, first in firsts:
            if first <= previous.get(append.caller, 0):
                yield f"{_name(append)} is event {first}, and came after {previous[append.caller]} of its caller"
            previous[append.caller] = first + len(append.rows) - 1

    def _of_answers_order(self, firsts: list[tuple[Append, int]]) -> Iterator[str]:
        answers = sorted(
            (append.answered, first + len(append.rows) - 1)
            for append, first in firsts
            if append.outcome == "ok"
        )
        highest = past = 0
        for append, first in sorted(firsts, key=lambda pair: pair[0].begun):
            while past < len(answers) and answers[past][0] < append.begun:
                highest = max(highest, answers[past][1])
                past += 1
            if first <= highest:
                yield f"{_name(append)} is event {first}, but {highest} was answered before it began"

    def _of_order(self, follower: Follower) -> Iterator[str]:
        last = follower.after
        for record in follower.told:
            if isinstance(record, Seen):
                if record.event_id <= last:
                    yield f"follower {follower.name} saw event {record.event_id} after {last}"
                last = record.event_id

    def _of_missed(self, follower: Follower, ids: list[int]) -> Iterator[str]:
        last = follower.after
        gap = max((record.end for record in follower.told if isinstance(record, Gap)), default=0)
        for record in (*follower.told, Seen(follower.until + 1, "its end")):
            if isinstance(record, Gap):
                continue
            for missed in ids[bisect_right(ids, last) : bisect_left(ids, record.event_id)]:
                if missed in self._log:
                    yield f"follower {follower.name} did not see event {missed}"
                elif missed >= gap:
                    yield f"follower {follower.name} was not told that event {missed} is gone"
            last = max(last, record.event_id)


def _name(append: Append) -> str:
    some = ", ".join(append.rows[:2])
    return f"the append of {some}{', …' if append.rows[2:] else ''} by {append.caller}"
