# SPDX-License-Identifier: MIT
"""Kill writers and readers at random moments, start others, and see that nothing acked is ever lost or changed.

    python -m tests.torture --seconds 600

A round is one file. Several writers append to it in every way there is and say what was acked before they go on;
readers page through it by ``after_id``, followers follow it, and they say what they saw. In half of the rounds somebody
prunes it. All the while somebody is killed with SIGKILL and replaced. Then the writers and the one who prunes are
killed, the others read to the end, and it must hold:

- every acked event is there, under its id, with exactly its content;
- each batch is there whole or not at all, each event at most once;
- ids have no gap, and every reader and follower saw each once, in order, across the deaths of its process;
- the database is sound.

Of a pruned file: what was acked and is gone was allowed to go, is in the archive if there is one, and went before what
is left of its task; whoever did not see an event that is gone was told of a gap.

To let another kind of process take part, write its function and add it to `ROLES`. It says ``ack ID TASK CONTENT`` for
what it was promised, ``saw ID TASK CONTENT`` for what it read, and ``gap ID`` when told that events before were pruned.
"""

import argparse
import asyncio
import gzip
import json
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from datetime import timedelta
from hashlib import blake2b
from pathlib import Path
from typing import Final

from orch_events import Event, EventLog, EventReader, PrunedError

ROOT: Final = Path(__file__).resolve().parent.parent
PATIENCE: Final = 60.0
THE_END: Final = "the-end"
"""The task of the last event of a round."""
DONE: Final = "done-"
"""How the tasks begin that end, all of whose events may be pruned."""
SLOW: Final = "slow"
"""How writers are called beside whom one can prune almost up to the end, and so under the eyes of who reads."""
KEPT: Final = 300
"""Events of each other task that are not."""


def content(task_id: str, event_type: str, payload_json: str) -> str:
    """The task, and a fingerprint of everything the caller gave."""
    return f"{task_id} {blake2b(f'{event_type} {payload_json}'.encode(), digest_size=8).hexdigest()}"


def compact(payload: object) -> str:
    """`payload` as the log stores it."""
    return json.dumps(payload, ensure_ascii=False, separators=(",", ":"))


def say(lines: list[str]) -> None:
    """Print at once. Whenever we are killed, what is printed is true; the last line may be torn."""
    os.write(1, "".join(line + "\n" for line in lines).encode())


# ------------------------------------------------------------------------------------------------------ those who act


class Author:
    """Makes events that differ from all others: those of one call carry its number and how many they are."""

    def __init__(self, name: str, chance: random.Random) -> None:
        self.name, self.chance, self.calls = name, chance, 0

    def events(self, count: int, is_done: bool = False) -> list[tuple[str, None, str, dict[str, object]]]:
        self.calls += 1
        text = "é" * self.chance.choice([0, 10, 10, 10, 300, 5000 if count < 10 else 30])
        task = f"{DONE}{self.name}.{self.calls}" if is_done else self.name
        return [
            (
                task,
                None,
                "task_completed" if is_done and nth == count - 1 else "step_heartbeat",
                {"call": self.calls, "of": count, "nth": nth, "text": text},
            )
            for nth in range(count)
        ]


def ack(ids: list[int], events: list[tuple[str, None, str, dict[str, object]]]) -> None:
    contents = [content(event[0], event[2], compact(event[3])) for event in events]
    say([f"ack {event_id} {digest}" for event_id, digest in zip(ids, contents, strict=True)])


def writer(path: str, name: str, chance: random.Random) -> None:
    """Append for ever, in a random mixture of ways."""
    author = Author(name, chance)
    log = EventLog(path, queue_capacity=chance.choice([3, 100, 10_000]), durability=chance.choice(["full", "normal"]))

    def one_by_one() -> None:
        for _ in range(20):
            events = author.events(1)
            ack([log.insert_event(*events[0])], events)

    def batch() -> None:
        events = author.events(chance.choice([2, 50, 500, 2048, 2049, 4500]), chance.random() < 0.5)
        ack(log.insert_events(iter(events)), events)

    def submitted() -> None:
        singles = [author.events(1)[0] for _ in range(chance.choice([1, 10, 200]))]
        futures = [log.submit_event(*event) for event in singles]
        if chance.random() < 0.5:
            log.flush()
        ack([future.result(PATIENCE) for future in futures], singles)

    def awaited() -> None:
        singles = [author.events(1)[0] for _ in range(50)]

        async def main() -> list[int]:
            return list(await asyncio.gather(*(log.insert_event_async(*event) for event in singles)))

        ack(asyncio.run(main()), singles)

    def reopened() -> None:
        nonlocal log
        log.close()
        log = EventLog(path)

    while True:
        chance.choice([one_by_one, one_by_one, submitted, submitted, awaited, batch, reopened])()
        time.sleep(chance.random() * 0.2 if name.startswith(SLOW) else 0)


def saw(events: list[Event]) -> bool:
    """Say what was read; whether the end was among it."""
    say([f"saw {event.event_id} {content(event.task_id, event.event_type, event.payload_json)}" for event in events])
    return any(event.task_id == THE_END for event in events)


def rest(chance: random.Random, share: float) -> float:
    """How long to fall behind, if at all."""
    return chance.random() if chance.random() < share else 0


def reader(path: str, cursor: str, chance: random.Random) -> None:
    """Page from `cursor` on until the end."""
    last = int(cursor)
    with EventReader(path) as log:
        while True:
            page, gap = list[Event](), 0
            try:
                page.extend(log.query_events(after_id=last, limit=chance.choice([1, 7, 500, 5000])))
            except PrunedError as error:
                gap = error.first_available_id
            if saw(page):
                return
            last = gap - 1 if gap else page[-1].event_id if page else last
            say([f"gap {gap}"] if gap else [])
            time.sleep(rest(chance, 0.05) or (0 if page else 0.002))


def follower(path: str, cursor: str, chance: random.Random) -> None:
    """Follow from `cursor` on until the end."""
    last = int(cursor)
    with EventReader(path) as log:
        while True:
            try:
                for event in log.follow_events(after_id=last):
                    if saw([event]):
                        return
                    last = event.event_id
                    if last % 20 == 0:
                        time.sleep(rest(chance, 0.0003))
            except PrunedError as error:
                say([f"gap {error.first_available_id}"])
                last = error.first_available_id - 1


def pruner(path: str, archive: str, chance: random.Random) -> None:
    """Prune for ever: tasks that are done, or all but the newest `KEPT` events of each."""
    with EventLog(path) as log:
        while True:
            time.sleep(chance.random() * 0.5)
            is_done = chance.random() < 0.5
            log.cleanup(
                older_than=timedelta(seconds=chance.choice([0, 0.1, 0.5])),
                keep_last=None if is_done else KEPT,
                only_finished=is_done,
                batch=chance.choice([1, 100, 5000]),
                archive=archive or None,
                gzip=chance.random() < 0.5,
            )


ROLES: Final[dict[str, Callable[[str, str, random.Random], None]]] = {
    "writer": writer,
    "reader": reader,
    "follower": follower,
    "pruner": pruner,
}


# ---------------------------------------------------------------------------------------------------- those who judge


@dataclass
class Actor:
    """A process that is replaced when it is killed. What all its lives printed is one story, in `story`."""

    role: str
    name: str
    path: Path
    story: Path
    archive: str = ""
    lives: int = 0
    fresh: int = 0
    """How many of them began with the first event."""
    process: "subprocess.Popen[bytes] | None" = None

    @property
    def reads(self) -> bool:
        return self.role in ("reader", "follower")

    def begin(self, seed: int) -> None:
        told = self.told()
        argument = f"{self.name}.{self.lives}" if self.role == "writer" else self.archive
        if self.reads:
            argument = str(told[-1][0] if told else 0)
            self.fresh += not told
        self.lives += 1
        with self.story.open("ab") as story:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tests.torture", self.role, str(self.path), argument, str(seed)],
                stdout=story,
                cwd=ROOT,
            )

    def kill(self) -> None:
        assert self.process is not None
        assert self.process.poll() is None, f"{self.role} {self.name} ended by itself, with {self.process.returncode}"
        self.process.kill()
        self.process.wait()
        os.truncate(self.story, self.story.read_bytes().rfind(b"\n") + 1)  # a torn line was never said

    def finish(self) -> None:
        assert self.process is not None
        self.process.wait(PATIENCE)
        assert self.process.returncode == 0, f"{self.role} {self.name} ended with {self.process.returncode}"

    def told(self) -> list[tuple[int, str]]:
        """Ids and contents, in the order they were printed."""
        return [(int(words[1]), words[2]) for words in self._lines() if words[0] != "gap"]

    def warned(self) -> int:
        """The id before which, as it was told, events are gone."""
        return max((int(words[1]) for words in self._lines() if words[0] == "gap"), default=0)

    def _lines(self) -> list[list[str]]:
        lines = self.story.read_text().split("\n")[:-1] if self.story.exists() else []  # the last may be torn
        return [line.split(" ", 2) for line in lines]


@dataclass
class Round:
    """One file, who works on it, and what happened to them."""

    folder: Path
    chance: random.Random
    prunes: bool
    kills: int = 0
    events: int = 0
    gone: int = 0
    """Events that were acked or seen, and pruned."""
    actors: list[Actor] = field(default_factory=list[Actor])

    def run(self, seconds: float) -> None:
        path = self.folder / "events.db"
        if self.chance.random() < 0.8:
            EventLog(path).close()
        crew = {"writer": self.chance.randint(2, 4), "reader": 1, "follower": self.chance.randint(1, 2)}
        for role, count in crew.items():
            for n in range(count):
                name = f"{SLOW if self.prunes and role == 'writer' else role[0]}{n}"
                self.actors.append(Actor(role, name, path, self.folder / f"{role}{n}.txt"))
        end = time.monotonic() + seconds
        writers = [actor for actor in self.actors if actor.role == "writer"]
        for actor in writers:
            actor.begin(self.chance.getrandbits(32))
        while not path.exists() or not path.stat().st_size:  # readers create nothing
            time.sleep(0.01)
        time.sleep(0.3)
        for actor in self.actors:
            if actor.process is None:
                actor.begin(self.chance.getrandbits(32))
        if self.prunes:
            while not all(actor.told() for actor in self.actors if actor.reads):  # so that they are told of what goes
                time.sleep(0.01)
            archive = str(self.folder / "archive") if self.chance.random() < 0.5 else ""
            self.actors.append(Actor("pruner", "p0", path, self.folder / "pruner0.txt", archive))
            self.actors[-1].begin(self.chance.getrandbits(32))
        while time.monotonic() < end:
            time.sleep(self.chance.random() * 0.6)
            actor = self.chance.choice(self.actors)
            actor.kill()
            self.kills += 1
            actor.begin(self.chance.getrandbits(32))
        for actor in self.actors:
            if not actor.reads:
                actor.kill()
                self.kills += 1
        # A commit whose author died before anybody could see it comes to light when the log is recovered, or gives way
        # to the next one. This is the next one, so that what the readers see from here on is final.
        with EventLog(path) as log:
            log.insert_events(Author(THE_END, self.chance).events(1))
        for actor in self.actors:
            if actor.reads:
                actor.finish()
        self.verify(path)

    def verify(self, path: Path) -> None:
        with closing(sqlite3.connect(path)) as connection:
            assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
            rows = connection.execute("SELECT id, task_id, event_type, payload_json FROM events ORDER BY id").fetchall()
        found = {event_id: content(*rest) for event_id, *rest in rows}
        self.events = max(found)
        assert self.prunes or list(found) == list(range(1, len(found) + 1)), "ids have a gap"
        parts: defaultdict[tuple[str, int, int], list[int]] = defaultdict(list)
        left: defaultdict[str, list[int]] = defaultdict(list)
        for event_id, task_id, _, text in rows:
            payload = json.loads(text)
            parts[task_id, payload["call"], payload["of"]].append(payload["nth"])
            left[task_id].append(event_id)
        for call, nths in parts.items():
            gone = call[2] - len(nths) if self.prunes else 0  # the first of them
            assert nths == list(range(gone, call[2])), f"half a batch, or two of it: {call}"
        copies = Counter(event_id for actor in self.actors if actor.role == "writer" for event_id, _ in actor.told())
        assert max(copies.values(), default=1) == 1, "one id was acked twice"
        known = dict(found)
        for actor in self.actors:
            for event_id, what in actor.told():
                same = known.setdefault(event_id, what) == what
                assert same, f"{actor.role} {actor.name} was told of another event {event_id}"
        self.gone = len(known) - len(found)
        archived = self.archived()
        for event_id in known.keys() - found.keys():
            task = known[event_id].split(" ")[0]
            lost = f"event {event_id} of {task} is lost"
            assert self.prunes and (task.startswith(DONE) or len(left[task]) >= KEPT), lost
            assert event_id < min(left[task], default=event_id + 1), f"{lost}: it went before older ones"
            assert archived is None or archived.get(event_id) == known[event_id], f"{lost}: not in the archive"
        for actor in self.actors:
            if actor.reads:
                seen = [event_id for event_id, _ in actor.told()]
                assert seen == sorted(set(seen)), f"{actor.role} {actor.name} went back"
                missed = known.keys() - set(seen)
                skipped = sorted(missed & found.keys())
                assert not skipped, f"{actor.role} {actor.name} skipped {skipped[:3]}"
                silent = actor.fresh == 1 and max(missed, default=0) >= max(actor.warned(), 1)
                assert not silent, f"{actor.role} {actor.name} was not told of what it missed before {max(missed)}"

    def archived(self) -> dict[int, str] | None:
        """What the archive holds, if there is one."""
        events = dict[int, str]()
        for file in (self.folder / "archive").glob("[!.]*"):
            with gzip.open(file, "rt") if file.suffix == ".gz" else file.open() as lines:
                for event in map(json.loads, lines):
                    what = content(event["task_id"], event["event_type"], compact(event["payload"]))
                    assert events.setdefault(event["event_id"], what) == what, "two events of one id in the archive"
        return events if any(actor.archive for actor in self.actors) else None


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.torture", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 30))
    parser.add_argument("--prune", action=argparse.BooleanOptionalAction, default=hasattr(EventLog, "cleanup"))
    parser.add_argument("--folder", type=Path, help="where the files go; kept when something is wrong")
    options = parser.parse_args()
    chance = random.Random(options.seed)
    base = Path(tempfile.mkdtemp(prefix="torture-", dir=options.folder))
    print(f"seed {options.seed}, files in {base}", flush=True)
    events = kills = rounds = 0
    end = time.monotonic() + options.seconds
    while time.monotonic() < end:
        folder = base / f"round{rounds}"
        folder.mkdir()
        round_ = Round(folder, chance, options.prune and chance.random() < 0.5)
        try:
            round_.run(min(chance.uniform(2, 8), max(1.0, end - time.monotonic())))
        finally:
            for actor in round_.actors:
                if actor.process is not None and actor.process.poll() is None:
                    actor.process.send_signal(signal.SIGKILL)
                    actor.process.wait()
        rounds, events, kills = rounds + 1, events + round_.events, kills + round_.kills
        pruned = f", {round_.gone:,} pruned" if round_.prunes else ""
        print(f"round {rounds}: {round_.events:,} events, {round_.kills} kills{pruned}", flush=True)
        shutil.rmtree(folder)
    base.rmdir()
    print(f"{rounds} rounds, {events:,} events, {kills} kills, seed {options.seed}: nothing lost")


if __name__ == "__main__":
    if sys.argv[1:] and sys.argv[1] in ROLES:
        role, path, argument, seed = sys.argv[1:]
        ROLES[role](path, argument, random.Random(int(seed)))
    else:
        main()
