# SPDX-License-Identifier: MIT
"""What goes with a cleanup besides old events of ended tasks: the output files of `run`, and abandoned tasks."""

import os
import sqlite3
from collections.abc import Collection
from datetime import timedelta
from pathlib import Path

import pytest

from orch_events import Cleanup, EventLog, EventReader, EventType
from orch_events._storage.sqlite import maintenance_session
from orch_events._storage.sqlite.prunable import name_abandoned

from .engines import only_files
from .helpers import outside
from .terminal import outcome, record_past

BOTH_ENGINES = True

SH = ("--", "sh", "-c")


@pytest.fixture
def db(tmp_path: Path) -> Path:
    return tmp_path / "log.db"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where `run` keeps its output."""
    folder = tmp_path / "output"
    folder.mkdir(mode=0o700)
    return folder


def run_task(db: Path, folder: Path, task: str, script: str = "echo out; echo err >&2") -> None:
    words = ("run", "--task", task, "--step", "s", "--logs", folder, *SH, script)
    assert outcome("--db", db, *words)[0] == 0


def end(db: Path, task: str) -> None:
    with EventLog(db) as log:
        log.insert_event(task, None, EventType.TASK_COMPLETED)


def names(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir())


def clean(db: Path, *words: object) -> list[str]:
    code, printed, complaint = outcome("--db", db, "cleanup", *words)
    assert code == 0, complaint
    return printed.splitlines()


def tasks_left(db: Path) -> list[str]:
    with EventReader(db) as reader:
        return sorted(task.task_id for task in reader.query_tasks())


# ------------------------------------------------------------------------------------------------------ output files


def test_the_output_of_a_task_goes_with_it_and_that_of_others_stays(db: Path, folder: Path) -> None:
    for task in ("ended", "going on"):
        run_task(db, folder, task)
    end(db, "ended")
    stays = [name for name in names(folder) if name.startswith("going_on.s.")]
    words = ("--keep-last", 0, "--logs", folder)
    assert "to delete: 2 files with their output" in clean(db, *words, "--dry-run")
    assert len(names(folder)) == 4
    assert "deleted: 2 files with their output" in clean(db, *words)
    assert names(folder) == stays
    assert len(stays) == 2


def test_where_run_keeps_output_by_itself_cleanup_finds_it_by_itself(db: Path) -> None:
    work = db.parent / "work"
    work.mkdir()
    assert outcome("--db", db, "run", *SH, "echo out", cwd=work)[0] == 0
    assert outcome("--db", db, "cleanup", "--keep-last", 0, cwd=work)[0] == 0
    (made,) = (found for found in db.parent.rglob("*-logs") if found.is_dir())
    assert names(made) == []


def test_output_is_moved_beside_the_archive_if_wanted(db: Path, folder: Path) -> None:
    run_task(db, folder, "t")
    end(db, "t")
    output = names(folder)
    archive = db.parent / "old"
    words = ("--keep-last", 0, "--logs", folder, "--archive", archive, "--with-output")
    assert "moved: 2 files with their output" in clean(db, *words)
    assert names(folder) == []
    (stdout,) = archive.glob("*.stdout")
    assert stdout.read_text() == "out\n"
    assert set(output) < set(names(archive))
    assert len(names(archive)) == 3


def test_a_file_that_cannot_be_moved_is_named_and_keeps_no_other(db: Path, folder: Path) -> None:
    for task in ("a", "b"):
        run_task(db, folder, task)
        end(db, task)
    hindered = names(folder)[0]
    archive = db.parent / "old"
    archive.mkdir()
    (archive / hindered).write_text("kept")
    with EventLog(db) as log, pytest.raises(OSError, match=f"{hindered}' already exists"):
        log.cleanup(keep_last=0, archive=archive, output=folder, archive_output=True)
    assert names(folder) == [hindered]
    assert (archive / hindered).read_text() == "kept"


def test_what_an_event_names_is_no_path(db: Path, folder: Path) -> None:
    """Any program can record any path: only plain files of this task, in this folder, go."""
    run_task(db, folder, "other")
    (others_stdout,) = folder.glob("*.stdout")
    elsewhere = db.parent / "t.s.00000000.stdout"
    elsewhere.write_text("kept")
    (folder / "t.s.11111111.stdout").symlink_to(elsewhere)
    (folder / "t.s.22222222.stdout").mkdir()
    (folder / "t.s.notes.stdout").write_text("kept")
    (folder / "t.s.33333333.stdout").write_text("goes")
    (folder / "t.s.44444444.stdout").write_text("kept: no event names it")
    before = set(names(folder))
    named = [
        others_stdout,
        elsewhere,
        "t.s.11111111.stdout",
        "t.s.22222222.stdout",
        "t.s.notes.stdout",
        "../output/t.s.33333333.stdout",
        "C:\\logs\\t.s.55555555.stdout",
        "..",
        "",
    ]
    with EventLog(db) as log:
        for path in named:
            log.insert_event("t", None, "step_spawned", {"step": "s", "stdout_path": str(path)})
        log.insert_event("t", None, "task_failed")
        assert log.cleanup(keep_last=0, output=folder, dry_run=True).output_files == 1
        assert log.cleanup(keep_last=0, output=folder).output_files == 1
    assert before - set(names(folder)) == {"t.s.33333333.stdout"}
    assert elsewhere.read_text() == "kept"


def test_output_that_is_elsewhere_is_told_of(db: Path, folder: Path) -> None:
    run_task(db, folder, "t")
    end(db, "t")
    for words in (["--dry-run"], ["--keep-last", 0]):
        code, _, complaint = outcome("--db", db, "cleanup", "--keep-last", 0, *words)
        assert code == 0
        assert "2 files with their output are not in '" in complaint
    assert len(names(folder)) == 2


def test_output_is_looked_for_in_several_folders(db: Path, folder: Path) -> None:
    other = db.parent / "other"
    other.mkdir(mode=0o700)
    for task, place in (("a", folder), ("b", other)):
        run_task(db, place, task)
        end(db, task)
    words = ("--keep-last", 0, "--logs", folder, "--logs", other)
    assert "deleted: 4 files with their output" in clean(db, *words)
    code, _, said = outcome("--db", db, "cleanup", "--keep-last", 0, "--logs", db.parent / "none")
    assert code == 2 and "argument --logs: no such directory" in said


def test_what_events_of_no_task_name_is_no_output(db: Path, folder: Path) -> None:
    (folder / ".s.1234abcd.stdout").write_text("kept")
    with EventLog(db) as log:
        log.insert_event(
            "", None, "step_spawned", {"step": "s", "stdout_path": ".s.1234abcd.stdout"}
        )
        assert log.cleanup(keep_last=0, output=folder).events == 1
    assert len(names(folder)) == 1


def test_output_of_a_task_that_goes_in_two_cleanups_goes_too(db: Path, folder: Path) -> None:
    """No later cleanup would know of the file."""
    (folder / "t.s.1234abcd.stdout").touch()
    spawned: dict[str, object] = {
        "event_type": "step_spawned",
        "payload": {"step": "s", "stdout_path": "t.s.1234abcd.stdout"},
    }
    record_past(
        db, (timedelta(days=3), spawned), (timedelta(days=1), {"event_type": "task_failed"})
    )
    with EventLog(db) as log:
        assert (
            log.cleanup(older_than=timedelta(days=2), output=folder, dry_run=True).output_files == 1
        )
        done = log.cleanup(older_than=timedelta(days=2), output=folder)
    assert (done.events, done.tasks, done.output_files) == (1, 0, 1)
    assert names(folder) == []


def test_output_of_a_task_that_is_to_stay_or_still_runs_stays(db: Path, folder: Path) -> None:
    run_task(db, folder, "t")
    end(db, "t")
    clean(db, "--keep-last", 1, "--logs", folder)
    run_task(db, folder, "running")
    with EventLog(db) as log:
        log.insert_event("running", None, "step_heartbeat", {"step": "s"})
        log.cleanup(keep_last=1, only_finished=False, output=folder)
    assert tasks_left(db) == ["running", "t"]
    assert len(names(folder)) == 4


def test_output_goes_that_belongs_to_the_folder_s_owner_or_to_us(db: Path, folder: Path) -> None:
    with EventLog(db) as log:
        for number, owner in enumerate([0, 12345, 12346]):
            file = folder / f"t.s.0000000{number}.stdout"
            file.touch()
            os.chown(file, owner, -1)
            log.insert_event("t", None, "step_spawned", {"step": "s", "stdout_path": str(file)})
        log.insert_event("t", None, "task_completed")
        os.chown(folder, 12345, -1)
        assert log.cleanup(keep_last=0, output=folder).output_files == 2
    assert names(folder) == ["t.s.00000002.stdout"]


def test_a_long_task_name_is_known_by_its_beginning(db: Path, folder: Path) -> None:
    task = "ü/ " * 60
    run_task(db, folder, task)
    end(db, task)
    assert "deleted: 2 files with their output" in clean(db, "--keep-last", 0, "--logs", folder)


@only_files
def test_a_task_whose_name_is_not_unicode_is_no_run_and_never_abandoned(
    db: Path, folder: Path
) -> None:
    """Another program has recorded it; it goes as others do."""
    output = "_.s.1234abcd.stdout"
    (folder / output).write_text("kept")
    with EventLog(db) as log:
        log.insert_event("t", None, "x")
    sql = (
        "INSERT INTO events(task_id, event_type, payload_json, created_at)"
        " VALUES (CAST(? AS TEXT), ?, ?, '2020-01-01T00:00:00.000000+00:00')"
    )
    spawned = ("step_spawned", f'{{"step": "s", "stdout_path": "{output}"}}')
    outside(db, sql, [(b"\xff", *spawned), (b"\xff", "task_failed", "{}"), (b"\xfe", *spawned)])
    words = ("--older-than", "1d", "--logs", folder)
    assert clean(db, *words, "--dry-run") == ["to delete: 2 events; tasks gone with them: 1"]
    assert clean(db, *words)[0] == "deleted: 2 events; tasks gone with them: 1"
    assert tasks_left(db) == ["t", "\udcfe"]
    assert names(folder) == [output]


@pytest.mark.parametrize("events", [1, 4, 7])
def test_an_interrupted_cleanup_leaves_the_output_of_which_the_log_still_knows(
    db: Path, folder: Path, events: int
) -> None:
    for task in ("a", "b"):
        run_task(db, folder, task, "true")
        end(db, task)

    def interrupt(so_far: Cleanup) -> None:
        if so_far.events == events:
            raise KeyboardInterrupt

    with EventLog(db) as log, pytest.raises(KeyboardInterrupt):
        log.cleanup(keep_last=0, batch=1, output=folder, progress=interrupt)
    with EventReader(db) as reader:
        payloads = [event.payload for event in reader.query_events()]
    known = {
        Path(str(payload[stream])).name
        for payload in payloads
        if isinstance(payload, dict)
        for stream in ("stdout_path", "stderr_path")
        if stream in payload
    }
    assert set(names(folder)) == known


def test_without_such_a_folder_nothing_is_missed(db: Path) -> None:
    with EventLog(db) as log:
        log.insert_event(
            "t", None, "step_spawned", {"step": "s", "stdout_path": "t.s.1234abcd.stdout"}
        )
        log.insert_event("t", None, "task_failed")
        assert log.cleanup(keep_last=0, output=db.parent / "none").output_files == 0


# ----------------------------------------------------------------------------------------------------- abandoned tasks

STARTED: dict[str, object] = {"event_type": "task_started"}
STEP: dict[str, object] = {"event_type": "step_started", "payload": {"step": "s"}}
BEAT: dict[str, object] = {"event_type": "step_heartbeat", "payload": {"step": "s"}}
ENDED: dict[str, object] = {
    "event_type": "step_finished",
    "payload": {"step": "s", "success": True},
}


def record_silent(db: Path, task: str, *events: dict[str, object]) -> None:
    """Record events of ten days ago, a minute apart."""
    ages = (timedelta(days=10) - timedelta(minutes=number) for number in range(len(events)))
    record_past(db, *((age, {"task_id": task, **event}) for age, event in zip(ages, events)))


def test_a_task_whose_runs_have_ended_or_are_lost_goes_once_it_is_old(db: Path) -> None:
    record_silent(db, "lost", STARTED, STEP, BEAT, BEAT)
    record_silent(db, "between steps", STARTED, STEP, ENDED)
    record_silent(db, "without a start", STEP, ENDED)
    record_silent(db, "silent run", STARTED, STEP)
    record_silent(db, "paused", STARTED, STEP, ENDED, {"event_type": "task_paused"})
    record_silent(db, "back again", STARTED, STEP, BEAT, BEAT)
    with EventLog(db) as log:
        log.insert_event("back again", None, "step_heartbeat", {"step": "s"})
    everything = tasks_left(db)
    for words in (["--older-than", "11d"], ["--older-than", "9d", "--no-abandoned"]):
        assert clean(db, *words)[0].startswith("deleted: 0 events")
    assert clean(db, "--older-than", "9d", "--dry-run")[0].startswith("to delete: 9 events")
    assert tasks_left(db) == everything
    told = clean(db, "--older-than", "9d")
    assert told[0].startswith("deleted: 9 events")
    assert told[-1] == "tasks that counted as ended, having been silent for so long: 3"
    assert tasks_left(db) == ["back again", "paused", "silent run"]


@pytest.mark.parametrize("beginning", [STARTED, STEP], ids=["running", "of unknown status"])
@pytest.mark.parametrize("batch", [1, 3, 100])
def test_an_abandoned_task_that_records_something_meanwhile_keeps_what_is_left(
    db: Path, batch: int, beginning: dict[str, object]
) -> None:
    record_silent(db, "a", beginning, STEP, BEAT, BEAT)
    record_silent(db, "b", beginning, STEP, BEAT, BEAT)
    events_before = 8

    def come_back(so_far: Cleanup) -> None:
        if so_far.events and not came_back:
            came_back.append(log.insert_event("b", None, "step_heartbeat", {"step": "s"}))

    came_back: list[int] = []
    with EventLog(db) as log:
        done = log.cleanup(
            older_than=timedelta(days=9), abandoned=["a", "b"], batch=batch, progress=come_back
        )
        left = [event.event_id for event in log.query_events("b")]
    assert came_back[0] == left[-1]
    assert done.events == events_before + 1 - len(left)
    if batch == 1:
        assert len(left) == 5, "the first commit was of the other task"
        assert done.tasks == 1


@only_files
def test_abandoned_tasks_are_named_once_and_not_in_each_commit(
    db: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There may be many, and while a commit holds the lock, others wait."""
    record_silent(db, "t", STEP, BEAT, BEAT)
    named: list[Collection[str]] = []

    def name_and_note(connection: sqlite3.Connection, task_ids: Collection[str]) -> None:
        named.append(task_ids)
        name_abandoned(connection, task_ids)

    monkeypatch.setattr(maintenance_session, "name_abandoned", name_and_note)
    with EventLog(db) as log:
        done = log.cleanup(older_than=timedelta(days=9), abandoned=["t"], batch=1)
    assert (done.events, named) == (3, [{"t"}])


def test_a_task_that_is_not_silent_is_not_abandoned_whoever_says_so(db: Path) -> None:
    record_silent(db, "t", STARTED, STEP, BEAT)
    with EventLog(db) as log:
        log.insert_event("t", None, "x")
        age = timedelta(days=9)
        assert log.cleanup(older_than=age, abandoned={"t"}).events == 0
        assert log.cleanup(older_than=age, abandoned={"t"}, max_bytes=0).events == 0
        assert log.cleanup(older_than=timedelta(0), abandoned={"t"}, keep_last=1).events == 2


# ------------------------------------------------------------------------------------------------------------ progress


def test_before_the_first_commit_progress_tells_how_many_were_found(db: Path) -> None:
    with EventLog(db) as log:
        log.insert_events([("t", None, "x", {})] * 10_000)
        seen: list[Cleanup] = []
        done = log.cleanup(
            keep_last=0, only_finished=False, archive=db.parent / "old", progress=seen.append
        )
    looking = [so_far.found for so_far in seen if so_far.events == 0]
    assert looking == sorted(looking) and len(looking) >= 3
    assert (done.found, done.events) == (10_000, 10_000)


# ------------------------------------------------------------------------------------------------------------ mistakes


def test_what_makes_no_sense_is_refused(db: Path) -> None:
    with EventLog(db) as log:
        with pytest.raises(ValueError, match="archive_output needs archive and output"):
            log.cleanup(keep_last=1, archive_output=True, archive=db.parent)
        with pytest.raises(ValueError, match="abandoned needs older_than"):
            log.cleanup(keep_last=1, abandoned=["t"])
        with pytest.raises(ValueError, match="abandoned names tasks, each in a text of its own"):
            log.cleanup(older_than=timedelta(1), abandoned="t")
        with pytest.raises(ValueError, match="output is a directory; this names none: ''"):
            log.cleanup(keep_last=1, output="")
    for words, complaint in (
        (["--keep-last", 1, "--with-output"], "--with-output needs --archive"),
        (["--keep-last", 1, "--abandoned"], "--abandoned needs --older-than"),
        (["--keep-last", 1, "--logs", db.parent / "none"], "argument --logs: no such directory"),
    ):
        code, _, said = outcome("--db", db, "cleanup", *words)
        assert code == 2 and complaint in said
