# SPDX-License-Identifier: MIT
"""``emit --jsonl -``: lines are recorded as they come, and none that has come is lost."""

import fcntl
import gzip
import os
import signal
import struct
import subprocess
import sys
import termios
from collections.abc import Iterator
from contextlib import contextmanager
from io import FileIO
from pathlib import Path
from typing import Final

import pytest

from orch_events import EventLog

from .helpers import PATIENCE, stored, wait_until, write_locked
from .terminal import command, environment, outcome

GZIPPED: Final = [False, True]


def line(number: int) -> bytes:
    return b'{"task_id":"t","event_type":"x","payload":{"n":%d}}\n' % number


@contextmanager
def importing(
    path: Path, *words: str, blocking: bool = True, wrapper: tuple[str, ...] = ()
) -> Iterator[tuple[FileIO, subprocess.Popen[bytes]]]:
    """An import whose standard input is a pipe, with the end to write to."""
    reading, writing = os.pipe()
    os.set_blocking(reading, blocking)
    EventLog(path).close()
    process = subprocess.Popen(
        [*wrapper, *command("--db", path, "emit", "--jsonl", "-", *words)],
        env=environment(),
        stdin=reading,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    os.close(reading)
    with process, open(writing, "wb", buffering=0) as pipe:
        try:
            yield pipe, process
        finally:
            process.kill()


def outcome_of(process: subprocess.Popen[bytes]) -> tuple[int, bytes, bytes]:
    stdout, stderr = process.communicate(timeout=PATIENCE)
    return process.returncode, stdout, stderr


@pytest.mark.parametrize("gzipped", GZIPPED, ids=["plain", "gzip"])
@pytest.mark.parametrize("blocking", [True, False], ids=["blocking", "non-blocking"])
def test_input_that_pauses_has_not_ended(path: Path, blocking: bool, gzipped: bool) -> None:
    """Byte by byte at first, so that no read gives two of them."""
    data = line(1) + line(2)
    data = gzip.compress(data) if gzipped else data
    with importing(path, blocking=blocking) as (pipe, process):
        for place in range(4):
            pipe.write(data[place : place + 1])
            wait_until(lambda: not unread(pipe))
        pipe.write(data[4:])
        wait_until(lambda: len(stored(path)) == 2)
        pipe.write(gzip.compress(line(3)) if gzipped else line(3))
        pipe.close()
        assert outcome_of(process) == (0, b"events recorded: 3\n", b"")
    assert [event.payload for event in stored(path)] == [{"n": 1}, {"n": 2}, {"n": 3}]


def unread(pipe: FileIO) -> int:
    """Bytes in a pipe that nobody has read yet."""
    return int(struct.unpack("i", fcntl.ioctl(pipe, termios.FIONREAD, b"\0" * 4))[0])


def test_whole_lines_are_recorded_when_the_input_pauses(path: Path) -> None:
    with importing(path) as (pipe, process):
        pipe.write(line(1) + line(2)[:20])
        wait_until(lambda: len(stored(path)) == 1)
        pipe.write(line(2)[20:])
        wait_until(lambda: len(stored(path)) == 2)
        pipe.close()
        assert outcome_of(process) == (0, b"events recorded: 2\n", b"")


@pytest.mark.parametrize(
    "name", ["SIGINT", "SIGTERM", pytest.param("SIGHUP", marks=pytest.mark.long)]
)
def test_a_signal_loses_no_whole_line(path: Path, name: str) -> None:
    number = signal.Signals[name]
    with importing(path) as (pipe, process):
        with write_locked(path):
            pipe.write(line(1) + line(2) + line(3)[:-5])
            wait_until(lambda: not unread(pipe))
            process.send_signal(number)
        status = outcome_of(process)
    assert status == (128 + number, b"events recorded: 2\n", b"")
    assert [event.payload for event in stored(path)] == [{"n": 1}, {"n": 2}]


@pytest.mark.parametrize(
    "name",
    ["SIGHUP", *(pytest.param(name, marks=pytest.mark.long) for name in ("SIGINT", "SIGTERM"))],
)
def test_a_signal_ends_the_wait_for_more(path: Path, name: str) -> None:
    number = signal.Signals[name]
    with importing(path, "--restore") as (pipe, process):
        pipe.write(b'{"event_id":7,"task_id":"t","task_item_id":null,"event_type":"x",')
        pipe.write(b'"payload":{},"created_at":""}\n')
        wait_until(lambda: len(stored(path)) == 1)
        process.send_signal(number)
        assert outcome_of(process) == (128 + number, b"events recorded: 1\n", b"")


@pytest.mark.long
def test_a_second_signal_breaks_off(path: Path) -> None:
    with importing(path) as (pipe, process), write_locked(path):
        pipe.write(line(1))
        wait_until(lambda: not unread(pipe))
        process.send_signal(signal.SIGTERM)
        wait_until(lambda: signals_caught(process.pid) & 1 << signal.SIGTERM - 1 == 0)
        process.send_signal(signal.SIGTERM)
        assert outcome_of(process)[0] == -signal.SIGTERM
    assert stored(path) == []


def signals_caught(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.split("SigCgt:")[1].split()[0], 16)


def test_an_ignored_signal_stays_ignored(path: Path) -> None:
    with importing(path, wrapper=("nohup",)) as (pipe, process):
        pipe.write(line(1))
        wait_until(lambda: len(stored(path)) == 1)
        process.send_signal(signal.SIGHUP)
        pipe.write(line(2))
        wait_until(lambda: len(stored(path)) == 2)
        pipe.close()
        assert outcome_of(process)[:2] == (0, b"events recorded: 2\n")


def imported(path: Path, data: bytes) -> tuple[int, str, str]:
    """What becomes of a file with `data`."""
    file = path.with_name("in")
    file.write_bytes(data)
    return outcome("--db", path, "emit", "--jsonl", file)


THREE: Final = line(1) + line(2) + line(3)


@pytest.mark.parametrize(
    ("data", "count"),
    [
        (b"", 0),
        (b"\n\n \n", 0),
        (THREE[:-1], 3),
        (THREE.replace(b"\n", b"\r\n"), 3),
        (gzip.compress(b""), 0),
        (gzip.compress(THREE[:-1]), 3),
        (gzip.compress(line(1)) + gzip.compress(b"") + gzip.compress(THREE[len(line(1)) :]), 3),
        (gzip.compress(THREE[:70]) + gzip.compress(THREE[70:]) + bytes(1000), 3),
        (gzip.compress(b" " * (1 << 20) + THREE), 3),
        (b"".join(gzip.compress(bytes([byte])) for byte in THREE), 3),
    ],
    ids=range(10),
)
def test_a_file_is_read_to_its_end(path: Path, data: bytes, count: int) -> None:
    assert imported(path, data) == (0, f"events recorded: {count}\n", "")
    assert [event.payload["n"] for event in stored(path)] == list(range(1, count + 1))


@pytest.mark.parametrize(
    ("data", "least"),
    [
        (gzip.compress(THREE * 2000)[:-5], 6000),
        (gzip.compress(THREE * 2000) + b"garbage", 6000),
        (gzip.compress(THREE * 9000)[:-8] + bytes(8), 10_000),  # the last piece is not believed
    ],
    ids=["cut", "garbage behind it", "wrong checksum"],
)
def test_what_stands_before_the_damage_is_recorded(path: Path, data: bytes, least: int) -> None:
    status, stdout, stderr = imported(path, data)
    assert (status, int(stdout.removeprefix("events recorded: ")) >= least) == (1, True)
    assert "the compressed file is damaged" in stderr and stderr.count("\n") == 1


def test_what_cannot_be_read_is_named(path: Path) -> None:
    folder = path.with_name("in")
    folder.mkdir()
    status, _, stderr = outcome("--db", path, "emit", "--jsonl", folder)
    assert (status, "in: Is a directory" in stderr) == (1, True), stderr


def test_standard_input_that_is_closed_is_no_empty_file(path: Path) -> None:
    argv = command("--db", path, "emit", "--jsonl", "-")
    line = '"$@" <&-'
    done = subprocess.run(
        ["sh", "-c", line, "-", *argv],
        env=environment(),
        capture_output=True,
        timeout=PATIENCE,
        check=False,
    )
    told = b"orch-events: -: standard input is closed\n"
    assert (done.returncode, done.stdout, done.stderr) == (1, b"", told)


def test_a_file_is_read_also_where_a_thousand_others_are_open(path: Path) -> None:
    """As in a service's child that has inherited them: `select` takes no number from 1024 on."""
    file = path.with_name("in")
    file.write_bytes(THREE)
    script = """
import os, resource, sys
from orch_events.cli import main
_, most = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (min(most, 4096) if most > 0 else 4096, most))
others = [os.dup(2) for _ in range(1100)]
sys.exit(main(sys.argv[1:]))
"""
    argv = [sys.executable, "-c", script, "--db", str(path), "emit", "--jsonl", str(file)]
    done = subprocess.run(
        argv, env=environment(), capture_output=True, timeout=PATIENCE, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, b"events recorded: 3\n", b"")


@pytest.mark.parametrize(
    "text",
    [
        '{"task_id":"t","task_id":"u","event_type":"e","payload":{}}',
        '{"task_id":"t","event_type":"e","payload":{"n":1,"n":2}}',
        r'{"task_id":"t","event_type":"e","payload":{"n":[{"a":1,"\u0061":1}]}}',
    ],
)
@pytest.mark.parametrize("restoring", [False, True])
def test_a_key_that_a_line_has_twice_is_not_overwritten_without_a_word(
    path: Path, text: str, restoring: bool
) -> None:
    file = path.with_name("in")
    if restoring:  # with a blank, so that the text of the payload is not taken over as it is
        text = text.replace("{", '{ "event_id":1,"created_at":"now",', 1)
    file.write_bytes(text.encode() + b"\n")
    argv = command("--db", path, "emit", "--jsonl", file, *(["--restore"] if restoring else []))
    done = subprocess.run(
        argv, env=environment(), capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    assert (done.returncode, done.stdout) == (1, "events recorded: 0\n")
    assert "line 1: a key is given twice: '" in done.stderr
