# SPDX-License-Identifier: MIT
"""The command comes first: whatever is wrong around `orch-events run`, it runs, is shown, and ends as it would without.

Real processes, signals, limits and file systems; what cannot be had here is skipped.
"""

import json
import os
import re
import shlex
import shutil
import signal
import sqlite3
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Final

import pytest

from orch_events import EventLog, EventReader, LogNotFoundError, query_latest_step_log_paths

from .helpers import PATIENCE, ROOT, stored, wait_until, write_locked

LONG: Final = pytest.mark.long
OUT: Final = ("sh", "-c", "echo out; echo err >&2; exit 3")


@contextmanager
def running(
    folder: Path,
    *words: str,
    wrapper: str = "",
    stdout: int = subprocess.PIPE,
    environment: Mapping[str, str] | None = None,
) -> Iterator[subprocess.Popen[bytes]]:
    """`orch-events WORDS` at work in `folder`, after the shell's line `wrapper`; killed at the end."""
    line = shlex.join([sys.executable, "-m", "orch_events", *words])
    process = subprocess.Popen(
        [
            "sh",
            "-c",
            wrapper.replace("RUN", line) if "RUN" in wrapper else f"{wrapper} exec {line}",
        ],
        env={**os.environ, "PYTHONPATH": str(ROOT), **(environment or {})},
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        stderr=subprocess.PIPE,
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


def run(folder: Path, *words: str, wrapper: str = "") -> tuple[int, str, list[str]]:
    """The exit status, stdout, and what we said ourselves on stderr, of `orch-events WORDS`."""
    with running(folder, *words, wrapper=wrapper) as process:
        stdout, stderr = process.communicate(timeout=PATIENCE)
    own = [line for line in stderr.decode().splitlines() if line.startswith("orch-events: ")]
    return process.returncode, stdout.decode(), [line.removeprefix("orch-events: ") for line in own]


def types(db: Path, task: str = "t") -> list[str]:
    try:
        with EventReader(db) as reader:
            return [event.event_type for event in reader.query_events(task)]
    except LogNotFoundError:  # not created yet
        return []


def outputs(folder: Path) -> dict[str, str]:
    """What the output files in `folder` hold, by their last suffix."""
    return {file.suffix: file.read_text() for file in folder.iterdir()}


# ---------------------------------------------------------------------------------------------- the log


def damaged(folder: Path) -> str:
    (folder / "log.db").write_text("no database, and long enough to show it" * 100)
    return "log.db"


def folder_missing(_: Path) -> str:
    return "no/log.db"


def newer(folder: Path) -> str:
    with EventLog(folder / "log.db"):
        pass
    with closing(sqlite3.connect(folder / "log.db", isolation_level=None)) as connection:
        connection.execute("UPDATE orch_events_schema SET version = 99")
    return "log.db"


def folder_is_a_file(folder: Path) -> str:
    (folder / "no").touch()
    return "no/log.db"


def this_folder(_: Path) -> str:
    return "."


def the_root(_: Path) -> str:
    return "/"


def a_pipe(folder: Path) -> str:
    os.mkfifo(folder / "log.db")
    return "log.db"


def long_path(_: Path) -> str:
    return "x" * 300


@pytest.mark.parametrize(
    ("prepare", "told"),
    [
        (damaged, "not a SQLite database"),
        (newer, "newer than"),
        (folder_missing, "no directory to create the log in"),
        (folder_is_a_file, "Not a directory"),
        (this_folder, "not a regular file"),
        pytest.param(the_root, "not a regular file", marks=LONG),
        (a_pipe, "not a regular file"),
        pytest.param(long_path, "File name too long", marks=LONG),
    ],
)
def test_a_log_that_cannot_be_opened_stops_nothing(
    tmp_path: Path, prepare: Callable[[Path], str], told: str
) -> None:
    db = prepare(tmp_path)
    kept = {"log-logs"} if db == "log.db" and (tmp_path / db).is_file() else set[str]()
    before = {file.name for file in tmp_path.iterdir()} | kept
    code, stdout, said = run(tmp_path, "--db", db, "run", "--task", "t", "--", *OUT)
    assert (code, stdout) == (3, "out\n")
    nothing = [line for line in said if line.startswith("nothing is recorded: ")]
    assert len(nothing) == 1 and told in nothing[0]
    rest = [line for line in said if line not in nothing]
    assert all(line.startswith("its output is not kept: ") for line in rest) and len(rest) < 2
    assert {file.name for file in tmp_path.iterdir()} <= before, "no folder is made for a mistake"
    if (tmp_path / "log-logs").exists():
        assert outputs(tmp_path / "log-logs") == {".stdout": "out\n", ".stderr": "err\n"}


def test_a_log_that_is_locked_when_it_is_opened_delays_nothing_and_misses_nothing(
    tmp_path: Path,
) -> None:
    db = tmp_path / "log.db"
    with closing(sqlite3.connect(db, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        with running(
            tmp_path, "--db", "log.db", "run", "--task", "t", "--", "sh", "-c", "touch go; exit 3"
        ) as process:
            wait_until((tmp_path / "go").exists)
            time.sleep(0.3)
            unlocked = time.time()
            other.execute("COMMIT")
            assert process.wait(PATIENCE) == 3
    with EventReader(db) as reader:
        events = list(reader.query_events("t"))
    kinds = [event.event_type for event in events]
    assert kinds == ["step_started", "step_spawned", "step_finished"]
    at = (
        time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(unlocked)) + f".{int(unlocked % 1 * 1e6):06}"
    )
    assert max(event.created_at for event in events) < at, "each has the time when it happened"


@LONG
def test_a_log_that_stays_locked_is_told_of(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "log.db", isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        code, stdout, said = run(tmp_path, "--db", "log.db", "run", "--task", "t", "--", *OUT)
    assert (code, stdout, len(said)) == (3, "out\n", 1)
    assert "nothing is recorded: " in said[0] and "locked" in said[0]


def test_a_timeout_is_kept_while_the_log_is_locked(tmp_path: Path) -> None:
    with EventLog(tmp_path / "log.db"):
        pass
    words = ("--db", "log.db", "run", "--task", "t", "--timeout", "0.3", "--", "sh", "-c")
    with (
        write_locked(tmp_path / "log.db"),
        running(tmp_path, *words, "echo $$ > pid; mv pid shell; sleep 60") as process,
    ):
        wait_until((tmp_path / "shell").exists)
        shell = int((tmp_path / "shell").read_text())
        wait_until(lambda: not Path(f"/proc/{shell}").exists())
        assert process.poll() is None, "it waits for the log, to record the end"
    assert process.returncode == -signal.SIGKILL, "and was killed by the test"


def in_a_file_system(folder: Path, options: str, prepare: str) -> str:
    """A shell's line that runs us with `folder/disk` on a small disk of its own, if that can be had."""
    mount = f"mkdir -p disk && mount -t tmpfs -o size=512k none disk && {{ {prepare}; }}"
    unshare = shutil.which("unshare") or pytest.skip("no unshare")
    inner = f"{mount} && mount -o remount,{options} disk && RUN"
    probe = f"{unshare} -rm sh -c {shlex.quote(mount)}"
    if subprocess.run(probe, shell=True, cwd=folder, capture_output=True).returncode:
        pytest.skip("no file system of its own can be had")
    return f"{unshare} -rm sh -c '{inner}'"


@pytest.mark.parametrize(
    ("options", "prepare", "told"),
    [
        ("rw", "dd if=/dev/zero of=disk/fill bs=4k 2>/dev/null || true", "full"),
        ("ro", "true", "read-only|Read-only|unable to open"),
    ],
)
def test_a_disk_that_takes_nothing_stops_nothing(
    tmp_path: Path, options: str, prepare: str, told: str
) -> None:
    wrapper = in_a_file_system(tmp_path, options, prepare)
    words = ("--db", "disk/log.db", "run", "--task", "t", "--", "cat", "/proc/self/cmdline")
    code, stdout, said = run(tmp_path, *words, wrapper=wrapper)
    assert (code, stdout) == (0, "cat\0/proc/self/cmdline\0")
    assert sorted(line.partition(": ")[0] for line in said) == [
        "its output is not kept",
        "nothing is recorded",
    ]
    assert any(re.search(told, line) for line in said if line.startswith("nothing"))


# ---------------------------------------------------------------------------------------------- its output


@pytest.mark.parametrize(
    "letter", ["漢", "\n", *(pytest.param(letter, marks=LONG) for letter in "xé𝄞")]
)
def test_a_name_of_any_length_makes_a_file(tmp_path: Path, letter: str) -> None:
    words = ("--task", letter * 300, "--step", letter * 300, "--item", letter * 300)
    assert run(tmp_path, "--db", "log.db", "run", *words, "--", *OUT) == (3, "out\n", [])
    assert outputs(tmp_path / "log-logs") == {".stdout": "out\n", ".stderr": "err\n"}


def a_file(folder: Path) -> None:
    folder.touch()


def a_link(folder: Path) -> None:
    folder.with_name("elsewhere").mkdir(mode=0o700)
    folder.symlink_to("elsewhere")


def writable_by_all(folder: Path) -> None:
    folder.mkdir()
    folder.chmod(0o777)


def writable_by_the_group(folder: Path) -> None:
    folder.mkdir()
    folder.chmod(0o770)


def of_another_user(folder: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can make one")
    folder.mkdir()
    os.chown(folder, 12345, 12345)


@pytest.mark.parametrize(
    ("prepare", "told"),
    [
        pytest.param(a_file, "Not a directory", marks=LONG),
        (a_link, "is a symbolic link"),
        (writable_by_all, "others may write to it (mode 777)"),
        pytest.param(writable_by_the_group, "others may write to it (mode 770)", marks=LONG),
        (of_another_user, "belongs to another user"),
    ],
)
@pytest.mark.parametrize(
    "chosen",
    [pytest.param(False, id="beside the log"), pytest.param(True, id="chosen", marks=LONG)],
)
def test_a_directory_where_others_could_interfere_is_not_used(
    tmp_path: Path, prepare: Callable[[Path], None], told: str, chosen: bool
) -> None:
    prepare(tmp_path / "log-logs")
    words = ["--task", "t", *(["--logs", "log-logs/"] if chosen else [])]
    code, stdout, said = run(tmp_path, "--db", "log.db", "run", *words, "--", *OUT)
    assert (code, stdout) == (3, "out\n")
    assert said == [f"its output is not kept: {tmp_path / 'log-logs'}: {told}"]
    assert types(tmp_path / "log.db") == ["step_started", "step_spawned", "step_finished"]
    assert not [
        file for folder in tmp_path.iterdir() if folder.is_dir() for file in folder.iterdir()
    ]


def test_a_directory_that_others_may_add_to_but_not_delete_from_will_do(tmp_path: Path) -> None:
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared").chmod(0o1777)
    words = ("--task", "t", "--logs", "shared")
    assert run(tmp_path, "--db", "log.db", "run", *words, "--", *OUT) == (3, "out\n", [])
    files = list((tmp_path / "shared").iterdir())
    assert [stat.S_IMODE(file.stat().st_mode) for file in files] == [0o600, 0o600]


def test_what_cannot_be_kept_is_shown_on_stderr_though_quiet(tmp_path: Path) -> None:
    a_file(tmp_path / "logs")
    words = ("--db", "log.db", "run", "--task", "t", "--quiet", "--logs", "logs", "--", *OUT)
    with running(tmp_path, *words) as process:
        stdout, stderr = process.communicate(timeout=PATIENCE)
    assert (process.returncode, stdout) == (3, b"")
    assert b"out\n" in stderr and b"err\n" in stderr


@pytest.mark.long
def test_what_cannot_be_kept_cannot_stall(tmp_path: Path) -> None:
    a_file(tmp_path / "logs")
    words = ("--task", "t", "--logs", "logs", "--stall-timeout", "0.1", "--heartbeat", "0.1")
    code, _, said = run(tmp_path, "--db", "log.db", "run", *words, "--", "sleep", "0.5")
    assert (code, len(said)) == (0, 1)
    assert said[0].startswith("its output is not kept, so --stall-timeout cannot be heeded: ")
    beats = [
        row.payload for row in stored(tmp_path / "log.db") if row.event_type == "step_heartbeat"
    ]
    assert beats and all("stdout_bytes" not in beat and beat["pid_alive"] for beat in beats)


def test_the_files_are_shown_and_not_what_stands_at_their_paths(tmp_path: Path) -> None:
    command = (
        "echo one; while test ! -e shown; do sleep 0.02; done;"
        " for file in log-logs/*.stdout; do mv $file moved; echo not this >$file; done; echo two;"
        " while test ! -e shown2; do sleep 0.02; done; : > moved; echo three; echo and more"
    )
    words = ("--db", "log.db", "run", "--task", "t", "--", "sh", "-c", command)
    with running(tmp_path, *words) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"one\n"
        (tmp_path / "shown").touch()
        assert process.stdout.readline() == b"two\n"
        (tmp_path / "shown2").touch()
        assert process.communicate(timeout=PATIENCE) == (b"three\nand more\n", b"")


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_pipe_that_takes_less_than_it_is_given_gets_everything(
    tmp_path: Path, unbuffered: str
) -> None:
    data = os.urandom(300_000)
    (tmp_path / "data").write_bytes(data)
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    words = ("--db", "log.db", "run", "--task", "t", "--", "cat", "data")
    environment = {"PYTHONUNBUFFERED": unbuffered}
    with running(tmp_path, *words, stdout=writing, environment=environment) as process:
        os.close(writing)
        got = b""
        while piece := os.read(reading, 5000):
            got += piece
            time.sleep(0.001)
        assert (process.wait(PATIENCE), got == data) == (0, True)
    os.close(reading)


def test_what_a_signal_leaves_unshown_is_told(tmp_path: Path) -> None:
    words = ("--db", "log.db", "run", "--task", "t", "--", "head", "-c", "1000000", "/dev/zero")
    with EventLog(tmp_path / "log.db"), running(tmp_path, *words) as process:
        wait_until(lambda: types(tmp_path / "log.db")[-1:] == ["step_finished"])
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE) == 0
        assert process.stderr is not None
        assert process.stderr.read() == b"orch-events: the rest of its output is not shown\n"


def test_a_path_that_is_not_unicode_is_recorded_so_that_it_can_be_turned_back(
    tmp_path: Path,
) -> None:
    folder = os.path.join(os.fsencode(tmp_path), b"caf\xe9")
    os.mkdir(folder)
    assert run(
        tmp_path, "--db", os.fsdecode(folder) + "/log.db", "run", "--task", "t", "--", *OUT
    ) == (
        3,
        "out\n",
        [],
    )
    db = os.fsdecode(folder) + "/log.db"
    paths = query_latest_step_log_paths(db, "t")
    assert paths is not None and "caf\\udce9" in paths.stdout_path
    name = re.sub(
        r"\\udc([89a-f][0-9a-f])", lambda byte: chr(0xDC00 + int(byte[1], 16)), paths.stdout_path
    )
    assert Path(name).read_text() == "out\n"
    assert run(tmp_path, "--db", db, "logs", "t", "--stdout") == (0, "out\n", [])


# ---------------------------------------------------------------------------------------------- limits

NO_THREADS: Final = "ulimit -s 200000000 && ulimit -v 3000000 || exit 99;"
"""A thread's stack does not fit, anything else does."""


def test_without_threads_everything_is_recorded_and_shown_in_the_end(tmp_path: Path) -> None:
    words = ("--db", "log.db", "run", "--task", "t", "--heartbeat", "0.1", "--", "sh", "-c")
    command = "sleep 0.3; echo out; echo err >&2; exit 3"
    code, stdout, said = run(tmp_path, *words, command, wrapper=NO_THREADS)
    if code == 99:
        pytest.skip("the limits cannot be set")
    assert (code, stdout) == (3, "out\n")
    assert [line.partition(": ")[0] for line in said] == [
        "events are recorded when the command has ended",
        "its output is shown when it has ended",
    ]
    kinds = types(tmp_path / "log.db")
    assert kinds[:3] == ["step_started", "step_spawned", "step_heartbeat"]
    assert kinds[-1] == "step_finished"
    assert outputs(tmp_path / "log-logs") == {".stdout": "out\n", ".stderr": "err\n"}


@pytest.mark.parametrize(
    "descriptors", [6, 8, *(pytest.param(number, marks=LONG) for number in (7, 9, 10, 11, 12))]
)
def test_without_descriptors_the_command_runs(tmp_path: Path, descriptors: int) -> None:
    wrapper = f"ulimit -n {descriptors};"
    # Without a redirection, for which the shell has no descriptor: its complaint comes in pieces, between ours.
    words = ("--db", "log.db", "run", "--task", "t", "--", "sh", "-c", "echo out; exit 3")
    code, stdout, said = run(tmp_path, *words, wrapper=wrapper)
    assert (code, stdout) == (3, "out\n")
    assert descriptors > 6 or said
    if not any(line.startswith("nothing") for line in said):
        assert types(tmp_path / "log.db") == ["step_started", "step_spawned", "step_finished"]


def test_a_limit_on_the_size_of_files_stops_nothing(tmp_path: Path) -> None:
    words = (
        "--db",
        "log.db",
        "run",
        "--task",
        "t",
        "--",
        "sh",
        "-c",
        "seq 100000; sleep 0.4; exit 3",
    )
    code, stdout, said = run(tmp_path, *words, wrapper="ulimit -f 1;")
    assert (code, stdout) == (3, "".join(f"{number}\n" for number in range(1, 100001)))
    assert sorted(line.partition(": ")[0] for line in said) == [
        "its output is not kept",
        "nothing is recorded",
    ]


# ---------------------------------------------------------------------------------------------- signals

QUICK: Final = ("SIGUSR1", "SIGXFSZ", "SIGSEGV", "SIGRTMAX")
SPARED: Final = (
    *("SIGKILL", "SIGSTOP", "SIGTSTP", "SIGTTIN", "SIGTTOU"),  # cannot be caught, or stop a process
    *("SIGCHLD", "SIGCLD", "SIGCONT", "SIGURG", "SIGWINCH", "SIGINFO"),  # do not end one
    *(() if sys.platform == "linux" else ("SIGBUS", "SIGFPE", "SIGILL", "SIGSEGV")),  # faults
    *(() if sys.platform == "linux" else ("SIGPIPE", "SIGXFSZ")),  # Python ignores them
)


def signals(spared: tuple[str, ...], quick: tuple[str, ...]) -> list[object]:
    """Test parameters: all signals but some, all but the `quick` ones in the long tests only."""
    members = signal.Signals.__members__
    left = signal.valid_signals() - {number for name, number in members.items() if name in spared}
    named = {int(number): number.name for number in members.values()}
    return [
        pytest.param(
            int(number),
            id=named.get(int(number), str(int(number))),
            marks=() if named.get(int(number)) in quick else LONG,
        )
        for number in sorted(left)
    ]


@pytest.mark.parametrize("number", signals(SPARED, QUICK))
def test_a_signal_that_would_end_run_ends_the_command_and_is_recorded(
    tmp_path: Path, number: int
) -> None:
    words = ("--db", "log.db", "run", "--task", "t", "--", "sh", "-c", "touch go; exec sleep 60")
    with running(tmp_path, *words) as process:
        wait_until((tmp_path / "go").exists)
        wait_until(lambda: "step_spawned" in types(tmp_path / "log.db"))
        process.send_signal(number)
        assert process.communicate(timeout=PATIENCE) == (b"", b"")
    assert process.returncode == 128 + number
    last = stored(tmp_path / "log.db")[-1]
    assert (last.event_type, last.payload["exit_code"]) == ("step_finished", 128 + number)
    assert last.payload["reason"] == f"ended by signal {number}"


def ignoring(numbers: str) -> str:
    """A shell's line that runs us with some signals ignored."""
    code = (
        "import os, signal, sys\n"
        f"for number in {numbers}:\n"
        "    signal.signal(number, signal.SIG_IGN)\n"
        "os.execvp(sys.argv[1], sys.argv[1:])"
    )
    return f"{shlex.quote(sys.executable)} -c {shlex.quote(code)} RUN"


ALL: Final = "sorted(signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP})"
IGNORED: Final = "import signal; print([int(n) for n in signal.valid_signals() if signal.getsignal(n) == signal.SIG_IGN])"


@pytest.mark.parametrize("number", [ALL, *signals(("SIGKILL", "SIGSTOP"), ())])
@pytest.mark.parametrize("code", [3, 137])
def test_ignored_signals_change_no_exit_status(tmp_path: Path, number: object, code: int) -> None:
    ending = "exit 3" if code == 3 else "kill -9 $$"
    words = ("--db", "log.db", "run", "--task", "t", "--", "sh", "-c", f"echo out; {ending}")
    wrapper = ignoring(str(number) if number == ALL else f"[{number}]")
    assert run(tmp_path, *words, wrapper=wrapper) == (code, "out\n", [])
    assert stored(tmp_path / "log.db")[-1].payload["exit_code"] == code


def test_the_command_finds_ignored_what_we_found_ignored(tmp_path: Path) -> None:
    words = ("--db", "log.db", "run", "--task", "t", "--", sys.executable, "-c", IGNORED)
    _, stdout, _ = run(tmp_path, *words, wrapper=ignoring(ALL))
    direct = ignoring(ALL).replace("RUN", shlex.join([sys.executable, "-c", IGNORED]))
    done = subprocess.run(["sh", "-c", direct], capture_output=True, text=True, timeout=PATIENCE)
    assert stdout == done.stdout and int(signal.SIGCHLD) in json.loads(stdout)
    _, stdout, _ = run(tmp_path, *words)
    assert int(signal.SIGCHLD) not in json.loads(stdout)


def state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


UNTIL_GO: Final = """
import os, pathlib, sys, time
pathlib.Path("pid").write_text(str(os.getpid()))
os.rename("pid", "child")
while not os.path.exists("go"):
    print(flush=True)
    time.sleep(0.05)
sys.exit(3)
"""


@pytest.mark.long
def test_a_stop_stops_the_command_too_and_its_time(tmp_path: Path) -> None:
    words = ("--db", "log.db", "run", "--task", "t", "--stall-timeout", "4", "--timeout", "6")
    # Not a shell with a `sleep`: stopped between vfork and exec, it shows as "D" for as long as its child is stopped.
    command = [sys.executable, "-c", UNTIL_GO]
    with running(tmp_path, *words, "--", *command) as process:
        wait_until((tmp_path / "child").exists)
        child = int((tmp_path / "child").read_text())
        process.send_signal(signal.SIGTSTP)
        wait_until(lambda: state(process.pid) == "T" and state(child) == "T")
        time.sleep(7)
        process.send_signal(signal.SIGCONT)
        wait_until(lambda: state(process.pid) != "T" and state(child) != "T")
        (tmp_path / "go").touch()
        process.communicate(timeout=PATIENCE)
    assert process.returncode == 3, "neither stalled nor timed out"


def test_development_mode_changes_nothing(tmp_path: Path) -> None:
    words = ("--db", "log.db", "run", "--task", "t", "--", *OUT)
    environment = {"PYTHONDEVMODE": "1", "PYTHONWARNINGS": "error"}
    for wrapper in (ignoring(ALL), "RUN <&-"):
        with running(tmp_path, *words, wrapper=wrapper, environment=environment) as process:
            assert process.communicate(timeout=PATIENCE) == (b"out\n", b"err\n")
        assert process.returncode == 3


# ---------------------------------------------------------------------------------------------- closed streams


@pytest.mark.parametrize(
    "closed",
    [
        "2>&-",
        ">&-",
        "<&- >&- 2>&-",
        *(pytest.param(closed, marks=LONG) for closed in (">&- 2>&-", "<&-", "<&- 2>&-")),
    ],
)
def test_what_is_closed_gets_nothing_and_neither_does_what_is_opened_next(
    tmp_path: Path, closed: str
) -> None:
    words = ("--db", "log.db", "run", "--heartbeat", "0.1", "--", "sh", "-c")
    command = "echo out; echo err >&2; sleep 0.3; exit 3"
    wrapper = f"RUN {closed}"
    with running(tmp_path, *words, command, wrapper=wrapper) as process:
        stdout, stderr = process.communicate(timeout=PATIENCE)
    assert process.returncode == 3
    assert stdout == (b"" if re.search(r"(^| )>&-", closed) else b"out\n")
    told = rb"" if "2>&-" in closed else rb"orch-events: task \S+\nerr\n"
    assert re.fullmatch(told, stderr)
    assert outputs(tmp_path / "log-logs") == {".stdout": "out\n", ".stderr": "err\n"}
    kinds = [row.event_type for row in stored(tmp_path / "log.db")]
    assert kinds[:3] == ["task_started", "step_started", "step_spawned"]
    assert kinds[-2:] == ["step_finished", "task_failed"]


def test_messages_do_not_land_on_stdout_when_stderr_is_closed(tmp_path: Path) -> None:
    assert run(tmp_path, "--db", "no/log.db", "tasks", wrapper="RUN 2>&-") == (1, "", [])
    assert run(tmp_path, "--nonsense", wrapper="RUN 2>&-") == (2, "", [])
    assert run(tmp_path, "run", "--nonsense", wrapper="RUN 2>&-") == (2, "", [])
    with running(tmp_path, "run", "-h", wrapper="RUN >&-") as process:
        assert process.communicate(timeout=PATIENCE) == (b"", b"")
    code, stdout, _ = run(tmp_path, "--db", "log.db", "emit", "t", "e", wrapper="RUN 2>&- <&-")
    assert (code, stdout, types(tmp_path / "log.db")) == (0, "1\n", ["e"])


def test_a_command_finds_closed_what_was_closed(tmp_path: Path) -> None:
    command = "import os, sys; sys.exit(3 if sys.stdin is None else 0)"
    words = ("--db", "log.db", "run", "--task", "t", "--", sys.executable, "-c", command)
    assert run(tmp_path, *words, wrapper="RUN <&-")[0] == 3
    assert run(tmp_path, *words)[0] == 0


# ---------------------------------------------------------------------------------------------- usage


@pytest.mark.parametrize(
    "option",
    [
        "--task",
        "--logs",
        *(pytest.param(option, marks=LONG) for option in ("--step", "--item", "--agent", "--db")),
    ],
)
def test_an_option_that_is_empty_is_refused_before_anything_is_run(
    tmp_path: Path, option: str
) -> None:
    with running(tmp_path, "run", option, "", "--", "touch", "ran") as process:
        stdout, stderr = process.communicate(timeout=PATIENCE)
    assert (process.returncode, stdout) == (2, b"")
    assert f"argument {option}: is empty".encode() in stderr
    assert not list(tmp_path.iterdir())


def test_a_step_always_has_a_name(tmp_path: Path) -> None:
    for command, step in (("", "command"), ("/", "/"), ("./", "./")):
        run(tmp_path, "--db", "log.db", "run", "--task", "t", "--", command)
        assert stored(tmp_path / "log.db")[-1].payload["step"] == step


def test_times_may_have_units(tmp_path: Path) -> None:
    times = ("--timeout", "5m", "--stall-timeout", "2h", "--heartbeat", "90s")
    words = ("--db", "log.db", "run", "--task", "t", *times, "--", *OUT)
    assert run(tmp_path, *words) == (3, "out\n", [])
    assert stored(tmp_path / "log.db")[1].payload["heartbeat_secs"] == 90.0
