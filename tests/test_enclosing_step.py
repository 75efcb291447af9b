# SPDX-License-Identifier: MIT
"""What a command of `run` finds in its environment, and what is recorded of it there."""

import json
import re
import shlex
import sys
from pathlib import Path
from typing import Any, Final

import pytest

from orch_events import EventReader
from orch_events.cli.recorded_command import recorded_command

from .terminal import outcome

BOTH_ENGINES = True

TRACE: Final = "0af7651916cd43dd8448eb211c80319c"
INCOMING: Final = f"00-{TRACE}-b7ad6b7169203331-01"


@pytest.fixture
def db(tmp_path: Path) -> Path:
    return tmp_path / "log.db"


def recorded(db: Path, event_type: str, step: str) -> Any:
    """The payload of the only such event."""
    with EventReader(db) as reader:
        events = [event for event in reader.query_events() if event.event_type == event_type]
    payloads: list[Any] = [event.payload for event in events]
    (found,) = [payload for payload in payloads if payload["step"] == step]
    return found


def inside(db: Path, command: str, *words: str, **variables: str) -> str:
    """What a shell line prints as the command of a step "outer"."""
    told = ("--db", db, "run", *words, "--step", "outer", "--", "sh", "-c", command)
    code, printed, complaint = outcome(*told, cwd=db.parent, stdin=b"", **variables)
    assert code == 0, complaint
    return printed


def ours(*words: str) -> str:
    return shlex.join([sys.executable, "-m", "orch_events", *words])


def test_what_is_run_or_emitted_within_a_step_belongs_to_its_task(db: Path) -> None:
    (db.parent / "elsewhere").mkdir()
    lines = [
        "cd elsewhere",
        ours("emit", "noted", "text=hello"),
        ours("emit", "noted"),
        ours("emit", "other", "noted", "text=bye"),
        ours("run", "--step", "inner", "--", "true"),
        ours("run", "--step", "third", "--task", "other", "--", "true"),
        ours("--db", "another.db", "emit", "noted") + " 2>/dev/null || echo refused",
    ]
    printed = inside(db, "\n".join(lines), "--task", "t")
    assert printed.splitlines()[-1] == "refused", "another log has no such task"
    with EventReader(db) as reader:
        events = list(reader.query_events())
    assert [event.task_id for event in events if event.event_type == "noted"] == ["t", "t", "other"]
    assert [event.payload for event in events if event.event_type == "noted"] == [
        {"text": "hello"},
        {},
        {"text": "bye"},
    ]
    assert {event.task_id for event in events} == {"t", "other"}
    assert recorded(db, "step_finished", "inner")["parent_step"] == "outer"
    assert "parent_step" not in recorded(db, "step_finished", "third")
    assert "└─ inner" in outcome("--db", db, "trace", "t")[1]


def test_a_step_joins_the_trace_it_finds_and_its_command_finds_the_steps_span(db: Path) -> None:
    variables = {"TRACEPARENT": INCOMING, "TRACESTATE": "a=b", "BAGGAGE": "c=d"}
    printed = inside(db, 'echo "$TRACEPARENT $TRACESTATE $BAGGAGE"', **variables)
    started = recorded(db, "step_started", "outer")
    assert started["traceparent"] == INCOMING
    assert re.fullmatch("[0-9a-f]{16}", started["span_id"])
    assert printed == f"00-{TRACE}-{started['span_id']}-01 a=b c=d\n"


def test_a_later_version_of_the_trace_context_is_understood_as_the_first(db: Path) -> None:
    printed = inside(db, 'echo "$TRACEPARENT"', TRACEPARENT=f"cc{INCOMING[2:-2]}ff-what-comes")
    assert re.fullmatch(f"00-{TRACE}-[0-9a-f]{{16}}-03\n", printed)


@pytest.mark.parametrize(
    "malformed",
    [
        "",
        "00",
        INCOMING.upper(),
        f"ff{INCOMING[2:]}",
        f"{INCOMING}-more",
        f"00-{'0' * 32}-b7ad6b7169203331-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"{INCOMING}\n",
    ],
)
def test_a_malformed_trace_context_is_ignored(db: Path, malformed: str) -> None:
    assert inside(db, 'printf %s "$TRACEPARENT"', TRACEPARENT=malformed) == malformed
    assert not {"traceparent", "span_id"} & recorded(db, "step_started", "outer").keys()


def test_secrets_are_masked_in_the_recorded_command_but_not_in_what_it_gets(db: Path) -> None:
    command = "\n".join(
        [
            "echo sesame-open sesame pin-12 main KEYS=5",
            "PGPASSWORD=abc:d; true https://u:pw@host/",
        ]
    )
    secrets = {"A_TOKEN": "sesame", "B_SECRET": "sesame-open", "C_KEY": "12", "KEYS": "main"}
    assert inside(db, command, **secrets) == "sesame-open sesame pin-12 main KEYS=5\n"
    told = recorded(db, "step_started", "outer")["command"]
    lines = [
        "echo *** *** pin-12 main KEYS=5",
        "PGPASSWORD=***; true https://u:***@host/",
    ]
    assert shlex.split(told) == ["sh", "-c", "\n".join(lines)]


@pytest.mark.parametrize(
    ("words", "recorded_words"),
    [
        (["env", "DB_PASSWORD=two words", "true"], ["env", "DB_PASSWORD=***", "true"]),
        (["env", "DB_PASSWORD=a'b c\"d e", "true"], ["env", "DB_PASSWORD=***", "true"]),
        (
            ["sh", "-c", "API_TOKEN=\"a b' c\" true; X_KEY='d \" e'f\\ g true"],
            ["sh", "-c", "API_TOKEN=*** true; X_KEY=*** true"],
        ),
        (["sh", "-c", "true # A_KEY='never closed"], ["sh", "-c", "true # A_KEY=***"]),
        (["true", "A_KEYS=two words"], ["true", "A_KEYS=two words"]),
    ],
)
def test_a_secret_that_holds_blanks_is_masked_to_its_end(
    words: list[str], recorded_words: list[str]
) -> None:
    assert shlex.split(recorded_command(words)) == recorded_words


def test_what_runs_inside_a_step_of_an_item_is_of_that_item(db: Path) -> None:
    inner = "orch-events run --step unit --quiet -- true"
    for item in ("foo", "bar"):
        words = ("run", "--task", "t", "--step", "test", "--item", item, "--quiet", "--")
        script = inner.replace("orch-events", f'"{sys.executable}" -m orch_events')
        assert outcome("--db", db, *words, "sh", "-c", script)[0] == 0
    words = (
        "run",
        "--task",
        "t",
        "--step",
        "plain",
        "--",
        "sh",
        "-c",
        'echo "[$ORCH_EVENTS_ITEM]"',
    )
    assert outcome("--db", db, *words, ORCH_EVENTS_ITEM="left over")[1] == "[]\n"
    document = json.loads(outcome("--db", db, "trace", "t", "--json")[1])
    found = sorted((run["item"] or "", run["step"]) for run in document["cycles"][0]["steps"])
    assert found == [
        ("", "plain"),
        ("bar", "test"),
        ("bar", "unit"),
        ("foo", "test"),
        ("foo", "unit"),
    ]
    assert document["anomalies"] == []
