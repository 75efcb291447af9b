# SPDX-License-Identifier: MIT
"""The judge of histories names each rule that is broken, and finds nothing in a history as it should be."""

from collections.abc import Callable
from dataclasses import replace
from typing import Final, TypeAlias

import pytest
from hypothesis import given
from hypothesis import strategies as st

from .history import Append, Follower, Gap, History, Seen, complaints

Change: TypeAlias = Callable[[History], History]

ALL: Final = [Seen(nth, what) for nth, what in enumerate("abcdegh", 1)]
GOOD: Final = History(
    appends=[
        Append("w", ["a"], 1, 2, "ok", [1]),
        Append("w", ["b", "c", "d"], 3, 5, "ok", [2, 3, 4]),
        Append("v", ["e"], 2, 8, "ok", [5]),
        Append("v", ["f"], 9, 10, "failed"),
        Append("x", ["g", "h"], 6),
        Append("y", ["i", "j"], 7),
    ],
    log=ALL,
    followers=[Follower("r", ALL, until=7), Follower("s", ALL[2:5], after=2)],
)
PRUNED: Final = replace(
    GOOD,
    log=[ALL[0], *ALL[3:]],
    removable="bc",
    followers=[Follower("r", [ALL[0], Gap(4), *ALL[3:]]), Follower("s", ALL[:5])],
)
"""Two events are gone: one follower saw them before, the other was told."""


def in_log(events: list[Seen]) -> Change:
    """Nobody was there to follow it."""
    return lambda history: replace(history, log=events, followers=[])


def following(*told: Seen | Gap, after: int = 0, until: int = 0) -> Change:
    return lambda history: replace(history, followers=[Follower("r", told, after, until)])


def answered(nth: int, ids: list[int]) -> Change:
    """The n-th append was answered with `ids`."""

    def change(history: History) -> History:
        appends = list(history.appends)
        appends[nth] = replace(appends[nth], outcome="ok", ids=ids, answered=20)
        return replace(history, appends=appends)

    return change


def timed(nth: int, begun: float, caller: str) -> Change:
    def change(history: History) -> History:
        appends = list(history.appends)
        appends[nth] = replace(appends[nth], begun=begun, caller=caller)
        return replace(history, appends=appends)

    return change


BROKEN: Final[list[tuple[Change, str]]] = [
    (in_log(ALL[1:]), "event 1, a of the append of a by w, is missing"),
    (in_log([*ALL[:2], *ALL[3:]]), "event 3, c of the append of b, c, … by w, is missing"),
    (in_log(ALL[:6]), "event 7, h of the append of g, h by x, is missing"),
    (in_log([*ALL, Seen(8, "a")]), "a is there more than once, as [1, 8]"),
    (in_log([*ALL, Seen(8, "g")]), "g is there more than once, as [6, 8]"),
    (in_log([*ALL, Seen(8, "f")]), "the append of f by v failed, but f is there as event 8"),
    (in_log([*ALL, Seen(8, "z")]), "event 8, z, was appended by nobody"),
    (in_log([*ALL[:5], ALL[6], ALL[5]]), "event 6, g, comes after event 7 in the log"),
    (
        in_log([*ALL[:5], Seen(6, "h"), Seen(7, "g")]),
        "h of the append of g, h by x is event 6 and not 8",
    ),
    (in_log([*ALL[:6], Seen(8, "h")]), "h of the append of g, h by x is event 8 and not 7"),
    (answered(0, [2]), "event 2 is b, and a as an answer has it"),
    (answered(0, [1, 2]), "the append of a by w was answered with 2 ids"),
    (answered(0, []), "the append of a by w was answered with 0 ids"),
    (answered(5, [8, 10]), "the append of i, j by y has ids that are not side by side: [8, 10]"),
    (answered(5, [8, 9]), "event 8, i of the append of i, j by y, is missing"),
    (timed(0, 6, "u"), "the append of a by u is event 1, but 4 was answered before it began"),
    (
        lambda history: replace(history, appends=history.appends[::-1]),
        "the append of a by w is event 1, and came after 4 of its caller",
    ),
    (
        lambda history: replace(history, appends=[*history.appends, Append("z", ["e"], 9)]),
        "e was appended 2 times: the history cannot tell them apart",
    ),
    (following(*ALL[:3], *ALL[2:]), "follower r saw event 3 after 3"),
    (following(*ALL[:2], ALL[3], ALL[2], *ALL[4:]), "follower r saw event 3 after 4"),
    (following(*ALL, after=1), "follower r saw event 1 after 1"),
    (following(*ALL[:2], *ALL[3:]), "follower r did not see event 3"),
    (following(*ALL[1:]), "follower r did not see event 1"),
    (following(*ALL[:6], until=7), "follower r did not see event 7"),
    (following(*ALL[:2], Gap(4), *ALL[3:]), "follower r did not see event 3"),
    (following(Seen(1, "e"), *ALL[1:]), "event 1 is a, and e as follower r has it"),
    (following(*ALL, Seen(8, "i")), "event 8, i of the append of i, j by y, is missing"),
    (following(*ALL, Seen(8, "f")), "the append of f by v failed, but f is there as event 8"),
]


@pytest.mark.parametrize(("broken", "words"), BROKEN, ids=[words for _, words in BROKEN])
def test_what_does_not_fit_is_named(broken: Change, words: str) -> None:
    assert words in complaints(broken(GOOD))


@pytest.mark.parametrize(
    ("broken", "words"),
    [
        (following(ALL[0], *ALL[3:]), "follower r was not told that event 2 is gone"),
        (following(ALL[0], Gap(3), *ALL[3:]), "follower r was not told that event 3 is gone"),
        (
            lambda history: replace(history, removable="b"),
            "event 3, c of the append of b, c, … by w, is missing",
        ),
    ],
)
def test_what_is_gone_is_told_of_and_was_allowed_to_go(broken: Change, words: str) -> None:
    assert words in complaints(broken(PRUNED))


@pytest.mark.parametrize(
    "history",
    [
        History([], []),
        GOOD,
        PRUNED,
        timed(4, 9, "w")(GOOD),
        timed(0, 1, "v")(GOOD),
        following(*ALL[1:], after=1)(GOOD),
        following(*ALL[:6])(GOOD),
        following(ALL[0], *ALL[3:], Gap(4))(PRUNED),
    ],
)
def test_a_history_as_it_should_be_has_no_complaint(history: History) -> None:
    assert complaints(history) == []


@st.composite
def right_histories(draw: st.DrawFn) -> History:
    """What a right log may have done: appends take effect one after the other, somewhere between call and answer."""
    small = st.integers(0, 3)
    appends = list[Append]()
    happened = list[Seen]()
    for moment in range(draw(st.integers(1, 8))):
        rows = [f"{moment}.{nth}" for nth in range(draw(st.integers(1, 3)))]
        append = Append(draw(st.sampled_from("abc")), rows, moment - draw(small))
        end = moment + draw(small) + 0.5
        fate = draw(st.sampled_from(["ok", "failed", "cut off before", "cut off after"]))
        if fate in ("ok", "cut off after"):
            ids = range(len(happened) + 1, len(happened) + len(rows) + 1)
            happened += map(Seen, ids, rows)
            if fate == "ok":
                append = replace(append, answered=end, outcome="ok", ids=ids)
        elif fate == "failed":
            append = replace(append, answered=end, outcome="failed")
        appends.append(append)
    gone = draw(st.sets(st.sampled_from(happened))) if happened else set[Seen]()
    log = [event for event in happened if event not in gone]
    told = list[Seen | Gap]()
    for event in happened:
        if event not in gone or draw(st.booleans()):
            told.append(event)
        else:
            told.append(Gap(event.event_id + 1))
    follower = Follower("r", told, until=len(happened))
    return History(appends, log, [follower], {event.what for event in gone})


@given(right_histories())
def test_whatever_a_right_log_did_has_no_complaint(history: History) -> None:
    assert complaints(history) == []


@given(right_histories(), st.data())
def test_whatever_is_taken_from_the_log_or_from_a_follower_is_missed(
    history: History, data: st.DataObject
) -> None:
    if not history.log:
        return
    (follower,) = history.followers
    lost = data.draw(st.sampled_from(history.log))
    kept = [event for event in history.log if event != lost]
    assert complaints(replace(history, log=kept))
    unseen = replace(follower, told=[record for record in follower.told if record != lost])
    expected = f"follower r did not see event {lost.event_id}"
    assert complaints(replace(history, followers=[unseen])) == [expected]
