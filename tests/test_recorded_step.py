# SPDX-License-Identifier: MIT
"""A block of code as a step: its end is recorded however it ends, and what it raises goes on unchanged."""

import asyncio
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from orch_events import (
    Event,
    EventLog,
    EventReader,
    ObservedStepScope,
    PayloadError,
    RecordingSink,
)

from .helpers import wait_until

BOTH_ENGINES = True


class Odd(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


ENDINGS: list[tuple[BaseException, dict[str, object]]] = [
    (ValueError("bad \udc80"), {"reason": r"ValueError: bad \udc80", "error_type": "ValueError"}),
    (ValueError(), {"reason": "ValueError", "error_type": "ValueError"}),
    (Odd(), {"reason": "Odd", "error_type": "Odd"}),
    (ValueError("x" * 5000), {"reason": f"ValueError: {'x' * 2000}", "error_type": "ValueError"}),
    (StopIteration(1), {"reason": "StopIteration: 1", "error_type": "StopIteration"}),
    (StopAsyncIteration(), {"reason": "StopAsyncIteration", "error_type": "StopAsyncIteration"}),
    (KeyboardInterrupt(), {"reason": "KeyboardInterrupt", "error_type": "KeyboardInterrupt"}),
    (GeneratorExit(), {"reason": "GeneratorExit", "error_type": "GeneratorExit"}),
    (SystemExit(3), {"reason": "SystemExit: 3", "error_type": "SystemExit", "exit_code": 3}),
    (SystemExit("no"), {"reason": "SystemExit: no", "error_type": "SystemExit"}),
]


def payloads(path: Path) -> Iterator[tuple[str, Any]]:
    with EventReader(path) as reader:
        for event in reader.query_events():
            yield event.event_type, event.payload


def test_a_block_that_goes_well_has_a_start_and_an_end_with_its_duration(path: Path) -> None:
    with EventLog(path) as log:
        more = {"cycle": 2}
        with log.step("t", "build", item="web", agent="a1", payload=more) as outcome:
            outcome["tokens"] = 512
        start, end = log.query_step_events("t")
    (_, first), (_, last) = payloads(path)
    assert (start.event_type, start.step, start.task_item_id) == ("step_started", "build", "web")
    assert start.step_scope is ObservedStepScope.ITEM
    assert (start.agent_id, first["cycle"], last["cycle"]) == ("a1", 2, 2)
    assert (end.event_type, end.success, end.agent_id) == ("step_finished", True, "a1")
    assert end.duration_ms is not None and last["tokens"] == 512


def test_a_block_can_say_itself_that_it_has_failed(path: Path) -> None:
    with EventLog(path) as log, log.step("t", "check") as outcome:
        outcome["success"] = False
    (_, start), (_, end) = payloads(path)
    assert start == {"step": "check", "step_scope": "task"}
    assert end.pop("duration_ms") >= 0
    assert end == {**start, "success": False}


@pytest.mark.parametrize(("error", "told"), ENDINGS, ids=lambda value: type(value).__name__)
def test_what_a_block_raises_is_recorded_and_goes_on_unchanged(
    path: Path, error: BaseException, told: dict[str, object]
) -> None:
    cause = error.__cause__, error.__context__
    with EventLog(path) as log, pytest.raises(type(error)) as caught, log.step("t", "s"):
        raise error
    assert caught.value is error and (error.__cause__, error.__context__) == cause
    (_, start), (kind, end) = payloads(path)
    assert kind == "step_finished" and end.pop("duration_ms") >= 0
    assert end == {**start, "success": False, **told}


def test_an_exit_without_an_error_is_no_failure(path: Path) -> None:
    with EventLog(path) as log:
        for code in (0, None):
            with pytest.raises(SystemExit), log.step("t", "s"):
                raise SystemExit(code)
        assert [event.success for event in log.query_step_events("t")][1::2] == [True, True]


def test_a_step_that_cannot_begin_does_not_run(path: Path) -> None:
    with EventLog(path) as log:
        with pytest.raises(PayloadError), log.step("\udc80", "s"):
            pytest.fail("it has run")
        with pytest.raises(ValueError, match="heartbeat"):
            log.step("t", "s", heartbeat=0)
        assert list(log.query_events()) == []


def test_an_end_that_cannot_be_recorded_hides_no_exception(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with EventLog(path) as log:
        with pytest.raises(ZeroDivisionError), log.step("t", "s") as outcome:
            outcome["odd"] = object()
            raise ZeroDivisionError
        with pytest.raises(PayloadError), log.step("t", "s") as outcome:
            outcome["odd"] = object()
    (told,) = caplog.records
    assert (
        told.levelno == logging.ERROR and "without what was added: payload.odd" in told.getMessage()
    )
    with EventReader(path) as reader:
        ends = [event.payload for event in reader.query_events("t", event_type_prefix="step_fin")]
    kinds = [end["error_type"] for end in ends if isinstance(end, dict)]
    assert kinds == ["ZeroDivisionError", "PayloadError"]


def test_a_step_without_a_name_is_refused(path: Path) -> None:
    with EventLog(path) as log:
        with pytest.raises(ValueError, match="a step has a name"):
            log.step("t", "")
        assert list(log.query_events()) == []


def test_a_cancelled_block_of_a_coroutine_is_recorded(path: Path) -> None:
    async def work(log: EventLog, begun: asyncio.Event) -> None:
        async with log.step_async("t", "s", heartbeat=60):
            begun.set()
            await asyncio.Event().wait()

    async def main() -> None:
        async with EventLog(path) as log:
            begun = asyncio.Event()
            task = asyncio.create_task(work(log, begun))
            await begun.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            async with log.step_async("t", "well") as outcome:
                outcome["n"] = 1
            with pytest.raises(ZeroDivisionError):
                async with log.step_async("t", "badly"):
                    raise ZeroDivisionError
        assert len(asyncio.all_tasks()) == 1, "no heartbeat goes on"

    asyncio.run(main())
    ends = [payload for kind, payload in payloads(path) if kind == "step_finished"]
    assert [end["success"] for end in ends] == [False, True, False]
    assert [end.get("reason") for end in ends] == ["CancelledError", None, "ZeroDivisionError"]


def kinds(events: list[Event]) -> list[str]:
    return [event.event_type for event in events]


def test_a_block_has_heartbeats_while_it_runs_and_none_after_its_end(path: Path) -> None:
    sink = RecordingSink()
    with EventLog(path, sink=sink) as log:
        with log.step("t", "s", heartbeat=0.01):
            wait_until(lambda: len(sink.events) > 3)
        found = kinds(list(log.query_events("t")))
    _, start = next(payloads(path))
    assert start["heartbeat_secs"] == 0.01
    assert found[0] == "step_started" and found[-1] == "step_finished"
    assert len(found) > 3 and set(found[1:-1]) == {"step_heartbeat"}


def test_a_block_of_a_coroutine_has_heartbeats_too(path: Path) -> None:
    async def main() -> list[str]:
        sink = RecordingSink()
        async with EventLog(path, sink=sink) as log:
            async with log.step_async("t", "s", heartbeat=0.01):
                while len(sink.events) < 4:
                    await asyncio.sleep(0.01)
            await asyncio.sleep(0.05)
            return kinds([event async for event in log.query_events_async("t")])

    found = asyncio.run(main())
    assert found[0] == "step_started" and found[-1] == "step_finished"
    assert len(found) > 3 and set(found[1:-1]) == {"step_heartbeat"}
