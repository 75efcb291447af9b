# SPDX-License-Identifier: MIT
"""``cleanup --archive`` and ``emit --jsonl --restore``: nothing is lost, and everything comes back as it was."""

import errno
import gzip
import json
import os
import random
import re
import shlex
import signal
import sqlite3
import stat
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from unittest.mock import patch

import pytest

from orch_events import Cleanup, EventLog, PrunedError, WriteError

from .engines import only_files
from .helpers import PATIENCE, ROOT, execute, run_script, write_locked
from .terminal import outcome, terminal

BOTH_ENGINES = True


def cli(path: Path, *words: object, status: int = 0) -> str:
    """What a command prints; on stderr instead, where it fails."""
    found, stdout, stderr = outcome("--db", path, *words, cwd=path.parent)
    assert found == status, stderr
    return stderr if status else stdout


def listed(path: Path, tasks: Iterable[str]) -> bytes:
    """What ``events --json`` prints of each task, byte by byte."""
    return b"".join(outcome("--db", path, "events", "--json", task)[1].encode() for task in tasks)


ODD = [
    b'{"a":1.0,"b":1e5,"c":-0,"d":[1,2],"e":12345678901234567890,"a":2}',
    b'{ "spaced" : [ 1,\n2,\r\n3 ] }',
    b'{"created_at":"x","payload":{"payload":1},"payload_json":",\\"created_at\\":"}',
    '{"text":"\u2028 \x7f \x9b ü €","emoji":"\\ud83d\\ude00"}'.encode(),
    b"[1,2]", b"null", b"17", b'"text"', b'{"step":"qa","step_scope":"item","cycle":3}',
    b"not json", b"", b"{", b'{"a":NaN}', b'{"a":"\\ud800"}', b"\xff\x80{}", b'{"a":1e999}', b"line\nbreak\0nul",
    b'{"deep":' + b"[" * 200 + b"]" * 200 + b"}",
]  # fmt: skip
NAMES = [b"t", 'ü"\\ ,"payload":'.encode(), b',"created_at":']


def fill(path: Path) -> list[str]:
    """Three finished tasks with all that a payload, a name or a time may be; their names."""
    with EventLog(path), closing(sqlite3.connect(path)) as connection, connection:
        places = ", ".join(["CAST(? AS TEXT)"] * 5)
        names = "task_id, task_item_id, event_type, payload_json, created_at"
        sql = f"INSERT INTO events({names}) VALUES ({places})"
        at = "2026-01-01T00:00:00.000000+00:00"
        for n, payload in enumerate([*ODD, b"x" * 100_000]):
            for name in NAMES:
                kind = [b"x", "söme".encode(), b"\xfe\x80"][n % 3]
                item = [None, b"item", b""][n % 3]
                when = [at, "2026-01-01 00:00:00"][n % 2]
                connection.execute(sql, (name, item, kind, payload, when))
        for name in NAMES:
            connection.execute(sql, (name, None, "task_completed", "{}", at))
    return [name.decode() for name in NAMES]


@only_files
@pytest.mark.parametrize(
    "options",
    [(), pytest.param(("--gzip",), marks=pytest.mark.long)],
    ids=["plain", "gzip"],
)
def test_what_was_archived_and_deleted_comes_back_as_it_was(
    path: Path, options: tuple[str, ...]
) -> None:
    tasks = fill(path)
    before = listed(path, tasks)
    count = 3 * (len(ODD) + 2)
    foreseen = cli(path, "cleanup", "--older-than", "1d", "--dry-run")
    assert foreseen == f"to delete: {count} events; tasks gone with them: 3\n"
    told = cli(path, "cleanup", "--older-than", "1d", "--archive", "old", *options)
    assert told.startswith(
        f"deleted: {count} events; tasks gone with them: 3\narchived: old/events-"
    )
    (file,) = (path.parent / "old").iterdir()
    assert (
        file.name.endswith(f"-1-{count}.jsonl" + ".gz" * len(options))
        and file.stat().st_mode & 0o077 == 0
    )
    text = gzip.decompress(file.read_bytes()) if options else file.read_bytes()
    assert sorted(text.splitlines()) == sorted(before.splitlines())
    assert listed(path, tasks) == b""
    assert cli(path, "emit", "--jsonl", file, "--restore") == f"events recorded: {count}\n"
    assert listed(path, tasks) == before
    assert (
        cli(path, "emit", "--jsonl", file, "--restore")
        == f"events recorded: 0 (there already: {count})\n"
    )
    with EventLog(path) as log:
        assert [len(list(log.query_events(task, after_id=1))) for task in tasks] == [
            len(ODD) + 1,
            *[len(ODD) + 2] * 2,
        ]
        assert log.insert_event("t", None, "x", {}) == count + 1
    elsewhere = path.with_name("elsewhere.db")
    cli(elsewhere, "emit", "--jsonl", file, "--restore")
    assert listed(elsewhere, tasks) == before
    with closing(sqlite3.connect(elsewhere)) as connection:
        promoted = "SELECT step, step_scope, cycle FROM events WHERE step IS NOT NULL"
        assert connection.execute(promoted).fetchall() == [("qa", "item", 3)] * 3


def test_what_is_half_restored_is_still_told_of(log: EventLog, path: Path) -> None:
    log.insert_events(
        [("t", None, "x", {"n": n}) for n in range(9)] + [("t", None, "task_completed", {})]
    )
    done = log.cleanup(keep_last=0, archive=path.parent / "old")
    (file,) = map(Path, done.archived)
    lines = file.read_bytes().splitlines(keepends=True)
    part = path.with_name("part.jsonl")
    for some, told in ((lines[:2] + lines[9:], True), (lines[2:], False)):
        part.write_bytes(b"".join(some))
        cli(path, "emit", "--jsonl", part, "--restore")
        if told:
            with pytest.raises(PrunedError):
                list(log.query_events("t", after_id=5))
    assert [event.event_id for event in log.query_events("t", after_id=5)] == [6, 7, 8, 9, 10]


def test_once_all_is_back_nothing_was_deleted(log: EventLog, path: Path) -> None:
    log.insert_events(
        (task, None, kind, {}) for kind in ("x", "y", "task_completed") for task in ("t", "u", "v")
    )
    done = log.cleanup(keep_last=0, archive=path.with_name("old"))
    with pytest.raises(PrunedError):
        list(log.query_events("t", after_id=1))
    cli(path, "emit", "--jsonl", *done.archived, "--restore")
    assert [event.event_id for event in log.query_events("t", after_id=1)] == [4, 7]


def test_what_a_killed_one_left_behind_goes_a_day_later(log: EventLog, path: Path) -> None:
    log.insert_event("t", None, "task_completed", {})
    folder = path.with_name("old")
    stem = ".orch_events-0123456789abcde"
    folder.mkdir()
    for name, hours in ((f"{stem}0", 25), (f"{stem}1", 23), (f"{stem}0.mine", 25), ("mine", 25)):
        (folder / name).touch()
        then = time.time() - hours * 3600
        os.utime(folder / name, (then, then))
    (file,) = log.cleanup(keep_last=0, archive=folder).archived
    assert set(os.listdir(folder)) == {os.path.basename(file), f"{stem}1", f"{stem}0.mine", "mine"}


LINE: dict[str, object] = {
    "event_id": 5,
    "task_id": "t",
    "task_item_id": None,
    "event_type": "x",
    "created_at": "",
}


@pytest.mark.parametrize(
    ("members", "why"),
    [
        ({"event_id": 1, "payload": {}}, "another event has"),
        ({"event_id": 0, "payload": {}}, "event_id is not"),
        ({"event_id": True, "payload": {}}, "event_id is not"),
        ({"payload": {}, "created_at": None}, "created_at is missing"),
        ({}, "payload is missing"),
        ({"payload": {}, "task_id": "\ud800"}, "surrogates not allowed"),
        ({"payload": float("nan")}, "JSON compliant"),
        (None, "nested too deep"),
    ],
)
def test_bad_lines(log: EventLog, path: Path, members: dict[str, object] | None, why: str) -> None:
    line = (
        "[" * 100_000 if members is None else json.dumps({**LINE, **members}, separators=(",", ":"))
    )
    log.insert_event("t", None, "x", {"n": 1})
    good = '{"event_id":%d,"task_id":"t","task_item_id":null,"event_type":"x","payload":{},"created_at":"a"}'
    file = path.with_name("lines.jsonl")
    file.write_text("\n".join([good % 7, line, good % 8, "", good % 7]))
    told = cli(path, "emit", "--jsonl", file, "--restore", status=1)
    assert (
        "line 2: " in told
        and why in told
        and told.rstrip().endswith("events recorded before it: 1")
    )
    told = cli(path, "emit", "--jsonl", file, "--restore", "--keep-going", status=1)
    assert why in told and "bad lines skipped: 1" in told
    assert [event.event_id for event in log.query_events()] == [1, 7, 8]


def test_lines_formatted_anew_are_understood(path: Path) -> None:
    event = {
        "created_at": "c",
        "event_id": 3,
        "event_type": "x",
        "payload": {"a": [1.5, "ü"]},
        "task_id": "t",
    }
    file = path.with_name("lines.jsonl")
    file.write_text(json.dumps({**event, "task_item_id": None}, sort_keys=True))
    cli(path, "emit", "--jsonl", file, "--restore")
    assert listed(path, "t").decode() == (
        '{"event_id":3,"task_id":"t","task_item_id":null,"event_type":"x",'
        '"payload":{"a":[1.5,"ü"]},"created_at":"c"}\n'
    )


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("cleanup", "one of --older-than, --keep-last and --max-size"),
        ("cleanup --all --dry-run", "one of --older-than"),
        ("cleanup --older-than 30", "not an age such as"),
        ("cleanup --older-than 30.5", "with its unit"),
        ("cleanup --older-than 99999999999w", "not an age that fits"),
        (f"cleanup --older-than {'9' * 400}d", "not an age that fits"),
        ("cleanup --older-than nans", "not a duration such as 90s, 5m"),
        ("cleanup --older-than 1e3s", "not a duration such as"),
        ("cleanup --older-than 1d --archive ''", "is empty (an unset variable?)"),
        ("cleanup --older-than 999999d", "out of range"),
        ("cleanup --older-than=-1d", "not a duration such as"),
        ("cleanup --max-size 5", "not a size such as"),
        ("cleanup --keep-last -1", "not from 0"),
        ("cleanup --keep-last 1 --gzip", "--gzip needs --archive"),
        ("emit --restore t e", "--restore needs --jsonl"),
        ("emit --keep-going t e", "--keep-going needs --jsonl"),
        ("emit --jsonl ''", "argument --jsonl: is empty"),
        ("trace t --html ''", "argument --html: is empty"),
        ("logs t --step ''", "argument --step: is empty"),
        ("logs t -n ten", "not a number of lines, nor 'all': 'ten'"),
    ],
)
def test_bad_usage(log: EventLog, path: Path, words: str, told: str) -> None:
    stderr = cli(path, *shlex.split(words), status=2)
    assert stderr.startswith("usage:") and told in stderr


@only_files
@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="needs a folder that takes no file")
@pytest.mark.parametrize("ending", [".jsonl", ".jsonl.gz"])
@pytest.mark.parametrize("takes_a_name", [True, False])
def test_an_archive_that_cannot_be_written_is_named(
    log: EventLog, path: Path, ending: str, takes_a_name: bool
) -> None:
    log.insert_event(
        "t", None, "task_completed", {"text": random.Random(0).randbytes(200_000).hex()}
    )
    log.close()
    folder = path.with_name("old") if takes_a_name else Path("/proc")
    words = ["cleanup", "--keep-last", "0", "--archive", str(folder)]
    words += ["--gzip"] if ending.endswith(".gz") else []
    # What is written of the log is shorter than a file may be, and the archive is longer.
    script = """
import resource, sys
from orch_events.cli import main
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
sys.exit(main(sys.argv[1:]))
"""
    argv = [sys.executable, "-c", script, "--db", str(path), *words]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=PATIENCE)
    named = re.escape(f"orch-events: {folder}/{path.stem}-") + r"[^ ]*-1-1" + re.escape(ending)
    assert re.fullmatch(named + ": (File too large|No such file or directory)\n", done.stderr)
    assert done.returncode == 1
    assert not takes_a_name or not list(folder.iterdir())


@only_files
def test_errors_are_one_line_and_delete_nothing(log: EventLog, path: Path) -> None:
    log.insert_event("t", None, "task_completed", {})
    path.with_name("file").write_text("")
    for words in (("--archive", "file"), ("--archive", "file/deeper")):
        told = cli(path, "cleanup", "--keep-last", "0", *words, status=1)
        assert told.count("\n") == 1 and "file" in told
    none = path.with_name("none.db")
    assert (
        "no event log here" in cli(none, "cleanup", "--keep-last", "0", status=1)
        and not none.exists()
    )
    cut = path.with_name("cut.gz")
    cut.write_bytes(gzip.compress(os.urandom(1000))[:-20])
    assert cli(path, "emit", "--jsonl", cut, "--restore", status=1).count("\n") >= 1
    assert len(list(log.query_events())) == 1
    for word, count in (("64kB", 1), ("2GB", 1), ("0b", 0)):
        cli(path, "cleanup", "--max-size", word)
        assert len(list(log.query_events())) == count


@only_files
def test_on_a_terminal_and_stopped(path: Path) -> None:
    """However fast the machine is: each event takes a millisecond, and the lock is taken before the signal comes."""
    count = 5001
    with EventLog(path) as log:
        log.insert_events(
            [("t", None, "x", {})] * (count - 1) + [("t", None, "task_completed", {})]
        )
        work = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 5000)"
        execute(
            path,
            f"CREATE TRIGGER slow BEFORE DELETE ON events BEGIN {work} SELECT max(i) FROM n; END",
        )
        with terminal("--db", path, "cleanup", "--keep-last", "0") as screen:
            screen.wait_for(
                "events found", condition=lambda: ", 0 deleted" not in screen.screen.text()
            )
            with write_locked(path):
                left = len(list(log.query_events()))
                screen.type(b"\x03")
                screen.wait_for("before it was stopped")
            assert screen.end() == 130
        assert 0 < left < count and len(list(log.query_events())) == left
        execute(path, "DROP TRIGGER slow")
        told = cli(path, "cleanup", "--keep-last", "0")
        assert f"deleted: {left:,} events; tasks gone with them: 1\n" in told
        assert log.insert_event("t", None, "x", {}) == count + 1


@contextmanager
def folders_that_cannot_be_synced(number: int) -> Iterator[None]:
    """As on CIFS, or through FUSE; or on a disk that fails."""
    genuine = os.fsync

    def fsync(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(number, os.strerror(number))
        genuine(descriptor)

    with patch.object(os, "fsync", fsync):
        yield


@pytest.mark.parametrize("name", ["EINVAL", "EBADF", "ENOTSUP", "EACCES", "ENOSYS"])
def test_a_folder_that_cannot_be_synced_is_no_failure(log: EventLog, path: Path, name: str) -> None:
    log.insert_event("t", None, "task_completed", {})
    with folders_that_cannot_be_synced(getattr(errno, name)):
        done = log.cleanup(keep_last=0, archive=path.with_name("old"))
    assert done.events == len(done.archived) == 1
    assert [event_id for event_id, _ in events(Path(*done.archived))] == [1]


@only_files
def test_what_fails_before_anything_is_deleted_leaves_no_archive(path: Path) -> None:
    folder = path.with_name("old")
    with EventLog(path, busy_timeout=0.1) as log:
        log.insert_event("t", None, "task_completed", {})
        for _ in range(3):
            with (
                folders_that_cannot_be_synced(errno.EIO),
                pytest.raises(OSError, match="Input/output"),
            ):
                log.cleanup(keep_last=0, archive=folder)
            with write_locked(path), pytest.raises(WriteError, match="locked"):
                log.cleanup(keep_last=0, archive=folder)
            assert os.listdir(folder) == []
        assert len(list(log.query_events())) == 1
        assert log.cleanup(keep_last=0, archive=folder).events == 1


def test_an_archive_of_what_is_deleted_in_part_stays(log: EventLog, path: Path) -> None:
    log.insert_events([("t", None, "x", {})] * 500 + [("t", None, "task_completed", {})])

    def stop(so_far: Cleanup) -> None:
        if so_far.events:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        log.cleanup(keep_last=0, archive=path.with_name("old"), progress=stop)
    (file,) = path.with_name("old").iterdir()
    left = {event.event_id for event in log.query_events()}
    assert 0 < len(left) < 501
    assert len(list(events(file))) == 501


def test_what_the_caller_raises_reaches_it_as_it_is(log: EventLog) -> None:
    log.insert_event("t", None, "task_completed", {})

    def fail(_: Cleanup) -> None:
        raise error

    for error in (sqlite3.OperationalError("mine"), TimeoutError(), KeyError("mine")):
        with pytest.raises(type(error)) as raised:
            log.cleanup(keep_last=0, progress=fail)
        assert raised.value is error
        log.insert_event("t", None, "task_completed", {})


@only_files
def test_a_signal_handler_raises_in_the_midst_of_judging_times(path: Path) -> None:
    """SQLite drops what a function of ours raises: the handler's exception must come out all the same."""

    class Late(Exception):
        pass

    def raise_late(*_: object) -> None:
        raise Late

    with EventLog(path) as log, closing(sqlite3.connect(path)) as connection:
        with connection:
            connection.executemany(
                "INSERT INTO events(task_id, event_type, payload_json, created_at) VALUES ('t', 'x', '{}', ?)",
                [(f"2026-01-01 00:00:00.{n:06}",) for n in range(4000)],
            )
        genuine = signal.signal(signal.SIGALRM, raise_late)
        try:
            for number in range(30):
                with pytest.raises(Late):
                    signal.setitimer(signal.ITIMER_REAL, 0.002 + number / 10_000)
                    while True:
                        log.cleanup(older_than=timedelta(days=1), only_finished=False, dry_run=True)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, genuine)


def test_how_far_events_were_deleted_is_not_forgotten(log: EventLog, path: Path) -> None:
    """Neither when older ones come back, twice even, nor when those are deleted again."""
    log.insert_events(
        [("t", None, "x", {"n": n}) for n in range(9)] + [("t", None, "task_completed", {})]
    )
    log.insert_event("u", None, "x", {})
    (file,) = map(Path, log.cleanup(keep_last=0, archive=path.with_name("old")).archived)
    lines = file.read_bytes().splitlines(keepends=True)
    part = path.with_name("part.jsonl")
    part.write_bytes(b"".join([*lines[:3], *lines[:3], lines[0]]))
    for _ in range(2):
        told = cli(path, "emit", "--jsonl", part, "--restore")
        assert told == "events recorded: 3 (there already: 4)\n"
        for after_id in (5, 9):
            with pytest.raises(PrunedError) as pruned:
                list(log.query_events("t", after_id=after_id))
            assert pruned.value.first_available_id == 11
        assert log.cleanup(keep_last=0, only_finished=False).events in (3, 4)
        with pytest.raises(PrunedError):
            list(log.query_events("t", after_id=9))


@pytest.mark.long
def test_the_archive_takes_bounded_memory(tmp_path: Path, path: Path) -> None:
    source = """
import resource, sys
from orch_events import EventLog
with EventLog(sys.argv[1], durability="normal") as log:
    log.insert_events([("t", None, "x", {"text": "x" * 20_000})] * 200 + [("t", None, "task_completed", {})])
    log.cleanup(keep_last=0, archive=sys.argv[2])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(20):
        log.insert_events([("t", None, "x", {"text": "x" * 20_000})] * 200)
    log.insert_event("t", None, "task_completed", {})
    assert log.cleanup(keep_last=0, archive=sys.argv[2]).events == 4001
    print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""
    assert int(run_script(tmp_path, source, path, tmp_path / "old")) < 40, (
        "megabytes, of an archive of 80"
    )


@only_files
@pytest.mark.long
def test_killed_at_any_point_it_loses_nothing(path: Path) -> None:
    """Every event is in the log or in an archive, whenever the end comes."""
    rng = random.Random(7)
    tasks = [f"t{n}" for n in range(20)]
    archive = path.with_name("old")
    with EventLog(path) as log:
        log.insert_events(
            [(task, None, "step_heartbeat", {"n": n}) for n in range(1500) for task in tasks]
        )
        log.insert_events([(task, None, "task_completed", {}) for task in tasks])
    before = stored(path)
    command = [
        sys.executable,
        "-m",
        "orch_events",
        "--db",
        str(path),
        "cleanup",
        "--keep-last",
        "0",
    ]
    command += ["--archive", str(archive)]

    def killed_after(seconds: float, *options: str) -> bool:
        """Whether that was before its end."""
        with subprocess.Popen([*command, *options], cwd=ROOT, stdout=subprocess.DEVNULL) as process:
            with suppress(subprocess.TimeoutExpired):
                process.wait(seconds)
            process.kill()
            return process.wait(PATIENCE) == -signal.SIGKILL

    began = time.monotonic()
    assert not killed_after(PATIENCE)
    whole = time.monotonic() - began
    runs = 0
    kills = 0
    between = 0
    restored = 0
    while kills < 50 or between < 6:
        runs += 1
        assert runs < 300, f"{kills} killed before the end, {between} of them between deletions"
        kills += killed_after(whole * rng.uniform(0.1, 1), *["--gzip"] * (runs % 2))
        left = stored(path)
        files = sorted(archive.glob("*.jsonl*"))
        found = left | {event_id: content for file in files for event_id, content in events(file)}
        assert found == before
        between += 0 < len(left) < len(before)
        if len(left) < 3000:  # begin anew
            for file in files:
                cli(path, "emit", "--jsonl", file, "--restore")
                file.unlink()
            restored += 1
            assert stored(path) == before
    print(
        f"{kills} killed before the end, {between} of them between deletions, {restored} times restored"
    )


def stored(path: Path) -> dict[int, tuple[object, ...]]:
    with closing(sqlite3.connect(path, timeout=PATIENCE)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        rows = connection.execute(
            "SELECT id, task_id, event_type, payload_json, created_at FROM events"
        ).fetchall()
    return {event_id: (task, kind, json.loads(text), at) for event_id, task, kind, text, at in rows}


def events(file: Path) -> Iterator[tuple[int, tuple[object, ...]]]:
    data = file.read_bytes()
    for line in (gzip.decompress(data) if file.suffix == ".gz" else data).splitlines():
        event = json.loads(line)
        yield (
            event["event_id"],
            (event["task_id"], event["event_type"], event["payload"], event["created_at"]),
        )
