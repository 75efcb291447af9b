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
from collections.abc import Mapping
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from resource import RUSAGE_CHILDREN, getrusage

import pytest

from orch_events import EventLog
from orch_events.cli import COMMANDS

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
    return terminal.outcome(
        *words, cwd=db.parent, stdin=stdin, **{"ORCH_EVENTS_DB": str(db), **more}
    )


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
    row = {
        "task_id": task.encode(),
        "event_type": b"odd",
        "payload_json": payload,
        "created_at": b"?",
        **columns,
    }
    with closing(sqlite3.connect(db)) as connection, connection:
        places = ", ".join(["CAST(? AS TEXT)"] * len(row))
        connection.execute(
            f"INSERT INTO events({', '.join(row)}) VALUES ({places})", tuple(row.values())
        )


# ---------------------------------------------------------------------------------------------------- all commands


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("", "arguments are required"),
        ("nonsense", "invalid choice: 'nonsense'"),
        ("events a b", "unrecognized arguments: b"),
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
        ("run --timeout 9999999999999w -- true", "not a duration"),
        ("run --timeout -1m -- true", "argument --timeout: "),
        ("run --timeout 5min -- true", "not a duration such as 90s, 5m, 1.5h"),
        ("emit t e novalue", "not of the form key=text or key:=JSON: 'novalue'"),
        ("emit t e =x", "not of the form key=text or key:=JSON: '=x'"),
        ("emit t e :=1", "not of the form"),
        ("emit t e v:=1.10x", "not JSON: 'v:=1.10x'"),
        ("emit t e v:=NaN", "not JSON"),
        ("emit t e v:=", "not JSON"),
        ("emit t e a=1 a:=2", "given twice: 'a'"),
        ("""emit t e 'v:=[{"a":1,"a":2}]'""", "given twice: 'a'"),
        ("""emit t e --payload '{"a":1,"a":2}'""", "given twice: 'a'"),
        ("emit '' e", "argument TASK: is empty"),
        ("emit t ''", "argument TYPE: is empty"),
        ("emit t e --item ''", "argument --item: is empty"),
        ("emit t e --payload [1]", "must be a JSON object"),
        ("emit t e --payload {", "must be a JSON object"),
        ("emit t e --jsonl x", "takes everything from the file"),
        ("emit \udcff e", "argument TASK: invalid name value"),
        ("emit t e --item \udcff", "argument --item: invalid name value"),
        ("run --task t --step \udcff -- true", "argument --step: invalid name value"),
    ],
)
def test_bad_usage(db: Path, words: str, told: str) -> None:
    status, stdout, stderr = cli(db, *shlex.split(words))
    assert (status, stdout, stderr[:6], told in stderr) == (2, "", "usage:", True)
    assert not db.exists()


@pytest.mark.parametrize(
    ("words", "file", "told"),
    [
        ("events t", "no.db", "no event log here"),
        ("tasks", "no.db", "no event log here"),
        ("emit t e", "no/no.db", "no directory"),
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
    db.with_name("text").write_text(
        "not a database, but long enough to be read as the header of one" * 10
    )
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
    assert [len(dump(tmp_path / name)) for name in ("log.db", "other.db", "orch-events.db")] == [
        1,
        3,
        1,
    ]


def test_help_and_version_and_a_vendored_copy(db: Path, tmp_path: Path) -> None:
    shutil.copytree(ROOT / "orch_events", tmp_path / "host" / "_vendor" / "ours")
    argv = [sys.executable, "-m", "host._vendor.ours"]
    for words, told in (
        ("--version", "orch-events 0."),
        ("--help", "list the tasks"),
        ("run -h", "--quiet"),
    ):
        done = subprocess.run(
            [*argv, *words.split()], cwd=tmp_path, env=environment(db), capture_output=True
        )
        assert (done.returncode, told in done.stdout.decode(), done.stderr) == (0, True, b"")


@pytest.mark.parametrize("command", COMMANDS)
def test_the_help_of_each_command_has_an_example_with_options_that_it_has(
    db: Path, command: str
) -> None:
    _, helped, _ = cli(db, command, "--help", COLUMNS="200")
    (example,) = re.findall(rf"Example: orch-events ({command}.*)", helped)
    ours = example.partition(" -- ")[0]
    options = set(re.findall(r"(?<![\w-])--?[a-z][\w-]*", ours))
    assert options <= set(re.findall(r"(?<![\w-])--?[a-z][\w-]*", helped.replace(example, "")))


@pytest.mark.parametrize(
    ("words", "into", "status"),
    [
        ("events t --json", "| head -1", "141"),
        ("tasks", "> /dev/full", "1"),  # so little that only the last flush fails
        ("watch t", ">&-", "0"),
        pytest.param("events t", "| head -1", "141", marks=pytest.mark.long),
        pytest.param("events t", "> /dev/full", "1", marks=pytest.mark.long),
        pytest.param("events t --json", ">&-", "0", marks=pytest.mark.long),
    ],
)
def test_output_that_cannot_be_written_ends_the_command(
    db: Path, words: str, into: str, status: str
) -> None:
    with EventLog(db) as log:
        log.insert_events([("t", None, "e", {"text": "x" * 100})] * 5000)
        log.insert_event("t", None, "task_completed", {})
    line = f"{{ {shlex.join(ARGV)} {words}; echo $? >&2; }} {into}"
    done = subprocess.run(
        ["sh", "-c", line], env=environment(db), capture_output=True, text=True, timeout=PATIENCE
    )
    told = "orch-events: standard output: No space left on device\n" if "full" in into else ""
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
        (
            ["sha=0e12345", "v=1.10", "c=", "d=x=y", "e=true", "f==x", 'g="1"'],
            {
                "sha": "0e12345",
                "v": "1.10",
                "c": "",
                "d": "x=y",
                "e": "true",
                "f": "=x",
                "g": '"1"',
            },
        ),
        (
            ["a:=1", "e:=true", "f:=[1,{}]", 'g:="1"', "h:=1.50", "n:=null", "o:=-0", 'u:="a:=b"'],
            {
                "a": 1,
                "e": True,
                "f": [1, {}],
                "g": "1",
                "h": 1.5,
                "n": None,
                "o": -0.0,
                "u": "a:=b",
            },
        ),
        (["n=NaN", "a b=e", "a:b=c", "d=:=1"], {"n": "NaN", "a b": "e", "a:b": "c", "d": ":=1"}),
        (["--payload", '{"a": 1, "b": 2}', "b:=3", "c=4"], {"a": 1, "b": 3, "c": "4"}),
        (["a:=1", "--item", "i", "b=2"], {"a": 1, "b": "2"}),
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
    '{"task_id":"t","event_type":"","payload":{}}': "event_type is empty",
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
    status, stdout, stderr = cli(
        db, "emit", "--jsonl", "-", stdin=encoded(GOOD, "", GOOD, line, GOOD)
    )
    assert (status, stdout, len(dump(db))) == (1, "events recorded: 2\n", 2)
    assert re.fullmatch(
        rf"orch-events: line 4: .*{re.escape(why)}.*; events recorded before it: 2\n", stderr
    ), stderr


def test_keep_going(db: Path) -> None:
    lines = [text for line in BAD_LINES for text in (GOOD, line)]
    db.with_name("in").write_bytes(encoded(*lines))
    status, stdout, stderr = cli(db, "emit", "--keep-going", "--jsonl", "in")
    assert (status, stdout, len(dump(db))) == (
        1,
        f"events recorded: {len(BAD_LINES)}\n",
        len(BAD_LINES),
    )
    told = stderr.splitlines()
    assert [line.split(":")[1] for line in told[:-1]] == [
        f" line {2 + 2 * bad}" for bad in range(len(BAD_LINES))
    ]
    assert told[-1] == f"orch-events: bad lines skipped: {len(BAD_LINES)}"
    assert cli(db, "emit", "--jsonl", "-", stdin=b"\n \n") == (0, "events recorded: 0\n", "")


def test_a_round_trip_changes_nothing(db: Path, tmp_path: Path) -> None:
    payloads: list[dict[str, object]] = [
        {},
        {"step": "s", "step_scope": "item", "cycle": 3},
        {
            "big": 10**300,
            "u64": 2**64 - 1,
            "float": 1.0,
            "tiny": 5e-324,
            "minus": -0.0,
            "exp": 1e300,
        },
        {
            "text": 'é \u2028 \x85 \x00 \x1b[31m \N{GRINNING FACE} \\ " \n',
            "": None,
            "deep": [[{"a": [True]}]],
        },
    ] * 300
    with EventLog(db) as log:
        for task, item in ("t", None), ("t", "i"), ("é\n", None), ("é\n", "i"):
            log.insert_events([(task, item, "e", payload) for payload in payloads])
    exported = b""
    for task in ("t", "é\n"):
        exported += cli(db, "events", task, "--json")[1].encode()
    keys = ["event_id", "task_id", "task_item_id", "event_type", "payload", "created_at"]
    assert all(list(json.loads(line)) == keys for line in exported.splitlines())
    assert cli(tmp_path / "copy.db", "emit", "--jsonl", "-", stdin=exported) == (
        0,
        "events recorded: 4800\n",
        "",
    )
    assert dump(tmp_path / "copy.db") == dump(db)


def test_progress_is_shown_on_a_terminal(db: Path) -> None:
    db.with_name("in").write_bytes(encoded(*[GOOD] * 2500))
    shown = on_terminal(db, "emit", "--jsonl", "in")
    assert shown.startswith("\r1,000 events\r") and shown.endswith("\revents recorded: 2500\n")


@pytest.mark.long
def test_200_megabytes_are_imported_in_bounded_memory_and_hold_no_writer_up(db: Path) -> None:
    payload = json.dumps({"step": "build", "stdout_bytes": 123456, "note": "x" * 100})
    line = f'{{"task_id":"bulk","task_item_id":null,"event_type":"step_heartbeat","payload":{payload}}}\n'.encode()
    count = (200 << 20) // len(line)
    argv = [*ARGV, "emit", "--jsonl", "-"]
    process = subprocess.Popen(
        argv, env=environment(db), stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
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
    assert max(waits) < (time.monotonic() - began) / 5, (
        "it held the file for a fifth of the whole time"
    )
    exported = subprocess.Popen(
        [*ARGV, "events", "bulk", "--json"], env=environment(db), stdout=subprocess.PIPE
    )
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
        log.insert_event(
            "t", "i1", "step_started", {"step": "build", "step_scope": "item", "agent_id": "a"}
        )
        log.insert_event("u", None, "task_failed", {"reason": "no luck"})
        log.insert_event(
            "t", "i1", "step_finished", {"step": "build", "success": True, "exit_code": 0}
        )
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
        ("t -n 2", [4, 5]),
        ("t -n 0", []),
        ("t -n 9", [1, 2, 4, 5]),
        ("t -n 1 --type step_", [4]),
        ("t -n 5 --after 2", [4, 5]),
        ("t -n 3 --limit 1", [2]),
        ("", [1, 2, 3, 4, 5, 6]),
        ("-n 2", [5, 6]),
        ("--steps", [2, 4]),
        ("--since 1h", [1, 2, 3, 4, 5, 6]),
        ("--since 0s", []),
        ("t --after 5", []),
        ("''", []),
    ],
)
def test_which_events_are_listed(some: Path, words: str, ids: list[int]) -> None:
    status, stdout, stderr = cli(some, "events", *shlex.split(words), "--json")
    assert (status, [json.loads(line)["event_id"] for line in stdout.splitlines()], stderr) == (
        0,
        ids,
        "",
    )
    table = cli(some, "events", *shlex.split(words))[1].splitlines()
    assert [int(line.split()[0]) for line in table[1:]] == ids


def test_only_events_that_are_not_too_old_are_listed(db: Path) -> None:
    terminal.record_past(db, *((timedelta(hours=hours), {}) for hours in (30, 20, 2, 0)))
    for since, ids in (("2d", [1, 2, 3, 4]), ("1d", [2, 3, 4]), ("90m", [4])):
        listed = cli(db, "events", "--json", "--since", since)[1].splitlines()
        assert [json.loads(line)["event_id"] for line in listed] == ids


@pytest.mark.parametrize("command", ["events", "tasks", "steps"])
def test_an_age_from_before_the_calendar_leaves_nothing_out(db: Path, command: str) -> None:
    with EventLog(db) as log:
        log.insert_event("t", None, "step_finished", {"step": "s", "success": True})
    status, listed, complaint = cli(db, command, "--since", "999999999d", "--json")
    assert (status, len(listed.splitlines()), complaint) == (0, 1, "")


def test_the_last_events_are_listed_where_others_between_them_were_deleted(db: Path) -> None:
    with EventLog(db) as log:
        for n in range(50):
            log.insert_event(f"gone{n}", None, "task_completed")
            log.insert_event("kept", None, "x")
        log.cleanup(older_than=timedelta())
    listed = cli(db, "events", "--json", "-n", "3")[1].splitlines()
    assert [json.loads(line)["event_id"] for line in listed] == [96, 98, 100]


def test_the_events_of_all_tasks_name_their_task(some: Path) -> None:
    title, *rows = cli(some, "events")[1].splitlines()
    assert title.split()[3:] == ["task", "type", "step", "item", "details"]
    assert [row.split()[3] for row in rows] == ["t", "t", "u", "t", "t", "v"]


def test_the_events_of_all_tasks_are_followed_after_the_last_few(some: Path) -> None:
    with terminal.background("--db", some, "events", "-f", "-n", "1", "--limit", "3") as process:
        shown = terminal.Piped(process)
        shown.wait_for("custom")
        with EventLog(some) as log:
            log.insert_event("w", None, "later")
            log.insert_event("t", None, "task_completed")
        status, printed, complaint = shown.end()
    assert (status, complaint) == (0, "")
    assert [line.split()[3:5] for line in printed.splitlines()[1:]] == [
        ["v", "custom"],
        ["w", "later"],
        ["t", "task_completed"],
    ]


@pytest.mark.parametrize(
    "words", [["watch", "--once"], ["trace"], ["trace", "--json"], ["logs"]], ids=" ".join
)
def test_the_latest_task_is_the_default_and_is_named(some: Path, words: list[str]) -> None:
    command, *rest = words
    chosen = cli(some, *words)
    told = cli(some, command, "v", *rest)
    assert chosen[0] == told[0]
    assert chosen[2] == f"orch-events: the latest task: 'v'\n{told[2]}"


READING = [
    ["events"],
    ["events", "--json"],
    ["events", "-f"],
    ["events", "--after", "1"],
    ["watch"],
    ["watch", "--once"],
    ["trace"],
    ["trace", "--json"],
    ["trace", "--format", "chrome"],
    ["trace", "--html", "page.html"],
]


@pytest.mark.parametrize("words", READING, ids=" ".join)
def test_a_task_that_is_not_there_is_an_error_that_names_the_nearest(
    db: Path, words: list[str]
) -> None:
    with EventLog(db) as log:
        log.insert_events(
            (task, None, "task_started", {})
            for task in ("build-42", "build-43", "test", "Deploy", "3f2a91c07d44e1", "\x1b[2J")
        )
    command, *rest = words
    for task, told in (
        ("biuld-42", "no task 'biuld-42'; nearest: build-42, build-43"),
        ("deploy", "no task 'deploy'; nearest: Deploy"),
        ("3f2a", "no task '3f2a'; nearest: 3f2a91c07d44e1"),
        ("\x1b[2K", r"no task '\x1b[2K'; nearest: \x1b[2J"),
        ("nothing like it", "no task 'nothing like it'"),
        ("x" * 100_000, f"no task '{'x' * 200}…'"),
    ):
        assert cli(db, command, task, *rest) == (1, "", f"orch-events: {told}\n")
    assert not db.with_name("page.html").exists()


@pytest.mark.parametrize("words", [["events", "-f"], ["watch"], ["watch", "--once"], ["trace"]])
def test_a_log_that_is_not_there_is_an_error_and_is_not_made(db: Path, words: list[str]) -> None:
    told = f"orch-events: {db}: no event log here\n"
    assert cli(db, words[0], "t", *words[1:]) == (1, "", told)
    assert not db.exists()


def test_an_empty_log_says_so(db: Path) -> None:
    EventLog(db).close()
    assert cli(db, "events", "t") == (1, "", "orch-events: no task 't'\n")
    assert cli(db, "watch") == (1, "", "orch-events: no tasks yet\n")
    assert cli(db, "tasks") == (0, "", "orch-events: no tasks yet\n")
    assert cli(db, "tasks", "--json") == (0, "", "")


@pytest.mark.parametrize("words", [["watch"], ["watch", "--once"], ["trace"]], ids=" ".join)
def test_an_empty_task_is_a_variable_that_is_not_set(some: Path, words: list[str]) -> None:
    status, stdout, stderr = cli(some, words[0], "", *words[1:])
    assert (status, stdout) == (2, "")
    assert "argument TASK: is empty (an unset variable?)" in stderr


def test_events_of_no_task_are_listed_if_asked_for(some: Path) -> None:
    with EventLog(some) as log:
        log.insert_event("", None, "daemon_started", {})
    assert [line.split()[3] for line in cli(some, "events", "")[1].splitlines()[1:]] == [
        "daemon_started"
    ]
    assert cli(some, "watch", "--once")[1].startswith("task v  ")


@pytest.mark.long
def test_waiting_is_asked_for(db: Path) -> None:
    for words in (["events", "t", "-f", "--wait"], ["watch", "t", "--wait"], ["watch", "--wait"]):
        path = db.with_name(f"{len(words)}{words[0]}.db")
        with terminal.background("--db", path, *words) as process:
            assert process.stderr is not None
            told = process.stderr.readline().decode()
            assert told.startswith("orch-events: waiting for ")
            with EventLog(path) as log:
                log.insert_event("", None, "daemon_started", {})
                log.insert_event("t", None, "task_completed", {})
            status, stdout, _ = terminal.Piped(process).end()
        assert (status, "task_completed" in stdout) == (0, True)
    with terminal.terminal("--db", db, "watch", "t", "--wait") as watch:
        watch.wait_for("waiting for task t", condition=lambda: watch.screen.alternate)
        with EventLog(db) as log:
            log.insert_event("t", None, "task_completed", {})
        assert watch.end() == 0
    assert cli(db, "events", "t", "--wait")[0] == 2
    assert cli(db, "watch", "t", "--once", "--wait")[0] == 2


@pytest.mark.parametrize("count", [20_000, pytest.param(100_000, marks=pytest.mark.long)])
def test_the_nearest_of_very_many_tasks_are_found(db: Path, count: int) -> None:
    EventLog(db).close()
    with closing(sqlite3.connect(db)) as connection, connection:
        connection.executemany(
            "INSERT INTO events(task_id, event_type, payload_json, created_at) VALUES (?, 'e', '{}', '')",
            ((f"build-{number:06}",) for number in range(count)),
        )
    status, stdout, stderr = cli(db, "events", "biuld-017777")
    assert (status, stdout) == (1, "")
    assert stderr.startswith("orch-events: no task 'biuld-017777'; nearest: build-017777, ")


def test_tables(some: Path) -> None:
    table = re.sub(r"\d\d-\d\d \d\d:\d\d:\d\d", "MM-DD HH:MM:SS", cli(some, "events", "t")[1])
    assert table == (
        "id  time (UTC)      type           step   item  details\n"
        " 1  MM-DD HH:MM:SS  task_started\n"
        " 2  MM-DD HH:MM:SS  step_started   build  i1    agent_id=a\n"
        " 4  MM-DD HH:MM:SS  step_finished  build  i1    success=true exit_code=0\n"
        " 5  MM-DD HH:MM:SS  stepless       x\n"
    )


UNSEEN = "a\u202eb\u200bc\u200dd\u2066e\ufefff\x7fg\x9bh\u00a0i\U000e0001j"
PILED = "x" + "\u0301" * 6
ESCAPED = r"a\u202eb\u200bc\u200dd\u2066e\ufefff\u007fg\u009bh\u00a0i\udb40\udc01j"


@pytest.mark.parametrize(
    "words",
    [
        ["events", "TASK", "--json"],
        ["tasks", "--json"],
        pytest.param(["trace", "TASK", "--json"], marks=pytest.mark.long),
        pytest.param(["stats", "--json"], marks=pytest.mark.long),
    ],
)
def test_json_has_escapes_for_what_is_not_seen_on_a_terminal_and_none_elsewhere(
    db: Path, words: list[str]
) -> None:
    task = f"{UNSEEN}한é{PILED}\u0301\u0301"
    with EventLog(db) as log:
        log.insert_event(task, None, "step_started", {"step": task})
        log.insert_event(task, None, f"type {task}", {})
    words = [task if word == "TASK" else word for word in words]
    piped = cli(db, *words)[1]
    shown = on_terminal(db, *words)
    assert task in piped and f"{ESCAPED}한é{PILED}\\u0301\\u0301" in shown
    assert all(line.isprintable() for line in shown.splitlines())
    assert drop_time(json.loads(piped.splitlines()[0])) == drop_time(
        json.loads(shown.splitlines()[0])
    )


def drop_time(value: dict[str, object]) -> dict[str, object]:
    """What may change from one moment to the next is left out."""
    return {key: member for key, member in value.items() if key not in ("cycles", "duration_ms")}


def test_a_tab_between_the_tokens_of_a_payload_stays_one(some: Path) -> None:
    store(some, "tabs", b'{\t"a":\t"\\tb"}')
    shown = on_terminal(some, "events", "tabs", "--json")
    assert '{\t"a":\t"\\tb"}' in shown
    assert json.loads(shown)["payload"] == {"a": "\tb"}


@pytest.mark.long
def test_a_name_of_a_megabyte_is_cut_on_a_terminal_and_whole_elsewhere(db: Path) -> None:
    name = "n" * 1_000_000 + "\tend"
    EventLog(db).close()
    for kind, payload in (
        (b"step_started", {"step": name, "agent_id": name}),
        (b"task_control", {"status": name}),
    ):  # longer than the library records
        text = json.dumps(payload).encode()
        store(db, name, text, event_type=kind, task_item_id=name.encode())
    for words in (["tasks"], ["watch", "--once"], ["stats"]):
        shown = on_terminal(db, *words)
        table = [line for line in shown.splitlines() if not line.startswith("orch-events: ")]
        assert max(len(re.sub(r"\x1b\[\d*m", "", line)) for line in table) <= 60, words
        assert "nnnnnnnn…" in shown
        assert len(cli(db, *words)[1]) > 1_000_000
    assert len(json.loads(cli(db, "tasks", "--json")[1])["task_id"]) == len(name)


def test_marks_piled_on_a_letter_do_not_cover_other_lines(db: Path) -> None:
    with EventLog(db) as log:
        log.insert_event("x" + "\u0e47" * 500, None, "task_started", {})
        log.insert_event("हिन्दी é עִבְרִית", None, "task_started", {})
    shown = on_terminal(db, "tasks")
    assert shown.count("\u0e47") == 6 and r"\u0e47" in shown
    assert "हिन्दी é עִבְרִית" in shown


@pytest.mark.parametrize(
    "stored", ["2026-03-01 12:00:00", "2026-03-01T12:00:00z", "2026-03-01T13:00:00.5+01:00"]
)
def test_times_are_shown_as_the_readers_clock_has_them(some: Path, stored: str) -> None:
    store(some, "w", b"{}", created_at=stored.encode())
    for command in ("events", "w"), ("tasks",):
        assert "03-01 21:00:00" in cli(some, *command, TZ="EAST-9")[1]


def test_a_zone_of_no_world_is_utc(some: Path) -> None:
    store(some, "w", b"{}", created_at=b"2026-03-01T12:00:00Z")
    for command in ("events", "w"), ("tasks",), ("trace", "w"):
        shown = cli(some, *command, TZ="UTC+25")[1]
        assert "03-01 12:00:00" in shown and "UTC" in shown


@pytest.mark.parametrize("column", ["task_id", "event_type", "created_at"])
def test_a_blob_is_listed_as_the_text_it_holds(some: Path, column: str) -> None:
    row = {"task_id": b"t2", "event_type": b"x", "created_at": b"2026-03-01T12:00:00Z"}
    places = ", ".join(":" + name if name == column else f"CAST(:{name} AS TEXT)" for name in row)
    insert = f"INSERT INTO events({', '.join(row)}, payload_json) VALUES ({places}, '{{}}')"
    with closing(sqlite3.connect(some)) as connection, connection:
        connection.execute(insert, {**row, column: b"blob\xff"})
    found = json.loads(cli(some, "tasks", "--json")[1].splitlines()[0])
    told = [found[name] for name in ("task_id", "last_event_type", "last_created_at")]
    expected = {**row, column: b"blob\xff"}
    assert told == [value.decode(errors="surrogateescape") for value in expected.values()]
    assert cli(some, "tasks")[0] == 0
    assert "b'" not in cli(some, "events", "blo")[2]


def test_foreign_rows(some: Path) -> None:
    for payload in (
        b"null",
        b"[1]",
        b"{oops",
        b'{"a":\r\n 1.50, "a":2}',
        b'{"x":"\xff"}',
        '{"x":"\x9b"}'.encode(),
    ):
        store(some, "w", payload, created_at=b"not a \x1b time", task_item_id=b"i\xff")
    lines = cli(some, "events", "w", "--json")[1].splitlines()
    assert [
        line.partition('"event_type":"odd",')[2].partition(',"created_at"')[0] for line in lines
    ] == [
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


def test_tables_fit_the_terminal(db: Path) -> None:
    with EventLog(db) as log:
        for text in (
            "plain",
            "日本語のテキスト" * 20,
            "e\u0301" * 100,
            "\x1b[2J\x1b]0;title\x07" * 9,
            "x" * 1_000_000,
        ):
            log.insert_event(
                "t", "項目" if "日" in text else "item", "e", {"step": text[:20], "text": text}
            )
    lines = on_terminal(db, "events", "t", NO_COLOR="1").splitlines()
    assert [terminal.shown_width(line) <= 60 for line in lines] == [True] * 6
    assert [line.endswith("…") for line in lines] == [False, False, True, True, True, True]
    items = [re.search("item|項目", line) for line in lines]
    starts = {
        terminal.shown_width(item.string[: item.start()]) for item in items if item is not None
    }
    assert (None in items, len(starts)) == (
        False,
        1,
    )  # the column begins at the same place in every line
    assert "x" * 1_000_000 in cli(db, "events", "t")[1]
    assert on_terminal(db, "events", "t", NO_COLOR="", COLUMNS="3").count("\n") == 6


@pytest.mark.parametrize(
    ("more", "colour"), [({}, True), ({"NO_COLOR": "1"}, False), ({"TERM": "dumb"}, False)]
)
def test_colours_only_where_wanted(some: Path, more: dict[str, str], colour: bool) -> None:
    with EventLog(some) as log:
        log.insert_event("t", None, "task_completed")  # or how long it takes would change
    shown = on_terminal(some, "tasks", COLUMNS="100", **more)
    assert ("\x1b[31mfailed\x1b[0m" in shown, "\x1b" in shown) == (colour, colour)
    assert re.sub("\x1b\\[[0-9;]*m", "", shown) == cli(some, "tasks", FORCE_COLOR="1")[1]


def test_it_is_the_same_in_an_ascii_locale(db: Path) -> None:
    with EventLog(db) as log:
        log.insert_event("t", None, "é", {"x": "日本"})
    ascii_only = {
        "LC_ALL": "C",
        "PYTHONUTF8": "0",
        "PYTHONCOERCECLOCALE": "0",
        "PYTHONIOENCODING": "ascii",
    }
    json_lines, table = (
        subprocess.run(
            [*ARGV, "events", "t", *words],
            env=environment(db, **ascii_only),
            stdout=subprocess.PIPE,
        ).stdout
        for words in (["--json"], [])
    )
    assert json.loads(json_lines)["payload"] == {"x": "日本"}
    assert rb"x=\u65e5\u672c" in table
