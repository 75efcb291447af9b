# SPDX-License-Identifier: MIT
"""Kill writers and readers at random moments, start others, and see that nothing acked is ever lost or changed.

    python -m tests.torture --seconds 600

A round is one file. Several writers append to it in every way there is and say what was acked before they go on;
readers page through it by ``after_id``, followers follow it, and they say what they saw. All the while somebody is
killed with SIGKILL and replaced. Then the writers are killed, the others read to the end, and it must hold:

- every acked event is there, under its id, with exactly its content;
- each batch is there whole or not at all, each event at most once;
- ids have no gap, and every reader and follower saw each once, in order, across the deaths of its process;
- the database is sound.

To let another kind of process take part, write its function and add it to `ROLES`. It says ``ack ID CONTENT`` for what
it was promised and ``saw ID CONTENT`` for what it read. One that removes events would say ``gone ID CONTENT``, and
`verify` would excuse those.
"""

import argparse
import asyncio
import json
import os
import random
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
from hashlib import blake2b
from pathlib import Path
from typing import Final

from orch_events import Event, EventLog, EventReader

ROOT: Final = Path(__file__).resolve().parent.parent
PATIENCE: Final = 60.0
THE_END: Final = "the end"
"""The task of the last event of a round."""


def content(task_id: str, event_type: str, payload_json: str) -> str:
    """A fingerprint of everything the caller gave."""
    return blake2b("\0".join((task_id, event_type, payload_json)).encode(), digest_size=8).hexdigest()


def say(lines: list[str]) -> None:
    """Print at once. Whenever we are killed, what is printed is true; the last line may be torn."""
    os.write(1, "".join(line + "\n" for line in lines).encode())


# ------------------------------------------------------------------------------------------------------ those who act


class Author:
    """Makes events that differ from all others: those of one call carry its number and how many they are."""

    def __init__(self, name: str, chance: random.Random) -> None:
        self.name, self.chance, self.calls = name, chance, 0

    def events(self, count: int) -> list[tuple[str, None, str, dict[str, object]]]:
        self.calls += 1
        text = "é" * self.chance.choice([0, 10, 10, 10, 300, 5000 if count < 10 else 30])
        return [
            (self.name, None, "step_heartbeat", {"call": self.calls, "of": count, "nth": nth, "text": text})
            for nth in range(count)
        ]


def ack(ids: list[int], events: list[tuple[str, None, str, dict[str, object]]]) -> None:
    texts = [json.dumps(event[3], ensure_ascii=False, separators=(",", ":")) for event in events]
    contents = [content(event[0], event[2], text) for event, text in zip(events, texts, strict=True)]
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
        events = author.events(chance.choice([2, 50, 500, 2048, 2049, 4500]))
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


def saw(events: list[Event]) -> bool:
    """Say what was read; whether the end was among it."""
    say([f"saw {event.event_id} {content(event.task_id, event.event_type, event.payload_json)}" for event in events])
    return any(event.task_id == THE_END for event in events)


def reader(path: str, cursor: str, chance: random.Random) -> None:
    """Page from `cursor` on until the end."""
    last = int(cursor)
    with EventReader(path) as log:
        while True:
            page = list(log.query_events(after_id=last, limit=chance.choice([1, 7, 500, 5000])))
            if saw(page):
                return
            last = page[-1].event_id if page else last
            time.sleep(0 if page else 0.002)


def follower(path: str, cursor: str, _: random.Random) -> None:
    """Follow from `cursor` on until the end."""
    with EventReader(path) as log:
        for event in log.follow_events(after_id=int(cursor)):
            if saw([event]):
                return


ROLES: Final[dict[str, Callable[[str, str, random.Random], None]]] = {
    "writer": writer,
    "reader": reader,
    "follower": follower,
}


# ---------------------------------------------------------------------------------------------------- those who judge


@dataclass
class Actor:
    """A process that is replaced when it is killed. What all its lives printed is one story, in `story`."""

    role: str
    name: str
    path: Path
    story: Path
    lives: int = 0
    process: "subprocess.Popen[bytes] | None" = None

    def begin(self, seed: int) -> None:
        told = self.told()
        argument = f"{self.name}.{self.lives}" if self.role == "writer" else str(told[-1][0] if told else 0)
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
        lines = self.story.read_text().splitlines() if self.story.exists() else []
        return [(int(line.split()[1]), line.split()[2]) for line in lines]


@dataclass
class Round:
    """One file, who works on it, and what happened to them."""

    folder: Path
    chance: random.Random
    kills: int = 0
    events: int = 0
    actors: list[Actor] = field(default_factory=list[Actor])

    def run(self, seconds: float) -> None:
        path = self.folder / "events.db"
        if self.chance.random() < 0.8:
            EventLog(path).close()
        crew = {"writer": self.chance.randint(2, 4), "reader": 1, "follower": self.chance.randint(1, 2)}
        for role, count in crew.items():
            for n in range(count):
                self.actors.append(Actor(role, f"{role[0]}{n}", path, self.folder / f"{role}{n}.txt"))
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
        while time.monotonic() < end:
            time.sleep(self.chance.random() * 0.6)
            actor = self.chance.choice(self.actors)
            actor.kill()
            self.kills += 1
            actor.begin(self.chance.getrandbits(32))
        for actor in writers:
            actor.kill()
            self.kills += 1
        # A commit whose author died before anybody could see it comes to light when the log is recovered, or gives way
        # to the next one. This is the next one, so that what the readers see from here on is final.
        with EventLog(path) as log:
            log.insert_events(Author(THE_END, self.chance).events(1))
        for actor in self.actors:
            if actor.role != "writer":
                actor.finish()
        self.verify(path)

    def verify(self, path: Path) -> None:
        with closing(sqlite3.connect(path)) as connection:
            assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
            rows = connection.execute("SELECT id, task_id, event_type, payload_json FROM events ORDER BY id").fetchall()
        found = {event_id: content(*rest) for event_id, *rest in rows}
        self.events = len(found)
        assert list(found) == list(range(1, len(found) + 1)), "ids have a gap"
        parts: defaultdict[tuple[str, int, int], list[int]] = defaultdict(list)
        for _, task_id, _, text in rows:
            payload = json.loads(text)
            parts[task_id, payload["call"], payload["of"]].append(payload["nth"])
        for call, nths in parts.items():
            assert nths == list(range(call[2])), f"half a batch, or two of it: {call}"
        copies = Counter(event_id for actor in self.actors if actor.role == "writer" for event_id, _ in actor.told())
        assert max(copies.values(), default=1) == 1, "one id was acked twice"
        for actor in self.actors:
            told = actor.told()
            wrong = [(event_id, digest) for event_id, digest in told if found.get(event_id) != digest]
            assert not wrong, f"{actor.role} {actor.name} was told of {wrong[:3]}, which is not in the file"
            if actor.role != "writer":
                seen = [event_id for event_id, _ in told]
                assert seen == list(found), f"{actor.role} {actor.name} skipped or repeated"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.torture", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 30))
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
        round_ = Round(folder, chance)
        try:
            round_.run(min(chance.uniform(2, 8), max(1.0, end - time.monotonic())))
        finally:
            for actor in round_.actors:
                if actor.process is not None and actor.process.poll() is None:
                    actor.process.send_signal(signal.SIGKILL)
                    actor.process.wait()
        rounds, events, kills = rounds + 1, events + round_.events, kills + round_.kills
        print(f"round {rounds}: {round_.events:,} events, {round_.kills} kills", flush=True)
        for file in folder.iterdir():
            file.unlink()
        folder.rmdir()
    base.rmdir()
    print(f"{rounds} rounds, {events:,} events, {kills} kills, seed {options.seed}: nothing lost")


if __name__ == "__main__":
    if sys.argv[1:] and sys.argv[1] in ROLES:
        role, path, argument, seed = sys.argv[1:]
        ROLES[role](path, argument, random.Random(int(seed)))
    else:
        main()
