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

import pytest

from orch_events import EventLog

from .helpers import PATIENCE
from .terminal import Piped, background, command, environment, outcome, terminal


@pytest.fixture
def db(tmp_path: Path) -> Path:
    return tmp_path / "log.db"


class Step:
    """A step of the task ``t``, whose files are written by the test."""

    def __init__(self, log: EventLog, folder: Path, name: str, item: str | None = None, file: str = "") -> None:
        self._log, self._name, self._item = log, name, item
        file = file or name + (item or "")
        self.stdout, self.stderr = folder / f"{file}.out", folder / f"{file}.err"
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
    with background("--db", db, "logs", "-f", "t", *words) as process:
        yield Piped(process)


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
    assert (code, complaint) == (0, "")
    assert printed == (
        "==> build (stdout) <==\none\ntwo\nthr\n\n==> build (stderr) <==\noops\nleft over\n"
        "\n==> build (stdout) <==\nlate\n\n==> test (stdout) <==\nfour"
    )


@pytest.mark.parametrize("begins", ["in-a-file-of-its-own", "with-the-same-path", "with-the-same-path-and-no-end"])
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
    outputs = ["stdout) <==\nfirst cycle", "stderr) <==\nbegun", "stdout) <==\nsecond cycle, all of it"]
    assert (code, printed) == (0, "\n".join(f"==> build ({output}\n" for output in outputs))


def test_steps_that_append_to_one_file(db: Path) -> None:
    with following(db) as shown, EventLog(db) as log:
        build, test = Step(log, db.parent, "build"), Step(log, db.parent, "test")
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
        a, b = Step(log, db.parent, "test", "a"), Step(log, db.parent, "test", "b")
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


def test_a_line_whose_end_will_never_come_is_not_glued_to_another(db: Path) -> None:
    with following(db) as shown, EventLog(db) as log:
        a, b = Step(log, db.parent, "s", "a"), Step(log, db.parent, "s", "b")
        a.write("a1\n")
        b.write("b1\n")
        shown.wait_for("s b | b1\n")
        a.write("partial")
        b.write("partial too")
        b.write("?\n")
        shown.wait_for("s b | partial too?\n")
        a.stdout.write_text("anew\n")
        shown.wait_for("s a | partial\ns a | anew\n")
        finish(log)
        assert shown.end()[0] == 0


def test_a_line_without_end_is_not_kept_for_ever_while_lines_are_mixed(db: Path) -> None:
    with EventLog(db) as log:
        a, b = Step(log, db.parent, "s", "a"), Step(log, db.parent, "s", "b")
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
        with background(*words, "a", "--", "sh", "-c", script, "a") as a:
            with background(*words, "b", "--", "sh", "-c", script, "b") as b:
                assert (a.wait(PATIENCE), b.wait(PATIENCE)) == (0, 0)
        finish(log)
        code, printed, complaint = shown.end()
    assert (code, complaint) == (0, "")
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
    assert (code, printed) == (0, "==> s (stdout) <==\nbeginning\n" + "before " * 20_000 + "between after\n")


PNG = b"\x89PNG\r\n\x1a\n\x00\xff\x1b[2J"


def test_a_pipe_gets_every_byte_a_terminal_no_control_characters(db: Path) -> None:
    with EventLog(db) as log:
        step = Step(log, db.parent, "s\x1b[2J")
        step.write(PNG + "\té한".encode())
        with background("--db", db, "logs", "t", "--stdout") as process:
            assert process.communicate(timeout=PATIENCE) == (PNG + "\té한".encode(), b"")
        with terminal("--db", db, "logs", "t", "-f") as shown:
            shown.wait_for(r"==> s\x1b[2J (stdout) <==")
            shown.wait_for(r"�PNG\r", r"\x1a", r"\x00�\x1b[2J", "é한")
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
        ("--stdout", "==> a (stdout) <==\nline 1\nline 2\n\n==> b (stdout) <==\n" + lines_of(*range(1, 21))),
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
        ("-f -n all --stdout", "==> a (stdout) <==\nline 1\nline 2\n\n==> b (stdout) <==\n" + lines_of(*range(1, 21))),
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
        nothing = (1, "", "orch-events: no output is recorded\n")
        assert logs(db, "t", *words.split()) == (nothing if "nothing" in words else (0, expected, ""))


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
        log.insert_event("t", None, "step_started", {"phase": "s", "stdout_path": str(db.with_name("out"))})
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
    """Paths come from payloads: none may make us hang, crash, or open the log's own files."""
    os.mkfifo(db.with_name("fifo"))
    db.with_name("link").symlink_to(db)
    db.with_name("merged").write_text("both\n")
    odd = ["fifo", ".", "missing", "a\0b", "", "link", "log.db", "log.db-wal", "log.db-shm", "merged"]
    with EventLog(db) as log:
        for number, name in enumerate(odd):
            path = str(db.parent / name) if name else ""
            payload = {"step": f"s{number}", "stdout_path": path, "stderr_path": path}
            log.insert_event("t", None, "step_started", payload)
        log.insert_event("t", None, "step_spawned", {"step": "s", "stdout_path": 3, "stderr_path": [1]})
        expected = "==> s9 (stdout) <==\nboth\n"
        assert logs(db, "t") == (0, expected, "")
        with following(db, "-n", "all") as shown:
            shown.wait_for("s9 | both\n")  # as none of them has ended
            finish(log)
            assert shown.end() == (0, "s9 | both\n", "")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["t"], "{db}: no event log here"),
        (["nobody"], "no events of task 'nobody'"),
        (["quiet"], "no output is recorded"),
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
        assert shown.end() == 130
        assert "Traceback" not in shown.screen.text()


def test_much_output_and_a_reader_who_has_seen_enough(db: Path) -> None:
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
    assert (code, complaint) == (1, f"orch-events: {db}: deleted or replaced while being followed\n")


@pytest.mark.long
def test_a_gigabyte_in_bounded_memory(db: Path) -> None:
    with EventLog(db) as log:
        a, b = Step(log, db.parent, "s", "a"), Step(log, db.parent, "s", "b")
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
