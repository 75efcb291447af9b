# SPDX-License-Identifier: MIT
"""Kill writers and readers at random moments, start others, and see that nothing acked is ever lost or changed.

    python -m tests.torture --seconds 600
    python -m tests.torture --seconds 600 --postgres

A round is one file. Several writers append to it in every way there is and say what was acked before they go on;
readers page through it by ``after_id``, followers follow it, and they say what they saw. In half of the rounds somebody
prunes it. All the while somebody is killed with SIGKILL and replaced. Then the writers and the one who prunes are
killed, the others read to the end, and `history` judges what all of them said, each for all its lives: the rules are there.
Besides, the database is sound and ids have no gap.

Of a pruned file: what is gone was allowed to go, is in the archive if there is one, and went before what is left of its
task.

With ``--postgres`` a round is a schema of a server of our own. Its connections are killed at random, too, replies of it
are cut off, and it crashes and comes back.

To let another kind of process take part, write its function and add it to `ROLES`. It says, each as a line of JSON,
``call CALLER NUMBER TIME CONTENTS`` before it appends, ``ok CALLER NUMBER TIME IDS`` when that was acked, ``saw ID CONTENT`` for what
it read, and ``gap ID`` when told that events before were pruned. A content begins with its task.
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
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from contextlib import ExitStack, closing
from dataclasses import dataclass, field, replace
from datetime import timedelta
from functools import partial
from hashlib import blake2b
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final, Literal, NamedTuple, TypeVar

from orch_events import Event, EventLog, EventReader, PrunedError, ReadError, WriteError
from orch_events._storage.open_store import is_database_url

from .engines import run
from .history import Append, Follower, Gap, History, Seen, complaints
from .postgres_server import Proxy, Server

ROOT: Final = Path(__file__).resolve().parent.parent
PATIENCE: Final = 60.0

T = TypeVar("T")

DURABILITIES: Final[list[Literal["full", "normal"]]] = ["full", "normal"]

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
    return (
        f"{task_id} {blake2b(f'{event_type} {payload_json}'.encode(), digest_size=8).hexdigest()}"
    )


def task_of(what: str) -> str:
    """The task of a content."""
    return what.split(" ")[0]


def compact(payload: object) -> str:
    """`payload` as the log stores it."""
    return json.dumps(payload, ensure_ascii=False, separators=(",", ":"))


def say(lines: Iterable[Sequence[object]]) -> None:
    """Print at once. Whenever we are killed, what is printed is true; the last line may be torn."""
    os.write(1, "".join(compact(line) + "\n" for line in lines).encode())


# ------------------------------------------------------------------------------------------------------ those who act


def patient(open_log: Callable[[], T]) -> T:
    """An open log, though its server may be away just now."""
    end = time.monotonic() + PATIENCE
    while True:
        try:
            return open_log()
        except (WriteError, ReadError):
            if time.monotonic() > end:
                raise
        time.sleep(0.1)


class Call(NamedTuple):
    """Events to append together."""

    caller: str
    number: int
    events: list[tuple[str, None, str, dict[str, object]]]

    def contents(self) -> list[str]:
        return [
            content(task, event_type, compact(payload))
            for task, _, event_type, payload in self.events
        ]

    def begins(self) -> None:
        say([("call", self.caller, self.number, time.monotonic(), self.contents())])

    def acked(self, ids: list[int]) -> None:
        say([("ok", self.caller, self.number, time.monotonic(), ids)])


class Author:
    """Makes events that differ from all others: each carries the number of its call and its own in it."""

    def __init__(self, name: str, chance: random.Random) -> None:
        self.name = name
        self.chance = chance
        self.calls = 0

    def call(self, count: int = 1, is_done: bool = False) -> Call:
        self.calls += 1
        text = "é" * self.chance.choice([0, 10, 10, 10, 300, 5000 if count < 10 else 30])
        task = f"{DONE}{self.name}.{self.calls}" if is_done else self.name
        return Call(
            self.name,
            self.calls,
            [
                (
                    task,
                    None,
                    "task_completed" if is_done and nth == count - 1 else "step_heartbeat",
                    {"call": self.calls, "nth": nth, "text": text},
                )
                for nth in range(count)
            ],
        )


def one_by_one(log: EventLog, author: Author) -> None:
    for _ in range(20):
        call = author.call()
        call.begins()
        call.acked([log.insert_event(*call.events[0])])


def batch(log: EventLog, author: Author) -> None:
    count = author.chance.choice([2, 50, 500, 2048, 2049, 4500])
    call = author.call(count, is_done=author.chance.random() < 0.5)
    call.begins()
    call.acked(log.insert_events(iter(call.events)))


def submitted(log: EventLog, author: Author) -> None:
    futures = list[tuple[Call, Future[int]]]()
    for _ in range(author.chance.choice([1, 10, 200])):
        call = author.call()
        call.begins()
        futures.append((call, log.submit_event(*call.events[0])))
    if author.chance.random() < 0.5:
        log.flush()
    for call, future in futures:
        call.acked([future.result(PATIENCE)])


def awaited(log: EventLog, author: Author) -> None:
    async def one() -> None:
        made = author.call()
        call = made._replace(caller=f"{made.caller} task {made.number}")
        call.begins()
        call.acked([await log.insert_event_async(*call.events[0])])

    async def main() -> None:
        await asyncio.gather(*(one() for _ in range(50)))

    asyncio.run(main())


WAYS: Final = [one_by_one, one_by_one, submitted, submitted, awaited, batch]


def writer(path: str, name: str, chance: random.Random) -> None:
    """Append for ever, in a random mixture of ways."""
    author = Author(name, chance)
    # A server's crash may lose the end of what was acked with "normal", as a power cut may for a file.
    durability = "full" if is_database_url(path) else chance.choice(DURABILITIES)
    capacity = chance.choice([3, 100, 10_000])
    log = patient(lambda: EventLog(path, queue_capacity=capacity, durability=durability))

    while True:
        way = chance.choice([*WAYS, None])
        if way is None:
            log.close()
            log = patient(lambda: EventLog(path))
        else:
            way(log, author)
        time.sleep(chance.random() * 0.2 if name.startswith(SLOW) else 0)


def saw(events: list[Event]) -> bool:
    """Say what was read; whether the end was among it."""
    say(
        ("saw", event.event_id, content(event.task_id, event.event_type, event.payload_json))
        for event in events
    )
    return any(event.task_id == THE_END for event in events)


def rest(chance: random.Random, share: float) -> float:
    """How long to fall behind, if at all."""
    return chance.random() if chance.random() < share else 0


def reader(path: str, cursor: str, chance: random.Random) -> None:
    """Page from `cursor` on until the end."""
    last = int(cursor)
    with patient(lambda: EventReader(path)) as log:
        while True:
            page = list[Event]()
            gap = 0
            try:
                page.extend(log.query_events(after_id=last, limit=chance.choice([1, 7, 500, 5000])))
            except PrunedError as error:
                gap = error.first_available_id
            if saw(page):
                return
            if gap:
                last = gap - 1
                say([("gap", gap)])
            elif page:
                last = page[-1].event_id
            time.sleep(rest(chance, 0.05) or (0 if page else 0.002))


def follower(path: str, cursor: str, chance: random.Random) -> None:
    """Follow from `cursor` on until the end."""
    last = int(cursor)
    with patient(lambda: EventReader(path)) as log:
        while True:
            try:
                for event in log.follow_events(after_id=last):
                    if saw([event]):
                        return
                    last = event.event_id
                    if last % 20 == 0:
                        time.sleep(rest(chance, 0.0003))
            except PrunedError as error:
                say([("gap", error.first_available_id)])
                last = error.first_available_id - 1


def pruner(path: str, archive: str, chance: random.Random) -> None:
    """Prune for ever: tasks that are done, or all but the newest `KEPT` events of each."""
    with patient(lambda: EventLog(path)) as log:
        while True:
            time.sleep(chance.random() * 0.5)
            is_done = chance.random() < 0.5
            try:
                log.cleanup(
                    older_than=timedelta(seconds=chance.choice([0, 0.1, 0.5])),
                    keep_last=None if is_done else KEPT,
                    only_finished=is_done,
                    batch=chance.choice([1, 100, 5000]),
                    archive=archive or None,
                    gzip=bool(archive) and chance.random() < 0.5,
                )
            except WriteError:
                if not is_database_url(path):  # its connection is killed now and then
                    raise


ROLES: Final[dict[str, Callable[[str, str, random.Random], None]]] = {
    "writer": writer,
    "reader": reader,
    "follower": follower,
    "pruner": pruner,
}


# ----------------------------------------------------------------------------------------------- where they meet


class FileLog:
    """The log of one round, as a file."""

    has_gaps = False

    def __init__(self, folder: Path) -> None:
        self.path = str(folder / "events.db")

    def wait_until_it_is_there(self) -> None:
        while not os.path.exists(self.path) or not os.path.getsize(self.path):
            time.sleep(0.01)

    def disturb(self, chance: random.Random) -> None:
        """Nothing but its processes can be."""

    def rows(self) -> list[tuple[int, str, str, str]]:
        with closing(sqlite3.connect(self.path)) as connection:
            assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
            return connection.execute(
                "SELECT id, task_id, event_type, payload_json FROM events ORDER BY id"
            ).fetchall()


class DatabaseLog:
    """The log of one round, as a schema of a server that is reached through a proxy."""

    has_gaps = True
    """A commit that is broken off takes ids with it."""

    def __init__(self, folder: Path, server: Server, proxy: Proxy) -> None:
        self._server = server
        self._proxy = proxy
        schema = f"orch_events_schema={folder.name}"
        self._straight = f"{server.url}&{schema}"
        self.path = f"postgresql://orch@/events?host={proxy.folder}&{schema}"

    def wait_until_it_is_there(self) -> None:
        patient(lambda: EventLog(self.path)).close()

    def disturb(self, chance: random.Random) -> None:
        if chance.random() < 0.5:
            self._proxy.drop_next_reply.set()
        if chance.random() < 0.3:
            run(self._straight, KILL_OTHERS)
        if chance.random() < 0.1:
            self._server.stop(how=chance.choice(["immediate", "fast"]))
            self._server.start()

    def rows(self) -> list[tuple[int, str, str, str]]:
        sql = "SELECT id, task_id, event_type, payload_json FROM events ORDER BY id"
        return [(row[0], row[1], row[2], row[3]) for row in run(self._straight, sql)]


KILL_OTHERS: Final = """
SELECT pg_terminate_backend(pid) FROM pg_stat_activity
WHERE pid <> pg_backend_pid() AND backend_type = 'client backend'"""


# ---------------------------------------------------------------------------------------------------- those who judge


@dataclass
class Actor:
    """A process that is replaced when it is killed. What all its lives printed is one story, in `story`."""

    role: str
    name: str
    path: str
    story: Path
    archive: str = ""
    lives: int = 0
    process: "subprocess.Popen[bytes] | None" = None

    @property
    def reads(self) -> bool:
        return self.role in ("reader", "follower")

    def begin(self, seed: int) -> None:
        self.lives += 1
        argument = f"{self.name}.{self.lives}" if self.role == "writer" else self.archive
        if self.reads:
            argument = str(max((seen.event_id for seen in self.seen()), default=0))
        with self.story.open("ab") as story:
            self.process = subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    "tests.torture",
                    self.role,
                    self.path,
                    argument,
                    str(seed),
                ],
                stdout=story,
                cwd=ROOT,
            )

    def kill(self) -> None:
        assert self.process is not None
        assert self.process.poll() is None, (
            f"{self.role} {self.name} ended by itself, with {self.process.returncode}"
        )
        self.process.kill()
        self.process.wait()
        os.truncate(
            self.story, self.story.read_bytes().rfind(b"\n") + 1
        )  # a torn line was never said

    def finish(self) -> None:
        assert self.process is not None
        self.process.wait(PATIENCE)
        assert self.process.returncode == 0, (
            f"{self.role} {self.name} ended with {self.process.returncode}"
        )

    def told(self) -> list[Seen | Gap]:
        """What was read, and what was said to be gone."""
        return [Seen(*rest) if kind == "saw" else Gap(*rest) for kind, *rest in self._lines()]

    def seen(self) -> list[Seen]:
        return [record for record in self.told() if isinstance(record, Seen)]

    def appends(self) -> list[Append]:
        """What each life called, in order."""
        appends = dict[tuple[str, int], Append]()
        for kind, caller, number, moment, values in self._lines():
            call = caller, number
            if kind == "call":
                appends[call] = Append(caller, values, moment)
            else:
                begun = appends[call]
                appends[call] = replace(begun, answered=moment, outcome="ok", ids=values)
        return list(appends.values())

    def _lines(self) -> list[list[Any]]:
        lines = self.story.read_text().split("\n") if self.story.exists() else [""]
        return [json.loads(line) for line in lines[:-1]]  # the last may be torn


@dataclass
class Round:
    """One log, who works on it, and what happened to them."""

    folder: Path
    log: FileLog | DatabaseLog
    chance: random.Random
    prunes: bool
    kills: int = 0
    events: int = 0
    gone: int = 0
    """Events that were acked or seen, and pruned."""
    last_id: int = 0
    """Where everybody who reads comes to."""
    appends: list[Append] = field(default_factory=list[Append])
    """All that was called."""
    actors: list[Actor] = field(default_factory=list[Actor])

    def run(self, seconds: float) -> None:
        end = self._begin(self.log.path, seconds)
        while time.monotonic() < end:
            time.sleep(self.chance.random() * 0.6)
            actor = self.chance.choice(self.actors)
            actor.kill()
            self.kills += 1
            actor.begin(self.chance.getrandbits(32))
            self.log.disturb(self.chance)
        self._finish(self.log.path)
        self.verify()

    def _begin(self, path: str, seconds: float) -> float:
        """Start all that write and read; when it is to end."""
        if self.chance.random() < 0.8:
            EventLog(path).close()
        crew = {
            "writer": self.chance.randint(2, 4),
            "reader": 1,
            "follower": self.chance.randint(1, 2),
        }
        for role, count in crew.items():
            for n in range(count):
                name = f"{SLOW if self.prunes and role == 'writer' else role[0]}{n}"
                self.actors.append(Actor(role, name, path, self.folder / f"{role}{n}.txt"))
        end = time.monotonic() + seconds
        writers = [actor for actor in self.actors if actor.role == "writer"]
        for actor in writers:
            actor.begin(self.chance.getrandbits(32))
        self.log.wait_until_it_is_there()  # readers create nothing
        time.sleep(0.3)
        for actor in self.actors:
            if actor.process is None:
                actor.begin(self.chance.getrandbits(32))
        if self.prunes:
            while not all(
                actor.seen() for actor in self.actors if actor.reads
            ):  # so that they are told of what goes
                time.sleep(0.01)
            archive = str(self.folder / "archive") if self.chance.random() < 0.5 else ""
            self.actors.append(Actor("pruner", "p0", path, self.folder / "pruner0.txt", archive))
            self.actors[-1].begin(self.chance.getrandbits(32))
        return end

    def _finish(self, path: str) -> None:
        """Kill what writes, and let the readers come to the end."""
        for actor in self.actors:
            if not actor.reads:
                actor.kill()
                self.kills += 1
        # A commit whose author died before anybody could see it comes to light when the log is recovered, or gives way
        # to the next one. This is the next one, so that what the readers see from here on is final.
        with patient(lambda: EventLog(path)) as log:
            call = Author(THE_END, self.chance).call()
            begun = time.monotonic()
            self.last_id = log.insert_event(*call.events[0])
            answered = time.monotonic()
        self.appends = [Append(THE_END, call.contents(), begun, answered, "ok", [self.last_id])]
        for actor in self.actors:
            if actor.reads:
                actor.finish()

    def verify(self) -> None:
        rows = self.log.rows()
        log = [Seen(event_id, content(*rest)) for event_id, *rest in rows]
        self.events = log[-1].event_id
        if not self.prunes and not self.log.has_gaps:
            assert len(log) == self.events, "ids have a gap"
        for actor in self.actors:
            if actor.role == "writer":
                self.appends += actor.appends()
        followers = [
            Follower(f"{actor.role} {actor.name}", actor.told(), until=self.last_id)
            for actor in self.actors
            if actor.reads
        ]
        removable = self._removable(log) if self.prunes else set[str]()
        wrong = complaints(History(self.appends, log, followers, removable))
        assert not wrong, "\n".join([*wrong[:10], f"{len(wrong)} complaints"])
        self._verify_what_is_gone(log)

    def _removable(self, log: list[Seen]) -> set[str]:
        """What may be gone: of tasks that are done, and of those of which there is as much left as is kept."""
        left = Counter(map(task_of, (event.what for event in log)))
        return {
            what
            for append in self.appends
            for what in append.rows
            if (task := task_of(what)).startswith(DONE) or left[task] >= KEPT
        }

    def _verify_what_is_gone(self, log: list[Seen]) -> None:
        """It went before what is left of its task, into the archive."""
        oldest = {task_of(event.what): event.event_id for event in reversed(log)}
        known = {event for actor in self.actors if actor.reads for event in actor.seen()}
        known.update(
            Seen(*pair) for append in self.appends for pair in zip(append.ids, append.rows)
        )
        gone = known.difference(log)
        self.gone = len(gone)
        archived = self.archived()
        for event_id, what in gone:
            lost = f"event {event_id}, {what}, is lost"
            assert event_id < oldest.get(task_of(what), event_id + 1), (
                f"{lost}: it went before older ones"
            )
            assert archived is None or archived.get(event_id) == what, f"{lost}: not in the archive"

    def archived(self) -> dict[int, str] | None:
        """What the archive holds, if there is one."""
        events = dict[int, str]()
        for file in (self.folder / "archive").glob("[!.]*"):
            with gzip.open(file, "rt") if file.suffix == ".gz" else file.open() as lines:
                for event in map(json.loads, lines):
                    what = content(event["task_id"], event["event_type"], compact(event["payload"]))
                    assert events.setdefault(event["event_id"], what) == what, (
                        "two events of one id in the archive"
                    )
        return events if any(actor.archive for actor in self.actors) else None


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tests.torture", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 30))
    parser.add_argument(
        "--prune", action=argparse.BooleanOptionalAction, default=hasattr(EventLog, "cleanup")
    )
    parser.add_argument(
        "--folder", type=Path, help="where the files go; kept when something is wrong"
    )
    parser.add_argument("--postgres", action="store_true", help="on a PostgreSQL server of its own")
    options = parser.parse_args()
    with ExitStack() as stack:
        torture(options, stack)


def torture(options: argparse.Namespace, stack: ExitStack) -> None:
    chance = random.Random(options.seed)
    base = Path(tempfile.mkdtemp(prefix="torture-", dir=options.folder))
    print(f"seed {options.seed}, files in {base}", flush=True)
    make_log: Callable[[Path], FileLog | DatabaseLog] = FileLog
    if options.postgres:
        folders = [stack.enter_context(TemporaryDirectory(prefix="pg", dir="/tmp")) for _ in "ab"]
        server = Server(Path(folders[0]))
        stack.callback(server.stop)
        proxy = stack.enter_context(Proxy(server, folders[1]))
        make_log = partial(DatabaseLog, server=server, proxy=proxy)
    events = kills = rounds = 0
    end = time.monotonic() + options.seconds
    while time.monotonic() < end:
        folder = base / f"round{rounds}"
        folder.mkdir()
        round_ = Round(folder, make_log(folder), chance, options.prune and chance.random() < 0.5)
        try:
            round_.run(min(chance.uniform(2, 8), max(1.0, end - time.monotonic())))
        finally:
            for actor in round_.actors:
                if actor.process is not None and actor.process.poll() is None:
                    actor.process.send_signal(signal.SIGKILL)
                    actor.process.wait()
        rounds = rounds + 1
        events = events + round_.events
        kills = kills + round_.kills
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
