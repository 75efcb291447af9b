# SPDX-License-Identifier: MIT
"""How large an event may be: whatever can be recorded goes the whole way round, in memory bounded by a small multiple."""

import gzip
import json
import sqlite3
import subprocess
import sys
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path

import pytest

from orch_events import Event, EventLog, PayloadError

from .helpers import PATIENCE, ROOT
from .terminal import outcome

LIMIT = 16 << 20
"""Bytes of an event as a line of JSON."""
LONGEST_NAME = 64 << 10
"""Bytes of a task id, an item id or an event type."""
MOST_VALUES = 1_000_000


def line_bytes(task: str, kind: str, payload: Mapping[str, object]) -> int:
    """Of an event as it is in an archive, with the longest id there is."""
    line = {
        "event_id": 2**63 - 1,
        "task_id": task,
        "task_item_id": None,
        "event_type": kind,
        "payload": payload,
        "created_at": "2026-01-01T00:00:00.000000+00:00",
    }
    return len(json.dumps(line, ensure_ascii=False, separators=(",", ":")).encode())


def largest() -> dict[str, tuple[str, str, dict[str, object]]]:
    """Events that are just as large as they may be."""
    room = LIMIT - line_bytes("t", "x", {"text": ""})
    return {
        "ascii": ("t", "x", {"text": "x" * room}),
        "wide": ("t", "x", {"text": "\N{GRINNING FACE}" + "x" * (room - 4)}),
        "escapes": ("t", "x", {"text": "\n" * (room // 2) + "x" * (room % 2)}),
        "a text with commas": ("t", "x", {"text": '[{,\\",' * (room // 8) + "," * (room % 8)}),
        "names": ("\1" * LONGEST_NAME, "ü" * (LONGEST_NAME // 2), {}),
        "values": ("t", "x", {"a": [0] * (MOST_VALUES - 1)}),
    }


KINDS = ("ascii", "wide", "escapes", "a text with commas", "names", "values")


@pytest.mark.parametrize(
    "kind",
    [*(pytest.param(kind, marks=pytest.mark.long) for kind in KINDS if kind != "names"), "names"],
)
def test_one_more_is_refused_at_the_call(log: EventLog, kind: str) -> None:
    task, event_type, payload = largest()[kind]
    assert log.insert_event(task, None, event_type, payload) == 1
    if kind == "values":
        payload = {"a": [0] * MOST_VALUES}
    else:
        event_type += "x"
    with pytest.raises(PayloadError) as alone:
        log.insert_event(task, None, event_type, payload)
    with pytest.raises(PayloadError) as batch:
        log.insert_events([("t", None, "x", {}), (task, None, event_type, payload)])
    where = "event_type" if kind == "names" else "payload"
    assert alone.value.key_path == where
    assert batch.value.key_path == f"events[1].{where}"
    told = {"values": "more than 1,000,000 values", "names": "65,537 bytes"}
    assert told.get(kind, "16,777,217 bytes") in str(alone.value)
    assert len(list(log.query_events())) == 1


@pytest.mark.long
@pytest.mark.parametrize("options", [(), ("--gzip",)], ids=["plain", "gzip"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_largest_goes_the_whole_way_round(
    path: Path, kind: str, options: tuple[str, ...]
) -> None:
    task, event_type, payload = largest()[kind]
    with EventLog(path) as log:
        log.insert_event(task, None, event_type, payload)
        before = list(log.query_events())
    folder = path.with_name("old")
    words = ("cleanup", "--all", "--keep-last", "0", "--archive", folder, *options)
    assert measured(path, *words).startswith("deleted: 1 events; tasks gone with them: 1\n")
    assert everything(path) == []
    (file,) = folder.iterdir()
    restored = measured(path, "emit", "--jsonl", file, "--restore")
    assert restored == "events recorded: 1\n"
    assert everything(path) == before
    again = measured(path, "emit", "--jsonl", file, "--restore")
    assert again == "events recorded: 0 (there already: 1)\n"
    copy = path.with_name("copy.db")
    assert measured(copy, "emit", "--jsonl", file) == "events recorded: 1\n"
    assert [event.payload_json for event in everything(copy)] == [
        event.payload_json for event in before
    ]


def everything(path: Path) -> list[Event]:
    with EventLog(path) as log:
        return list(log.query_events())


MEASURE = """
import re, sys
from orch_events.cli import main
status = main(sys.argv[1:])
sys.stdout.flush()
with open("/proc/self/status") as file:
    print(re.search("VmHWM: *(.*) kB", file.read())[1], file=sys.stderr)
sys.exit(status)
"""
"""Not `getrusage`, whose peak a child inherits from its parent."""


def measured(path: Path, *words: object, status: int = 0, most: int = 500) -> str:
    """What a command prints, which may take `most` MB of memory."""
    command = [sys.executable, "-c", MEASURE, "--db", str(path), *map(str, words)]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    assert done.returncode == status, done.stderr
    *told, kilobytes = done.stderr.splitlines()
    print(f"{' '.join(map(str, words))[:20]}: {int(kilobytes) >> 10} MB")
    assert int(kilobytes) >> 10 < most
    return "\n".join(told) if status else done.stdout


HOSTILE = {
    "objects": "{},",
    "lists": "[],",
    "texts": '"",',
    "nothing": "",
    "escapes": '\\"',
    "spaces": " ",
}


@pytest.mark.long
@pytest.mark.parametrize("restoring", [(), ("--restore",)], ids=["anew", "restored"])
@pytest.mark.parametrize("kind", HOSTILE)
def test_a_small_file_cannot_fill_the_memory(
    path: Path, kind: str, restoring: tuple[str, ...]
) -> None:
    """Each line is worth 60 MB: in one that is too long, and in one that is just not."""
    unit = HOSTILE[kind]
    head = '{"event_id":7,"task_id":"t","task_item_id":null,"event_type":"x","payload":'
    tail = ',"created_at":"x"}'
    good = f"{head}{{}}{tail}".encode()
    file = path.with_name("bomb.gz")
    lines = [good]
    for size in (31 << 20, 60 << 20):
        body = unit * (size // max(1, len(unit)))
        inside = {"escapes": f'{{"a":"{body}"}}', "nothing": "1" * size}.get(
            kind, f'{{"a":[{body}0]}}'
        )
        lines.append(f"{head}{inside}{tail}".encode())
    lines.append(good.replace(b":7,", b":8,"))
    with gzip.open(file, "wb") as stream:
        stream.writelines(line + b"\n" for line in lines)
    told = measured(path, "emit", "--jsonl", file, "--keep-going", *restoring, status=1, most=400)
    assert "line 3: longer than 33,554,432 bytes" in told
    assert {event.event_type for event in everything(path)} == {"x"}


def test_a_name_must_not_be_long(log: EventLog) -> None:
    long = "x" * (LONGEST_NAME + 1)
    for place, event in {
        "task_id": (long, None, "x"),
        "task_item_id": ("t", long, "x"),
        "event_type": ("t", None, long),
    }.items():
        with pytest.raises(PayloadError, match="65,537 bytes; at most 65,536") as refused:
            log.insert_event(*event, {})
        assert refused.value.key_path == place


@pytest.mark.long
def test_rows_of_other_programs_come_back_or_stay(path: Path) -> None:
    """None is deleted that cannot come back, and the rest goes."""
    rows = {
        "more values than can be recorded": '{"step":"qa","a":[' + "{}," * 1_100_000 + "0]}",
        "longer than can be recorded": '{"a":"' + "x" * (20 << 20) + '"}',
        "no JSON": "x" * (20 << 20),
        "as a line too long": "x" * (33 << 20),
        "of many escapes": "\1" * (6 << 20),
    }
    name = "x" * (10 << 20)
    with EventLog(path) as log, closing(sqlite3.connect(path)) as connection:
        with connection:
            connection.executemany(
                "INSERT INTO events(task_id, event_type, payload_json, created_at) VALUES ('t', 'x', ?, '')",
                [(text,) for text in rows.values()],
            )
            connection.execute(
                "INSERT INTO events(task_id, event_type, payload_json, created_at) VALUES (?, ?, '{}', '')",
                (name, name),
            )
        log.insert_event("t", None, "task_completed", {})
        before = {event.event_id: event for event in log.query_events()}
        folder = path.with_name("old")
        done = log.cleanup(keep_last=0, archive=folder, only_finished=False)
        assert done.too_large == (4, 5)
        assert set(before) - {event.event_id for event in log.query_events()} == {1, 2, 3, 6}
        (file,) = done.archived
        restored = outcome("--db", path, "emit", "--jsonl", file, "--restore")
        assert restored[:2] == (0, "events recorded: 4 (there already: 1)\n")
        assert {event.event_id: event for event in log.query_events()} == before
    status, stdout, stderr = outcome(
        "--db", path, "cleanup", "--all", "--keep-last", "0", "--archive", folder
    )
    assert (status, "deleted: 4 events" in stdout) == (1, True)
    assert "event 4, event 5" in stderr
