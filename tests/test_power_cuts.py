# SPDX-License-Identifier: MIT
"""A power cut at any moment: what was acked with ``"full"`` is there, with ``"normal"`` nothing but an end is lost.

A program appends and says what was acked, `forgetful_disk` records it and gives the files that a power cut could have
left, after each sync and at many moments else. Each time the log is opened: the database is sound, `history` has no
complaint about it, and it goes on where it ended.

This shows that the log syncs what it must before it acks, as far as the model of a disk goes: see there what it leaves
out. It does not show that a disk or a file system keeps what was synced.
"""

import random
import shutil
import sqlite3
import sys
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Final, Literal

import pytest

from orch_events import EventLog, EventReader, OrchEventsError

from .forgetful_disk import Disk, Said, Step, Sync, missing, record
from .helpers import python_path
from .history import NEVER, Append, History, Seen, complaints

pytestmark = pytest.mark.skipif(bool(missing()), reason=missing())

BEFORE_TEXT: Final = '{"text":"'
"""How a payload begins."""

# Says ``call NUMBER COUNT`` before it appends events of type ``NUMBER.NTH``, and ``ok NUMBER ID`` with the first id.
# The largest batch takes more than one statement.
PROGRAM: Final = """
import os, random, sys
from orch_events import EventLog

path, durability, seed, calls = sys.argv[1:]
chance = random.Random(int(seed))

def say(*words):
    os.write(1, (" ".join(map(str, words)) + "\\n").encode())

def events(number, count):
    say("call", number, count)
    most = 6000 if count < 50 else 20
    names = [f"{number}.{nth}" for nth in range(count)]
    return [("t", None, name, {"text": name * chance.randrange(most // len(name))}) for name in names]

log = EventLog(path, durability=durability)
number = 0
while number < int(calls):
    way = chance.choice(["one", "one", "one", "batch", "submitted", "submitted", "reopened"])
    if way == "one":
        say("ok", number, log.insert_event(*events(number, 1)[0]))
        number += 1
    elif way == "batch":
        say("ok", number, log.insert_events(events(number, chance.choice([2, 10, 40, 2100])))[0])
        number += 1
    elif way == "submitted":
        numbers = range(number, number + 5)
        for number, future in [(n, log.submit_event(*events(n, 1)[0])) for n in numbers]:
            say("ok", number, future.result())
        number += 1
    elif chance.random() < 0.5:
        log.close()
        log = EventLog(path, durability=durability)
log.close()
"""


class Recording:
    """What the program did, and the files that power cuts would have left of it."""

    def __init__(self, tmp_path: Path, durability: str, seed: int, calls: int) -> None:
        folder = tmp_path / "recorded"
        folder.mkdir()
        program = tmp_path / "program.py"
        program.write_text(PROGRAM)
        path = folder / "events.db"
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("PYTHONPATH", python_path())
            command = [sys.executable, str(program), str(path), durability, str(seed), str(calls)]
            self.steps = record(command, folder, tmp_path / "trace")
        self._chance = random.Random(seed)
        self._folder = tmp_path / "cut"
        disk = Disk()
        for step in self.steps:
            disk.take(step)
        there = {file.name: file.read_bytes() for file in folder.iterdir()}
        assert disk.files() == there, "something was written that was not recorded"
        self.whole = read(path)
        assert complaints(History(appends(self.steps), self.whole)) == []

    def cuts(self, others: int, promised: Literal["full", "normal"]) -> list[str]:
        """Cut the power after each sync, since more is on disk then, and at so many `others`; what is wrong then."""
        syncs = [nth for nth, step in enumerate(self.steps, 1) if isinstance(step, Sync)]
        disk = Disk()
        taken = 0
        wrong = list[str]()
        for end in sorted([*syncs, *self._moments(others)]):
            for step in self.steps[taken:end]:
                disk.take(step)
            taken = end
            wrong += [
                f"cut after step {end}: {complaint}"
                for complaint in self._after_cut(disk, self.steps[:end], promised)
            ]
        return wrong

    def _moments(self, count: int) -> list[int]:
        """Any; half of them right after an ack, when what it promised must be on disk."""
        acks = [nth for nth, step in enumerate(self.steps, 1) if isinstance(step, Said)]
        half = count // 2
        return self._chance.choices(acks, k=half) + self._chance.choices(
            range(len(self.steps) + 1), k=count - half
        )

    def _after_cut(self, disk: Disk, steps: Sequence[Step], promised: str) -> list[str]:
        shutil.rmtree(self._folder, ignore_errors=True)
        self._folder.mkdir()
        for name, content in disk.after_cut(self._chance).items():
            (self._folder / name).write_bytes(content)
        called = appends(steps)
        if promised == "normal":
            called = [replace(append, answered=NEVER, outcome="unknown") for append in called]
        try:
            return self._opened(self._folder / "events.db", called)
        except (OrchEventsError, sqlite3.Error, AssertionError) as error:
            return [f"{type(error).__name__}: {error}"]

    def _opened(self, path: Path, called: Sequence[Append]) -> list[str]:
        """What is wrong with a log that comes back, if there must be one."""
        if all(append.outcome != "ok" for append in called):
            EventLog(path).close()
        there = read(path)
        wrong = complaints(History(called, there))
        if there != self.whole[: len(there)]:
            wrong.append("it has lost more than an end")
        with EventLog(path) as log:
            if log.insert_event("t", None, "next") != len(there) + 1:
                wrong.append("it does not go on where it ended")
        return wrong


def appends(steps: Sequence[Step]) -> list[Append]:
    """What was called, and answered, as it was said."""
    found = list[Append]()
    for moment, step in enumerate(steps):
        if isinstance(step, Said):
            kind, number, value = step.text.split()
            if kind == "call":
                rows = [f"{number}.{nth}" for nth in range(int(value))]
                found.append(Append("program", rows, moment))
            else:
                append = found[int(number)]
                ids = range(int(value), int(value) + len(append.rows))
                found[int(number)] = replace(append, answered=moment, outcome="ok", ids=ids)
    return found


def read(path: Path) -> list[Seen]:
    """The events of a log, which must be sound."""
    with EventReader(path) as reader:
        events = list(reader.query_events())
    for event in events:
        text = event.payload_json.removeprefix(BEFORE_TEXT).removesuffix('"}')
        assert text == event.event_type * (len(text) // len(event.event_type))
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    return [Seen(event.event_id, event.event_type) for event in events]


@pytest.mark.parametrize("durability", ["full", "normal"])
def test_a_power_cut_takes_nothing_that_was_promised(
    tmp_path: Path, durability: Literal["full", "normal"]
) -> None:
    assert Recording(tmp_path, durability, seed=4, calls=40).cuts(30, durability) == []


def test_acks_that_were_not_synced_are_missed(tmp_path: Path) -> None:
    lost = Recording(tmp_path, "normal", seed=1, calls=40).cuts(15, promised="full")
    assert any("is missing" in complaint for complaint in lost)


@pytest.mark.long
@pytest.mark.parametrize("seed", range(2, 6))
@pytest.mark.parametrize("durability", ["full", "normal"])
def test_many_power_cuts_take_nothing_that_was_promised(
    tmp_path: Path, durability: Literal["full", "normal"], seed: int
) -> None:
    assert Recording(tmp_path, durability, seed, calls=150).cuts(100, durability) == []
