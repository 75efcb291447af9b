# SPDX-License-Identifier: MIT
"""`orch-events doctor`: what it finds in and around real files, and that it leaves them as they are."""

import json
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Final, NamedTuple

import pytest

from orch_events import EventLog
from orch_events._storage.sqlite.checkup import has_wal_reset_fix

from .helpers import PATIENCE, ROOT, execute, run_script, write_locked
from .terminal import outcome

linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux tells")


class Row(NamedTuple):
    check: str
    value: str
    verdict: str
    advice: str


def command(path: Path, *words: str) -> tuple[int, str]:
    status, stdout, stderr = outcome("--db", path, "doctor", *words)
    assert stderr == ""
    return status, stdout


def examined(path: Path, *words: str, status: int = 0) -> dict[str, Row]:
    """What it says, by check; the last of several with the same name."""
    found, stdout = command(path, "--json", *words)
    rows = [Row(**json.loads(line)) for line in stdout.splitlines()]
    assert found == status == int("bad" in {row.verdict for row in rows}), stdout
    assert all(row.advice for row in rows if row.verdict != "ok")
    return {row.check: row for row in rows}


def files(path: Path) -> dict[str, bytes]:
    return {
        file.name: file.read_bytes()
        for file in path.parent.iterdir()
        if not file.name.endswith("-shm")
    }


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("original") / "events.db"
    with EventLog(path) as log:
        log.insert_events(
            [("t", None, "step_started", {"n": n, "text": "x" * 90}) for n in range(2000)]
        )
        log.insert_event("t", None, "step_finished", {"text": "x" * (9 << 20)})
    return path


@pytest.fixture
def filled(path: Path, original: Path) -> Path:
    """A log that nobody has open."""
    shutil.copy(original, path)
    return path


@contextmanager
def held(path: Path) -> Iterator[int]:
    """A process that has the log open; its id."""
    source = f"""
import sys
from orch_events import EventLog
log = EventLog({str(path)!r})
log.insert_event("t", None, "x", {{}})
print("open", flush=True)
sys.stdin.read()
log.close()
"""
    argv = [sys.executable, "-c", source]
    with subprocess.Popen(
        argv, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "open\n"
        yield process.pid
        process.communicate(timeout=PATIENCE)


@pytest.mark.parametrize("words", [[], ["--full"]])
def test_a_sound_log_at_rest_is_left_as_it_is(filled: Path, words: list[str]) -> None:
    before = files(filled)
    rows = examined(filled, *words)
    assert files(filled) == before
    assert set(before) == set(os.listdir(filled.parent)) == {filled.name}
    assert {row.verdict for check, row in rows.items() if check != "sqlite"} == {"ok"}
    assert rows["sqlite"].value.startswith(f"{sqlite3.sqlite_version}, with")
    assert rows["integrity"].value == "ok"
    assert rows["schema"].value == "version 1"
    assert rows["journal mode"].value == "at rest"
    assert rows["file"].value.startswith("-rw-------, 9.")
    assert "full" in rows["durability"].value


def test_a_log_in_use_is_looked_at_through_its_wal(filled: Path) -> None:
    with held(filled) as pid:
        rows = examined(filled)
        assert rows["journal mode"].value == "wal"
        assert rows["wal"].verdict == rows["integrity"].verdict == "ok"
        if sys.platform.startswith("linux"):
            assert rows["open in"].value.split()[0] == str(pid)
        with write_locked(filled):
            assert examined(filled)["integrity"].value == "ok"
    assert "open in" not in examined(filled)


@linux
def test_a_process_that_works_on_a_deleted_file_is_found(filled: Path) -> None:
    with held(filled) as pid:
        filled.unlink()
        EventLog(filled.with_name("new.db")).close()
        os.replace(filled.with_name("new.db"), filled)
        row = examined(filled, status=1)["open in"]
        assert (row.verdict, row.value.split()[0]) == ("bad", str(pid))


def swap_two_events(path: Path) -> None:
    data = bytearray(path.read_bytes())
    page = data.index(b'{"n":1000,') // 4096 * 4096
    data[page + 8 : page + 12] = data[page + 10 : page + 12] + data[page + 8 : page + 10]
    path.write_bytes(data)


def flip_the_schema(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[100:108] = b"\xff" * 8
    path.write_bytes(data)


def falsify_an_index(path: Path) -> None:
    lie = "CREATE INDEX orch_events_task ON events(event_type)"
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA writable_schema=ON")
        connection.execute(
            "UPDATE sqlite_master SET sql = ? WHERE name = 'orch_events_task'", (lie,)
        )


def other_program(path: Path) -> None:
    path.unlink()
    execute(path, "CREATE TABLE t(x)")


def into_a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


DAMAGE: Final[dict[str, tuple[Callable[[Path], object], list[str], str, str]]] = {
    "a page": (swap_two_events, [], "integrity", ".recover"),
    "the schema": (flip_the_schema, [], "log", ".recover"),
    "an index": (falsify_an_index, ["--full"], "integrity", ".recover"),
    "cut off": (lambda path: os.truncate(path, 4096 * 3), [], "log", ".recover"),
    "another program's": (other_program, [], "log", "--db"),
    "a newer schema": (
        lambda path: execute(path, "UPDATE orch_events_schema SET version = 99"),
        [],
        "log",
        "--db",
    ),
    "a text": (lambda path: path.write_text("hello"), [], "log", "--db"),
    "empty": (lambda path: os.truncate(path, 0), [], "log", "--db"),
    "missing": (Path.unlink, [], "log", "--db"),
    "a folder": (into_a_folder, [], "log", "--db"),
}


@pytest.mark.parametrize(("harm", "words", "check", "advice"), DAMAGE.values(), ids=DAMAGE)
def test_what_is_wrong_is_bad_and_says_what_to_do(
    filled: Path, harm: Callable[[Path], object], words: list[str], check: str, advice: str
) -> None:
    harm(filled)
    before = {} if filled.is_dir() else files(filled)
    there = os.listdir(filled.parent)
    row = examined(filled, *words, status=1)[check]
    assert (row.verdict, advice in row.advice) == ("bad", True)
    assert filled.is_dir() or files(filled) == before
    assert os.listdir(filled.parent) == there


@pytest.mark.skipif(os.name != "posix", reason="permissions of POSIX")
def test_a_log_open_to_every_user_is_a_warning(filled: Path) -> None:
    filled.chmod(0o644)
    row = examined(filled)["file"]
    assert (row.verdict, "chmod" in row.advice) == ("warn", True)


@pytest.mark.skipif(os.name != "posix", reason="permissions of POSIX")
@pytest.mark.parametrize(
    ("mode", "verdict", "of"),
    [
        (0o700, "ok", ""),
        (0o775, "warn", "group"),
        (0o777, "bad", "every"),
        pytest.param(0o755, "ok", "", marks=pytest.mark.long),
        pytest.param(0o1777, "bad", "every", marks=pytest.mark.long),
    ],
)
def test_a_folder_that_others_may_write_to_is_told(
    filled: Path, tmp_path: Path, mode: int, verdict: str, of: str
) -> None:
    tmp_path.chmod(mode)
    try:
        row = examined(filled, status=int(verdict == "bad"))["folder"]
    finally:
        tmp_path.chmod(0o700)
    assert (row.verdict, of in row.advice) == (verdict, True)


def test_the_room_left_on_the_disk_is_told(filled: Path, tmp_path: Path) -> None:
    row = examined(filled)["free space"]
    assert row.verdict == "ok"
    source = """
        import sys
        from orch_events.cli import main
        from orch_events._storage.sqlite import checkup_surroundings as surroundings
        surroundings._LITTLE_ROOM = 1 << 62  # as if the disk were as good as full
        sys.exit(main(["--db", sys.argv[1], "doctor"]))
    """
    assert "\nwarn  free space  " in run_script(tmp_path, source, filled)


def test_what_readers_keep_from_shrinking_is_a_warning(path: Path) -> None:
    with EventLog(path) as log, closing(sqlite3.connect(path, isolation_level=None)) as reader:
        log.insert_event("t", None, "x", {})
        reader.execute("BEGIN")
        reader.execute("SELECT * FROM events").fetchall()
        for _ in range(20):
            log.insert_event("t", None, "x", {"text": "x" * (1 << 20)})
        row = examined(path)["wal"]
    assert (row.verdict, "reading" in row.advice) == ("warn", True)


def test_a_file_of_another_writer_is_well(path: Path) -> None:
    columns = "task_id TEXT, task_item_id TEXT, event_type TEXT, payload_json TEXT, created_at TEXT"
    execute(path, f"CREATE TABLE events(id INTEGER PRIMARY KEY, {columns})")
    rows = examined(path)
    assert rows["schema"].value == "another program's"
    assert "never given back" in rows["pages"].value


def test_each_finding_is_a_line_that_drives_no_terminal(tmp_path: Path) -> None:
    status, stdout = command(tmp_path / "\x1b[31m\nbad  forged")
    lines = stdout.splitlines()
    assert status == 1
    assert [line.split()[0] for line in lines if line.split()[0] not in ("ok", "warn")] == ["bad"]
    assert stdout.isascii() and stdout.replace("\n", "").isprintable()
    assert "bad   log " in lines[-1]


@linux
def test_a_file_system_that_may_be_another_machines_is_bad(tmp_path: Path, filled: Path) -> None:
    done = subprocess.run(
        ["df", "--output=fstype", filled], capture_output=True, text=True, check=True
    )
    kind = done.stdout.split()[-1]
    assert examined(filled)["file system"][1:3] == (kind, "ok")
    source = f"""
import sys
from orch_events.cli import main
from orch_events._storage.sqlite import checkup_surroundings as surroundings
surroundings._SHARED_FILE_SYSTEMS = {{"nfs", {kind!r}}}  # as if
sys.exit(main(["--db", sys.argv[1], "doctor"]))
"""
    assert f"\nbad   file system   {kind}: a log needs a disk of this" in run_script(
        tmp_path, source, filled, code=1
    )


def test_only_sqlite_opens_the_file(tmp_path: Path, filled: Path) -> None:
    source = """
import os, sys
from orch_events.cli import main

def hook(event, arguments):
    if event == "open" and str(arguments[0]).startswith(path):
        os._exit(7)

path = sys.argv[1]
sys.addaudithook(hook)
main(["--db", path, "doctor"])
"""
    with held(filled):
        assert "integrity" in run_script(tmp_path, source, filled)


@pytest.mark.parametrize(
    ("version", "is_fixed"),
    [
        ((3, 40, 1), False),
        ((3, 44, 5), False),
        ((3, 44, 6), True),
        ((3, 45, 0), False),
        ((3, 50, 6), False),
        ((3, 50, 7), True),
        ((3, 51, 0), False),
        ((3, 51, 2), False),
        ((3, 51, 3), True),
        ((3, 53, 0), True),
    ],
)
def test_which_versions_have_the_fix_of_the_wal_reset_bug(
    version: tuple[int, int, int], is_fixed: bool
) -> None:
    assert has_wal_reset_fix(version) is is_fixed


@linux
def test_where_reading_fails_the_disk_is_to_blame_and_not_the_name() -> None:
    row = examined(Path("/proc/self/mem"), status=1)["log"]
    assert "disk I/O error" in row.value and "bytes free on its file system" in row.value
    assert row.advice.startswith("make room if its file system is full")


def test_the_statements_it_prints_make_an_empty_log(tmp_path: Path) -> None:
    path = tmp_path / "made.db"
    status, ddl = command(tmp_path / "none.db", "--ddl")
    assert status == 0 and not (tmp_path / "none.db").exists()
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(ddl)
    with EventLog(path) as log:
        assert log.insert_event("t", None, "x", {}) == 1
    with closing(sqlite3.connect(path)) as connection:
        ours = connection.execute("SELECT sql FROM sqlite_master ORDER BY name").fetchall()
    EventLog(tmp_path / "other.db").close()
    with closing(sqlite3.connect(tmp_path / "other.db")) as connection:
        usual = connection.execute("SELECT sql FROM sqlite_master ORDER BY name").fetchall()
    assert ours == usual
