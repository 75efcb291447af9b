# SPDX-License-Identifier: MIT
"""`emit --jsonl FILE --keep-times`: logs of several machines become one, in the order of time."""

import json
import random
from pathlib import Path
from typing import Any

import pytest

from orch_events import Event, EventLog, EventReader
from orch_events.cli.time_sorting import in_order_of_time

from .terminal import outcome

BOTH_ENGINES = True


@pytest.fixture
def db(tmp_path: Path) -> Path:
    return tmp_path / "log.db"


def line(task: str, created_at: object, **payload: object) -> str:
    event = {
        "event_id": 1,
        "task_id": task,
        "task_item_id": None,
        "event_type": "x",
        "payload": payload,
        "created_at": created_at,
    }
    return f"{json.dumps(event)}\n"


def merge(db: Path, text: str, *words: str) -> tuple[int, str, str]:
    return outcome("--db", db, "emit", "--jsonl", "-", "--keep-times", *words, stdin=text.encode())


def events(db: Path) -> list[Event]:
    with EventReader(db) as reader:
        return list(reader.query_events())


def test_events_get_new_ids_in_the_order_of_the_times_they_keep(db: Path) -> None:
    with EventLog(db) as log:
        log.insert_event("here", None, "x")
    text = (
        line("b", "2026-11-01T12:00:00.5+01:00", n=2)
        + "\n"
        + line("", "2026-11-01T11:30:00Z", n=3)
        + line("a", "2026-11-01T09:00:00", n=1)
        + line("b", "2026-11-01T11:30:00.000000+00:00", n=4)
    )
    assert merge(db, text, "--task-prefix", "web1/") == (0, "events recorded: 4\n", "")
    _, *merged = events(db)
    assert [event.event_id for event in merged] == [2, 3, 4, 5]
    assert [(event.task_id, event.created_at) for event in merged] == [
        ("web1/a", "2026-11-01T09:00:00.000000+00:00"),
        ("web1/b", "2026-11-01T11:00:00.500000+00:00"),
        ("", "2026-11-01T11:30:00.000000+00:00"),
        ("web1/b", "2026-11-01T11:30:00.000000+00:00"),
    ]
    assert [event.payload for event in merged] == [{"n": n} for n in (1, 2, 3, 4)]


@pytest.mark.parametrize("told", [None, 3, "yesterday", "0001-01-01T00:00:00+01:00"])
def test_a_line_without_a_time_is_named_before_anything_is_recorded(db: Path, told: object) -> None:
    text = line("t", "2026-11-01T12:00:00Z") + line("t", told) + line("t", "2026-11-02T12:00:00Z")
    code, printed, complaint = merge(db, text)
    assert (code, printed) == (1, "events recorded: 0\n")
    assert complaint.startswith("orch-events: line 2: created_at is ")
    code, printed, complaint = merge(db, text, "--keep-going")
    assert (code, printed) == (1, "events recorded: 2\n")
    assert "line 2: created_at is " in complaint


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--jsonl", "-", "--restore", "--keep-times"), "--keep-times only times"),
        (("--jsonl", "-", "--task-prefix", "x"), "--task-prefix needs --keep-times"),
        (("t", "x", "--keep-times"), "--keep-times needs --jsonl"),
        (("note", "key=text"), "not a TYPE: 'key=text'; TASK is missing"),
        (("t", "x", "--task-prefix", "x"), "--task-prefix needs --jsonl"),
        (("--jsonl", "-", "--keep-times", "--task-prefix", ""), "is empty"),
    ],
)
def test_options_that_contradict_are_refused(db: Path, words: tuple[str, ...], told: str) -> None:
    code, _, complaint = outcome("--db", db, "emit", *words)
    assert code == 2 and told in complaint


def test_more_lines_than_fit_into_memory_are_sorted_all_the_same() -> None:
    minutes = list(range(24 * 60)) * 2
    random.Random(1).shuffle(minutes)
    texts = [line("t", f"2026-11-01T{n // 60:02}:{n % 60:02}:00Z", n=n) for n in minutes]
    texts.append(line("tab\there", "2026-10-01T00:00:00Z", text="a\tb"))
    lines = [text.rstrip("\n").encode() for text in texts]
    found = list(in_order_of_time(iter(lines), run_bytes=40_000))
    in_memory = list(in_order_of_time(iter([None, *lines])))
    assert found == in_memory
    assert [lines[number - 1] for number, _ in found] == [text for _, text in found]
    times: list[Any] = [json.loads(text)["created_at"] for _, text in found]
    assert times == sorted(times) and len(times) == len(lines)
