# SPDX-License-Identifier: MIT
"""`orch-events emit`, `events`, `tasks`, and what is true of all commands, in real processes and terminals."""

import json
import os
import pty
import re
import shlex
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
import unicodedata
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from resource import RUSAGE_CHILDREN, getrusage

import pytest

from orch_events import EventLog

from . import terminal
from .helpers import PATIENCE, ROOT, wait_until, write_locked

ARGV = [sys.executable, "-m", "orch_events"]


@pytest.fixture
def db(tmp_path: Path) -> Path:
    return tmp_path / "log.db"


def environment(db: Path, **more: str) -> dict[str, str]:
    return terminal.environment(**{"ORCH_EVENTS_DB": str(db), **more})


def cli(db: Path, *words: str, stdin: bytes | str = b"", **more: str) -> tuple[int, str, str]:
    stdin = stdin if isinstance(stdin, bytes) else stdin.encode()
    return terminal.outcome(*words, cwd=db.parent, stdin=stdin, **{"ORCH_EVENTS_DB": str(db), **more})


def on_terminal(db: Path, *words: str, **more: str) -> str:
    """What a command writes to a terminal of 60 columns, with the line ends of a file."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [*ARGV, *words],
        env=environment(db, **{"COLUMNS": "60", **more}),
        cwd=db.parent,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    chunks: list[bytes] = []
    try:
        while chunk := os.read(ours, 1 << 16):
            chunks.append(chunk)
    except OSError:  # how Linux says that the other end is closed
        pass
    os.close(ours)
    shown = b"".join(chunks).decode().replace("\r\n", "\n")
    assert process.wait(PATIENCE) == 0, shown
    return shown


def dump(path: Path) -> list[tuple[object, ...]]:
    with closing(sqlite3.connect(path)) as connection:
        connection.text_factory = bytes
        columns = "task_id, task_item_id, event_type, payload_json, step, step_scope, cycle"
        return connection.execute(f"SELECT {columns} FROM events ORDER BY id").fetchall()


def store(db: Path, task: str, payload: bytes, **columns: bytes) -> None:
    """A row as some other program may have written it."""
    row = {"task_id": task.encode(), "event_type": b"odd", "payload_json": payload, "created_at": b"?", **columns}
    with closing(sqlite3.connect(db)) as connection, connection:
        places = ", ".join(["CAST(? AS TEXT)"] * len(row))
        connection.execute(f"INSERT INTO events({', '.join(row)}) VALUES ({places})", tuple(row.values()))


# ---------------------------------------------------------------------------------------------------- all commands


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("", "arguments are required"),
        ("nonsense", "invalid choice: 'nonsense'"),
        ("events", "arguments are required: TASK"),
        ("events t --limit -1", "not from 0 to"),
        ("events t --after x", "invalid count value"),
        ("events t --js", "unrecognized arguments: --js"),
        ("tasks t", "unrecognized arguments: t"),
        ("run", "no COMMAND to run"),
        ("run --", "no COMMAND to run"),
        ("run --nonsense -- true", "unrecognized arguments: --nonsense"),
        ("run --timeout 0 -- true", "not a duration"),
        ("run --heartbeat inf -- true", "not a duration"),
        ("emit t", "TASK and TYPE are needed"),
        ("emit t e novalue", "not of the form key=value: 'novalue'"),
        ("emit t e --payload [1]", "must be a JSON object"),
        ("emit t e --payload {", "must be a JSON object"),
        ("emit t e --jsonl x", "takes everything from the file"),
        ("emit \udcff e", "argument TASK: invalid text value"),
        ("emit t e --item \udcff", "argument --item: invalid text value"),
        ("run --task t --step \udcff -- true", "argument --step: invalid text value"),
    ],
)
def test_bad_usage(db: Path, words: str, told: str) -> None:
    status, stdout, stderr = cli(db, *words.split())
    assert (status, stdout, stderr[:6], told in stderr) == (2, "", "usage:", True)
    assert not db.exists()


@pytest.mark.parametrize(
    ("words", "file", "told"),
    [
        ("events t", "no.db", "no event log here"),
        ("tasks", "no.db", "no event log here"),
        ("emit t e", "no/no.db", "no directory"),
        ("run true", "no/no.db", "no directory"),
        ("run --logs text/logs true", "log.db", "text/logs"),
        ("tasks", "text", "not a SQLite database"),
        ("emit t e", "text", "not a SQLite database"),
        ("emit t e", "folder", "not a regular file"),
        ("events t", "folder", "not a regular file"),
        ("tasks", "host.db", "no table 'events'"),
        ("emit --jsonl no.jsonl", "log.db", "no.jsonl: No such file"),
        ("emit --jsonl log.db", "log.db", "this is the log itself"),
        ("tasks", "two\nlines\x1b.db", r"two\nlines\x1b.db"),
    ],
)
def test_errors_are_one_line(db: Path, words: str, file: str, told: str) -> None:
    db.with_name("text").write_text("not a database, but long enough to be read as the header of one" * 10)
    db.with_name("folder").mkdir()
    with closing(sqlite3.connect(db.with_name("host.db"))) as connection:
        connection.execute("CREATE TABLE theirs(x)")
    if "jsonl log.db" in words:
        cli(db, "emit", "t", "e")
    status, stdout, stderr = cli(db, "--db", file, *words.split())
    assert (status, stdout, told in stderr) == (1, "", True)
    assert stderr.startswith("orch-events: ") and stderr.count("\n") == 1


@pytest.mark.long
def test_a_locked_log_is_waited_for_then_told_of(db: Path) -> None:
    cli(db, "emit", "t", "e")
    with write_locked(db):
        status, stdout, stderr = cli(db, "emit", "t", "e")
        assert (status, stdout, stderr.count("\n"), "locked" in stderr) == (1, "", 1, True)
        assert cli(db, "events", "t")[0] == 0


def test_where_the_log_is(db: Path, tmp_path: Path) -> None:
    other = str(tmp_path / "other.db")
    assert cli(db, "emit", "env", "e")[:2] == (0, "1\n")
    assert cli(db, "--db", other, "emit", "before", "e")[:2] == (0, "1\n")
    assert cli(db, "emit", "--db", other, "after", "e")[:2] == (0, "2\n")
    assert cli(db, "--db", "no/no.db", "emit", "after", "e", "--db", other)[:2] == (0, "3\n")
    assert cli(db, "emit", "here", "e", ORCH_EVENTS_DB="")[:2] == (0, "1\n")
    assert [len(dump(tmp_path / name)) for name in ("log.db", "other.db", "orch-events.db")] == [1, 3, 1]


def test_help_and_version_and_a_vendored_copy(db: Path, tmp_path: Path) -> None:
    shutil.copytree(ROOT / "orch_events", tmp_path / "host" / "_vendor" / "ours")
    argv = [sys.executable, "-m", "host._vendor.ours"]
    for words, told in ("--version", "orch-events 0."), ("--help", "list the tasks"), ("run -h", "--quiet"):
        done = subprocess.run([*argv, *words.split()], cwd=tmp_path, env=environment(db), capture_output=True)
        assert (done.returncode, told in done.stdout.decode(), done.stderr) == (0, True, b"")


@pytest.mark.parametrize(
    ("words", "into", "status"),
    [
        ("events t", "| head -1", "141"),
        ("events t --json", "| head -1", "141"),
        ("events t", "> /dev/full", "1"),
        ("tasks", "> /dev/full", "1"),  # so little that only the last flush fails
        ("events t --json", ">&-", "0"),
        ("watch t", ">&-", "0"),
    ],
)
def test_nobody_reads_the_output(db: Path, words: str, into: str, status: str) -> None:
    with EventLog(db) as log:
        log.insert_events([("t", None, "e", {"text": "x" * 100})] * 5000)
        log.insert_event("t", None, "task_completed", {})
    line = f"{{ {shlex.join(ARGV)} {words}; echo $? >&2; }} {into}"
    done = subprocess.run(["sh", "-c", line], env=environment(db), capture_output=True, text=True, timeout=PATIENCE)
    told = "orch-events: No space left on device\n" if "full" in into else ""
    assert (done.stdout.count("\n"), done.stderr) == (into.count("head"), f"{told}{status}\n")


def test_ctrl_c_is_quiet(db: Path) -> None:
    process = subprocess.Popen(
        [*ARGV, "emit", "--jsonl", "-"],
        env=environment(db),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    with process:
        wait_until(db.exists)
        process.send_signal(signal.SIGINT)
        assert process.stdout is not None and process.stderr is not None
        assert process.wait(PATIENCE) == 130
        assert b"Traceback" not in process.stderr.read() + process.stdout.read()


# ------------------------------------------------------------------------------------------------------------ emit


@pytest.mark.parametrize(
    ("words", "payload"),
    [
        ([], {}),
        (["a=1", "b=x", "c=", "d=x=y", "e=true"], {"a": 1, "b": "x", "c": "", "d": "x=y", "e": True}),
        (["f=[1,{}]", 'g="1"', "h=1.50", "f=null"], {"f": None, "g": "1", "h": 1.5}),
        (["n=NaN", "m=1e999", "o=-0", "a b=e"], {"n": "NaN", "m": "1e999", "o": -0.0, "a b": "e"}),
        (["--payload", '{"a": 1, "b": 2}', "b=3", "c=4"], {"a": 1, "b": 3, "c": 4}),
        (["a=1", "--item", "i", "b=2"], {"a": 1, "b": 2}),
    ],
)
def test_emit_one(db: Path, words: list[str], payload: Mapping[str, object]) -> None:
    assert cli(db, "emit", "t", "custom", *words) == (0, "1\n", "")
    text = json.dumps(payload, separators=(",", ":")).encode()
    assert dump(db)[0][:4] == (b"t", b"i" if "--item" in words else None, b"custom", text)


GOOD = '{"task_id":"t","event_type":"e","payload":{}}'
BAD_LINES = {
    "{": "not JSON: Expecting property name",
    "[]": "not a JSON object",
    '{"event_type":"e","payload":{}}': "task_id is missing",
    '{"task_id":1,"event_type":"e","payload":{}}': "task_id is missing or of the wrong type",
    '{"task_id":"t","task_item_id":7,"event_type":"e","payload":{}}': "task_item_id is",
    '{"task_id":"t","event_type":null,"payload":{}}': "event_type is",
    '{"task_id":"t","event_type":"e","payload":[]}': "payload is",
    '{"task_id":"t","event_type":"e"}': "payload is missing",
    '{"task_id":"t","event_type":"e","payload_json":"{"}': "its payload was not JSON",
    '{"task_id":"t","event_type":"e","payload":{"x":NaN}}': "NaN",
    '{"task_id":"t","event_type":"e","payload":{"x":1e999}}': "out of range",
    '{"task_id":"t","event_type":"e","payload":{"x":"\\ud800"}}': "surrogate",
    '{"task_id":"t","event_type":"e","payload":{"x":"\udcff"}}': "codec can't decode",
    '{"task_id":"t","event_type":"e","payload":' + "[" * 200 + "]" * 200 + "}": "nested too deep",
    '\ufeff{"task_id":"t","event_type":"e","payload":{}}': "not JSON",
    GOOD + GOOD: "not JSON: Extra data",
}


def encoded(*lines: str) -> bytes:
    return "\n".join(lines).encode(errors="surrogateescape")


@pytest.mark.parametrize(("line", "why"), BAD_LINES.items(), ids=lambda text: text[:0])
def test_a_bad_line_stops_the_import(db: Path, line: str, why: str) -> None:
    status, stdout, stderr = cli(db, "emit", "--jsonl", "-", stdin=encoded(GOOD, "", GOOD, line, GOOD))
    assert (status, stdout, len(dump(db))) == (1, "events recorded: 2\n", 2)
    assert re.fullmatch(rf"orch-events: line 4: .*{re.escape(why)}.*; events recorded before it: 2\n", stderr), stderr


def test_keep_going(db: Path) -> None:
    lines = [text for line in BAD_LINES for text in (GOOD, line)]
    db.with_name("in").write_bytes(encoded(*lines))
    status, stdout, stderr = cli(db, "emit", "--keep-going", "--jsonl", "in")
    assert (status, stdout, len(dump(db))) == (1, f"events recorded: {len(BAD_LINES)}\n", len(BAD_LINES))
    told = stderr.splitlines()
    assert [line.split(":")[1] for line in told[:-1]] == [f" line {2 + 2 * bad}" for bad in range(len(BAD_LINES))]
    assert told[-1] == f"orch-events: bad lines skipped: {len(BAD_LINES)}"
    assert cli(db, "emit", "--jsonl", "-", stdin=b"\n \n") == (0, "events recorded: 0\n", "")


def test_a_round_trip_changes_nothing(db: Path, tmp_path: Path) -> None:
    payloads: list[dict[str, object]] = [
        {},
        {"step": "s", "step_scope": "item", "cycle": 3},
        {"big": 10**300, "u64": 2**64 - 1, "float": 1.0, "tiny": 5e-324, "minus": -0.0, "exp": 1e300},
        {"text": "é \u2028 \x85 \x00 \x1b[31m \N{GRINNING FACE} \\ \" \n", "": None, "deep": [[{"a": [True]}]]},
    ] * 300
    with EventLog(db) as log:
        for task, item in ("t", None), ("t", "i"), ("é\n", None), ("é\n", "i"):
            log.insert_events([(task, item, "e", payload) for payload in payloads])
    exported = b""
    for task in ("t", "é\n"):
        exported += cli(db, "events", task, "--json")[1].encode()
    keys = ["event_id", "task_id", "task_item_id", "event_type", "payload", "created_at"]
    assert all(list(json.loads(line)) == keys for line in exported.splitlines())
    assert cli(tmp_path / "copy.db", "emit", "--jsonl", "-", stdin=exported) == (0, "events recorded: 4800\n", "")
    assert dump(tmp_path / "copy.db") == dump(db)


def test_progress_is_shown_on_a_terminal(db: Path) -> None:
    db.with_name("in").write_bytes(encoded(*[GOOD] * 2500))
    shown = on_terminal(db, "emit", "--jsonl", "in")
    assert shown.startswith("\r1,000 events\r") and shown.endswith("\revents recorded: 2500\n")


@pytest.mark.long
def test_200_megabytes_are_imported_in_bounded_memory_and_hold_nobody_up(db: Path) -> None:
    payload = json.dumps({"step": "build", "stdout_bytes": 123456, "note": "x" * 100})
    line = f'{{"task_id":"bulk","task_item_id":null,"event_type":"step_heartbeat","payload":{payload}}}\n'.encode()
    count = (200 << 20) // len(line)
    argv = [*ARGV, "emit", "--jsonl", "-"]
    process = subprocess.Popen(argv, env=environment(db), stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    waits: list[float] = []
    began = time.monotonic()
    with EventLog(db) as log, process:
        assert process.stdin is not None and process.stdout is not None
        for _ in range(count // 5000):
            process.stdin.write(line * 5000)
            started = time.monotonic()
            log.insert_event("other", None, "e", {})
            waits.append(time.monotonic() - started)
        process.stdin.write(line * (count % 5000))
        process.stdin.close()
        assert process.stdout.read() == b"events recorded: %d\n" % count
        assert process.wait(PATIENCE) == 0
    assert max(waits) < (time.monotonic() - began) / 5, "it held the file for a fifth of the whole time"
    exported = subprocess.Popen([*ARGV, "events", "bulk", "--json"], env=environment(db), stdout=subprocess.PIPE)
    ids: list[int] = []
    with exported:
        assert exported.stdout is not None
        for text in exported.stdout:
            event = json.loads(text)
            assert event["payload"] == json.loads(payload)
            ids.append(event["event_id"])
    assert (len(ids), ids == sorted(set(ids))) == (count, True)
    assert getrusage(RUSAGE_CHILDREN).ru_maxrss < 150 << 10  # KiB, on Linux


# --------------------------------------------------------------------------------------------------------- listing


@pytest.fixture
def some(db: Path) -> Path:
    with EventLog(db) as log:
        log.insert_event("t", None, "task_started", {})
        log.insert_event("t", "i1", "step_started", {"step": "build", "step_scope": "item", "agent_id": "a"})
        log.insert_event("u", None, "task_failed", {"reason": "no luck"})
        log.insert_event("t", "i1", "step_finished", {"step": "build", "success": True, "exit_code": 0})
        log.insert_event("t", None, "stepless", {"phase": "x"})
        log.insert_event("v", None, "custom", {})
    return db


@pytest.mark.parametrize(
    ("words", "ids"),
    [
        ("t", [1, 2, 4, 5]),
        ("t --type step", [2, 4, 5]),
        ("t --type step_", [2, 4]),
        ("t --steps", [2, 4]),
        ("t --steps --limit 1", [2]),
        ("t --after 2 --limit 1", [4]),
        ("t --limit 0", []),
        ("nobody", []),
    ],
)
def test_which_events_are_listed(some: Path, words: str, ids: list[int]) -> None:
    status, stdout, stderr = cli(some, "events", *words.split(), "--json")
    assert (status, [json.loads(line)["event_id"] for line in stdout.splitlines()], stderr) == (0, ids, "")
    table = cli(some, "events", *words.split())[1].splitlines()
    assert [int(line.split()[0]) for line in table[1:]] == ids


def test_tables(some: Path) -> None:
    table = re.sub(r"\d\d-\d\d \d\d:\d\d:\d\d", "MM-DD HH:MM:SS", cli(some, "events", "t")[1])
    assert table == (
        "id  time            type           step   item  details\n"
        " 1  MM-DD HH:MM:SS  task_started\n"
        " 2  MM-DD HH:MM:SS  step_started   build  i1    agent_id=a\n"
        " 4  MM-DD HH:MM:SS  step_finished  build  i1    success=true exit_code=0\n"
        " 5  MM-DD HH:MM:SS  stepless       x\n"
    )
    table = re.sub(r"\d\d-\d\d \d\d:\d\d:\d\d", "MM-DD HH:MM:SS", cli(some, "tasks")[1])
    assert table == (
        "task  status   events  last id  last event   at\n"
        "u     failed        1        3  task_failed  MM-DD HH:MM:SS\n"
        "t     running       4        5  stepless     MM-DD HH:MM:SS\n"
        "v     -             1        6  custom       MM-DD HH:MM:SS\n"
    )
    last = json.loads(cli(some, "tasks", "--json")[1].splitlines()[-1])
    last.pop("last_created_at")
    assert last == {"task_id": "v", "status": None, "events": 1, "last_event_id": 6, "last_event_type": "custom"}


@pytest.mark.parametrize("stored", ["2026-03-01 12:00:00", "2026-03-01T12:00:00z", "2026-03-01T13:00:00.5+01:00"])
def test_times_are_shown_as_the_readers_clock_has_them(some: Path, stored: str) -> None:
    store(some, "t", b"{}", created_at=stored.encode())
    for command in ("events", "t"), ("tasks",):
        assert "03-01 21:00:00" in cli(some, *command, TZ="EAST-9")[1]


def test_foreign_rows(some: Path) -> None:
    for payload in b"null", b"[1]", b"{oops", b'{"a":\r\n 1.50, "a":2}', b'{"x":"\xff"}', '{"x":"\x9b"}'.encode():
        store(some, "w", payload, created_at=b"not a \x1b time", task_item_id=b"i\xff")
    lines = cli(some, "events", "w", "--json")[1].splitlines()
    assert [line.partition('"event_type":"odd",')[2].partition(',"created_at"')[0] for line in lines] == [
        '"payload":null',
        '"payload":[1]',
        '"payload_json":"{oops"',
        '"payload":{"a":   1.50, "a":2}',
        r'"payload_json":"{\"x\":\"\udcff\"}"',
        '"payload":{"x":"\x9b"}',
    ]
    assert all(json.loads(line)["task_item_id"] == "i\udcff" for line in lines)
    assert r'"payload":{"x":"\u009b"}' in on_terminal(some, "events", "w", "--json")
    for table in cli(some, "events", "w")[1], on_terminal(some, "events", "w", NO_COLOR="1"):
        assert all(char.isprintable() for line in table.splitlines() for char in line)
        assert r"not a \x1b time" in table and r"i\udcff" in table


def shown_width(line: str) -> int:
    return sum(
        0 if unicodedata.combining(char) else 2 if unicodedata.east_asian_width(char) in "WF" else 1 for char in line
    )


def test_tables_fit_the_terminal(db: Path) -> None:
    with EventLog(db) as log:
        for text in "plain", "日本語のテキスト" * 20, "e\u0301" * 100, "\x1b[2J\x1b]0;title\x07" * 9, "x" * 1_000_000:
            log.insert_event("t", "項目" if "日" in text else "item", "e", {"step": text[:20], "text": text})
    lines = on_terminal(db, "events", "t", NO_COLOR="1").splitlines()
    assert [shown_width(line) <= 60 for line in lines] == [True] * 6
    assert [line.endswith("…") for line in lines] == [False, False, True, True, True, True]
    items = [re.search("item|項目", line) for line in lines]
    starts = {shown_width(item.string[: item.start()]) for item in items if item is not None}
    assert (None in items, len(starts)) == (False, 1)  # the column begins at the same place in every line
    assert "x" * 1_000_000 in cli(db, "events", "t")[1]
    assert on_terminal(db, "events", "t", NO_COLOR="", COLUMNS="3").count("\n") == 6


@pytest.mark.parametrize(("more", "colour"), [({}, True), ({"NO_COLOR": "1"}, False), ({"TERM": "dumb"}, False)])
def test_colours_only_where_wanted(some: Path, more: dict[str, str], colour: bool) -> None:
    shown = on_terminal(some, "tasks", **more)
    assert ("\x1b[31mfailed\x1b[0m" in shown, "\x1b" in shown) == (colour, colour)
    assert re.sub("\x1b\\[[0-9;]*m", "", shown) == cli(some, "tasks", FORCE_COLOR="1")[1]


def test_it_is_the_same_in_an_ascii_locale(db: Path) -> None:
    with EventLog(db) as log:
        log.insert_event("t", None, "é", {"x": "日本"})
    ascii_only = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": "ascii"}
    json_lines, table = (
        subprocess.run([*ARGV, "events", "t", *words], env=environment(db, **ascii_only), stdout=subprocess.PIPE).stdout
        for words in (["--json"], [])
    )
    assert json.loads(json_lines)["payload"] == {"x": "日本"}
    assert rb"x=\u65e5\u672c" in table
