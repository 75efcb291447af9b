# SPDX-License-Identifier: MIT
"""Mistakes a type checker must find: each line marked ``# E: code`` is one, and no other line is. Never run."""

from collections.abc import Mapping
from enum import Enum

from orch_events import (
    STEP_EVENT_TYPES,
    Event,
    EventLog,
    EventReader,
    EventSink,
    EventType,
    FanoutSink,
    JsonObject,
    NoopSink,
    ObservedStepScope,
    StepEvent,
    StepLogPaths,
    TracingEventSink,
    insert_event_with_conn,
    observed_step_scope_label,
    query_step_events,
)


class ShortSink:
    def emit(self, task_id: str, event_type: str) -> None: ...


class NarrowSink:
    def emit(
        self, task_id: str, task_item_id: str, event_type: str, payload: Mapping[str, object]
    ) -> None: ...


class DictSink:
    def emit(
        self, task_id: str, task_item_id: str | None, event_type: str, payload: dict[str, object]
    ) -> None: ...


class AsyncSink:
    async def emit(
        self, task_id: str, task_item_id: str | None, event_type: str, payload: Mapping[str, object]
    ) -> None: ...


class EmitterSink:
    def send(
        self, task_id: str, task_item_id: str | None, event_type: str, payload: Mapping[str, object]
    ) -> None: ...


class PlainEnum(Enum):
    STARTED = "started"


def the_sink_has_another_shape() -> None:
    EventLog("events.db", sink=ShortSink())  # E: arg-type
    EventLog("events.db", sink=NarrowSink())  # E: arg-type
    EventLog("events.db", sink=DictSink())  # E: arg-type
    EventLog("events.db", sink=NoopSink)  # E: arg-type
    EventLog("events.db", sink=print)  # E: arg-type
    FanoutSink([NoopSink(), AsyncSink()])  # E: list-item
    FanoutSink(NoopSink())  # E: arg-type
    TracingEventSink("orch_events")  # E: arg-type
    sink: EventSink = EmitterSink()  # E: assignment
    NoopSink().emit(task_id="t", task_item_id=None, event_type="x", payload={})  # E: call-arg
    sink.emit("t", None, "x")  # E: call-arg


def the_log_is_opened_otherwise() -> None:
    EventLog()  # E: call-arg
    EventLog(b"events.db")  # E: arg-type
    EventLog("events.db", NoopSink())  # E: call-arg
    EventLog("events.db", durability="none")  # E: arg-type
    EventLog("events.db", durability=str("full"))  # E: arg-type
    EventLog("events.db", queue_capacity=0.5)  # E: arg-type
    EventLog("events.db", timeout=3)  # E: call-arg
    EventReader("events.db", 3.0)  # E: call-arg
    EventReader("events.db", sink=NoopSink())  # E: call-arg


def an_argument_has_another_type(
    log: EventLog, reader: EventReader, scopes: list[ObservedStepScope]
) -> None:
    log.insert_event("t", None, EventType.STEP_STRATED, {})  # E: attr-defined
    log.insert_event("t", None, PlainEnum.STARTED, {})  # E: arg-type
    log.insert_event("t", None, "x", '{"step": "qa"}')  # E: arg-type
    log.insert_event("t", None, "x", [("step", "qa")])  # E: arg-type
    log.insert_event("t", None, "x", None)  # E: arg-type
    log.insert_event("t", None, "x", {1: "one"})  # E: dict-item
    log.insert_event("t", None)  # E: call-arg
    log.insert_event(7, None, "x", {})  # E: arg-type
    log.insert_event("t", 7, "x", {})  # E: arg-type
    log.insert_event(None, None, "x", {})  # E: arg-type
    log.submit_event("t", None, "x", "qa")  # E: arg-type
    log.insert_events([("t", None, "x")])  # E: list-item
    log.insert_events([("t", None, "x", "qa")])  # E: list-item
    log.insert_events([{"task_id": "t"}])  # E: list-item
    log.query_step_events("t", 5)  # E: call-arg
    log.query_events("t", "step_")  # E: call-arg
    log.query_events(after_id="5")  # E: arg-type
    log.follow_step_events()  # E: call-arg
    log.follow_events("t", stop=True)  # E: arg-type
    reader.insert_event("t", None, "x", {})  # E: attr-defined
    query_step_events("events.db", 7)  # E: arg-type
    insert_event_with_conn(log, "t", None, "x", {})  # E: arg-type
    observed_step_scope_label("task")  # E: arg-type
    observed_step_scope_label(ObservedStepScope.STEP)  # E: attr-defined
    scopes.append("item")  # E: arg-type
    wrong: JsonObject = {"set": {1, 2}}  # E: dict-item


async def the_await_is_missing(log: EventLog) -> None:
    log.insert_event_async("t", None, "x", {})  # E: unused-coroutine
    log.insert_events_async([])  # E: unused-coroutine
    log.flush_async()  # E: unused-coroutine
    log.aclose()  # E: unused-coroutine
    number: int = log.insert_event_async("t", None, "x", {})  # E: assignment
    for event in log.query_step_events_async("t"):  # E: attr-defined
        print(event)
    async for step in log.query_step_events("t"):  # E: attr-defined
        print(step)
    for one in log.follow_events_async("t"):  # E: attr-defined
        print(one)
    await log.insert_event("t", None, "x", {})  # E: misc
    await log.query_events_async("t")  # E: misc
    async with log.insert_event_async("t", None, "x", {}):  # E: attr-defined
        pass


def a_value_is_changed_or_misread(
    event: Event, step: StepEvent, paths: StepLogPaths | None
) -> None:
    event.task_id = "other"  # E: misc
    step.success = True  # E: misc
    step.note = "new"  # E: attr-defined
    event.payload["step"]  # E: index, call-overload
    event.payload = {}  # E: misc
    step.duration_ms + 1  # E: operator
    step.step.upper()  # E: union-attr
    paths.phase  # E: union-attr
    StepLogPaths("qa", "out")  # E: call-arg
    Event(1, "t", None, "x", "{}", "")  # E: call-arg
    Event(event_id=1, task_id="t")  # E: call-arg
    EventType.STEP_STARTED = "started"  # E: misc
    STEP_EVENT_TYPES.add("mine")  # E: attr-defined
