# SPDX-License-Identifier: MIT
"""The values users hold, the errors they catch and the sinks they pass: that each behaves as one of its kind should."""

import copy
import gc
import inspect
import json
import logging
import logging.config
import pickle
import pydoc
import re
import typing
from collections import UserDict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import FrozenInstanceError, fields, replace
from functools import partial
from io import StringIO
from pathlib import Path
from types import MappingProxyType
from typing import Final, cast

import pytest

import orch_events
from orch_events import (
    STEP_EVENT_TYPES,
    Event,
    EventLog,
    EventReader,
    EventSink,
    EventType,
    FanoutSink,
    ForkedError,
    LogClosedError,
    LogNotFoundError,
    NoopSink,
    ObservedStepScope,
    OrchEventsError,
    PayloadError,
    PrunedError,
    QueueFullError,
    ReadError,
    RecordingSink,
    SchemaError,
    StepEvent,
    StepLogPaths,
    TracingEventSink,
    WriteError,
    insert_event_with_conn,
    observed_step_scope_from_payload,
    observed_step_scope_label,
    query_step_events,
)
from orch_events._values.step_event import _Draft

EVENT: Final = Event(
    event_id=7,
    task_id="t",
    task_item_id="i",
    event_type=EventType.STEP_STARTED,
    payload_json='{"step":"qa","tags":["a",0.5]}',
    created_at="2026-01-02T03:04:05.000006+00:00",
)
STEP: Final = StepEvent(
    event_id=8,
    event_type="step_heartbeat",
    step="qa",
    step_scope=ObservedStepScope.ITEM,
    task_item_id="i",
    agent_id="coder",
    success=True,
    duration_ms=2**64 - 1,
    confidence=-0.0,
    reason="",
    elapsed_secs=0,
    stdout_bytes=1,
    stderr_bytes=2,
    stdout_delta_bytes=3,
    stderr_delta_bytes=4,
    stagnant_heartbeats=5,
    pid=6,
    pid_alive=False,
    output_state="quiet",
    created_at="2026-01-02T03:04:05.000006+00:00",
)
PATHS: Final = StepLogPaths("qa", "/out", "")
VALUES: Final = (EVENT, STEP, PATHS, EventType.STEP_STARTED, ObservedStepScope.TASK)
ERRORS: Final = (
    OrchEventsError("called back"),
    PayloadError("payload.a: nan is not JSON", "payload.a"),
    QueueFullError("events.db: full"),
    LogClosedError("events.db: closed"),
    ForkedError("events.db: forked"),
    LogNotFoundError(2, "no event log here", "events.db"),
    SchemaError("events.db: newer"),
    WriteError("events.db: disk full", "events.db", "SQLITE_FULL"),
    ReadError("events.db: cannot read", "events.db", "SQLITE_IOERR_READ"),
    PrunedError("events.db: events after 3 were pruned", 9),
)


def _pickled(protocol: int, value: object) -> object:
    return pickle.loads(pickle.dumps(value, protocol))


COPIES: Final[Mapping[str, Callable[[object], object]]] = {
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    **{
        f"pickle {protocol}": partial(_pickled, protocol)
        for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1)
    },
}

# ------------------------------------------------------------------------------------------------------- the front door

NAMED: Final = [
    name
    for name in orch_events.__all__
    if inspect.isclass(thing := getattr(orch_events, name)) or inspect.isfunction(thing)
]


def test_everything_public_is_there_once() -> None:
    assert len(NAMED) > 25
    assert len(orch_events.__all__) == len(set(orch_events.__all__))
    assert all(hasattr(orch_events, name) for name in orch_events.__all__)


@pytest.mark.parametrize("name", NAMED)
def test_a_public_name_is_known_by_the_front_door(name: str) -> None:
    thing = getattr(orch_events, name)
    assert (thing.__module__, thing.__qualname__) == ("orch_events", name)
    assert repr(thing).startswith(
        (f"<class 'orch_events.{name}'", f"<enum '{name}'", f"<function {name} at ")
    )


@pytest.mark.parametrize("name", NAMED)
def test_a_public_name_is_documented_and_its_annotations_resolve(name: str) -> None:
    thing = getattr(orch_events, name)
    methods = [
        method
        for key, method in inspect.getmembers(thing, inspect.isfunction)
        if not key.startswith("_")
    ]
    for documented in (
        thing,
        *(method for method in methods if method.__module__.startswith("orch_events")),
    ):
        assert inspect.getdoc(documented), documented
        typing.get_type_hints(documented)


def test_help_shows_everything_public() -> None:
    text = pydoc.plain(pydoc.render_doc(orch_events))
    for name in NAMED:
        assert re.search(rf"^    (class )?{name}\b.*\(", text, re.MULTILINE), name
        doc = inspect.getdoc(getattr(orch_events, name))
        assert doc and doc.splitlines()[0] in text, name
    data = text.partition("\nDATA\n")[2]
    assert set(re.findall(r"^    (\w+)\b.* = ", data, re.MULTILINE)) == {
        "__all__",
        *orch_events.__all__,
    } - {*NAMED}


TELLS: Final[Mapping[object, str]] = {
    EventLog: "seconds Raises threads tasks process",
    EventLog.insert_event: "Raises PayloadError QueueFullError WriteError blocks",
    EventLog.submit_event: "Raises PayloadError QueueFullError seconds WriteError",
    EventLog.flush: "raises WriteError",
    EventLog.close: "raises WriteError LogClosedError threads",
    EventLog.follow_step_events: "seconds Raises ReadError",
    EventReader: "seconds Raises LogNotFoundError SchemaError ReadError threads tasks",
    EventSink: "thread raises",
    Event: "threads",
    StepEvent: "threads",
    insert_event_with_conn: "Raises PayloadError SchemaError WriteError",
    query_step_events: "Raises",
}


@pytest.mark.parametrize("thing", TELLS, ids=lambda thing: getattr(thing, "__qualname__"))
def test_the_documentation_tells_units_errors_and_what_may_be_shared(thing: object) -> None:
    assert not set(TELLS[thing].lower().split()) - set(
        re.findall(r"\w+", (inspect.getdoc(thing) or "").lower())
    )


# --------------------------------------------------------------------------------------------------------------- values


@pytest.mark.parametrize("how", COPIES)
@pytest.mark.parametrize("value", VALUES, ids=lambda value: type(value).__name__)
def test_a_copy_is_equal_and_of_the_same_type(value: object, how: str) -> None:
    other = COPIES[how](value)
    assert type(other) is type(value)
    assert other == value
    assert (hash(other), repr(other)) == (hash(value), repr(value))


@pytest.mark.parametrize("value", [EVENT, STEP], ids=["Event", "StepEvent"])
def test_a_value_is_frozen_slotted_and_keyword_only(value: Event | StepEvent) -> None:
    names = [field.name for field in fields(value)]
    assert type(value).__slots__ == tuple(names)
    assert not hasattr(value, "__dict__")
    for name in names:
        with pytest.raises(FrozenInstanceError):
            setattr(value, name, None)
        with pytest.raises(FrozenInstanceError):
            delattr(value, name)
    with pytest.raises((AttributeError, TypeError)):
        setattr(value, "note", None)
    make = cast("Callable[..., object]", type(value))
    with pytest.raises(TypeError):
        make(*(getattr(value, name) for name in names))
    assert make(**{name: getattr(value, name) for name in names}) == value


@pytest.mark.parametrize("value", [EVENT, STEP], ids=["Event", "StepEvent"])
def test_values_differ_where_any_field_does(value: Event | StepEvent) -> None:
    changed = cast("Callable[..., Event | StepEvent]", replace)
    variants = {value, changed(value)}
    for field in fields(value):
        variants |= {
            changed(value, **{field.name: "another"}),
            changed(value, **{field.name: "another"}),
        }
    assert len(variants) == 1 + len(fields(value))
    as_tuple: object = tuple(getattr(value, field.name) for field in fields(value))
    assert value != as_tuple


def test_the_fields_are_the_references_in_its_order() -> None:
    reference = """event_type step step_scope task_item_id agent_id success duration_ms confidence reason elapsed_secs
        stdout_bytes stderr_bytes stdout_delta_bytes stderr_delta_bytes stagnant_heartbeats pid pid_alive output_state
        created_at"""
    assert [field.name for field in fields(StepEvent)] == ["event_id", *reference.split()]
    assert StepEvent.__slots__ == _Draft.__slots__


def test_what_is_read_is_what_the_constructor_makes(tmp_path: Path) -> None:
    payload = {field.name: getattr(STEP, field.name) for field in fields(STEP)}
    with EventLog(tmp_path / "events.db") as log:
        log.insert_event("t", "i", EventType.STEP_HEARTBEAT, {**payload, "step_scope": "item"})
        (step,), (event,) = log.query_step_events("t"), log.query_events("t")
    assert type(step) is StepEvent
    assert step == replace(STEP, event_id=step.event_id, created_at=step.created_at)
    assert (
        hash(step)
        == hash(replace(step))
        == hash(copy.copy(step))
        == hash(pickle.loads(pickle.dumps(step)))
    )
    assert replace(step, step=None).step is None
    with pytest.raises(FrozenInstanceError):
        setattr(step, "step", "other")
    assert type(event) is Event
    assert event == replace(
        EVENT, **{field.name: getattr(event, field.name) for field in fields(event)}
    )
    assert type(event.event_type) is type(step.event_type) is str


def test_values_match_patterns() -> None:
    match STEP:
        case StepEvent(step_scope=ObservedStepScope.ITEM, step=str(step), pid=int(pid)):
            assert (step, pid) == ("qa", 6)
        case _:
            pytest.fail("no match")
    match EVENT:
        case Event(
            event_type=EventType.STEP_STARTED | EventType.STEP_SPAWNED,
            payload={"tags": [first, *_]},
        ):
            assert first == "a"
        case _:
            pytest.fail("no match")
    match PATHS:
        case (phase, "/out", stderr):
            assert (phase, stderr) == ("qa", "")
        case _:
            pytest.fail("no match")


def test_a_payload_is_parsed_anew_at_each_access() -> None:
    assert EVENT.payload == {"step": "qa", "tags": ["a", 0.5]}
    assert EVENT.payload is not EVENT.payload
    assert replace(EVENT, payload_json="no json").payload is None


def test_log_paths_are_a_triple() -> None:
    assert PATHS == ("qa", "/out", "")
    assert (PATHS.phase, PATHS.stdout_path, PATHS.stderr_path) == PATHS


def test_event_types_and_scopes_are_strings() -> None:
    for member in (*EventType, *ObservedStepScope):
        assert member == member.value == str(member) == f"{member}" == member.name.lower()
        assert json.dumps({member: member}) == f'{{"{member.value}": "{member.value}"}}'
    reference = """step_started step_finished step_skipped step_heartbeat step_spawned step_timeout cycle_started
        sandbox_denied sandbox_resource_exceeded sandbox_network_blocked daemon_pid_kill_blocked"""
    assert set(reference.split()) == STEP_EVENT_TYPES
    assert set(EventType) >= STEP_EVENT_TYPES


SCOPES: Final[list[tuple[object, ObservedStepScope | None]]] = [
    ({"step_scope": "task"}, ObservedStepScope.TASK),
    (MappingProxyType({"step_scope": "item", "x": 1}), ObservedStepScope.ITEM),
    ({"step_scope": ObservedStepScope.ITEM}, ObservedStepScope.ITEM),
]
NO_SCOPES: Final[list[object]] = [
    *(
        {"step_scope": label}
        for label in ("Task", "", " task", None, 1, True, ["task"], {"task": "task"}, b"task")
    ),
    {},
    None,
    True,
    0,
    1.5,
    float("nan"),
    "step_scope",
    "task",
    "",
    [],
    [["step_scope", "task"]],
    object(),
    b"",
    {1: 2},
    ("step_scope", "task"),
    ObservedStepScope.TASK,
]


@pytest.mark.parametrize(
    ("payload", "scope"), [*SCOPES, *((payload, None) for payload in NO_SCOPES)], ids=repr
)
def test_a_scope_is_found_and_nothing_raises(
    payload: object, scope: ObservedStepScope | None
) -> None:
    assert observed_step_scope_from_payload(payload) is scope


def test_labels() -> None:
    labels = [
        observed_step_scope_label(scope)
        for scope in (ObservedStepScope.TASK, ObservedStepScope.ITEM, None)
    ]
    assert labels == ["task", "item", "unspecified"]
    assert {type(label) for label in labels} == {str}


# --------------------------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize("how", COPIES)
@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_an_error_survives_copying(error: OrchEventsError, how: str) -> None:
    other = COPIES[how](error)
    assert type(other) is type(error)
    assert isinstance(other, OrchEventsError)
    assert (str(other), other.args, vars(other)) == (str(error), error.args, vars(error))
    for attribute in (
        "key_path",
        "path",
        "sqlite_errorname",
        "errno",
        "filename",
        "first_available_id",
    ):
        assert getattr(other, attribute, None) == getattr(error, attribute, None)


def test_errors_are_what_callers_expect_them_to_be() -> None:
    exported = {name for name in orch_events.__all__ if name.endswith("Error")}
    assert exported == {type(error).__name__ for error in ERRORS}
    assert all(isinstance(error, OrchEventsError) for error in ERRORS)
    assert issubclass(PayloadError, ValueError)
    assert issubclass(LogNotFoundError, FileNotFoundError)
    assert (PayloadError("m").key_path, WriteError("m").path, ReadError("m").sqlite_errorname) == (
        "",
        "",
        "",
    )


def test_raised_errors_carry_their_details(tmp_path: Path) -> None:
    missing = tmp_path / "none.db"
    with pytest.raises(LogNotFoundError) as not_found:
        EventReader(missing)
    assert (not_found.value.filename, not_found.value.errno) == (str(missing), 2)
    assert str(missing) in str(not_found.value)
    missing.write_bytes(b"not a database, but long enough to be taken for one" * 100)
    with pytest.raises(SchemaError, match="none.db"):
        EventReader(missing)
    with pytest.raises(SchemaError, match="none.db"):
        EventLog(missing)
    with pytest.raises(ReadError) as unreadable:
        EventReader(tmp_path)
    assert unreadable.value.path == str(tmp_path)
    del not_found, unreadable
    gc.collect()  # what a refused file left open would warn now


# ---------------------------------------------------------------------------------------------------------------- sinks

SinkArguments = tuple[str, str | None, str, Mapping[str, object]]
HEARD: Final[list[SinkArguments]] = [
    ("t", "i", "step_started", {"step": "qa"}),
    ("t", None, "task_completed", {}),
]


class Broken:
    """A sink that always fails, each time differently."""

    def __init__(self) -> None:
        self.calls = 0

    def emit(self, *_: object) -> None:
        self.calls += 1
        raise RuntimeError(f"call {self.calls}")


def test_a_recording_sink_keeps_what_it_hears() -> None:
    sink = RecordingSink()
    for arguments in HEARD:
        sink.emit(*arguments)
    assert sink.events == HEARD
    assert RecordingSink().events == []


def test_a_fanout_tells_all_in_order_and_raises_the_first_error() -> None:
    order: list[str] = []

    class Named(NoopSink):
        def __init__(self, name: str) -> None:
            self.name = name

        def emit(self, *_: object) -> None:
            order.append(self.name)

    broken = Broken()
    recorder = RecordingSink()
    sinks: Iterator[EventSink] = iter([Named("a"), broken, Named("b"), broken, recorder])
    fanout = FanoutSink(sinks)
    for n, arguments in enumerate(HEARD):
        with pytest.raises(RuntimeError, match=f"^call {2 * n + 1}$"):
            fanout.emit(*arguments)
    assert order == ["a", "b"] * 2
    assert recorder.events == HEARD
    FanoutSink([]).emit(*HEARD[0])


def test_a_broken_member_of_a_fanout_harms_neither_the_log_nor_the_others(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    recorder = RecordingSink()
    with EventLog(tmp_path / "events.db", sink=FanoutSink([Broken(), recorder])) as log:
        assert [log.insert_event(*arguments) for arguments in HEARD] == [1, 2]
    assert recorder.events == HEARD
    assert {(record.name, record.levelname) for record in caplog.records} == {
        ("orch_events", "ERROR")
    }


LEVELS: Final = {
    "task_failed": "ERROR",
    "step_timeout": "WARNING",
    "auto_rollback_failed": "WARNING",
    "step_started": "INFO",
    "step_finished": "INFO",
    "task_completed": "INFO",
    "task_paused": "INFO",
}


@pytest.mark.parametrize("event_type", [*EventType, "custom", "", "STEP_STARTED"])
@pytest.mark.parametrize(
    "logger", [None, logging.getLogger("host.events")], ids=["default", "custom"]
)
def test_an_event_is_logged_at_the_references_level(
    event_type: str, logger: logging.Logger | None, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    TracingEventSink(logger).emit("t", "i", event_type, {"step": "qa"})
    (record,) = caplog.records
    assert record.levelname == LEVELS.get(event_type, "DEBUG")
    assert record.name == ("host.events" if logger else "orch_events")
    assert record.getMessage() == f'workflow event {event_type} t/i {{"step": "qa"}}'


def test_a_record_carries_the_event(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    for arguments in HEARD:
        TracingEventSink().emit(*arguments)
    TracingEventSink().emit("t", None, "x", MappingProxyType({"when": Path("p"), "é": "😀"}))
    carried = [
        tuple(vars(r)[k] for k in ("task_id", "task_item_id", "event_type", "payload"))
        for r in caplog.records
    ]
    assert carried[:2] == HEARD
    assert caplog.records[1].getMessage() == "workflow event task_completed t {}"
    assert caplog.records[2].getMessage() == 'workflow event x t {"when": "p", "é": "😀"}'


def test_a_level_that_is_off_costs_nothing(caplog: pytest.LogCaptureFixture) -> None:
    class Unreadable(UserDict[str, object]):
        def __iter__(self) -> Iterator[str]:
            raise AssertionError("was looked at")

    caplog.set_level(logging.INFO)
    TracingEventSink().emit("t", None, "step_heartbeat", Unreadable())
    assert not caplog.records


def test_an_event_cannot_forge_a_line(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    odd = "a\nb\rc\x1b[31m\x9b\u2028\u202e\0\ud800é"
    TracingEventSink().emit(odd, odd, odd, {odd: odd})
    message = caplog.records[0].getMessage()
    assert message.isprintable()
    assert message.startswith("workflow event a\\nb\\rc\\x1b[31m\\x9b\\u2028\\u202e\\x00\\ud800é ")


class JsonFormatter(logging.Formatter):
    """What a host's structured logging does with the fields of a record."""

    def format(self, record: logging.LogRecord) -> str:
        names = ("levelname", "task_id", "task_item_id", "event_type", "payload")
        return json.dumps({name: vars(record).get(name) for name in names})


def test_a_host_configures_it_with_a_dictionary(tmp_path: Path) -> None:
    stream = StringIO()
    handler = {"class": "logging.StreamHandler", "stream": stream, "formatter": "json"}
    logger = logging.getLogger("orch_events")
    before = (logger.level, logger.propagate, list(logger.handlers))
    try:
        logging.config.dictConfig(
            {
                "version": 1,
                "disable_existing_loggers": False,
                "formatters": {"json": {"()": JsonFormatter}},
                "handlers": {"stream": handler},
                "loggers": {
                    "orch_events": {"level": "INFO", "handlers": ["stream"], "propagate": False}
                },
            }
        )
        with EventLog(tmp_path / "events.db", sink=TracingEventSink()) as log:
            log.insert_events([*HEARD, ("t", None, "step_heartbeat", {})])
    finally:
        logger.setLevel(before[0])
        logger.propagate, logger.handlers = before[1:]
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [tuple(line.values()) for line in lines] == [("INFO", *arguments) for arguments in HEARD]
