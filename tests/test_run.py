# SPDX-License-Identifier: MIT
"""`orch-events run`: real commands, real signals, real files; what was recorded of them is read back by the library."""

import os
import re
import select
import shlex
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from orch_events import EventLog, EventReader, JsonObject, query_latest_step_log_paths
from orch_events.cli.model.heartbeat_payload import HeartbeatState

from .helpers import PATIENCE, ROOT, execute, wait_until, write_locked


@pytest.fixture
def db(tmp_path: Path) -> Path:
    with EventLog(tmp_path / "log.db"):
        return tmp_path / "log.db"


@contextmanager
def running(
    db: Path, *words: str, command: str, shell: str = ""
) -> Iterator[subprocess.Popen[bytes]]:
    """`run WORDS -- sh -c COMMAND` at work, under a shell line of its own if need be; killed at the end."""
    argv = [
        sys.executable,
        "-m",
        "orch_events",
        "--db",
        str(db),
        "run",
        *words,
        "--",
        "sh",
        "-c",
        command,
    ]
    process = subprocess.Popen(
        argv if not shell else ["sh", "-c", f"{shell} exec {shlex.join(argv)}"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        cwd=db.parent,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


def run(db: Path, *words: str, command: str, shell: str = "") -> tuple[int, bytes, bytes]:
    with running(db, *words, command=command, shell=shell) as process:
        stdout, stderr = process.communicate(timeout=PATIENCE)
        return process.returncode, stdout, stderr


def recorded(db: Path, task: str | None = None) -> list[tuple[str, JsonObject]]:
    with EventReader(db) as reader:
        events = [(event.event_type, event.payload) for event in reader.query_events(task)]
    return [(event_type, payload) for event_type, payload in events if isinstance(payload, dict)]


def types(db: Path, task: str | None = None) -> list[str]:
    return [event_type for event_type, _ in recorded(db, task)]


def payload(db: Path, event_type: str) -> JsonObject:
    return next(payload for found, payload in recorded(db) if found == event_type)


def number(value: object) -> int:
    assert isinstance(value, int)
    return value


def exists(pid: int) -> bool:
    """Whether a process runs; a zombie nobody has reaped does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.mark.parametrize(
    ("command", "code", "reason"),
    [
        pytest.param(["true"], 0, None, marks=pytest.mark.long),
        (["sh", "-c", "exit 3"], 3, None),
        (["sh", "-c", "kill -9 $$"], 137, "ended by signal 9"),
        (["no-such-command"], 127, "command not found"),
        pytest.param(["--version"], 127, "command not found", marks=pytest.mark.long),
        pytest.param(["/"], 126, "Permission denied", marks=pytest.mark.long),
        (["./text"], 126, "Exec format error"),
    ],
)
def test_exit_codes(db: Path, command: list[str], code: int, reason: str | None) -> None:
    db.with_name("text").write_text("neither a program nor a script")
    db.with_name("text").chmod(0o700)
    argv = [sys.executable, "-m", "orch_events", "run", "--", *command]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "ORCH_EVENTS_DB": str(db)}
    done = subprocess.run(
        argv, env=environment, cwd=db.parent, capture_output=True, text=True, timeout=PATIENCE
    )
    assert done.returncode == code
    spawned = [] if code in (126, 127) else ["step_spawned"]
    ended = ["step_finished", "task_failed" if code else "task_completed"]
    assert types(db) == ["task_started", "step_started", *spawned, *ended]
    for event_type in ended:
        fields = payload(db, event_type)
        assert (fields["exit_code"], fields["success"], fields.get("reason")) == (
            code,
            not code,
            reason,
        )
        assert 0 <= number(fields["duration_ms"]) < PATIENCE * 1000
    task = re.fullmatch(r"orch-events: task (\S+)", done.stderr.splitlines()[0])
    assert task is not None and types(db, task[1]) == types(db)
    told = [f"orch-events: {command[0]}: {reason}"] if not spawned else []
    assert done.stderr.splitlines()[1:] == told


def test_a_step_of_a_given_task_and_its_files(db: Path) -> None:
    words = (
        "--task",
        "t/../1",
        "--step",
        "build it",
        "--item",
        "i1",
        "--agent",
        "a1",
        "--logs",
        "kept/logs",
    )
    assert run(db, *words, command="echo out; echo err >&2", shell="umask 0;") == (
        0,
        b"out\n",
        b"err\n",
    )
    assert types(db, "t/../1") == ["step_started", "step_spawned", "step_finished"] == types(db)
    with EventReader(db) as reader:
        events = reader.query_step_events("t/../1")
    facts = {
        (event.step, str(event.step_scope), event.task_item_id, event.agent_id) for event in events
    }
    assert facts == {("build it", "item", "i1", "a1")}
    assert payload(db, "step_started")["command"] == "sh -c 'echo out; echo err >&2'"

    assert payload(db, "step_spawned")["host"] == socket.gethostname()

    paths = query_latest_step_log_paths(db, "t/../1")
    assert paths is not None and paths.phase == "build it"
    out = Path(paths.stdout_path)
    err = Path(paths.stderr_path)
    assert (out.read_text(), err.read_text()) == ("out\n", "err\n")
    assert out.parent == err.parent == db.parent / "kept/logs"
    assert [stat.S_IMODE(path.stat().st_mode) for path in (out, err, out.parent)] == [
        0o600,
        0o600,
        0o700,
    ]


def test_output_is_replayed_exactly_and_kept(db: Path) -> None:
    data = os.urandom(3_000_000) + b"no newline at the end"
    db.with_name("data").write_bytes(data)
    task = ("--task", "t")
    assert run(db, *task, command="cat data; tail -c 100000 data >&2") == (0, data, data[-100000:])
    assert run(db, *task, "--quiet", command="cat data; tail -c 100000 data >&2") == (0, b"", b"")
    for kind, size in (("stdout", len(data)), ("stderr", 100_000)):
        files = list(db.with_name("log-logs").glob(f"*.{kind}"))
        assert [file.stat().st_size for file in files] == [size, size]


def test_output_is_replayed_as_it_comes_and_to_the_last_byte_of_a_grandchild(db: Path) -> None:
    os.mkfifo(db.with_name("go"))
    with running(
        db, "--task", "t", command="echo first; (read x < go; echo second) & wait; printf third"
    ) as process:
        assert process.stdout is not None
        assert select.select([process.stdout], [], [], PATIENCE)[0]
        assert os.read(process.stdout.fileno(), 100) == b"first\n"
        db.with_name("go").write_text("\n")
        assert process.communicate(timeout=PATIENCE) == (b"second\nthird", b"")


def test_a_grandchild_that_stays_and_never_stops_writing_does_not_keep_us(db: Path) -> None:
    code, stdout, _ = run(db, "--task", "t", command="(while :; do echo more; done) & echo done")
    os.killpg(number(payload(db, "step_spawned")["pid"]), signal.SIGKILL)
    assert (code, b"done\n" in stdout) == (0, True)


@pytest.mark.parametrize(
    ("beats", "states"),
    [
        # (elapsed, bytes so far, alive) of each heartbeat; its (new bytes, stagnant in a row, state)
        (
            [(10, 0, True), (20, 33, True), (30, 65, True)],
            [(0, 1, "quiet"), (33, 0, "active"), (32, 1, "quiet")],
        ),
        (
            [(88, 9, True), (89, 9, True), (90, 9, True)],
            [(9, 1, "quiet"), (0, 2, "quiet"), (0, 3, "low_output")],
        ),
        (
            [(10, 9, True), (20, 9, True), (89, 9, True)],
            [(9, 1, "quiet"), (0, 2, "quiet"), (0, 3, "quiet")],
        ),
        (
            [(90, 9, True), (99, 9, True), (200, 9, False)],
            [(9, 1, "quiet"), (0, 2, "quiet"), (0, 3, "quiet")],
        ),
        (
            [(90, 0, True), (91, 0, True), (92, 99, True)],
            [(0, 1, "quiet"), (0, 2, "quiet"), (99, 0, "active")],
        ),
        (
            [(1, 500, True), (2, 40, True), (3, 0, True)],
            [(500, 0, "active"), (40, 0, "active"), (0, 1, "quiet")],
        ),
    ],
)
@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_output_state(
    beats: list[tuple[int, int, bool]], states: list[tuple[int, int, str]], stream: str
) -> None:
    heartbeats = HeartbeatState()
    found: list[tuple[object, object, object]] = []
    for elapsed, size, alive in beats:
        beat = heartbeats.next_payload(
            elapsed, *((size, 0) if stream == "stdout" else (0, size)), alive
        )
        assert (beat["elapsed_secs"], beat[f"{stream}_bytes"], beat["pid_alive"]) == (
            elapsed,
            size,
            alive,
        )
        found.append(
            (beat[f"{stream}_delta_bytes"], beat["stagnant_heartbeats"], beat["output_state"])
        )
    assert found == states


def test_heartbeats(db: Path) -> None:
    os.mkfifo(db.with_name("go"))
    command = "printf %100d 1; printf %10d 2 >&2; read x < go; printf %50d 3"
    with running(db, "--task", "t", "--quiet", "--heartbeat", "0.15", command=command) as process:
        wait_until(lambda: types(db).count("step_heartbeat") >= 3)
        db.with_name("go").write_text("\n")
        assert process.wait(PATIENCE) == 0
    beats = [fields for event_type, fields in recorded(db) if event_type == "step_heartbeat"]
    assert [beat["stagnant_heartbeats"] for beat in beats[:3]] == [0, 1, 2]
    assert [beat["output_state"] for beat in beats[:3]] == ["active", "quiet", "quiet"]
    assert [(beat["stdout_bytes"], beat["stderr_bytes"]) for beat in beats[:3]] == [(100, 10)] * 3
    assert [beat["stdout_delta_bytes"] for beat in beats[:3]] == [100, 0, 0]
    pid = payload(db, "step_spawned")["pid"]
    assert {(beat["pid"], beat["pid_alive"], beat["step"]) for beat in beats} == {(pid, True, "sh")}
    assert payload(db, "step_spawned")["heartbeat_secs"] == 0.15
    assert payload(db, "step_finished")["pid"] == pid, (
        "by which it is told apart from one beside it"
    )


FAMILY = "sleep 60 & echo $! > pids; echo $$ >> pids; mv pids family; wait; sleep 60"
"""A shell with a child, whose process ids are in the file `family` as soon as both are there."""


BUSY_FIRST = "for i in 1 2 3; do sleep 0.2; echo; done;"


def family(db: Path) -> list[int]:
    wait_until(db.with_name("family").exists)
    return [int(word) for word in db.with_name("family").read_text().split()]


LONG = pytest.mark.long


@pytest.mark.parametrize(
    ("words", "command", "ends"),
    [
        pytest.param(["--timeout", "0.4"], FAMILY, ["step_timeout"], marks=LONG),
        pytest.param(
            ["--stall-timeout", "0.4"],
            BUSY_FIRST + FAMILY,
            ["step_stall_killed", "step_finished"],
            marks=LONG,
        ),
        pytest.param(["--timeout", "0.4"], "trap '' TERM; " + FAMILY, ["step_timeout"], marks=LONG),
    ],
)
def test_timeouts_end_the_whole_group(
    db: Path, words: list[str], command: str, ends: list[str]
) -> None:
    started = time.monotonic()
    code, _, stderr = run(db, *words, command=command)
    assert (code, stderr.count(b"\n")) == (124, 1)
    least = 0.4
    if "--stall-timeout" in words:
        least = 0.9
    if "trap" in command:  # which ignores SIGTERM
        least = 5
    assert time.monotonic() - started > least
    assert types(db) == ["task_started", "step_started", "step_spawned", *ends, "task_failed"]
    end = payload(db, ends[-1])
    assert (end["success"], end["exit_code"]) == (False, 124)
    assert str(end["reason"]).endswith(" after 400ms") or str(end["reason"]).endswith(" for 400ms")
    wait_until(lambda: not any(map(exists, family(db))))


@pytest.mark.parametrize(
    "number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP], ids=lambda number: number.name
)
def test_signals_reach_the_whole_group_and_the_end_is_recorded(
    db: Path, number: signal.Signals
) -> None:
    with running(db, command=FAMILY) as process:
        pids = family(db)
        wait_until(lambda: "step_spawned" in types(db))
        process.send_signal(number)
        _, stderr = process.communicate(timeout=PATIENCE)
    # A shell starts its background jobs with SIGINT ignored, so that one survives as it would without us.
    survivors = [pid for pid in pids[:1] if number is signal.SIGINT]
    assert (process.returncode, b"Traceback" in stderr) == (128 + number, False)
    assert types(db)[-2:] == ["step_finished", "task_failed"]
    assert payload(db, "step_finished")["reason"] == f"ended by signal {number:d}"
    wait_until(lambda: [pid for pid in pids if exists(pid)] == survivors)
    for pid in survivors:
        os.kill(pid, signal.SIGKILL)


def test_a_command_may_take_a_signal_its_own_way(db: Path) -> None:
    # Not a shell with a `sleep`, which dies of the group's signal too: a shell that hears of that first says so.
    code = (
        "import pathlib, signal, sys, time\n"
        "signal.signal(signal.SIGTERM, lambda *_: (print('got it'), sys.exit(7)))\n"
        "pathlib.Path('ready').touch(); time.sleep(60)"
    )
    command = f"exec {shlex.quote(sys.executable)} -c {shlex.quote(code)}"
    with running(db, "--task", "t", command=command) as process:
        wait_until(db.with_name("ready").exists)
        process.terminate()
        assert process.communicate(timeout=PATIENCE) == (b"got it\n", b"")
        assert process.returncode == 7
    assert payload(db, "step_finished")["exit_code"] == 7


def test_what_we_were_started_to_ignore_is_ignored_still(db: Path) -> None:
    os.mkfifo(db.with_name("go"))
    with running(
        db, "--task", "t", command="read x < go; echo fine", shell="trap '' HUP;"
    ) as process:
        wait_until(lambda: "step_spawned" in types(db))
        process.send_signal(signal.SIGHUP)
        os.killpg(number(payload(db, "step_spawned")["pid"]), signal.SIGHUP)
        db.with_name("go").write_text("\n")
        assert process.communicate(timeout=PATIENCE) == (b"fine\n", b"")


def test_the_command_goes_on_when_we_are_killed(db: Path) -> None:
    os.mkfifo(db.with_name("go"))
    with running(db, "--task", "t", command="read x < go; echo still here; touch done") as process:
        wait_until(lambda: "step_spawned" in types(db))
        process.kill()
        process.wait(PATIENCE)
        db.with_name("go").write_text("\n")
        wait_until(db.with_name("done").exists)
    paths = query_latest_step_log_paths(db, "t")
    assert paths is not None and Path(paths.stdout_path).read_text() == "still here\n"


def test_what_cannot_be_recorded_is_told_once_and_stops_nothing(db: Path) -> None:
    os.mkfifo(db.with_name("go"))
    with running(db, "--heartbeat", "0.1", command="read x < go; echo out; exit 5") as process:
        wait_until(lambda: "step_heartbeat" in types(db))
        execute(
            db,
            "CREATE TRIGGER full BEFORE INSERT ON events BEGIN SELECT RAISE(ABORT, 'no room'); END",
        )
        assert process.stderr is not None
        told = process.stderr.readline() + process.stderr.readline()
        db.with_name("go").write_text("\n")
        assert process.communicate(timeout=PATIENCE) == (b"out\n", b"")
        assert process.returncode == 5
    assert (
        told.startswith(b"orch-events: task ")
        and b"\norch-events: not everything is recorded: " in told
    )
    assert b"no room" in told


@pytest.mark.long
def test_a_locked_log_delays_the_end_but_not_the_command(db: Path) -> None:
    run(db, command="true")
    with running(db, "--task", "t", "--timeout", "1", command="sleep 60") as process:
        wait_until(lambda: "step_spawned" in types(db, "t"))
        with write_locked(db):
            wait_until(lambda: not exists(number(recorded(db, "t")[1][1]["pid"])))
            _, stderr = process.communicate(timeout=PATIENCE)
        assert (process.returncode, stderr.count(b"\n"), b"locked" in stderr) == (124, 1, True)


def test_a_reader_that_stops_reading_delays_neither_the_command_nor_the_record(db: Path) -> None:
    with running(db, command="yes 0123456789 | head -c 1000000; exit 3") as process:
        wait_until(lambda: "task_failed" in types(db))
        assert process.poll() is None
        process.send_signal(signal.SIGINT)
        assert process.wait(PATIENCE) == 3


@pytest.mark.parametrize(
    "stdout", ["| head -1", ">&-", pytest.param("> /dev/full", marks=pytest.mark.long)]
)
def test_output_that_no_reader_takes(db: Path, stdout: str) -> None:
    command = "run --task t -- sh -c 'yes | head -c 300000'"
    line = f"{{ {sys.executable} -m orch_events --db {shlex.quote(str(db))} {command}; echo $? > code; }} {stdout}"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        ["sh", "-c", line], env=environment, cwd=db.parent, capture_output=True, timeout=PATIENCE
    )
    assert db.with_name("code").read_text() == "0\n"
    assert payload(db, "step_finished")["exit_code"] == 0
    told = b"orch-events: the output is no longer shown: No space left on device\n"
    assert (done.stderr, done.stdout) == (
        told if "full" in stdout else b"",
        b"y\n" if "head" in stdout else b"",
    )
