# SPDX-License-Identifier: MIT
"""What following holds and leaves behind: locks, threads, descriptors, event loops."""

import asyncio
import gc
import sqlite3
import sys
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, closing, contextmanager
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Final, cast

import pytest

from orch_events import Event, EventLog, EventReader, LogClosedError, ReadError
from orch_events._storage.sqlite.wal_hints import HintedSleep

from .following import (
    BEAT,
    END,
    Beside,
    Follow,
    Queries,
    Way,
    descriptors,
    first,
    follow,
    ids,
    nobody_stays,
    queries,
    restless,
    waking,
    watchers,
    way,
)
from .helpers import PATIENCE, all_statements, start, together, wait_until

__all__ = ["follow", "nobody_stays", "queries", "restless", "waking", "way"]  # fixtures

LINUX: Final = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")

# ---------------------------------------------------------------------------------------------- what nobody may hold


def wal(path: Path) -> Path:
    return path.with_name(path.name + "-wal")


@pytest.mark.parametrize("events", [20_000, pytest.param(100_000, marks=pytest.mark.long)])
def test_parked_followers_pin_nothing_and_block_no_writer(
    follow: Follow, path: Path, events: int
) -> None:
    with (
        EventLog(path, busy_timeout=0) as impatient,
        closing(sqlite3.connect(path, timeout=0)) as other,
    ):
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


@pytest.mark.usefixtures("waking", "restless")
def test_an_idle_follower_leaves_the_file_alone(way: Way, log: EventLog, path: Path) -> None:
    def state(connection: sqlite3.Connection) -> object:
        status = [file.stat() for file in (path, wal(path))]
        return [(s.st_size, s.st_mtime_ns, s.st_ino) for s in status] + connection.execute(
            look
        ).fetchall()

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
        looks = statements.count(look) + 100

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
    pages = [statement for statement in statements[before:] if " id > " in statement]
    starts = [int(statement.partition(" id > ")[2].split()[0]) for statement in pages]
    assert min(starts) >= 5000
    assert 11 <= len(starts) < 44, "for each commit the rows are looked at once, or little more"


def test_what_was_read_is_not_asked_again_whether_the_task_has_ended(
    way: Way, log: EventLog, path: Path
) -> None:
    log.insert_event("t", None, "task_started", {})
    log.insert_events([BEAT] * 5000)
    with all_statements() as statements, EventReader(path) as reader:
        follower = Beside(way(reader)("t", until_finished=True))
        follower.saw(5001)
        for n in range(10):
            follower.asleep()
            log.insert_event(*BEAT)
            follower.saw(5002 + n)
        follower.asleep()
        log.insert_event(*END)
        assert len(follower.end()) == 5012
    asked = [statement for statement in statements if "task_control" in statement]
    starts = [int(statement.partition(" BETWEEN ")[2].split()[0]) for statement in asked]
    assert starts[0] == 1 and starts[-1] > 5000
    assert starts.count(1) <= 3, "until the first events were read"


def test_the_end_of_a_task_is_found_before_the_events_that_are_wanted(
    way: Way, log: EventLog, path: Path
) -> None:
    log.insert_event("t", None, "task_started", {})
    with EventReader(path) as reader:
        follower = Beside(way(reader)("t", after_id=1000, until_finished=True))
        for _ in range(3):
            follower.asleep()
            log.insert_event(*BEAT)
        log.insert_event(*END)
        assert follower.end() == []


def test_a_watch_that_is_broken_off_before_it_began_is_given_up(
    log: EventLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As by a KeyboardInterrupt just before its thread is started."""

    def interrupted(_watcher: object) -> None:
        raise KeyboardInterrupt

    log.insert_event(*BEAT)
    with monkeypatch.context() as patch:
        patch.setattr("orch_events._core.commit_watcher.Watcher.start", interrupted)
        with pytest.raises(KeyboardInterrupt):
            next(log.follow_events())
    assert next(log.follow_events()).event_id == 1
    assert len(watchers()) <= 1


@LINUX
def test_each_write_to_a_file_ends_the_sleep_of_who_watches_it(log: EventLog, path: Path) -> None:
    """By a hint of the kernel's, or a follower would hear of it when its pause is over."""
    log.insert_event(*BEAT)
    sleep = HintedSleep(str(path))
    sleep.open()
    if not sleep.has_hints:
        pytest.skip("no inotify left")
    with closing(sleep):
        woken = start(lambda: sleep.sleep(2 * PATIENCE))
        wait_until(lambda: log.insert_event(*BEAT) and woken.done())
        assert woken.result() is True


def test_one_watcher_serves_all_followers_of_a_file(
    queries: Queries, log: EventLog, path: Path, tmp_path: Path, waking: str
) -> None:
    async def follow_twenty() -> list[list[int]]:
        return await asyncio.gather(
            *(first(queries.follow_events_async("t"), 2, arrived) for _ in range(20))
        )

    arrived: list[int] = []
    link = tmp_path / "link.db"
    link.symlink_to(path)
    before = threading.active_count()
    with (
        EventReader(path) as another,
        EventReader(link) as linked,
        EventLog(tmp_path / "second.db") as second,
    ):
        log.insert_event(*BEAT)
        parked = [queries.follow_events(timeout=PATIENCE) for _ in range(60)]
        parked += [
            reader.follow_events(timeout=PATIENCE)
            for reader in (another, linked)
            for _ in range(10)
        ]
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


@pytest.mark.long
@LINUX
@pytest.mark.usefixtures("waking", "restless")
def test_three_hundred_come_and_go(log: EventLog, path: Path) -> None:
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


@contextmanager
def no_thread_can_start() -> Iterator[None]:
    usual = threading.stack_size(1 << 46)  # more than there is
    try:
        yield
    finally:
        threading.stack_size(usual)


def test_where_no_thread_can_start_a_follower_looks_for_itself(
    follow: Follow, log: EventLog
) -> None:
    stop = threading.Event()
    log.insert_event(*BEAT)
    with no_thread_can_start():
        stream = log.follow_events(stop=stop)
        for n in range(3):
            assert next(stream).event_id == n + 1
            log.insert_event(*BEAT)
        assert list(log.follow_events(after_id=2, timeout=0.05))[-1].event_id == 4
        stop.set()
        assert ids(stream) == [4]
    assert not watchers()
    woken = follow("t", after_id=4, until_finished=True)
    follower = Beside(woken)
    follower.asleep()
    log.insert_event(*END)
    assert follower.end() == [5]


def test_where_no_thread_can_start_coroutines_are_told(log: EventLog, path: Path) -> None:
    async def ask() -> None:
        reader = EventReader(path)
        with no_thread_can_start():
            with pytest.raises(ReadError, match="no thread to read in: .*start") as caught:
                await anext(reader.follow_events_async())
            assert isinstance(caught.value.__cause__, RuntimeError)
            with pytest.raises(ReadError, match="no thread to read in"):
                await anext(reader.query_events_async())
            for question in (
                reader.query_step_events_async("t"),
                reader.query_latest_step_log_paths_async("t"),
                reader.stats_async(),
            ):
                with pytest.raises(ReadError, match="no thread to read in"):
                    await question
            await reader.aclose()
        with pytest.raises(LogClosedError):
            reader.query_step_events("t")

    asyncio.run(ask())


def test_a_follower_may_be_closed_from_anywhere(path: Path) -> None:
    """From inside its own loop, and from a sink, which runs in the midst of a commit."""
    followers: list[Iterator[Event]] = []

    class Sink:
        def emit(
            self, _task: str, _item: str | None, _type: str, _payload: Mapping[str, object], /
        ) -> None:
            heard.append([next(follower).event_id for follower in followers])
            followers.clear()

    heard: list[list[int]] = []
    with EventLog(path, sink=Sink()) as log:
        log.insert_event(*BEAT)
        followers += [
            log.follow_events(timeout=PATIENCE),
            log.follow_events(after_id=1, timeout=PATIENCE),
        ]
        assert log.insert_event(*BEAT) == 2
        log.submit_event(*BEAT).result(PATIENCE)
        assert heard == [[], [1, 2], []], (
            "an event is there to be followed when its sink hears of it"
        )
        for event in (stream := cast("Any", log.follow_events())):
            assert event.event_id == 1
            stream.close()


# -------------------------------------------------------------------------------------------------------------- asyncio


def listen(main: Callable[[], Coroutine[Any, Any, None]]) -> list[dict[str, Any]]:
    """What the loop complains of while the coroutine function `main` runs, and when all it left has been collected."""
    complaints: list[dict[str, Any]] = []

    async def heard() -> None:
        asyncio.get_running_loop().set_exception_handler(
            lambda _, context: complaints.append(context)
        )
        await asyncio.wait_for(main(), PATIENCE)

    asyncio.run(heard(), debug=True)
    gc.collect()
    return complaints


async def until(condition: Callable[[], object]) -> None:
    while not condition():
        await asyncio.sleep(0.002)


def test_cancelling_ends_it_wherever_it_is(
    queries: Queries, log: EventLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orch_events._core.paging.PAGE_ROWS", 500)

    async def main() -> None:
        arrived: list[int] = []
        waiting = asyncio.ensure_future(
            first(queries.follow_events_async(after_id=3999), 2, arrived)
        )
        await until(lambda: arrived)
        waiting.cancel()
        await asyncio.wait([waiting])
        assert waiting.cancelled()
        await until(lambda: not watchers())
        for n in range(0, 60, 7):
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
        tasks = [
            asyncio.ensure_future(first(queries.follow_events_async("t"), 2, arrived))
            for _ in range(20)
        ]
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
    parked = queries.follow_events_async()
    arrived = list[int]()
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
