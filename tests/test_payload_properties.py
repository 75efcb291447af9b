# SPDX-License-Identifier: MIT
"""Which texts count as JSON, and what comes back of what was written: properties, against a slow and obvious oracle.

The oracle is a parser of its own, with one method for each rule of the grammar; it refuses what serde_json refuses and
knows nothing of Python's `json`. Values are compared by `repr`, which tells 1 from 1.0 and True, and 0.0 from -0.0.
"""

import asyncio
import itertools
import math
import sqlite3
import time
from collections import OrderedDict, UserDict
from collections.abc import Callable, ItemsView, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import fields
from datetime import UTC, datetime
from enum import IntEnum, StrEnum
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, NamedTuple, TypeVar, cast

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from orch_events import (
    STEP_EVENT_TYPES,
    Event,
    EventLog,
    EventReader,
    JsonValue,
    ObservedStepScope,
    PayloadError,
    StepEvent,
    StepLogPaths,
    insert_event_with_conn,
    observed_step_scope_from_payload,
)

from .engines import only_files

BOTH_ENGINES = True

T = TypeVar("T")

# ----------------------------------------------------------------------------------------------------------- oracle

DEEPEST: Final = 127
TOO_BIG: Final = 2**1024 - 2**970
"""The least integer that rounds to infinity."""

ESCAPES: Final = {
    '"': '"',
    "\\": "\\",
    "/": "/",
    "b": "\b",
    "f": "\f",
    "n": "\n",
    "r": "\r",
    "t": "\t",
}
WORDS: Final[Mapping[str, JsonValue]] = {"true": True, "false": False, "null": None}
DIGITS: Final = "0123456789"


class Oracle:
    """A text being read from left to right. Every method eats what it is named after, or raises `ValueError`."""

    def __init__(self, text: str) -> None:
        text.encode()  # a surrogate in the text itself stands for a byte that is not UTF-8
        self.rest = text

    def document(self) -> JsonValue:
        value = self.value(0)
        self.run(" \t\n\r")
        if self.rest:
            raise ValueError("something follows")
        return value

    def eat(self, token: str) -> bool:
        found = self.rest.startswith(token)
        self.rest = self.rest[len(token) :] if found else self.rest
        return found

    def need(self, *tokens: str) -> str:
        for token in tokens:
            if self.eat(token):
                return token
        raise ValueError(f"none of {tokens} here")

    def run(self, accepted: str, at_least: int = 0) -> str:
        taken = self.rest[: len(self.rest) - len(self.rest.lstrip(accepted))]
        if len(taken) < at_least:
            raise ValueError(f"none of {accepted} here")
        self.rest = self.rest[len(taken) :]
        return taken

    def value(self, depth: int) -> JsonValue:
        self.run(" \t\n\r")
        if self.eat("["):
            return list(self.items("]", self.value, depth + 1))
        if self.eat("{"):
            return dict(self.items("}", self.member, depth + 1))
        if self.eat('"'):
            return self.string()
        if self.rest[:1] in (*DIGITS, "-"):
            return self.number()
        return WORDS[self.need(*WORDS)]

    def items(self, end: str, item: Callable[[int], T], depth: int) -> Iterator[T]:
        if depth > DEEPEST:
            raise ValueError("too deep")
        self.run(" \t\n\r")
        if self.eat(end):
            return
        while True:
            yield item(depth)
            self.run(" \t\n\r")
            if self.need(",", end) == end:
                return

    def member(self, depth: int) -> tuple[str, JsonValue]:
        self.run(" \t\n\r")
        self.need('"')
        key = self.string()
        self.run(" \t\n\r")
        self.need(":")
        return key, self.value(depth)

    def string(self) -> str:
        found = ""
        while not self.eat('"'):
            if self.eat("\\"):
                found += self.escape()
            elif self.rest[:1] < " ":
                raise ValueError("a control character, or no end")
            else:
                found = found + self.rest[0]
                self.rest = self.rest[1:]
        return found

    def escape(self) -> str:
        kind = self.need("u", *ESCAPES)
        if kind != "u":
            return ESCAPES[kind]
        code = self.hex4()
        if 0xD800 <= code < 0xDC00:
            self.need("\\u")
            low = self.hex4()
            if not 0xDC00 <= low < 0xE000:
                raise ValueError("a leading surrogate alone")
            return chr(0x10000 + (code - 0xD800) * 0x400 + low - 0xDC00)
        if 0xDC00 <= code < 0xE000:
            raise ValueError("a trailing surrogate alone")
        return chr(code)

    def hex4(self) -> int:
        return int("".join(self.need(*DIGITS, *"abcdefABCDEF") for _ in range(4)), 16)

    def number(self) -> int | float:
        before = self.rest
        self.eat("-")
        if not self.eat("0"):
            self.run(DIGITS, at_least=1)
        integer = before[: len(before) - len(self.rest)]
        if self.eat("."):
            self.run(DIGITS, at_least=1)
        if self.eat("e") or self.eat("E"):
            _ = self.eat("+") or self.eat("-")
            self.run(DIGITS, at_least=1)
        text = before[: len(before) - len(self.rest)]
        value = int(text) if text == integer and text != "-0" and len(text) < 400 else float(text)
        if math.isinf(value) if isinstance(value, float) else abs(value) >= TOO_BIG:
            raise ValueError("beyond the double range")
        return value


def oracle(text: str) -> JsonValue:
    """The value of a text; ``None`` if it has none."""
    try:
        return Oracle(text).document()
    except ValueError:
        return None


def reading(text: str) -> JsonValue:
    """The same, as the library has it."""
    return Event(
        event_id=1, task_id="", task_item_id=None, event_type="", payload_json=text, created_at=""
    ).payload


# ------------------------------------------------------------------------------------------------------------ texts

NUMBERS: Final = (
    "0 -0 -0.0 0.0 -0e1 -0E-1 0e999999999999 1e-400 -1e-400 1e-0 1E+2 1.5 -1 18446744073709551615 18446744073709551616 "
    "9223372036854775807 -9223372036854775808 -9223372036854775809 1.7976931348623157e308 5e-324 "
    f"{TOO_BIG - 1} {1 - TOO_BIG} {'9' * 308} 1{'0' * 308} {'7' * 400}e-300 0.{'3' * 400}"
).split()
NO_NUMBERS: Final = (
    f"1e309 -1e309 1.7976931348623159e308 {TOO_BIG} -{TOO_BIG} {'9' * 309} 1{'0' * 5000} {'7' * 400}.5 01 -01 00 1. .5 "
    "+1 - -.5 1e 1e+ 0x1 1_0 \u0661 NaN Infinity -Infinity nan -NaN inf True None nul truefalse"
).split()
STRINGS: Final = [
    r"\ud83d\uDE00",
    r"\u0000",
    r"\uFFFF",
    r"\\ud800",
    r"\"",
    r"\/\b\f\n\r\t",
    "\x7f",
    "\u2028",
    "😀é",
    "[{",
]
NO_STRINGS: Final = [
    *(
        [
            r"\ud800",
            r"\uDC00",
            r"\ud800\u0041",
            r"\ud83d\ud83d",
            r"\ud800\\udc00",
            r"\x41",
            r"\u12",
            r"\u00g0",
            r"\u+123",
            r"\U0041",
        ]
    ),
    *(
        "\\",
        "\n",
        "\0",
        "\x1f",
        "\udcff",
        "é\udcc3",
    ),  # the last two stand for bytes that are not UTF-8
]
NO_SPACES: Final = ["\ufeff", "\xa0", "\v", "\f", "\u2028", "\x1c", "\0", "//", "/**/", "#"]
FRAGMENTS: Final = [
    *'[]{}",:',
    "",
    " ",
    "1,2",
    "1 2",
    "1],[2",
    '{"a":1},{"b":2}',
    "[1",
    "2]",
    '"x',
    'y"',
    '{"a":',
]


def deep(depth: int, text: str = "0") -> str:
    """`text` inside so many arrays and objects."""
    return (
        '[{"k":' * (depth // 2) + "[" * (depth % 2) + text + "]" * (depth % 2) + "}]" * (depth // 2)
    )


spaces = st.text(" \t\n\r", max_size=2)
strings = st.lists(st.sampled_from([*STRINGS, *"ab é😀step"]), max_size=4).map(
    lambda parts: f'"{"".join(parts)}"'
)
scalars = st.one_of(
    strings,
    st.sampled_from([*NUMBERS, *WORDS]),
    st.integers().map(str),
    st.floats(allow_nan=False, allow_infinity=False).map(repr),
)


def _container(items: st.SearchStrategy[str], brackets: str) -> st.SearchStrategy[str]:
    parts = st.lists(st.tuples(spaces, items, spaces).map("".join), max_size=4)
    return st.tuples(parts, spaces).map(
        lambda p: brackets[0] + (",".join(p[0]) or p[1]) + brackets[1]
    )


def _containers(items: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    members = st.tuples(strings, spaces, st.just(":"), spaces, items).map("".join)
    return _container(items, "[]") | _container(members, "{}")


valid_texts = st.tuples(spaces, st.recursive(scalars, _containers, max_leaves=8), spaces).map(
    "".join
)
deep_texts = st.builds(deep, st.integers(120, 132), scalars)


@st.composite
def mutated_texts(draw: st.DrawFn) -> str:
    """A valid text with one or two pieces of it cut out or replaced by something odd."""
    text = draw(valid_texts)
    odd = [*NUMBERS, *NO_NUMBERS, *STRINGS, *NO_STRINGS, *NO_SPACES, *FRAGMENTS, deep(128)]
    for _ in range(draw(st.integers(1, 2))):
        start = draw(st.integers(0, len(text)))
        end = draw(st.integers(start, min(len(text), start + 4)))
        text = text[:start] + draw(st.sampled_from(odd)) + text[end:]
    return text


any_texts = st.one_of(
    valid_texts,
    mutated_texts(),
    deep_texts,
    st.sampled_from([*FRAGMENTS, *NUMBERS, *NO_NUMBERS, *NO_SPACES]),
    st.sampled_from([*STRINGS, *NO_STRINGS]).map(lambda s: f'{{"k":"{s}"}}'),
    st.text('{}[]",:\\u0dD8e1-+.tfn \n\x0b'),
    st.text(),
)


@settings(deadline=None, max_examples=40)
@given(valid_texts)
def test_valid_json_is_accepted_with_the_value_it_has(text: str) -> None:
    assert repr(reading(text)) == repr(Oracle(text).document())


@settings(deadline=None, max_examples=80)
@given(any_texts)
def test_any_text_has_the_value_that_the_oracle_gives_it(text: str) -> None:
    assert repr(reading(text)) == repr(oracle(text))


@pytest.mark.parametrize("wrap", ["%s", "[%s]", ' {"a":{"k":[0,%s]}} ', '{"k":%s,"k":1}'])
def test_every_oddity_in_every_place(wrap: str) -> None:
    texts = [
        *NUMBERS,
        *NO_NUMBERS,
        *NO_SPACES,
        *FRAGMENTS,
        *(f'"{s}"' for s in (*STRINGS, *NO_STRINGS)),
    ]
    texts += [deep(depth) for depth in range(124, 131)]
    texts += [
        f'"{"[" * 200}"',
        f'"{"9" * 400}"',
        f'"-0 {TOO_BIG}"',
        '["\\"' + "[" * 200 + '"]',
        "[{" * 50 + "}]" * 50,
    ]
    for text in texts:
        assert repr(reading(wrap % text)) == repr(oracle(wrap % text)), text
    accepted = sum(oracle(wrap % text) is not None for text in texts)
    assert len(NUMBERS) < accepted < len(texts) - len(NO_NUMBERS) / 2


@pytest.mark.parametrize(
    "text",
    [
        "[" * 1_000_000,
        "[" * 200 + '"' + '\\"' * 20_000,
        '{"a":' * 100_000,
        "9" * 1_000_000,
        "[" * 200 + '""' * 100_000,
    ],
    ids=["brackets", "quotes", "objects", "digits", "strings"],
)
def test_no_text_takes_long(text: str) -> None:
    started = time.process_time()
    assert reading(text) is None
    assert time.process_time() - started < 2


# ------------------------------------------------------------------------------------------------ rows and whole pages

UNSIGNED: Final = [
    "duration_ms",
    "elapsed_secs",
    "stdout_bytes",
    "stderr_bytes",
    "stdout_delta_bytes",
    "stderr_delta_bytes",
    "stagnant_heartbeats",
    "pid",
]
STRING_FIELDS: Final = ("agent_id", "reason", "output_state")
BOOLEANS: Final = ("success", "pid_alive")


class Row(NamedTuple):
    """What a row of the table holds, beside its task."""

    payload_json: str
    step: str | None = None
    step_scope: str | None = None
    event_type: str = "step_heartbeat"


def _text(payload: Mapping[str, JsonValue], *names: str) -> str | None:
    """The first of the fields that is a string, were it empty."""
    return next((value for name in names if isinstance(value := payload.get(name), str)), None)


def expected_fields(row: Row) -> dict[str, object]:
    """The rules for each field of a `StepEvent`, in the words of the documentation."""
    parsed = oracle(row.payload_json)
    payload = parsed if isinstance(parsed, dict) else {}
    scope = row.step_scope if row.step_scope is not None else _text(payload, "step_scope")
    return {
        "event_type": row.event_type,
        "step": row.step if row.step is not None else _text(payload, "step", "phase"),
        "step_scope": {"task": ObservedStepScope.TASK, "item": ObservedStepScope.ITEM}.get(
            scope or ""
        ),
        "task_item_id": None,
        **{name: _text(payload, name) for name in STRING_FIELDS},
        **{
            name: value if isinstance(value := payload.get(name), bool) else None
            for name in BOOLEANS
        },
        **{
            name: v if type(v := payload.get(name)) is int and v in range(2**64) else None
            for name in UNSIGNED
        },
        "confidence": float(v)
        if isinstance(v := payload.get("confidence"), float) or type(v) is int
        else None,
        "created_at": "",
    }


def expected_paths(row: Row) -> StepLogPaths | None:
    parsed = oracle(row.payload_json)
    payload = parsed if isinstance(parsed, dict) else {}
    name = _text(payload, "phase", "step")
    stdout = _text(payload, "stdout_path")
    return (
        StepLogPaths(name, stdout, _text(payload, "stderr_path") or "") if name and stdout else None
    )


def shown(event: StepEvent) -> dict[str, str]:
    return {f.name: repr(getattr(event, f.name)) for f in fields(event) if f.name != "event_id"}


PATHS: Final = ("phase", "stdout_path", "stderr_path")
field_names = st.sampled_from(
    [*UNSIGNED, *STRING_FIELDS, *BOOLEANS, "confidence", "step", "step_scope", *PATHS, "x"]
)
field_values = (
    st.sampled_from(['"task"', '"item"', '""', '"qa"', "true", "3", "0.5"])
    | scalars
    | mutated_texts()
)
members = st.builds('"{}":{}'.format, field_names, field_values)
payload_texts = st.lists(members, max_size=8).map(lambda parts: "{" + ",".join(parts) + "}")
columns = st.sampled_from([None, None, "", "task", "item", "Task", "qa\0\n\x1f"])
types = st.sampled_from(sorted(map(str, STEP_EVENT_TYPES)))
pages = st.lists(
    st.builds(Row, payload_texts | any_texts, columns, columns, types), min_size=1, max_size=12
)


class Bench(NamedTuple):
    """A log, a reader of it whose pages are small, and a way to put rows into it as any program might."""

    log: EventLog
    reader: EventReader
    connection: sqlite3.Connection
    names: Iterator[str]

    def new_task(self, rows: Sequence[Row]) -> str:
        task = next(self.names)
        raw = [row.payload_json.encode("utf-8", "surrogateescape") for row in rows]
        cells = [
            (task, r.event_type, text, r.step, r.step_scope)
            for r, text in zip(rows, raw, strict=True)
        ]
        with self.connection:
            self.connection.executemany(
                "INSERT INTO events(task_id, event_type, payload_json, created_at, step, step_scope)"
                + " VALUES (?, ?, CAST(? AS TEXT), '', ?, ?)",
                cells,
            )
        return task


@pytest.fixture(scope="module")
def bench(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Bench]:
    path = tmp_path_factory.mktemp("properties") / "events.db"
    with pytest.MonkeyPatch.context() as patch, EventLog(path, durability="normal") as log:
        patch.setattr("orch_events._core.paging.PAGE_ROWS", getattr(request, "param", 3))
        with EventReader(path) as reader, closing(sqlite3.connect(path)) as connection:
            yield Bench(log, reader, connection, map("task {}".format, itertools.count()))


@pytest.mark.parametrize("bench", [2048, 3, 1], indirect=True, ids="pages of {}".format)
@settings(deadline=None, max_examples=12)
@given(rows=pages)
@example(
    rows=[Row("[1"), Row("2]"), Row('{"pid":3},4,5')]
)  # as many values as rows and places between them
@example(rows=[Row('{"pid":1}'), Row('"'), Row('"'), Row('{"pid":2}')])
@example(rows=[Row('{"pid":1}'), Row(deep(127)), Row(deep(128)), Row('{"pid":-0}')])
@example(
    rows=[
        Row('{"pid":1,"reason":"é\udcff"}'),
        Row("\udcff", "qa", "task"),
        Row('{"pid":2,"reason":"\\ud800"}'),
    ]
)
def test_a_page_of_rows_reads_like_each_row_alone(bench: Bench, rows: list[Row]) -> None:
    task = bench.new_task(rows)
    singles = [bench.new_task([row]) for row in rows]
    together = bench.reader.query_step_events(task)
    expected = [{name: repr(value) for name, value in expected_fields(row).items()} for row in rows]
    assert [shown(event) for event in together] == expected
    assert [
        shown(event) for single in singles for event in bench.reader.query_step_events(single)
    ] == expected
    assert [repr(e.payload) for e in bench.reader.query_events(task)] == [
        repr(oracle(r.payload_json)) for r in rows
    ]
    assert bench.reader.query_step_events(task, after_id=together[0].event_id) == together[1:]


def test_every_field_takes_its_own_kind_of_value_and_no_other(bench: Bench) -> None:
    names = [*UNSIGNED, *STRING_FIELDS, *BOOLEANS, "confidence", "step", "phase", "step_scope"]
    kinds = [*NUMBERS, *WORDS, '""', '"task"', '"7"', '"true"', "[]", "[1]", "{}", '{"task":1}']
    rows = [Row(f'{{"{name}":{kind}}}') for name in names for kind in kinds]
    expected = [{name: repr(value) for name, value in expected_fields(row).items()} for row in rows]
    assert [
        shown(event) for event in bench.reader.query_step_events(bench.new_task(rows))
    ] == expected


@settings(deadline=None, max_examples=60)
@given(row=st.builds(Row, payload_texts | any_texts, columns, columns, st.just("step_started")))
def test_log_paths_and_scopes_follow_the_rules(bench: Bench, row: Row) -> None:
    task = bench.new_task([Row('{"phase":"p","stdout_path":"o"}', event_type="step_spawned"), row])
    assert bench.reader.query_latest_step_log_paths(task) == expected_paths(row)
    _, event = bench.reader.query_events(task)
    scope = expected_fields(row._replace(step_scope=None))["step_scope"]
    assert observed_step_scope_from_payload(event.payload) is scope


def test_pages_are_cut_where_their_texts_grow_too_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("connections", "reading"):
        monkeypatch.setattr(f"orch_events._storage.sqlite.{name}.PAGE_BYTES", 5000)
    payloads = [
        {"pid": i, "reason": "x" * size}
        for i, size in enumerate([0, 0, 9000, 1000, 0, 40_000, 0, 3000, 3000])
    ]
    with EventLog(tmp_path / "events.db") as log:
        log.insert_events([("t", None, "step_heartbeat", payload) for payload in payloads])
        assert [{"pid": e.pid, "reason": e.reason} for e in log.query_step_events("t")] == payloads
        assert [event.payload for event in log.query_events("t")] == payloads
        assert [event.payload for event in log.query_events("t", limit=7)] == payloads[:7]


# ---------------------------------------------------------------------------------------------------- write, then read

numbers = (
    st.integers(1 - TOO_BIG, TOO_BIG - 1)
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
)
keys = st.text() | st.sampled_from(["", "step", "\0", "😀", "step_scope", "cycle"])
leaves = st.none() | st.booleans() | numbers | st.text() | st.sampled_from(ObservedStepScope)
values = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.lists(inner, max_size=4).map(tuple),
        st.dictionaries(keys, inner, max_size=4),
        st.dictionaries(keys | st.sampled_from(ObservedStepScope), inner, max_size=4).map(
            OrderedDict
        ),
        st.dictionaries(keys, inner, max_size=4).map(MappingProxyType),
    ),
    max_leaves=12,
)
payloads = st.dictionaries(keys, values, max_size=5) | st.dictionaries(
    keys, values, max_size=5
).map(MappingProxyType)


def as_json(value: object) -> object:
    """What a value comes back as: tuples as lists, mappings as dicts, their keys as plain strings."""
    match value:
        case Mapping():
            return {str(key): as_json(item) for key, item in value.items()}
        case list() | tuple():
            return [as_json(item) for item in value]
        case str():
            return str(value)
        case _:
            return value


@settings(deadline=None, max_examples=30)
@given(batch=st.lists(payloads, min_size=1, max_size=5))
def test_what_is_accepted_reads_back_equal(bench: Bench, batch: list[Mapping[str, object]]) -> None:
    task = next(bench.names)
    ids = bench.log.insert_events([(task, None, "step_started", payload) for payload in batch])
    events = list(bench.reader.query_events(task))
    assert [event.event_id for event in events] == ids
    assert [repr(event.payload) for event in events] == [
        repr(as_json(payload)) for payload in batch
    ]
    assert [repr(oracle(event.payload_json)) for event in events] == [
        repr(event.payload) for event in events
    ]

    promoted = "SELECT step, step_scope, cycle FROM events WHERE task_id = ? ORDER BY id"
    for event, row in zip(events, bench.connection.execute(promoted, (task,)), strict=True):
        payload = event.payload
        assert isinstance(payload, dict)
        cycle = v if type(v := payload.get("cycle")) is int and -(2**63) <= v < 2**63 else None
        assert row == (_text(payload, "step", "phase"), _text(payload, "step_scope"), cycle)


class Planted(NamedTuple):
    """A payload that must be refused, and where the reason stands in it."""

    payload: dict[str, object]
    path: str


BAD_VALUES: Final = (
    *(
        math.nan,
        math.inf,
        -math.inf,
        TOO_BIG,
        -TOO_BIG,
        10**5000,
        "\ud800",
        "a\udfff",
        b"",
        bytearray(),
        {1},
    ),
    *(
        frozenset[int](),
        object(),
        1j,
        datetime(2026, 1, 1, tzinfo=UTC),
        Path(),
        range(3),
        iter(()),
        Event,
    ),
)
BAD_KEYS: Final = (
    1,
    1.5,
    True,
    None,
    math.nan,
    math.inf,
    -(10**30),
    ObservedStepScope,
    object,
    "\ud800",
    b"",
    (1, 2),
    frozenset[int](),
)


@st.composite
def planted(draw: st.DrawFn) -> Planted:
    bad = [
        *(("", value) for value in BAD_VALUES),
        *((f"[{key!r}]", {"": 1, key: 0}) for key in BAD_KEYS),
    ]
    path, inner = draw(st.sampled_from(bad))
    for _ in range(draw(st.integers(0, 4))):
        before: list[object] = draw(st.lists(values, max_size=2))
        key = draw(keys)
        if draw(st.booleans()):
            path, inner = (
                (f".{key}{path}" if key.isidentifier() else f"[{key!r}]{path}"),
                {key: inner},
            )
        else:
            path, inner = (
                f"[{len(before)}]{path}",
                draw(st.sampled_from([list, tuple]))([*before, inner]),
            )
    key = draw(st.sampled_from(["a", "step", "step_scope", "cycle"]))
    return Planted(
        {**draw(st.dictionaries(st.just("before"), values)), key: inner}, f".{key}{path}"
    )


@settings(deadline=None, max_examples=25)
@given(planted(), st.lists(payloads, max_size=3), st.lists(payloads, max_size=3))
def test_what_is_refused_is_named_and_nothing_is_written(
    bench: Bench,
    bad: Planted,
    before: list[Mapping[str, object]],
    after: list[Mapping[str, object]],
) -> None:
    task = next(bench.names)
    with pytest.raises(PayloadError) as alone:
        bench.log.insert_event(task, None, "step_started", bad.payload)
    assert alone.value.key_path == f"payload{bad.path}"
    assert str(alone.value).startswith(alone.value.key_path)

    with pytest.raises(PayloadError) as batch:
        bench.log.insert_events(
            [(task, None, "step_started", p) for p in [*before, bad.payload, *after]]
        )
    assert batch.value.key_path == f"events[{len(before)}].payload{bad.path}"

    with pytest.raises(PayloadError):
        bench.log.submit_event(task, None, "step_started", bad.payload)
    assert list(bench.reader.query_events(task)) == []


def _circle() -> dict[str, object]:
    circle: dict[str, object] = {"a": 1}
    circle["b"] = [circle]
    return circle


def _nested(depth: int, leaf: object = 0) -> dict[str, object]:
    for _ in range(depth - 1):
        leaf = [leaf]
    return {"a": leaf}


REFUSED: Final[Mapping[str, tuple[tuple[object, ...], str]]] = {
    "task_id int": ((1, None, "x", {}), "task_id"),
    "task_id none": ((None, None, "x", {}), "task_id"),
    "task_id bytes": ((b"t", None, "x", {}), "task_id"),
    "task_id surrogate": (("\ud800", None, "x", {}), "task_id"),
    "item int": (("t", 1, "x", {}), "task_item_id"),
    "item surrogate": (("t", "\udc80", "x", {}), "task_item_id"),
    "type none": (("t", None, None, {}), "event_type"),
    "type surrogate": (("t", None, "\udfff", {}), "event_type"),
    "type empty": (("t", None, "", {}), "event_type"),
    "payload none": (("t", None, "x", None), "payload"),
    "payload str": (("t", None, "x", "{}"), "payload"),
    "payload list": (("t", None, "x", [("a", 1)]), "payload"),
    **{
        f"value {i}": (("t", None, "x", {"a": value}), "payload.a")
        for i, value in enumerate(BAD_VALUES)
    },
    "keys that become one": (("t", None, "n", {1: "a", "1": "b"}), "payload[1]"),
    "keys that become one, inside": (
        ("t", None, "n", {"a": [{True: 1, "true": 2}]}),
        "payload.a[0][True]",
    ),
    "a key that is none, at the end": (
        ("t", None, "n", {"a": {}, "b": ({None: 1},)}),
        "payload.b[0][None]",
    ),
    "huge key": (("t", None, "x", {10**5000: 1}), "payload"),
    "circle": (("t", None, "x", _circle()), "payload.b[0].b[0]"),
    "too deep": (("t", None, "x", _nested(128)), "payload.a[0][0]"),
    "far too deep": (("t", None, "x", _nested(100_000)), "payload.a[0][0]"),
    "too deep mapping": (
        ("t", None, "x", MappingProxyType(_nested(128, MappingProxyType({})))),
        "payload.a[0][0]",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_bad_input_is_refused_at_every_entrance(tmp_path: Path, case: str) -> None:
    """Checked types cannot say these, but untyped programs can."""
    event, where = REFUSED[case]
    with (
        EventLog(tmp_path / "events.db") as log,
        closing(sqlite3.connect(tmp_path / "events.db")) as connection,
    ):
        entrances: list[Callable[..., object]] = [
            log.insert_event,
            log.submit_event,
            lambda *event: log.insert_events([event]),
            lambda *event: asyncio.run(log.insert_event_async(*event)),
            lambda *event: asyncio.run(log.insert_events_async([event])),
            lambda *event: insert_event_with_conn(connection, *event),
        ]
        for entrance in entrances:
            with pytest.raises(PayloadError) as refused:
                entrance(*event)
            assert refused.value.key_path.removeprefix("events[0].").startswith(where)
        assert list(log.query_events()) == []


def test_the_deepest_payload_is_accepted(tmp_path: Path) -> None:
    with EventLog(tmp_path / "events.db") as log:
        log.insert_event("t", None, "x", _nested(127))
        log.insert_event("t", None, "x", {"a": "[{" * 200, "b": [[]] * 200})
        deepest, _ = log.query_events("t")
    assert deepest.payload == _nested(127)
    assert oracle(deepest.payload_json) == _nested(127)


class Loud(str):
    """Equal to no other string, so that a `dict` may hold two keys of one text."""

    __slots__ = ()

    def __eq__(self, other: object) -> bool:
        return self is other

    def __hash__(self) -> int:
        return id(self)


class Twice(UserDict[str, object]):
    """Lists a key twice, as the headers of a request may."""

    def items(self) -> ItemsView[str, object]:
        return cast("ItemsView[str, object]", [*super().items(), *super().items()])


class Lazy(dict[str, object]):
    """Holds nothing before it is asked."""

    def items(self) -> Any:
        return {"a": 1, "step": "qa"}.items()


class AnyCase(UserDict[str, object]):
    """Finds a key however it is spelled, and lists it as it was given."""

    def get(self, key: str, default: object = None) -> object:
        return {name.lower(): value for name, value in self.items()}.get(key.lower(), default)


class Point(NamedTuple):
    x: int
    y: object


class Level(IntEnum):
    HIGH = 3


class Name(StrEnum):
    STEP = "step"


@pytest.mark.parametrize(
    ("payload", "where"),
    [
        ({Loud("a"): 1, Loud("a"): 2}, ".a"),
        ({"b": {Loud("a"): 1, "a": 2}}, ".b.a"),
        (Twice(a=1), ".a"),
        ({"b": [Twice(a=1)]}, ".b[0].a"),
        ({"b": Point(1, {2: 3})}, ".b[1][2]"),
        ({"b": OrderedDict({"c": {2: 3}})}, ".b.c[2]"),
        (MappingProxyType({1: 2}), "[1]"),
    ],
)
def test_what_would_lose_a_value_is_refused(
    log: EventLog, payload: Mapping[str, object], where: str
) -> None:
    with pytest.raises(PayloadError) as alone:
        log.insert_event("t", None, "x", payload)
    assert alone.value.key_path == f"payload{where}"
    with pytest.raises(PayloadError) as batch:
        log.insert_events([("t", None, "x", {}), ("t", None, "x", payload)])
    assert batch.value.key_path == f"events[1].payload{where}"


@only_files
def test_a_mapping_is_what_it_lists_also_in_the_columns(path: Path) -> None:
    payloads: list[tuple[Mapping[str, object], JsonValue]] = [
        (Lazy(), {"a": 1, "step": "qa"}),
        ({"b": Lazy()}, {"b": {"a": 1, "step": "qa"}}),
        (AnyCase(STEP="qa", Cycle=1), {"STEP": "qa", "Cycle": 1}),
        ({Loud("step"): "qa"}, {"step": "qa"}),
        ({Name.STEP: Name.STEP, "cycle": Level.HIGH}, {"step": "step", "cycle": 3}),
        ({"step": Name.STEP, "cycle": Level.HIGH}, {"step": "step", "cycle": 3}),
        ({"a": Point(1, Point(2, Level.HIGH))}, {"a": [1, [2, 3]]}),
    ]
    sqlite3.register_adapter(Name, lambda _: "adapted")
    sqlite3.register_adapter(Level, lambda _: 17)
    try:
        with EventLog(path) as log:
            log.insert_events([("t", None, "x", payload) for payload, _ in payloads])
            for payload, _ in payloads:
                log.insert_event("t", None, "x", payload)
            found = [event.payload for event in log.query_events("t")]
    finally:
        del sqlite3.adapters[Name, sqlite3.PrepareProtocol]
        del sqlite3.adapters[Level, sqlite3.PrepareProtocol]
    assert found == 2 * [plain for _, plain in payloads]
    with closing(sqlite3.connect(path)) as connection:
        columns = connection.execute("SELECT step, cycle FROM events ORDER BY id").fetchall()
    assert columns == 2 * [
        ("qa", None),
        (None, None),
        (None, None),
        ("qa", None),
        ("step", 3),
        ("step", 3),
        (None, None),
    ]
