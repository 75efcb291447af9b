# SPDX-License-Identifier: MIT
"""Standard output and standard error of every command: real pipes, a real pty and a full device."""

import json
import os
import pty
import subprocess
import sys
import time
import tty
from collections.abc import Callable
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Final

import pytest

from orch_events import EventLog
from orch_events.cli import main

from .helpers import PATIENCE
from .terminal import environment, outcome

ARGV: Final = [sys.executable, "-m", "orch_events"]
EVENTS: Final = 2000
COMMANDS: Final = ("--help", "events t", "logs t")
OTHERS: Final = (
    "--version",
    "events -h",
    "events t --json",
    "tasks",
    "tasks --json",
    "watch t --once",
    "trace t",
    "trace t --json",
    "trace t --format chrome",
    "stats",
    "watch t",
    "logs t -f",
    "emit t e",
)


@pytest.fixture
def db(tmp_path: Path) -> Path:
    path = tmp_path / "log.db"
    output = tmp_path / "out"
    output.write_bytes(b"".join(b"%d \xc3\xa9\r\n" % number for number in range(30_000)))
    with EventLog(path) as log:
        paths = {"stdout_path": str(output), "stderr_path": ""}
        log.insert_event("t", None, "step_spawned", {"step": "s", **paths})
        steps = [
            ("t", f"item {number}", "step_skipped", {"step": "s", "text": "é" * 50})
            for number in range(EVENTS)
        ]
        log.insert_events(steps)
        log.insert_event("t", None, "task_completed", {})
    return path


@pytest.fixture(params=["", "1"], ids=["buffered", "unbuffered"])
def variables(request: pytest.FixtureRequest) -> dict[str, str]:
    assert isinstance(request.param, str)
    return environment(PYTHONUNBUFFERED=request.param)


BUFFERED: Final = pytest.mark.parametrize(
    "variables",
    [pytest.param("", id="buffered"), pytest.param("1", id="unbuffered", marks=pytest.mark.long)],
    indirect=True,
)


@BUFFERED
@pytest.mark.parametrize("commands", [COMMANDS, pytest.param(OTHERS, marks=pytest.mark.long)])
def test_a_command_that_cannot_write_everything_fails_and_says_why(
    db: Path, variables: dict[str, str], commands: tuple[str, ...]
) -> None:
    with open("/dev/full", "wb") as full:
        processes = {
            words: subprocess.Popen(
                [*ARGV, "--db", str(db), *words.split()],
                env=variables,
                stdout=full,
                stderr=subprocess.PIPE,
            )
            for words in commands
        }
    for words, process in processes.items():
        _, complaint = process.communicate(timeout=PATIENCE)
        told = b"orch-events: standard output: No space left on device\n"
        assert (words, process.returncode, complaint) == (words, 1, told)


def in_a_pipe() -> tuple[int, int]:
    return os.pipe()


def on_a_terminal() -> tuple[int, int]:
    ours, theirs = pty.openpty()
    tty.setraw(theirs)
    return ours, theirs


def slowly(descriptor: int) -> bytes:
    """All that is written, read with pauses in which the other end fills."""
    parts = list[bytes]()
    try:
        while data := os.read(descriptor, 100_000):
            parts.append(data)
            if len(parts) < 8:
                time.sleep(0.02)
    except OSError:  # how Linux says that nobody has the terminal any more
        pass
    os.close(descriptor)
    return b"".join(parts)


def shown(
    words: str,
    db: Path,
    variables: dict[str, str],
    make: Callable[[], tuple[int, int]],
    waits: bool,
) -> bytes:
    """What a command writes where writing waits for room or does not."""
    ours, theirs = make()
    os.set_blocking(theirs, waits)
    complaints = db.with_name("complaints")
    with complaints.open("wb") as stderr:
        argv = [*ARGV, "--db", str(db), *words.split()]
        process = subprocess.Popen(argv, env=variables, stdout=theirs, stderr=stderr)
    os.close(theirs)
    try:
        data = slowly(ours)
        assert (process.wait(PATIENCE), complaints.read_bytes()) == (0, b"")
    finally:
        process.kill()
        process.wait()
    return data


@pytest.mark.parametrize(
    ("words", "make"),
    [
        ("events t --json", in_a_pipe),
        ("logs t", on_a_terminal),
        pytest.param("logs t", in_a_pipe, marks=pytest.mark.long),
        pytest.param("events t --limit 500", on_a_terminal, marks=pytest.mark.long),
        pytest.param("events t", in_a_pipe, marks=pytest.mark.long),
        pytest.param("watch t --once", in_a_pipe, marks=pytest.mark.long),
        pytest.param("trace t --format chrome", in_a_pipe, marks=pytest.mark.long),
    ],
)
def test_output_is_whole_where_writing_does_not_wait(
    db: Path, variables: dict[str, str], words: str, make: Callable[[], tuple[int, int]]
) -> None:
    expected = shown(words, db, variables, make, waits=True)
    assert len(expected) > 50_000
    assert shown(words, db, variables, make, waits=False) == expected


@BUFFERED
def test_standard_error_stops_no_command(db: Path, variables: dict[str, str]) -> None:
    argv = [*ARGV, "--db", str(db), "events", "t", "--limit", "1", "--json"]
    wrong = [*ARGV, "--db", str(db), "events", "nosuch"]
    with open("/dev/full", "wb") as full:
        for words, status in ((argv, 0), (wrong, 1)):
            done = subprocess.run(words, env=variables, stdout=subprocess.PIPE, stderr=full)
            assert (done.returncode, done.stdout.count(b"\n")) == (status, 1 - status)
    # A message is not output, and a closed descriptor no reason to make it so.
    line = '"$@" 2>&-'
    done = subprocess.run(["sh", "-c", line, "-", *wrong], env=variables, stdout=subprocess.PIPE)
    assert (done.returncode, done.stdout) == (1, b"")


def test_what_was_printed_before_an_error_arrives(db: Path) -> None:
    """The table, and after it why there is no more."""
    missing = db.with_name("missing")
    with EventLog(db) as log:
        paths = {"stdout_path": str(missing), "stderr_path": ""}
        log.insert_event("t", None, "step_spawned", {"step": "late", **paths})
    status, shown, complaint = outcome("--db", db, "logs", "t", "--stdout")
    assert (status, shown.endswith("\n29999 é\r\n")) == (1, True)
    assert complaint == f"orch-events: {missing}: no such file\n"


def test_a_host_that_calls_it_keeps_its_streams(db: Path) -> None:
    before = sys.stdout, sys.stderr
    with redirect_stdout(StringIO()) as shown:
        assert main(["--db", str(db), "tasks", "--json"]) == 0
    assert (sys.stdout, sys.stderr) == before
    assert json.loads(shown.getvalue())["task_id"] == "t"


def test_a_command_without_a_thread_to_be_had_says_so(db: Path) -> None:
    """As where memory or the number of processes is limited."""
    script = """
import resource, sys, threading
from orch_events.cli import main
threading.stack_size(256 << 20)
with open("/proc/self/statm") as file:
    pages = int(file.read().split()[0])
limit = pages * resource.getpagesize() + (64 << 20)  # less than a thread's stack
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
sys.exit(main(sys.argv[1:]))
"""
    for words in ("logs -f t", "watch t"):
        argv = [sys.executable, "-X", "dev", "-W", "error", "-c", script, "--db", str(db)]
        done = subprocess.run(
            [*argv, *words.split()], env=environment(), capture_output=True, timeout=PATIENCE
        )
        told = b"orch-events: the log cannot be followed: no thread can be started\n"
        assert (done.returncode, done.stderr) == (1, told)
