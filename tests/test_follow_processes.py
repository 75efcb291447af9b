# SPDX-License-Identifier: MIT
"""What following costs and what it leaves behind: threads, descriptors, locks, memory; event loops, forks, processes."""

import asyncio
import gc
import json
import os
import random
import sqlite3
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, closing
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Final, cast

import pytest

from orch_events import Event, EventLog, EventReader, LogClosedError

from .following import (
    BEAT,
    END,
    Beside,
    Follow,
    Queries,
    Way,
    descriptors,
    follow,
    ids,
    nobody_stays,
    queries,
    waking,
    watchers,
    way,
)
from .helpers import FORKING, PATIENCE, all_statements, run_script, start, together, wait_until

__all__ = ["follow", "nobody_stays", "queries", "waking", "way"]  # fixtures

LINUX: Final = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
FORKS: Final = pytest.mark.skipif(sys.platform == "win32", reason="forks")


async def first(stream: AsyncIterator[Event], count: int, arrived: list[int] | None = None) -> list[int]:
    """The ids of the first `count` events; leaves the rest. Each is added to `arrived` when it comes."""
    found: list[int] = []
    async for event in stream:
        found.append(event.event_id)
        if arrived is not None:
            arrived.append(event.event_id)
        if len(found) == count:
            break
    return found


# ---------------------------------------------------------------------------------------------- what nobody may hold


def wal(path: Path) -> Path:
    return path.with_name(path.name + "-wal")


@pytest.mark.parametrize("events", [20_000, pytest.param(100_000, marks=pytest.mark.long)])
def test_parked_followers_pin_nothing_and_block_nobody(follow: Follow, path: Path, events: int) -> None:
    with EventLog(path, busy_timeout=0) as impatient, closing(sqlite3.connect(path, timeout=0)) as other:
        impatient.insert_events([BEAT] * 3)
        parked = [follow(after_id=n, timeout=PATIENCE) for n in range(3)]
        assert [next(follower).event_id for follower in parked] == [1, 2, 3]
        largest = 0
        for _ in range(events // 1000):
            impatient.insert_events([BEAT] * 1000)
            largest = max(largest, wal(path).stat().st_size)
        assert largest < (16 << 20) * events / 100_000
        wait_until(lambda: other.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone() == (0, 0, 0))
        assert wal(path).stat().st_size == 0
        for n, follower in enumerate(parked):
            assert ids(islice(follower, 3000)) == list(range(n + 2, n + 3002))


def asked(statements: list[str]) -> set[str]:
    """Kinds of statements. (A comment shows what another statement runs inside.)"""
    return {statement.split()[0] for statement in statements} - {"waits", "--"}


@pytest.mark.usefixtures("waking")
def test_an_idle_follower_leaves_the_file_alone(
    way: Way, log: EventLog, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def state(connection: sqlite3.Connection) -> list[object]:
        status = [file.stat() for file in (path, wal(path))]
        return [(s.st_size, s.st_mtime_ns, s.st_ino) for s in status] + connection.execute(look).fetchall()

    monkeypatch.setattr("orch_events._wakeup.TICK", 0.001)
    log.insert_events([BEAT] * 3)
    look = "PRAGMA data_version"
    with (
        closing(sqlite3.connect(path, timeout=0, isolation_level=None)) as other,
        all_statements() as statements,
        EventReader(path) as reader,
    ):
        before = state(other)
        follower = Beside(way(reader)("t", until_finished=True))
        follower.saw(3)
        follower.asleep()
        looks = statements.count(look) + 300

        def looked() -> bool:
            other.execute("BEGIN IMMEDIATE")  # at once, or it fails: nobody else has the lock
            other.execute("ROLLBACK")
            return statements.count(look) >= looks

        wait_until(looked)
        assert state(other) == before
        log.insert_event(*END)
        assert follower.end() == [1, 2, 3, 4]
    assert asked(statements) == {"SELECT", "PRAGMA"}


def test_only_what_is_new_is_read(way: Way, log: EventLog, path: Path) -> None:
    log.insert_events([BEAT] * 5000)
    with all_statements() as statements, EventReader(path) as reader:
        follower = Beside(way(reader)("t", until_finished=True))
        follower.saw(5000)
        follower.asleep()
        before = len(statements)
        for n in range(10):
            log.insert_event(*BEAT)
            follower.saw(5001 + n)
            follower.asleep()
        log.insert_event(*END)
        assert len(follower.end()) == 5011
    pages = [statement for statement in statements[before:] if "payload_json" in statement]
    starts = [int(statement.partition(" id > ")[2].split()[0]) for statement in pages]
    assert min(starts) >= 5000
    assert 11 <= len(starts) < 44, "for each commit the rows are looked at once, or little more"


def test_one_watcher_serves_all_who_follow_a_file(
    queries: Queries, log: EventLog, path: Path, tmp_path: Path, waking: str
) -> None:
    async def follow_twenty() -> list[list[int]]:
        return await asyncio.gather(*(first(queries.follow_events_async("t"), 2, arrived) for _ in range(20)))

    arrived: list[int] = []
    link = tmp_path / "link.db"
    link.symlink_to(path)
    before = threading.active_count()
    with EventReader(path) as another, EventReader(link) as linked, EventLog(tmp_path / "second.db") as second:
        log.insert_event(*BEAT)
        parked = [queries.follow_events(timeout=PATIENCE) for _ in range(60)]
        parked += [reader.follow_events(timeout=PATIENCE) for reader in (another, linked) for _ in range(10)]
        assert {next(follower).event_id for follower in parked} == {1}
        waiting = start(lambda: asyncio.run(follow_twenty()))
        wait_until(lambda: len(arrived) == 20)
        assert len(watchers()) == 1
        if sys.platform == "linux":
            assert descriptors().count("anon_inode:inotify") == (waking == "inotify")
        second.insert_event(*BEAT)
        elsewhere = second.follow_events()
        next(elsewhere)
        assert len(watchers()) == 2
        del elsewhere
        log.insert_event(*END)
        assert {next(follower).event_id for follower in parked} == {2}
        assert waiting.result(PATIENCE) == [[1, 2]] * 20
        wait_until(lambda: len(watchers()) == 1)
        parked.clear()
        wait_until(lambda: not watchers())
    wait_until(lambda: threading.active_count() <= before)


@LINUX
@pytest.mark.usefixtures("waking")
def test_three_hundred_come_and_go(log: EventLog, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("orch_events._wakeup.TICK", 0.001)
    log.insert_events([BEAT] * 3)

    async def some(queries: Queries, task: str) -> int:
        async with aclosing(cast("Any", queries.follow_events_async(task, timeout=0))) as stream:
            return sum([1 async for _ in stream])

    def come_and_go(queries: Queries) -> None:
        stop = threading.Event()
        stop.set()
        assert len(list(queries.follow_events(stop=stop))) == 3
        assert len(list(queries.follow_step_events("t", timeout=0))) == 3
        for event in queries.follow_events():
            assert event.event_id == 1
            break
        with pytest.raises(ValueError, match="task_id"):
            next(queries.follow_events(until_finished=True))
        assert asyncio.run(some(queries, "t")) == 3

    def round_trip(times: int) -> tuple[int, int]:
        for n in range(times):
            come_and_go(log)
            with EventReader(path) as reader:
                come_and_go(reader)
            if n % 3 == 0:
                wait_until(lambda: not watchers())
        wait_until(lambda: not watchers())
        return threading.active_count(), len(descriptors())

    threads, files = round_trip(5)
    assert round_trip(25) <= (threads, files + 8), "SQLite keeps a few for reuse"


def test_a_follower_may_be_closed_from_anywhere(path: Path) -> None:
    """From inside its own loop, and from a sink, which runs in the midst of a commit."""
    followers: list[Iterator[Event]] = []

    class Sink:
        def emit(self, _task: str, _item: str | None, _type: str, _payload: Mapping[str, object], /) -> None:
            heard.append([next(follower).event_id for follower in followers])
            followers.clear()

    heard: list[list[int]] = []
    with EventLog(path, sink=Sink()) as log:
        log.insert_event(*BEAT)
        followers += [log.follow_events(timeout=PATIENCE), log.follow_events(after_id=1, timeout=PATIENCE)]
        assert log.insert_event(*BEAT) == 2
        log.submit_event(*BEAT).result(PATIENCE)
        assert heard == [[], [1, 2], []], "an event is there to be followed when its sink hears of it"
        for event in (stream := cast("Any", log.follow_events())):
            assert event.event_id == 1
            stream.close()


@pytest.mark.parametrize("kind", [EventLog, EventReader])
@pytest.mark.usefixtures("waking")
def test_closing_ends_those_who_follow(path: Path, way: Way, kind: type[EventLog] | type[EventReader]) -> None:
    with EventLog(path) as log, kind(path) as queries:
        log.insert_events([BEAT] * 3)
        stop = threading.Event()
        waiting, timed = Beside(way(queries)()), Beside(way(queries)("t", after_id=1, timeout=PATIENCE))
        stoppable = Beside(queries.follow_step_events("t", after_id=2, stop=stop))
        parked = way(queries)(after_id=2)
        assert next(parked).event_id == 3
        for count, follower in ((3, waiting), (2, timed), (1, stoppable)):
            follower.saw(count)
            follower.asleep()
        queries.close()
        try:
            for follower in (waiting, timed, stoppable, Beside(parked), Beside(way(queries)())):
                with pytest.raises(LogClosedError):
                    follower.end(PATIENCE / 6)
        finally:  # should they have slept through it
            stop.set()
            log.insert_event(*END)


# -------------------------------------------------------------------------------------------------------------- asyncio


def listen(main: Callable[[], Coroutine[Any, Any, None]]) -> list[dict[str, Any]]:
    """What the loop complains of while the coroutine function `main` runs, and when all it left has been collected."""
    complaints: list[dict[str, Any]] = []

    async def heard() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
        await asyncio.wait_for(main(), PATIENCE)

    asyncio.run(heard(), debug=True)
    gc.collect()
    return complaints


async def until(condition: Callable[[], object]) -> None:
    while not condition():
        await asyncio.sleep(0.002)


def test_cancelling_ends_it_wherever_it_is(queries: Queries, log: EventLog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("orch_events._pool.PAGE_ROWS", 500)

    async def main() -> None:
        arrived: list[int] = []
        waiting = asyncio.ensure_future(first(queries.follow_events_async(after_id=3999), 2, arrived))
        await until(lambda: arrived)
        waiting.cancel()
        await asyncio.wait([waiting])
        assert waiting.cancelled()
        await until(lambda: not watchers())
        for n in range(60):
            task = asyncio.ensure_future(first(queries.follow_events_async(timeout=0), 9999))
            for _ in range(n % 20):
                await asyncio.sleep(0)
            await asyncio.sleep(n // 20 * 0.002)
            task.cancel()
            (outcome,) = await asyncio.gather(task, return_exceptions=True)
            assert isinstance(outcome, asyncio.CancelledError) or outcome == list(range(1, 4001))
        await until(lambda: not watchers())
        assert await first(queries.follow_events_async(timeout=0), 9999) == list(range(1, 4001))

    log.insert_events([BEAT] * 4000)
    assert listen(main) == []


def test_leaving_an_async_loop_leaves_nothing(queries: Queries, log: EventLog) -> None:
    async def main() -> None:
        assert await first(queries.follow_events_async(), 2) == [1, 2]  # left to the collector
        async with aclosing(cast("Any", queries.follow_step_events_async("t"))) as stream:
            assert (await anext(stream)).event_id == 1
        await until(lambda: not watchers())
        with pytest.raises(StopAsyncIteration):
            await anext(stream)
        kept.append(queries.follow_events_async())
        await anext(kept[0])  # left to the end of the loop

    kept: list[AsyncIterator[Event]] = []
    log.insert_events([BEAT] * 3)
    assert listen(main) == []
    wait_until(lambda: not watchers())


def test_two_loops_may_follow_with_one_handle(queries: Queries, log: EventLog) -> None:
    async def main() -> list[list[int]]:
        return await asyncio.gather(*(first(queries.follow_events_async(), 200) for _ in range(5)))

    def write() -> list[list[int]]:
        return [[log.insert_event(*BEAT) for _ in range(200)]]

    loop = partial(lambda: asyncio.run(main()))
    assert together(loop, loop, write) == [[list(range(1, 201))] * n for n in (5, 5, 1)]


def test_waiting_holds_no_thread(queries: Queries, log: EventLog) -> None:
    async def main() -> None:
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1))
        log.insert_event(*BEAT)
        arrived: list[int] = []
        tasks = [asyncio.ensure_future(first(queries.follow_events_async("t"), 2, arrived)) for _ in range(20)]
        await until(lambda: len(arrived) == 20)
        assert threading.active_count() <= before + 2
        for n in range(50):
            assert await asyncio.to_thread(lambda: n) == n
        assert not any(task.done() for task in tasks)
        await log.insert_event_async(*END)
        assert await asyncio.gather(*tasks) == [[1, 2]] * 20

    before = threading.active_count()
    assert listen(main) == []


def test_a_loop_goes_on_while_a_long_history_is_read(log: EventLog) -> None:
    async def main() -> None:
        reading = asyncio.ensure_future(first(log.follow_events_async(timeout=0), 50_000))
        beats = 0
        while not reading.done():
            await asyncio.sleep(0.001)
            beats += 1
        assert len(await reading) == 50_000
        assert beats > 10

    log.insert_events([BEAT] * 50_000)
    assert listen(main) == []


def test_a_loop_closed_under_its_followers(queries: Queries, log: EventLog) -> None:
    """The rough way, without a word to anybody: the log goes on, and nothing of the follower stays."""
    log.insert_event(*BEAT)
    loop = asyncio.new_event_loop()
    loop.set_exception_handler(lambda *_: None)  # asyncio itself complains, and rightly so
    parked, arrived = queries.follow_events_async(), list[int]()
    loop.run_until_complete(first(parked, 1))
    waiting = loop.create_task(first(queries.follow_events_async(), 2, arrived))
    loop.run_until_complete(until(lambda: arrived))
    assert not waiting.done()
    loop.run_until_complete(loop.shutdown_default_executor())
    loop.close()
    assert watchers()
    log.insert_event(*BEAT)
    assert ids(queries.follow_events(timeout=0)) == [1, 2]
    del waiting, parked, loop
    gc.collect()
    wait_until(lambda: not watchers())


# -------------------------------------------------------------------------------------------- garbage, forks, the end

START: Final = """
import asyncio, gc, json, os, random, signal, sys, threading, time, traceback
from orch_events import EventLog, EventReader, ForkedError

path = sys.argv[1]
BEAT, END = ("t", None, "step_heartbeat", {}), ("t", None, "task_completed", {})

def without_inotify():
    import ctypes
    ctypes.CDLL = lambda _: object()

def watchers():
    return [thread for thread in threading.enumerate() if thread.name == "orch_events watcher"]
"""


def test_a_follower_may_become_garbage_at_any_moment(tmp_path: Path, path: Path) -> None:
    """Also while another follower is starting or leaving, or a commit is being told of, in the same thread."""
    source = """
import orch_events._wakeup
orch_events._wakeup.TICK = 0.001
log, second = EventLog(path, durability="normal"), EventLog(path + "2", durability="normal")
log.insert_event(*BEAT)
second.insert_event(*BEAT)
gc.freeze()
for n in range(1, 160):
    gc.collect()
    gc.disable()
    for log_ in (log, second)[:1 + n % 2]:
        cycle = [log_.follow_events()]
        next(cycle[0])
        cycle.append(cycle)
    del cycle
    gc.set_threshold(gc.get_count()[0] + n // 2)
    gc.enable()
    follower = second.follow_events()
    next(follower)
    log.insert_event(*BEAT)
    second.insert_event(*BEAT)
    del follower
    gc.set_threshold(700)
    gc.collect()
    while watchers() and n % 4 < 2:
        time.sleep(0.001)
log.close()
second.close()
print("well")
"""
    assert run_script(tmp_path, START + source, path) == "well\n"


@FORKS
@pytest.mark.parametrize("prelude", ["", "without_inotify()"])
def test_a_forked_child_is_refused_and_may_begin_anew(tmp_path: Path, path: Path, prelude: str) -> None:
    source = f"""
{prelude}
log, reader = EventLog(path), EventReader(path)
log.insert_events([BEAT] * 3)
parked = [log.follow_events(after_id=2), reader.follow_step_events("t", after_id=2)]
assert [next(follower).event_id for follower in parked] == [3, 3]
waiting = threading.Thread(target=lambda: list(log.follow_events("t", until_finished=True)))
waiting.start()

async def follow(log):
    return [event.event_id async for event in log.follow_events_async("t", until_finished=True)]

def child():
    fresh = [each.follow_events("t") for each in (log, reader)]
    for call in [*(lambda f=f: next(f) for f in parked + fresh), lambda: asyncio.run(follow(log))]:
        try:
            call()
        except ForkedError:
            continue
        raise AssertionError("not refused")
    parked.clear()
    gc.collect()
    with EventReader(path) as own:
        seen = [event.event_id for event in own.follow_events("t", until_finished=True)]
        os.write(1, f"{{seen}} {{asyncio.run(follow(own))}}\\n".encode())
    while watchers():
        time.sleep(0.001)

pids = []
for _ in range(3):
    pid = os.fork()
    if not pid:
        signal.alarm(30)
        try:
            child()
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    pids.append(pid)
log.insert_event(*BEAT)
assert [next(follower).event_id for follower in parked] == [4, 4]
log.insert_event(*END)
waiting.join()
assert [os.waitpid(pid, 0)[1] for pid in pids] == [0, 0, 0]
log.insert_event(*BEAT)
assert [next(follower).event_id for follower in parked] == [5, 6]
reader.close()
log.close()
"""
    seen = [1, 2, 3, 4, 5]
    assert run_script(tmp_path, START + source, path, options=FORKING) == f"{seen} {seen}\n" * 3


@pytest.mark.parametrize(
    "end",
    [
        "pass",
        "log.close()",
        "sys.exit()",
        "del parked; gc.collect()",
        "asyncio.run(follow())",
        pytest.param("os.kill(os.getpid(), signal.SIGINT)", marks=FORKS),
    ],
)
@pytest.mark.parametrize("prelude", ["", "without_inotify()"])
def test_a_program_may_end_while_it_follows(tmp_path: Path, path: Path, prelude: str, end: str) -> None:
    source = f"""
{prelude}

def wait(log):
    try:
        for event in log.follow_events():
            pass
    except Exception:
        pass  # that the log is closed

async def follow():
    kept = asyncio.ensure_future(anext(aiter(log.follow_events_async(after_id=3))))
    async for event in log.follow_events_async():
        break

log = EventLog(path)
log.insert_events([BEAT] * 3)
parked = log.follow_events()
next(parked)
for _ in range(4):  # which may begin before the end or after it
    threading.Thread(target=wait, args=[log], daemon=True).start()
try:
    {end}
except KeyboardInterrupt:
    pass
if log:
    log.close()
"""
    run_script(tmp_path, START + source, path)


@FORKS
def test_ctrl_c_ends_a_waiting_follower(tmp_path: Path, path: Path) -> None:
    source = """
log = EventLog(path)
log.insert_event(*BEAT)

def interrupt():
    while not watchers():
        time.sleep(0.001)
    time.sleep(0.05)
    os.kill(os.getpid(), signal.SIGINT)

async def follow():
    async for event in log.follow_events_async():
        pass

for n in range(6):
    threading.Thread(target=interrupt).start()
    try:
        asyncio.run(follow()) if n % 2 else [event for event in log.follow_events(timeout=(None, 30)[n // 3])]
    except KeyboardInterrupt:
        print("interrupted")
    gc.collect()
    while watchers():
        time.sleep(0.001)
log.close()
"""
    assert run_script(tmp_path, START + source, path) == "interrupted\n" * 6


# ------------------------------------------------------------------------------------------------------------ processes

ECHO: Final = """
if sys.argv[2] == "polling":
    without_inotify()

async def follow(log):
    async for event in log.follow_events_async("t", until_finished=True):
        print(event.event_id, flush=True)

with EventReader(path) as log:
    if sys.argv[3] == "async":
        asyncio.run(follow(log))
    else:
        for event in log.follow_events("t", until_finished=True):
            print(event.event_id, flush=True)
"""


@pytest.mark.parametrize("how", ["sync", "async"])
@pytest.mark.parametrize("waking", ["inotify", "polling"])
def test_another_process_wakes_it(tmp_path: Path, log: EventLog, path: Path, waking: str, how: str) -> None:
    """Each event is committed after the one before was seen, by a follower that has gone to sleep again since."""
    program = tmp_path / "echo.py"
    program.write_text(START + ECHO)
    command = [sys.executable, str(program), str(path), waking, how]
    root = str(Path(__file__).parent.parent)
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": root}) as other:
        try:
            assert other.stdout is not None
            lines = Beside(map(int, other.stdout))
            for n in range(15):
                assert log.insert_event(*(BEAT if n < 14 else END)) == n + 1
                assert len(lines.saw(n + 1)) == n + 1
            assert lines.end() == list(range(1, 16))
            assert other.wait(PATIENCE) == 0
        finally:
            other.kill()


WRITE: Final = """
name, count = sys.argv[2], int(sys.argv[3])
with EventLog(path, durability="normal", busy_timeout=60) as log:
    while count:
        size = min(count, random.choice([1, 1, 1, 5, 300]))
        if size > 1:
            log.insert_events([(name, None, "step_heartbeat", {"text": "x" * 200})] * size)
        else:
            random.choice([log.insert_event, log.submit_event])(name, None, "step_heartbeat", {})
        count -= size
    log.insert_event(name, None, "task_completed", {})
"""

JOIN: Final = """
total, each = int(sys.argv[2]), int(sys.argv[3])
if random.random() < 0.3:
    without_inotify()

async def some(stream, count):
    seen = []
    async for event in stream:
        seen.append(event.event_id)
        if len(seen) == count or seen[-1] == total:
            break
    return seen

last = visits = 0
while last < total:
    with EventReader(path, must_exist=False) as log:
        for _ in range(random.randint(1, 5)):
            after_id, count, seen = random.choice([0, last, last, random.randint(0, last)]), random.choice([1, 9, 700]), []
            if after_id >= total:
                break
            if random.random() < 0.5:
                seen = asyncio.run(some(log.follow_events_async(after_id=after_id), count))
            else:
                for event in log.follow_events(after_id=after_id):
                    seen.append(event.event_id)
                    if len(seen) == count or seen[-1] == total:
                        break
            assert seen == [*range(after_id + 1, after_id + 1 + len(seen))], (after_id, count, seen)
            last, visits = max(last, seen[-1]), visits + 1
with EventReader(path) as log:
    for name in ("p0", "p3"):
        assert len(list(log.follow_step_events(name, until_finished=True))) == each
print(visits)
"""

STAY: Final = """
total, each = int(sys.argv[2]), int(sys.argv[3])
with EventReader(path, must_exist=False) as log:
    follower = log.follow_events()
    assert [next(follower).event_id for _ in range(total)] == [*range(1, total + 1)]
    follower.close()
print(1)
"""


@pytest.mark.parametrize("each", [1000, pytest.param(5000, marks=pytest.mark.long)])
def test_four_processes_write_and_others_join_and_leave(tmp_path: Path, path: Path, each: int) -> None:
    """Whoever follows, from whenever on, has every id after its start once, in order; some begin before there is a file."""
    total = 4 * (each + 1)
    parts = [(WRITE, f"p{k}", each) for k in range(4)] + [(JOIN, total, each)] * 3 + [(STAY, total, each)] * 2

    def run(number: int) -> str:
        source, *arguments = parts[number]
        folder = tmp_path / str(number)
        folder.mkdir()
        return run_script(folder, START + source, path, *arguments)

    visits = [int(text) for text in together(*(partial(run, number) for number in range(len(parts)))) if text]
    assert len(visits) == 5 and max(visits) > 3


RESIDENT: Final = """
import resource
with EventReader(path) as log:
    kind = log.follow_step_events if sys.argv[2] == "steps" else log.follow_events
    for event in kind("t", until_finished=True):
        if event.event_id == 1:
            print("begun", flush=True)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.long
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="counts in KiB there")
@pytest.mark.parametrize("kind", ["steps", "events"])
def test_memory_does_not_grow_with_the_log(tmp_path: Path, kind: str) -> None:
    def peak(name: str, history: int, live: int) -> int:
        """Bytes resident at most in a process that follows so many events already there and then so many more."""
        path = tmp_path / name
        path.mkdir()
        with EventLog(path / "events.db", durability="normal") as log:
            log.insert_events([BEAT] * history)
            result = start(lambda: run_script(path, START + RESIDENT, path / "events.db", kind))
            for _ in range(live // 1000):
                log.insert_events([BEAT] * 1000)
            log.insert_event(*END)
            return int(result.result(PATIENCE).split()[-1]) << 10

    usual = peak("usual", 5000, 5000)
    assert peak("history", 200_000, 1000) < usual + (8 << 20)
    assert peak("live", 5000, 200_000) < usual + (8 << 20)
