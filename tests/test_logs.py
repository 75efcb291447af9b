# SPDX-License-Identifier: MIT
"""`orch-events logs`: real files, written by the tests and by commands, shown by real processes."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pytest

from orch_events import EventLog

from .helpers import PATIENCE
from .terminal import Piped, background, command, environment, outcome, terminal


@pytest.fixture
def db(tmp_path: Path) -> Path:
    return tmp_path / "log.db"


class Step:
    """A step of the task ``t``, whose files are written by the test."""

    def __init__(
        self, log: EventLog, folder: Path, name: str, item: str | None = None, file: str = ""
    ) -> None:
        self._log = log
        self._name = name
        self._item = item
        file = file or name + (item or "")
        self.stdout = folder / f"{file}.out"
        self.stderr = folder / f"{file}.err"
        self.started = False

    def tell(self, event_type: str, **payload: object) -> None:
        """Record an event."""
        paths = {"stdout_path": str(self.stdout), "stderr_path": str(self.stderr)}
        more = paths if event_type == "step_spawned" else {}
        self._log.insert_event("t", self._item, event_type, {"step": self._name, **more, **payload})

    def write(self, data: bytes | str, stderr: bool = False) -> None:
        """Append to a file; the first time that follows the step's start."""
        if not self.started:
            self.tell("step_spawned")
            self.started = True
        with (self.stderr if stderr else self.stdout).open("ab") as file:
            file.write(data if isinstance(data, bytes) else data.encode())

    def end(self) -> None:
        self.tell("step_finished", success=True)


@contextmanager
def following(db: Path, *words: str) -> Iterator[Piped]:
    with background("--db", db, "logs", "-f", "--wait", "t", *words) as process:
        yield Piped(process)


WAITED: Final = ("", "orch-events: waiting for task 't'\n")
"""What stderr may hold in the end: the task may have been there first."""


def logs(db: Path, *words: str) -> tuple[int, str, str]:
    return outcome("--db", db, "logs", *words)


def finish(log: EventLog) -> None:
    log.insert_event("t", None, "task_completed", {})


def test_follows_from_step_to_step(db: Path) -> None:
    with following(db) as shown, EventLog(db) as log:  # the log is not there yet
        build = Step(log, db.parent, "build")
        build.write("one\n")
        shown.wait_for("==> build (stdout) <==\none\n")
        build.write("two\nthr")  # no line yet, but shown at once
        shown.wait_for("two\nthr")
        build.write("oops\n", stderr=True)
        shown.wait_for("\n\n==> build (stderr) <==\noops\n")
        build.end()
        build.write("left over\n", stderr=True)
        shown.wait_for("left over\n")  # so the end is known
        shown.process.send_signal(signal.SIGSTOP)
        build.write("late\n")  # by somebody the step has left behind
        test = Step(log, db.parent, "test")
        test.write("four")
        shown.process.send_signal(signal.SIGCONT)
        shown.wait_for("\n==> test (stdout) <==\nfour")
        test.end()
        finish(log)
        code, printed, complaint = shown.end()
    assert (code, complaint in WAITED) == (0, True)
    assert printed == (
        "==> build (stdout) <==\none\ntwo\nthr\n\n==> build (stderr) <==\noops\nleft over\n"
        "\n==> build (stdout) <==\nlate\n\n==> test (stdout) <==\nfour"
    )


@pytest.mark.parametrize(
    "begins",
    [
        "in-a-file-of-its-own",
        "with-the-same-path-and-no-end",
        pytest.param("with-the-same-path", marks=pytest.mark.long),
    ],
)
def test_the_same_step_in_the_next_cycle_begins_at_0(db: Path, begins: str) -> None:
    with following(db) as shown, EventLog(db) as log:
        first = Step(log, db.parent, "build")
        first.write("first cycle\n")
        shown.wait_for("first cycle\n")
        if "no-end" not in begins:
            first.end()
        log.insert_event("t", None, "cycle_started", {"cycle": 2})
        second = Step(log, db.parent, "build", file="again" if "own" in begins else "build")
        second.stdout.write_text("")
        second.tell("step_started", pid=1)
        second.write("begun\n", stderr=True)
        shown.wait_for("begun\n")
        # Longer than the first by the time it is looked at, so that the size alone would tell nothing.
        second.write("second cycle, all of it\n")
        second.end()
        finish(log)
        code, printed, _ = shown.end()
    outputs = [
        "stdout) <==\nfirst cycle",
        "stderr) <==\nbegun",
        "stdout) <==\nsecond cycle, all of it",
    ]
    assert (code, printed) == (0, "\n".join(f"==> build ({output}\n" for output in outputs))


def test_steps_that_append_to_one_file(db: Path) -> None:
    with following(db) as shown, EventLog(db) as log:
        build = Step(log, db.parent, "build")
        test = Step(log, db.parent, "test")
        test.stdout = build.stdout
        build.write("one\n")
        shown.wait_for("one\n")
        build.end()
        test.write("begun\n", stderr=True)
        shown.wait_for("begun\n")
        test.write("two\n")
        shown.wait_for("two\n")
        finish(log)
        code, printed, _ = shown.end()
    outputs = ["build (stdout) <==\none", "test (stderr) <==\nbegun", "test (stdout) <==\ntwo"]
    assert (code, printed) == (0, "\n".join(f"==> {output}\n" for output in outputs))


def test_truncation_and_rotation(db: Path) -> None:
    with following(db) as shown, EventLog(db) as log:
        step = Step(log, db.parent, "s")
        step.write("a long beginning\n")
        shown.wait_for("beginning\n")
        step.stdout.write_text("short\n")
        shown.wait_for("\n==> s (stdout) <==\nshort\n")
        step.stdout.rename(db.with_name("rotated"))
        with db.with_name("rotated").open("a") as file:
            file.write("the last of it\n")
        step.write("anew\n")
        shown.wait_for("short\nthe last of it\n\n==> s (stdout) <==\nanew\n")
        finish(log)
        assert shown.end()[0] == 0


def test_items_at_once_are_mixed_line_by_line(db: Path) -> None:
    with following(db) as shown, EventLog(db) as log:
        a = Step(log, db.parent, "test", "a")
        b = Step(log, db.parent, "test", "b")
        a.write("a1")
        shown.wait_for("==> test a (stdout) <==\na1")
        b.write("b1\nb2")
        shown.wait_for("\ntest b | b1\n")
        a.write("!\na2")
        shown.wait_for("test a | !\n")
        b.write("bad\n", stderr=True)
        shown.wait_for("test b (stderr) | bad\n")
        b.write("!\n")
        shown.wait_for("test b | b2!\n")
        b.write("b3, the end")
        b.end()
        shown.wait_for("test b | b3, the end\n")
        a.write(".\n")
        shown.wait_for("\n\n==> test a (stdout) <==\na2.\n")
        a.end()
        finish(log)
        assert shown.end()[0] == 0
    assert shown.data.decode() == (
        "==> test a (stdout) <==\na1\ntest b | b1\ntest a | !\ntest b (stderr) | bad\ntest b | b2!\n"
        "test b | b3, the end\n\n==> test a (stdout) <==\na2.\n"
    )


def test_a_line_that_stays_without_an_end_is_not_glued_to_another(db: Path) -> None:
    with following(db) as shown, EventLog(db) as log:
        a = Step(log, db.parent, "s", "a")
        b = Step(log, db.parent, "s", "b")
        a.write("a1\n")
        b.write("b1\n")
        shown.wait_for("s b | b1\n")
        a.write("partial")
        b.write("b2\n")
        shown.wait_for("s b | b2\n")
        b.write("partial too")
        b.write("?\n")
        shown.wait_for("s b | partial too?\n")  # in a later round, which has read from a before
        a.stdout.write_text("anew\n")
        shown.wait_for("s a | partial\ns a | anew\n")
        finish(log)
        assert shown.end()[0] == 0


def test_a_line_without_end_is_not_kept_for_ever_while_lines_are_mixed(db: Path) -> None:
    with EventLog(db) as log:
        a = Step(log, db.parent, "s", "a")
        b = Step(log, db.parent, "s", "b")
        a.write("x" * 300_000)
        b.write("")
        with following(db, "-n", "all") as shown:
            shown.wait_for("x" * 70_000)
            a.end()
            finish(log)
            assert shown.end()[0] == 0
    assert shown.data.replace(b"\ns a | ", b"") == b"s a | " + b"x" * 300_000 + b"\n"


def test_commands_in_parallel(db: Path) -> None:
    """What real runs write, all of it, each line whole and told apart."""
    with following(db, "-n", "all") as shown, EventLog(db) as log:
        words = ["--db", str(db), "run", "--task", "t", "--step", "count", "--quiet", "--item"]
        script = "for i in $(seq 300); do printf '%s-' $0; echo $i; done; printf end"
        with (
            background(*words, "a", "--", "sh", "-c", script, "a") as a,
            background(*words, "b", "--", "sh", "-c", script, "b") as b,
        ):
            assert (a.wait(PATIENCE), b.wait(PATIENCE)) == (0, 0)
        finish(log)
        code, printed, complaint = shown.end()
    assert (code, complaint in WAITED) == (0, True)
    for item in "ab":
        lines = re.findall(rf"^(?:count {item} \| )?({item}-\d+)$", printed, re.MULTILINE)
        assert lines == [f"{item}-{number}" for number in range(1, 301)]
    assert len(re.findall(r"^(?:count . \| )?end$", printed, re.MULTILINE)) == 2


def test_what_is_written_around_the_end_is_shown(db: Path) -> None:
    with following(db) as shown, EventLog(db) as log:
        step = Step(log, db.parent, "s")
        step.write("beginning\n")
        shown.wait_for("beginning\n")
        shown.process.send_signal(signal.SIGSTOP)
        step.write("before " * 20_000)  # more than is read at once
        step.end()
        step.write("between ")
        finish(log)
        step.write("after\n")
        shown.process.send_signal(signal.SIGCONT)
        code, printed, _ = shown.end()
    assert (code, printed) == (
        0,
        "==> s (stdout) <==\nbeginning\n" + "before " * 20_000 + "between after\n",
    )


PNG = b"\x89PNG\r\n\x1a\n\x00\xff\x1b[2J"


def test_a_pipe_gets_every_byte_a_terminal_no_control_characters(db: Path) -> None:
    with EventLog(db) as log:
        step = Step(log, db.parent, "s\x1b[2J")
        step.write(PNG + "\té한".encode())
        with background("--db", db, "logs", "t", "--stdout") as process:
            assert process.communicate(timeout=PATIENCE) == (PNG + "\té한".encode(), b"")
        with terminal("--db", db, "logs", "t", "-f") as shown:
            shown.wait_for(r"==> s\x1b[2J (stdout) <==")
            shown.wait_for("�PNG\n", r"\x1a", r"\x00�\x1b[2J", "é한")
            euro = "€".encode()
            step.write(euro[:1])
            step.write("err", stderr=True)
            shown.wait_for("(stderr) <==\nerr")  # by then the half of the character has been read
            step.write(euro[1:])
            shown.wait_for("€")
            step.write(euro[:2])
            step.end()
            finish(log)
            assert shown.end() == 0
            assert shown.screen.text().endswith("€�") and shown.screen.text().count("�") == 3


PROGRESS: Final = b"\r".join(b"step %3d of 100" % number for number in range(1, 101))


def test_a_progress_bar_and_windows_line_ends(db: Path) -> None:
    """A terminal shows them as they were meant, the latest state of a line; a pipe gets the bytes."""
    data = b"one\r\ntwo\r\n" + PROGRESS + b"\r\nlonger than what follows\rdone  \nend\r"
    with EventLog(db) as log:
        step = Step(log, db.parent, "s")
        step.write(data)
        step.end()
        with background("--db", db, "logs", "t", "--stdout") as process:
            assert process.communicate(timeout=PATIENCE) == (data, b"")
        with terminal("--db", db, "logs", "t", "--stdout") as shown:
            assert shown.end() == 0
    text = shown.screen.text().rstrip()
    assert text == "one\ntwo\nstep 100 of 100\ndone   than what follows\nend"


@pytest.mark.parametrize("on", ["terminal", "pipe"])
def test_a_progress_bar_among_other_output(db: Path, on: str) -> None:
    """Each line begins with its step's name, whatever its carriage returns; a terminal gets its latest state."""
    with EventLog(db) as log:
        a = Step(log, db.parent, "a")
        b = Step(log, db.parent, "b")
        a.write(b"one\r\n" + PROGRESS[:40])
        b.write("beside\r\n")
        words = ["--db", str(db), "logs", "-f", "-n", "all", "t"]
        if on == "pipe":
            with background(*words) as process:
                piped = Piped(process)
                piped.wait_for("b | beside\r\n")
                a.write(PROGRESS[40:] + b"\rabc\r\nnext\n")
                piped.wait_for("a | next\n")
                finish(log)
                assert piped.end()[0] == 0
            lines = piped.data.split(b"\n")
            assert sorted(lines) == sorted(
                [b"", b"a | one\r", b"b | beside\r", b"a | " + PROGRESS + b"\rabc\r", b"a | next"]
            )
            return
        with terminal(*words) as shown:
            shown.wait_for("a | one\n", "b | beside")
            a.write(PROGRESS[40:] + b"\rabc\r\nnext\n")
            shown.wait_for("a | abcp 100 of 100\na | next")
            finish(log)
            assert shown.end() == 0


def test_the_output_of_a_run_in_a_folder_with_a_name_that_is_not_text(tmp_path: Path) -> None:
    folder = os.fsencode(tmp_path) + b"/caf\xe9"
    os.mkdir(folder)
    words = command("run", "--quiet", "--task", "t", "--", "echo", "out")
    subprocess.run(words, cwd=folder, env=environment(), check=True, timeout=PATIENCE)
    words = command("logs", "t", "--stdout")
    done = subprocess.run(
        words, cwd=folder, env=environment(), capture_output=True, timeout=PATIENCE
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, b"out\n", b"")


def test_what_another_user_may_have_put_there_is_told(db: Path) -> None:
    """A link is not followed, so that no secret is shown in the place of the output."""
    secret = db.with_name("secret")
    secret.write_text("secret")
    doubt = "what is shown may not be what the step wrote"
    folder = db.with_name("shared")
    folder.mkdir()
    with EventLog(db) as log:
        step = Step(log, folder, "s")
        step.write("mine\n")
        assert logs(db, "t", "--stdout") == (0, "mine\n", "")
        folder.chmod(0o777)
        told = f"orch-events: {folder}: every user may write there; {doubt}\n"
        assert logs(db, "t", "--stdout") == (0, "mine\n", told)
        folder.chmod(0o1777)  # as /tmp: nobody else can replace our file
        assert logs(db, "t", "--stdout") == (0, "mine\n", "")
        with following(db) as shown:
            shown.wait_for("mine\n")
            step.stdout.unlink()
            step.stdout.symlink_to(secret)
            told = f"orch-events: {step.stdout}: a symbolic link, which may lead anywhere\n"
            assert logs(db, "t", "--stdout") == (1, "", told)
            finish(log)
            code, printed, complaint = shown.end()
        assert (code, printed, complaint) == (1, "==> s (stdout) <==\nmine\n", told)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_a_file_of_another_user_is_told_but_not_one_of_the_owner_of_the_log(db: Path) -> None:
    with EventLog(db) as log:
        step = Step(log, db.parent, "s")
        step.write("whose?\n")
        os.chown(step.stdout, 12345, -1)
        code, printed, told = logs(db, "t", "--stdout")
        assert (code, printed) == (0, "whose?\n")
        assert told.startswith(f"orch-events: {step.stdout}: belongs to another user (12345); ")
        os.chown(db, 12345, -1)
        assert logs(db, "t", "--stdout") == (0, "whose?\n", "")


def test_a_file_that_cannot_be_read_any_more_while_others_can(db: Path) -> None:
    with following(db) as shown, EventLog(db) as log:
        step = Step(log, db.parent, "s")
        step.write("one\n")
        step.write("two\n", stderr=True)
        shown.wait_for("two\n")
        step.stdout.unlink()
        step.stdout.mkdir()
        step.write("three\n", stderr=True)
        shown.wait_for("three\n")
        finish(log)
        code, _, complaint = shown.end()
    assert code == 1
    assert complaint.endswith(f"orch-events: {step.stdout}: Is a directory\n")


def test_a_log_without_output_files_says_so_while_it_is_followed(db: Path) -> None:
    with EventLog(db) as log:
        log.insert_event("t", None, "step_spawned", {"step": "s", "pid": 1})
        log.insert_event("t", None, "step_finished", {"step": "s", "success": True})
        with following(db) as shown:
            assert shown.process.stderr is not None
            told = "orch-events: the log names no output files for task 't': its steps were recorded without them\n"
            assert shown.process.stderr.readline().decode() == told
            finish(log)
            assert shown.end() == (1, "", "")


def lines_of(*numbers: int) -> str:
    return "".join(f"line {number}\n" for number in numbers)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (
            "",
            "==> a (stdout) <==\nline 1\nline 2\n\n==> a (stderr) <==\noops\n\n==> b (stdout) <==\n"
            + lines_of(*range(1, 21)),
        ),
        (
            "--stdout",
            "==> a (stdout) <==\nline 1\nline 2\n\n==> b (stdout) <==\n" + lines_of(*range(1, 21)),
        ),
        ("--stderr", "==> a (stderr) <==\noops\n"),
        ("--step a", "==> a (stdout) <==\nline 1\nline 2\n\n==> a (stderr) <==\noops\n"),
        ("--step a --stdout", "line 1\nline 2\n"),
        ("--step a --stdout -n1", "line 2\n"),
        ("--step nothing", ""),
        ("-n 2", "==> b (stdout) <==\n" + lines_of(19, 20)),
        ("-n 0", ""),
        ("-n all --step b --stdout", lines_of(*range(1, 21))),
        ("-f", "==> b (stdout) <==\n" + lines_of(*range(11, 21))),
        ("-f -n 1 --step a", "==> a (stdout) <==\nline 2\n\n==> a (stderr) <==\noops\n"),
        (
            "-f -n all --stdout",
            "==> a (stdout) <==\nline 1\nline 2\n\n==> b (stdout) <==\n" + lines_of(*range(1, 21)),
        ),
    ],
)
def test_what_was_written_before(db: Path, words: str, expected: str) -> None:
    with EventLog(db) as log:
        a = Step(log, db.parent, "a")
        a.write(lines_of(1, 2))
        a.write("oops\n", stderr=True)
        a.end()
        b = Step(log, db.parent, "b")
        b.write(lines_of(*range(1, 21)))
        b.end()
        if "-f" in words:
            finish(log)
        nothing = (1, "", "orch-events: no output of a step 'nothing', but of: a, b\n")
        assert logs(db, "t", *words.split()) == (
            nothing if "nothing" in words else (0, expected, "")
        )


def test_the_running_steps_are_the_current_ones(db: Path) -> None:
    with EventLog(db) as log:
        steps = {name: Step(log, db.parent, name) for name in ("a", "b", "c")}
        for name, step in steps.items():
            step.write(f"{name}1\n{name}2\n")
        steps["b"].end()
        expected = "==> a (stdout) <==\na2\n\n==> c (stdout) <==\nc2\n"
        assert logs(db, "t", "-n1") == (0, expected, "")
        with following(db, "-n1") as shown:
            shown.wait_for("c | c2\n")
            finish(log)
            assert shown.end()[1] == "a | a2\nc | c2\n"


def test_the_paths_may_come_with_either_event(db: Path) -> None:
    db.with_name("out").write_text("all\n")
    with EventLog(db) as log:
        log.insert_event(
            "t", None, "step_started", {"phase": "s", "stdout_path": str(db.with_name("out"))}
        )
        log.insert_event("t", None, "step_spawned", {"phase": "s", "pid": 1})
        assert logs(db, "t") == (0, "all\n", "")


def test_an_overwritten_file_is_shown_once(db: Path) -> None:
    with EventLog(db) as log:
        for cycle in ("first", "second"):
            step = Step(log, db.parent, "s")
            step.stdout.unlink(missing_ok=True)
            step.write(cycle)
            step.end()
        assert logs(db, "t", "--stdout") == (0, "second", "")


def test_odd_paths(db: Path) -> None:
    """Paths come from payloads: none may make us hang, crash, or open the log's own files; each is told of once."""
    os.mkfifo(db.with_name("fifo"))
    db.with_name("loop").symlink_to(db.with_name("loop"))
    db.with_name("link").symlink_to(db.with_name("merged"))
    db.with_name("merged").write_text("both\n")
    no_path = "not a path: it holds a NUL"
    odd = {
        "fifo": "not a regular file",
        ".": "Is a directory",
        "missing": "no such file",
        "merged/x": "Not a directory",
        "a\0b": no_path,
        "\x1b[2J\n\u202e": "no such file",
        "": "",
        "loop": "a symbolic link, which may lead anywhere",
        "link": "a symbolic link, which may lead anywhere",
        "log.db": "this is the log itself",
        "log.db-wal": "this is the log itself",
        "log.db-shm": "this is the log itself",
        "x" * 1_000_000: "File name too long",
        "merged": "",
    }
    told = list[str]()
    with EventLog(db) as log:
        for number, (name, reason) in enumerate(odd.items()):
            path = str(db.parent / name) if name else ""
            payload = {"step": f"s{number}", "stdout_path": path, "stderr_path": path}
            log.insert_event("t", None, "step_started", payload)
            if reason:
                escaped = path.replace("\0", r"\x00").replace("\x1b", r"\x1b")
                escaped = escaped.replace("\n", r"\n").replace("\u202e", r"\u202e")
                short = escaped if len(path) < 300 else f"{path[:150]}…{path[-150:]}"
                told.append(f"orch-events: {short}: {reason}\n")
        log.insert_event(
            "t", None, "step_spawned", {"step": "s", "stdout_path": 3, "stderr_path": [1]}
        )
        expected = "==> s13 (stdout) <==\nboth\n"
        assert logs(db, "t") == (1, expected, "".join(told))
        with following(db, "-n", "all") as shown:
            shown.wait_for("s13 | both\n")  # as none of them has ended
            finish(log)
            code, printed, complaint = shown.end()
    assert (code, printed) == (1, "s13 | both\n")
    assert sorted(complaint.splitlines(keepends=True)) == sorted(told)


def test_a_file_that_is_on_another_host_is_named_with_it(db: Path) -> None:
    path = str(db.parent / "missing")
    emitted = ("--db", db, "emit", "t", "step_spawned", f"stdout_path={path}")
    assert outcome(*emitted, "step=theirs", "host=web1")[0] == 0
    assert outcome(*emitted[:-1], f"stdout_path={path}2", "step=ours")[0] == 0
    assert logs(db, "t")[2].splitlines() == [
        f"orch-events: {path}: no such file (it was written on host 'web1')",
        f"orch-events: {path}2: no such file",
    ]
    Path(path).write_text("ours\n")
    code, printed, complaint = logs(db, "t", "--step", "theirs")
    assert (code, printed) == (0, "ours\n")
    assert (
        complaint == "orch-events: theirs: recorded on host 'web1'; shown is a file of this one\n"
    )


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["t"], "{db}: no event log here"),
        (["nobody"], "no task 'nobody'"),
        (["quit"], "no task 'quit'; nearest: quiet"),
        (["quit", "-f"], "no task 'quit'; nearest: quiet"),
        (
            ["quiet"],
            "the log names no output files for task 'quiet': its steps were recorded without them",
        ),
    ],
)
def test_nothing_to_show(db: Path, words: list[str], told: str) -> None:
    if "t" not in words:
        with EventLog(db) as log:
            log.insert_event("quiet", None, "step_started", {"step": "s"})
    assert logs(db, *words) == (1, "", f"orch-events: {told.format(db=db)}\n")


def test_a_task_without_an_end_is_followed_until_ctrl_c(db: Path) -> None:
    with background("--db", db, "run", "--task", "t", "--", "echo", "all") as run:
        assert run.wait(PATIENCE) == 0
    with terminal("--db", db, "logs", "-f", "t") as shown:
        shown.wait_for("==> echo (stdout) <==\nall")
        shown.type(b"\x03")
        assert shown.end() == 130, shown.screen.text()
        assert "Traceback" not in shown.screen.text()


def test_much_output_and_a_reader_that_has_seen_enough(db: Path) -> None:
    with EventLog(db) as log:
        step = Step(log, db.parent, "s")
        step.write("y\n" * 500_000)
        assert logs(db, "t", "--stdout") == (0, "y\n" * 500_000, "")
        with background("--db", db, "logs", "-f", "-n", "all", "t") as process:
            assert process.stdout is not None and process.stderr is not None
            assert process.stdout.readline() == b"==> s (stdout) <==\n"
            process.stdout.close()
            assert (process.wait(PATIENCE), process.stderr.read()) == (141, b"")


def test_a_deleted_log_ends_it(db: Path) -> None:
    with EventLog(db) as log:
        Step(log, db.parent, "s").write("something\n")
        with following(db) as shown:
            shown.wait_for("something\n")
            Step(log, db.parent, "s2").write("more\n")
            shown.wait_for("more\n")  # so it follows already
            db.rename(f"{db}.moved")
            code, _, complaint = shown.end()
    assert (code, complaint) == (
        1,
        f"orch-events: {db}: deleted or replaced while being followed\n",
    )


@pytest.mark.long
def test_a_gigabyte_in_bounded_memory(db: Path) -> None:
    with EventLog(db) as log:
        a = Step(log, db.parent, "s", "a")
        b = Step(log, db.parent, "s", "b")
        a.write("\nlast line\n")
        with a.stdout.open("r+b") as file:
            file.truncate(1 << 30)
        a.write("\nlast line\n")
        b.write("\n")  # so that lines are mixed
        a.end()
        finish(log)
    for words in (["-n", "1"], [], ["-f", "-n", "all"]):
        with open(os.devnull, "wb") as nowhere:
            argv = command("--db", db, "logs", "t", *words)
            process = subprocess.Popen(argv, env=environment(), stdout=nowhere)
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
        assert process.returncode == 0
        assert usage.ru_maxrss < (100 << 10 if sys.platform != "darwin" else 100 << 20)
