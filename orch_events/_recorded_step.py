# SPDX-License-Identifier: MIT
"""A block of code as a step: ``step_started`` before it, ``step_finished`` after it, heartbeats in between.

The end is recorded however the block ends, and what it has raised goes on unchanged. A block whose own additions to the
end cannot be recorded has failed with that error, and its end is recorded without them. So that nothing hides it, an end
that cannot be recorded then is told by the logger; after a block that went well it is raised.
"""

import logging
import threading
import time
from collections.abc import (
    AsyncGenerator,
    Awaitable,
    Callable,
    Generator,
    Mapping,
)
from contextlib import (
    asynccontextmanager,
    contextmanager,
    suppress,
)
from typing import Final

from ._values.errors import ForkedError, OrchEventsError, PayloadError
from ._values.event_types import EventType, ObservedStepScope
from ._values.new_events import NewEvent, new_row
from ._values.package import PACKAGE
from ._values.timestamps import timestamp

_logger: Final = logging.getLogger(PACKAGE)

_LONGEST_REASON: Final = 2000
"""Characters of an exception's text that are recorded."""


class StepBlock:
    """What is to be recorded of one run of a block."""

    def __init__(
        self,
        task_id: str,
        step: str,
        item: str | None,
        agent: str | None,
        payload: Mapping[str, object],
        heartbeat: float | None,
    ) -> None:
        if not step:
            raise ValueError("a step has a name; this one is empty")
        if heartbeat is not None and not heartbeat > 0:
            raise ValueError(f"heartbeat must be more than 0 seconds, not {heartbeat}")
        self.outcome: dict[str, object] = {}
        """What the block adds to the payload of its end."""
        self.heartbeat = heartbeat
        """Seconds between two of them."""
        self._task_id = task_id
        self._item = item
        self._began = 0.0
        scope = ObservedStepScope.TASK if item is None else ObservedStepScope.ITEM
        self._fields: dict[str, object] = {"step": step, "step_scope": scope.value, **payload}
        if agent is not None:
            self._fields["agent_id"] = agent

    def start(self) -> NewEvent:
        self._began = time.monotonic()
        promised: dict[str, object] = {}
        if self.heartbeat is not None:
            promised["heartbeat_secs"] = self.heartbeat
        return self._event(EventType.STEP_STARTED, promised)

    def beat(self) -> NewEvent:
        elapsed = int(time.monotonic() - self._began)
        return self._event(EventType.STEP_HEARTBEAT, {"elapsed_secs": elapsed})

    def end(self, error: BaseException | None = None) -> NewEvent:
        took = int((time.monotonic() - self._began) * 1000)
        fields: dict[str, object] = {"success": True, "duration_ms": took}
        if error is None:
            fields |= self.outcome
        else:
            fields |= self._outcome_of_failure(error)
            fields |= _failure(error)
        return self._event(EventType.STEP_FINISHED, fields)

    def _outcome_of_failure(self, error: BaseException) -> dict[str, object]:
        """What the block has added, unless that cannot be recorded: else a block that has failed would have no end."""
        try:
            self.check()
        except PayloadError as refusal:
            if not isinstance(error, PayloadError):
                _logger.error("the end of a step is recorded without what was added: %s", refusal)
            return {}
        return self.outcome

    def check(self) -> None:
        """Raise `PayloadError` if what the block has added cannot be recorded."""
        new_row(self._event(EventType.STEP_FINISHED, self.outcome), timestamp())

    def _event(self, event_type: EventType, fields: dict[str, object]) -> NewEvent:
        return self._task_id, self._item, event_type.value, {**self._fields, **fields}


def _failure(error: BaseException) -> dict[str, object]:
    """How a block has failed. ``SystemExit(0)`` is no failure."""
    if isinstance(error, SystemExit) and error.code in (None, 0):
        return {"exit_code": 0}
    kind = type(error).__name__
    reason = kind
    with suppress(Exception):  # its text is made by code of the host's
        text = str(error)[:_LONGEST_REASON].encode(errors="backslashreplace").decode()
        if text:
            reason = f"{kind}: {text}"
    failure: dict[str, object] = {"success": False, "reason": reason, "error_type": kind}
    if isinstance(error, SystemExit) and isinstance(error.code, int):
        failure["exit_code"] = error.code
    return failure


def _cannot_record(failure: OrchEventsError) -> None:
    if not isinstance(failure, ForkedError):  # else it goes on, in the parent
        _logger.error("the end of a step that has failed is not recorded: %s", failure)


@contextmanager
def recorded_step(
    insert: Callable[[str, str | None, str, Mapping[str, object]], object],
    submit: Callable[[str, str | None, str, Mapping[str, object]], object],
    block: StepBlock,
) -> Generator[dict[str, object], None, None]:
    """Records a block that a thread runs. Gives it its `outcome`."""
    insert(*block.start())
    try:
        with _beating(submit, block):
            yield block.outcome
        block.check()
    except BaseException as error:
        try:
            insert(*block.end(error))
        except OrchEventsError as failure:
            _cannot_record(failure)
        raise
    insert(*block.end())


@contextmanager
def _beating(
    submit: Callable[[str, str | None, str, Mapping[str, object]], object],
    block: StepBlock,
) -> Generator[None, None, None]:
    """Submits heartbeats from a thread of its own, none after the end."""
    if block.heartbeat is None:
        yield
        return
    seconds = block.heartbeat
    ended = threading.Event()

    def beat() -> None:
        with suppress(OrchEventsError):  # closed, or hopelessly behind: the step's end will say so
            while not ended.wait(seconds):
                submit(*block.beat())

    thread = threading.Thread(target=beat, name="orch_events-heartbeats", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


@asynccontextmanager
async def recorded_step_async(
    insert: Callable[[str, str | None, str, Mapping[str, object]], Awaitable[object]],
    block: StepBlock,
) -> AsyncGenerator[dict[str, object], None]:
    """Records a block that a coroutine runs. Gives it its `outcome`."""
    await insert(*block.start())
    try:
        async with _beating_async(insert, block):
            yield block.outcome
        block.check()
    except BaseException as error:
        try:
            await insert(*block.end(error))
        except OrchEventsError as failure:
            _cannot_record(failure)
        raise
    await insert(*block.end())


@asynccontextmanager
async def _beating_async(
    insert: Callable[[str, str | None, str, Mapping[str, object]], Awaitable[object]],
    block: StepBlock,
) -> AsyncGenerator[None, None]:
    """Records heartbeats from a task of its own, none after the end. A blocked event loop has none, as it should."""
    if block.heartbeat is None:
        yield
        return
    import asyncio

    seconds = block.heartbeat

    async def beat() -> None:
        with suppress(OrchEventsError):
            while True:
                await asyncio.sleep(seconds)
                await insert(*block.beat())

    task = asyncio.ensure_future(beat())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
