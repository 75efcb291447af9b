# SPDX-License-Identifier: MIT
"""`trace`, its page and `watch` show the end of what a failed step wrote to its standard error."""

import os
import re
from pathlib import Path

import pytest

from orch_events import EventLog

from .terminal import outcome, terminal

BOTH_ENGINES = True

WORDS = [["trace"], ["trace", "--html", "-"], ["watch", "--once"], ["watch"]]


@pytest.fixture
def db(tmp_path: Path) -> Path:
    return tmp_path / "log.db"


def shown(db: Path, *words: str) -> str:
    command, *rest = words
    return outcome("--db", db, command, "t", *rest)[1]


def fail(log: EventLog, step: str, **more: object) -> None:
    log.insert_event("t", None, "step_spawned", {"step": step, **more})
    log.insert_event("t", None, "step_finished", {"step": step, "success": False})


@pytest.mark.parametrize("words", WORDS, ids=" ".join)
def test_the_last_lines_of_a_failed_step_are_shown_with_their_path(
    db: Path, words: list[str]
) -> None:
    script = "seq 900; for n in 1 2 3; do echo first $n >&2; done; seq 4 >&2; printf 'a\\rb\\033[2J\\n' >&2; exit 3"
    run = ("--db", db, "run", "--task", "t", "--step", "bad", "--quiet", "--", "sh", "-c", script)
    assert outcome(*run, cwd=db.parent)[0] == 3
    with EventLog(db) as log:
        log.insert_event("t", None, "task_failed")
    told = shown(db, *words)
    lines = r"\.bad\.\w+\.stderr(?:</span>)?\n *1\n *2\n *3\n *4\n *b\\x1b\[2J(?:\n|</pre>)"
    assert len(re.findall(lines, told)) == 1, told


def test_of_a_step_that_complained_only_on_stdout_the_end_of_that_is_shown(db: Path) -> None:
    run = ("--db", db, "run", "--task", "t", "--quiet", "--", "sh", "-c", "echo the reason; exit 1")
    assert outcome(*run, cwd=db.parent)[0] == 1
    assert re.search(r"\.stdout\n *the reason\n", shown(db, "trace"))


def test_what_cannot_be_shown_is_passed_over(db: Path) -> None:
    folder = db.parent
    good = folder / "good"
    good.write_text("the reason\n")
    (folder / "link").symlink_to(good)
    (folder / "empty").touch()
    os.mkfifo(folder / "pipe")
    with EventLog(db) as log:
        for name in ("link", "empty", "pipe", "missing", ".", "log.db"):
            fail(log, name, stdout_path=str(folder / name), stderr_path=str(folder / name))
        fail(log, "elsewhere", stdout_path=str(good), stderr_path=str(good), host="another")
        fail(log, "nowhere")
    assert "the reason" not in shown(db, "trace")
    with EventLog(db) as log:
        fail(log, "here", stdout_path=str(good), stderr_path=str(good))
    assert f"\n\nhere: {good}\n  the reason\n" in shown(db, "trace")


def test_of_many_failures_the_latest_are_shown_and_of_long_lines_the_beginning(db: Path) -> None:
    with EventLog(db) as log:
        for number in range(30):
            file = db.parent / f"file{number}"
            file.write_text(f"reason {number} {'x' * 2000}\n")
            fail(log, f"s{number}", stdout_path=str(file), stderr_path=str(file))
    told = shown(db, "trace")
    assert re.findall(r"^  reason (\d+) x+$", told, re.MULTILINE) == ["27", "28", "29"]
    assert max(map(len, re.findall("x+", told))) < 300
    page = shown(db, "trace", "--html", "-")
    assert len(re.findall(r"reason \d+ x", page)) == 20


def test_on_a_terminal_it_is_left_out_where_there_is_no_room(db: Path) -> None:
    file = db.parent / "file"
    file.write_text("the reason\n")
    with EventLog(db) as log:
        fail(log, "s", stdout_path=str(file), stderr_path=str(file))
        log.insert_event("t", None, "task_failed")
    for lines, is_shown in ((24, True), (6, False)):
        with terminal("--db", db, "watch", "t", lines=lines) as watch:
            assert watch.end() == 1
            assert ("the reason" in watch.screen.text()) is is_shown
