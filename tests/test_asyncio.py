# SPDX-License-Identifier: MIT
"""The asyncio twins: cancellation, loops that come and go, no thread held, and a loop that goes on meanwhile."""

import asyncio
import gc
import threading
import weakref
from collections import Counter
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import pytest

from orch_events import (
    EventLog,
    EventReader,
    LogClosedError,
    OrchEventsError,
    QueueFullError,
    WriteError,
)

from .helpers import PATIENCE, Gate, execute, poison, stored, together, write_locked

BOTH_ENGINES = True

T = TypeVar("T")


def run(main: Coroutine[Any, Any, T], *, debug: bool | None = None) -> T:
    """`asyncio.run` with a guard against hangs, in which anything the loop itself complains of is an error."""
    complaints: list[dict[str, Any]] = []

    async def watched() -> T:
        asyncio.get_running_loop().set_exception_handler(
            lambda _, context: complaints.append(context)
        )
        return await asyncio.wait_for(main, PATIENCE)

    result = asyncio.run(watched(), debug=debug)
    gc.collect()  # tasks and futures complain when they are collected
    assert complaints == []
    return result


async def add(log: EventLog, n: int, task_id: str = "t") -> int:
    return await log.insert_event_async(task_id, None, "x", {"n": n})


def test_every_twin_does_what_its_original_does(path: Path) -> None:
    async def main() -> None:
        async with EventLog(path) as log:
            assert (
                await log.insert_event_async(
                    "t", "i", "step_started", {"step": "qa", "stdout_path": "out"}
                )
                == 1
            )
            assert await log.insert_events_async(
                [("t", None, "step_finished", {"n": n}) for n in range(3000)]
            ) == [*range(2, 3002)]
            log.submit_event("u", None, "x", {})
            await log.flush_async()
            assert [event.event_id async for event in log.query_events_async()] == list(
                range(1, 3003)
            )
            assert [
                event.event_id
                async for event in log.query_events_async("t", after_id=2999, limit=1)
            ] == [3000]
            async with EventReader(path) as reader:
                for queries in (log, reader):
                    assert await queries.query_step_events_async("t") == log.query_step_events("t")
                    paths = await queries.query_latest_step_log_paths_async("t")
                    assert paths == log.query_latest_step_log_paths("t") == ("qa", "out", "")
        for refused in (
            add(log, 1),
            log.flush_async(),
            log.insert_events_async([]),
            log.query_step_events_async("t"),
        ):
            with pytest.raises(LogClosedError):
                await refused

    run(main())


# ------------------------------------------------------------------------------------------------------- cancellation


def test_a_cancelled_append_is_in_the_log_once_or_not_at_all(path: Path) -> None:
    """Cancelled before its first step, after each of the next, and when it is done."""

    async def main() -> list[int]:
        acked: list[int] = []
        async with EventLog(path, queue_capacity=3, busy_timeout=PATIENCE) as log:
            for n in range(240):
                task = asyncio.ensure_future(add(log, n))
                for _ in range(n % 8):
                    await asyncio.sleep(0 if n % 3 else 0.0005)
                task.cancel()
                outcome = (await asyncio.gather(task, return_exceptions=True))[0]
                if isinstance(outcome, int):
                    acked.append(outcome)
                else:
                    assert isinstance(outcome, asyncio.CancelledError)
            assert await add(log, 240) == await add(log, 241) - 1
        return acked

    acked = run(main())
    rows = stored(path)
    assert set(acked) <= {row.event_id for row in rows}
    assert max(Counter(row.payload["n"] for row in rows).values()) == 1
    assert len(rows) < 242, "some are cancelled before they begin"


@pytest.mark.parametrize("timeout", [0, 0.00001, 0.0005])
def test_a_thousand_timeouts_never_upset_the_loop(path: Path, timeout: float) -> None:
    async def main() -> int:
        done = 0
        async with EventLog(path, durability="normal") as log:
            for n in range(1000 if timeout == 0 else 300):
                try:
                    await asyncio.wait_for(add(log, n), timeout)
                    done += 1
                except TimeoutError:
                    continue
            await log.flush_async()
        return done

    done = run(main())
    rows = stored(path)
    assert len(rows) >= done
    assert all(count == 1 for count in Counter(row.payload["n"] for row in rows).values())


def test_a_call_cancelled_while_waiting_for_room_leaves_the_queue(path: Path) -> None:
    gate = Gate()

    async def main() -> None:
        async with EventLog(path, sink=gate, queue_capacity=1, busy_timeout=5) as log:
            kept = [asyncio.ensure_future(add(log, 0))]
            await asyncio.to_thread(gate.waiting.wait, PATIENCE)
            kept.append(asyncio.ensure_future(add(log, 1)))
            await asyncio.sleep(0.01)
            tasks = [asyncio.ensure_future(add(log, n)) for n in range(2, 40)]
            await asyncio.sleep(0.01)
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
            kept.append(asyncio.ensure_future(add(log, 40)))
            await asyncio.sleep(0.01)
            gate.open()
            assert await asyncio.gather(*kept) == [1, 2, 3]

    run(main())
    assert [row.payload["n"] for row in stored(path)] == [0, 1, 40]


def test_the_failure_of_a_cancelled_append_is_not_lost(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        async with EventLog(path, busy_timeout=PATIENCE) as log:
            execute(path, poison())
            with write_locked(path):
                task = asyncio.ensure_future(log.insert_event_async("t", None, "bad", {}))
                await asyncio.sleep(0.01)
                task.cancel()
                await asyncio.wait([task])
            with pytest.raises(WriteError):
                await log.flush_async()
            await log.flush_async()

    run(main())
    assert [record.levelname for record in caplog.records if record.name == "orch_events"] == [
        "ERROR"
    ]


def test_a_failure_told_in_the_very_turn_of_a_cancellation_is_not_lost(path: Path) -> None:
    async def main() -> None:
        async with EventLog(path, busy_timeout=PATIENCE) as log:
            execute(path, poison())

            async def first() -> None:
                with pytest.raises(WriteError):
                    await log.insert_event_async("t", None, "bad", {})
                second.cancel()  # which has been told of its failure, and not run since

            with write_locked(path):
                ahead = asyncio.ensure_future(add(log, 0))  # so that the other two share a commit
                await asyncio.sleep(0.01)
                both = asyncio.ensure_future(first())
                second = asyncio.ensure_future(log.insert_event_async("t", None, "bad", {}))
                await asyncio.sleep(0.01)
            await asyncio.wait([ahead, both, second])
            assert second.cancelled()
            with pytest.raises(WriteError):
                await log.flush_async()
            await both

    run(main())


# -------------------------------------------------------------------------------------------------------------- loops


def test_a_loop_closed_with_acks_due_is_freed(log: EventLog) -> None:
    async def main() -> None:
        tasks = [asyncio.ensure_future(add(log, n)) for n in range(3000)]
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)

    with asyncio.Runner() as runner:
        runner.run(main())
        gone = weakref.ref(runner.get_loop())
    log.flush()
    del runner
    gc.collect()
    assert gone() is None


def test_a_loop_closed_with_appends_in_flight_does_not_stop_the_log(path: Path) -> None:
    with EventLog(path, busy_timeout=PATIENCE) as log:
        loop = asyncio.new_event_loop()
        with write_locked(path):
            tasks = [loop.create_task(add(log, n)) for n in range(10)]
            loop.run_until_complete(asyncio.sleep(0.01))
            for task in tasks:
                task.cancel()
            loop.run_until_complete(asyncio.wait(tasks))
            tasks = [loop.create_task(add(log, n)) for n in range(10, 20)]
            loop.run_until_complete(asyncio.sleep(0.01))
            loop.close()  # the rough way: nobody told the tasks
        log.flush()
        assert run(add(log, 20)) == 21
    assert [row.payload["n"] for row in stored(path)] == list(range(21))
    del tasks
    gc.collect()


def test_a_failure_no_loop_can_hear_is_not_lost(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with EventLog(path, busy_timeout=PATIENCE) as log:
        execute(path, poison())
        loop = asyncio.new_event_loop()
        with write_locked(path):
            task = loop.create_task(log.insert_event_async("t", None, "bad", {}))
            loop.run_until_complete(asyncio.sleep(0.01))
            loop.close()
        with pytest.raises(WriteError):
            log.flush()
        assert "lost" in caplog.text
        del task
        gc.collect()


def test_one_log_serves_one_loop_after_another(log: EventLog, path: Path) -> None:
    async def main() -> list[int]:
        return [
            *await asyncio.gather(*(add(log, n) for n in range(50))),
            *await log.insert_events_async([]),
        ]

    assert [run(main()) for _ in range(3)] == [
        [*range(1, 51)],
        [*range(51, 101)],
        [*range(101, 151)],
    ]
    assert len(stored(path)) == 150


def test_one_log_serves_two_loops_at_once_and_plain_threads(path: Path) -> None:
    with EventLog(path, queue_capacity=5, busy_timeout=PATIENCE) as log:

        async def main(name: str) -> list[int]:
            return await asyncio.gather(*(add(log, n, name) for n in range(200)))

        def sync() -> list[int]:
            return [log.insert_event("sync", None, "x", {"n": n}) for n in range(100)]

        parts = together(lambda: asyncio.run(main("a")), lambda: asyncio.run(main("b")), sync)
    named = zip(("a", "b", "sync"), parts, strict=True)
    acked = {event_id: (name, n) for name, ids in named for n, event_id in enumerate(ids)}
    assert acked == {row.event_id: (row.task_id, row.payload["n"]) for row in stored(path)}


# ------------------------------------------------------------------------------------------- what a wait may not hold


def test_an_exhausted_executor_does_not_hold_appends_up(path: Path) -> None:
    async def main() -> None:
        release = threading.Event()
        loop = asyncio.get_running_loop()
        loop.set_default_executor(ThreadPoolExecutor(1))
        blocker = loop.run_in_executor(None, release.wait, PATIENCE)
        log = EventLog(path, queue_capacity=10)
        try:
            assert (
                len(await asyncio.wait_for(asyncio.gather(*(add(log, n) for n in range(100))), 20))
                == 100
            )
            assert await asyncio.wait_for(
                log.insert_events_async([("t", None, "x", {})] * 5), 20
            ) == [*range(101, 106)]
            await asyncio.wait_for(log.flush_async(), 20)
        finally:
            release.set()
            await blocker
            await log.aclose()

    run(main())


@pytest.mark.parametrize("count", [2000, pytest.param(10_000, marks=pytest.mark.long)])
def test_thousands_of_waiting_appends_need_no_thread_each(path: Path, count: int) -> None:
    async def main() -> set[int]:
        async with EventLog(
            path, queue_capacity=500, durability="normal", busy_timeout=PATIENCE
        ) as log:
            tasks = [asyncio.ensure_future(add(log, n)) for n in range(count)]
            await asyncio.sleep(0.01)
            assert threading.active_count() < before + 3
            return set(await asyncio.gather(*tasks))

    before = threading.active_count()
    assert run(main(), debug=False) == set(range(1, count + 1))
    assert {row.payload["n"] for row in stored(path)} == set(range(count))


def test_a_full_queue_suspends_refuses_and_recovers(path: Path) -> None:
    gate = Gate()

    async def main() -> None:
        async with EventLog(path, sink=gate, queue_capacity=2, busy_timeout=0.3) as log:
            first = asyncio.ensure_future(add(log, 0))
            await asyncio.to_thread(
                gate.waiting.wait, PATIENCE
            )  # it is out of the queue and owns the log
            tasks = [asyncio.ensure_future(add(log, n)) for n in range(1, 8)]
            beats = 0
            while not all(task.done() for task in tasks[2:]):
                await asyncio.sleep(0.01)
                beats += 1
            assert beats > 5, "the loop went on"
            refused = await asyncio.gather(*tasks[2:], return_exceptions=True)
            assert [type(error) for error in refused] == [QueueFullError] * 5
            gate.open()
            assert await asyncio.gather(first, *tasks[:2], add(log, 8)) == [1, 2, 3, 4]

    run(main())
    assert [row.payload["n"] for row in stored(path)] == [0, 1, 2, 8]


def test_a_lock_held_elsewhere_suspends_until_the_deadline_and_no_longer(path: Path) -> None:
    async def main() -> None:
        async with EventLog(path, queue_capacity=2, busy_timeout=0.3) as log:
            with write_locked(path):
                tasks = [asyncio.ensure_future(add(log, n)) for n in range(12)]
                outcomes = await asyncio.gather(*tasks, return_exceptions=True)
            assert {type(outcome) for outcome in outcomes} == {QueueFullError, WriteError}
            assert await add(log, 12) == 1

    run(main())


def test_a_sync_call_inside_a_coroutine_returns(log: EventLog) -> None:
    async def main() -> None:
        pending = asyncio.ensure_future(asyncio.gather(*(add(log, n) for n in range(20))))
        await asyncio.sleep(0)
        assert log.insert_event("t", None, "x", {}) == 21
        log.flush()
        assert log.submit_event("t", None, "x", {}).result(PATIENCE) == 22
        assert await pending == list(range(1, 21))

    run(main())


def test_closing_ends_every_waiting_call(path: Path) -> None:
    gate = Gate()

    async def main() -> None:
        log = EventLog(path, sink=gate, queue_capacity=3, busy_timeout=PATIENCE)
        tasks = [asyncio.ensure_future(add(log, n)) for n in range(10)]
        await asyncio.to_thread(gate.waiting.wait, PATIENCE)
        closing = asyncio.ensure_future(log.aclose())
        await asyncio.sleep(0.05)
        gate.open()
        await closing
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        acked = [outcome for outcome in outcomes if isinstance(outcome, int)]
        assert (
            sorted(acked)
            == [row.event_id for row in stored(path)]
            == list(range(1, len(acked) + 1))
        )
        assert all(isinstance(outcome, int | LogClosedError) for outcome in outcomes), outcomes

    run(main())


def test_the_loop_goes_on_while_the_log_works(path: Path) -> None:
    async def main() -> int:
        async with EventLog(path) as log:
            await log.insert_events_async(
                [("t", None, "step_heartbeat", {"n": n}) for n in range(50_000)]
            )
            query = asyncio.ensure_future(log.query_step_events_async("t"))
            appends = asyncio.gather(*(add(log, n) for n in range(200)))
            beats = 0
            while not query.done():
                await asyncio.sleep(0.001)
                beats += 1
            assert len(await appends) == 200
            assert len(await query) == 50_000
            return beats

    assert run(main(), debug=False) > 10


# ------------------------------------------------------------------------------------------------------------ streams


def test_acks_come_to_a_loop_in_portions(path: Path) -> None:
    """Else one turn of the loop would run thousands of tasks, and everything else would wait for it."""

    async def main() -> list[int]:
        portions = []
        known = 0
        async with EventLog(path, queue_capacity=2000) as log:
            appends = [asyncio.ensure_future(add(log, n)) for n in range(1000)]
            while known < len(appends):
                await asyncio.sleep(0)
                done = sum(append.done() for append in appends)
                portions.append(done - known)
                known = done
        return portions

    assert max(run(main())) <= 256


def test_a_stream_may_be_left_or_cancelled_anywhere(log: EventLog, path: Path) -> None:
    async def read(after: int) -> int:
        count = 0
        async for _ in log.query_events_async():
            count += 1
            if count == after:
                break
        return count

    async def main() -> None:
        assert await asyncio.gather(*map(read, (1, 2048, 2049, 9999))) == [1, 2048, 2049, 5000]
        for n in range(0, 60, 6):
            task = asyncio.ensure_future(read(9999))
            await asyncio.sleep(n * 0.0005)
            task.cancel()
            outcome = (await asyncio.gather(task, return_exceptions=True))[0]
            assert outcome == 5000 or isinstance(outcome, asyncio.CancelledError)
        assert await read(9999) == 5000

    log.insert_events([("t", None, "x", {})] * 5000)
    run(main())


def test_parked_streams_hold_nothing(log: EventLog, path: Path) -> None:
    async def main() -> None:
        log.insert_events([("t", None, "x", {})] * 5000)
        streams = [log.query_events_async() for _ in range(5)]
        for stream in streams:
            await anext(stream)
        await log.insert_events_async([("t", None, "x", {})] * 3000)
        with EventLog(path, busy_timeout=0) as impatient:
            assert await impatient.insert_event_async("t", None, "x", {}) == 8001
        assert [sum([1 async for _ in stream]) for stream in streams] == [4999] * 5

    run(main())


def test_a_sink_that_calls_back_gets_an_error_here_too(path: Path) -> None:
    class Sink:
        def emit(self, *_: object) -> None:
            for call in (add(log, 1), log.flush_async()):
                with pytest.raises(OrchEventsError):
                    asyncio.run(call)

    with EventLog(path, sink=Sink()) as log:
        assert run(add(log, 0)) == 1
    assert len(stored(path)) == 1
