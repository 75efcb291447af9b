# SPDX-License-Identifier: MIT
"""A terminal for tests: a real pty, whose other end is an emulator that knows what our commands may send, no more."""

import fcntl
import json
import multiprocessing
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
import unicodedata
import warnings
from codecs import getincrementaldecoder
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from orch_events.cli import COMMANDS, main

from .engines import spelled
from .helpers import PATIENCE, python_path

_TOKEN: Final = re.compile(r"\x1b\[(\?)?([\d;]*)([A-Za-z])|[\r\n\t]|[^\x00-\x1f\x7f-\x9f]")
_UNFINISHED: Final = re.compile(r"\x1b(\[\??[\d;]*)?")

# Makes the pty its controlling terminal, so that it gets SIGWINCH and Ctrl-C from it.
_TAKE_TERMINAL: Final = "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execv(sys.argv[1], sys.argv[1:])"


def command(*words: object) -> list[str]:
    """The command line of `orch-events WORDS`."""
    return [sys.executable, "-X", "dev", "-W", "error", "-m", "orch_events", *spelled(words)]


def environment(**more: str) -> dict[str, str]:
    """What our commands are run with: what may depend on the machine is fixed, or given in `more`."""
    changing = ("NO_COLOR", "COLUMNS", "LINES", "PYTHONUNBUFFERED", "TRACEPARENT")
    kept = {
        key: value
        for key, value in os.environ.items()
        if key not in changing and not key.startswith("ORCH_EVENTS_")
    }
    return {
        **kept,
        "PYTHONPATH": python_path(),
        "TERM": "xterm",
        "TZ": "UTC",
        "LC_ALL": "C.UTF-8",
        **more,
    }


def shown_width(line: str) -> int:
    """Columns of the screen that a line takes."""
    return sum(map(_char_width, line))


def _char_width(char: str) -> int:
    if unicodedata.category(char) in ("Mn", "Me"):
        return 0
    return 2 if unicodedata.east_asian_width(char) in "WF" else 1


class Screen:
    """What a terminal shows."""

    def __init__(self, columns: int, lines: int) -> None:
        self.columns = columns
        self.lines = lines
        self.alternate = False
        self.cursor_shown = True
        self.wraps = True
        self.colours = set[str]()
        """Of all that was shown so far."""
        self._decoder = getincrementaldecoder("utf-8")()
        self._unread = ""
        self._buffers: dict[bool, list[list[str]]] = {False: [], True: []}
        self._row = self._column = 0
        self._saved = (0, 0)

    def text(self) -> str:
        """The lines, without the spaces and empty lines at their ends."""
        return "\n".join("".join(row).rstrip() for row in self._buffers[self.alternate]).rstrip(
            "\n"
        )

    def feed(self, data: bytes) -> None:
        self._unread += self._decoder.decode(data)
        while self._unread and not _UNFINISHED.fullmatch(self._unread):
            token = _TOKEN.match(self._unread)
            assert token is not None, f"not to be sent to a terminal: {self._unread[:20]!r}"
            self._unread = self._unread[token.end() :]
            self._take(token[0], token[1] is not None, token[2], token[3])

    def _take(self, text: str, private: bool, parameters: str | None, final: str | None) -> None:
        rows = self._buffers[self.alternate]
        if final is None:
            if text == "\r":
                self._column = 0
            elif text == "\n":
                self._down()
            elif text == "\t":
                self._column = min(self._column // 8 * 8 + 8, self.columns - 1)
            else:
                self._put(text)
        elif private and final in "hl":
            self._mode(parameters or "", final == "h")
        elif (final, parameters) == ("H", ""):
            self._row = self._column = 0
        elif (final, parameters) == ("K", ""):
            del self._cells()[min(self._column, self.columns - 1) :]
        elif (final, parameters) == ("J", ""):
            del self._cells()[min(self._column, self.columns - 1) :]
            del rows[self._row + 1 :]
        elif final == "m":
            self.colours.add(parameters or "")
        else:
            raise AssertionError(f"not to be sent to a terminal: {text!r}")

    def _mode(self, number: str, on: bool) -> None:
        if number == "25":
            self.cursor_shown = on
        elif number == "7":
            self.wraps = on
        else:
            assert number == "1049" and on is not self.alternate
            self.alternate = on
            if on:
                self._saved, self._buffers[True] = (self._row, self._column), []
                self._row = self._column = 0
            else:
                self._row, self._column = self._saved

    def _cells(self) -> list[str]:
        rows = self._buffers[self.alternate]
        rows += ([] for _ in range(self._row + 1 - len(rows)))
        return rows[self._row]

    def _down(self) -> None:
        self._row += 1
        if self._row == self.lines:  # off the top
            self._row -= 1
            self._cells()
            del self._buffers[self.alternate][0]

    def _put(self, char: str) -> None:
        wide = unicodedata.east_asian_width(char) in "WF"
        if self._column + wide >= self.columns:
            if not self.wraps:
                return
            self._column = 0
            self._down()
        cells = self._cells()
        cells += " " * (self._column - len(cells))
        cells[self._column : self._column + 1 + wide] = [char, *[""] * wide]
        self._column += 1 + wide


class Terminal:
    """A pty with a screen, and a program that has it as its terminal."""

    def __init__(self, argv: list[str], columns: int = 100, lines: int = 24, **more: str) -> None:
        self._ours, theirs = pty.openpty()
        self.screen = Screen(columns, lines)
        self.resize(columns, lines)
        self.modes_before = termios.tcgetattr(self._ours)
        self.frames: list[str] = []
        """What the screen showed each time the erasing of what is below ended a frame."""
        self.first_rows = [""]
        """Whatever its alternate screen's first row was, however briefly, once there was something."""
        self.process = subprocess.Popen(
            [sys.executable, "-c", _TAKE_TERMINAL, *argv],
            env=environment(**more),
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
        )
        self._theirs = theirs

    def resize(self, columns: int, lines: int) -> None:
        """Make the window another size; the program gets SIGWINCH."""
        self.screen.columns = columns
        self.screen.lines = lines
        fcntl.ioctl(self._ours, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    def type(self, keys: bytes) -> None:
        """Type on the keyboard."""
        os.write(self._ours, keys)

    def edits_lines(self) -> bool:
        """Whether keys reach a program line by line, as a shell leaves the terminal to it."""
        return bool(termios.tcgetattr(self._ours)[3] & termios.ICANON)

    def read(self, within: float = 0.02) -> bool:
        """Take in what the program has written; whether there was anything."""
        if not select.select([self._ours], [], [], within)[0]:
            return False
        # Piece by piece, so that nothing goes unseen, however briefly it was there.
        for piece in re.split(rb"(?<=\x1b\[[JK])", os.read(self._ours, 1 << 16)):
            self.screen.feed(piece)
            first = self.screen.text().split("\n")[0]
            if (
                self.screen.alternate
                and (first or self.first_rows != [""])
                and first != self.first_rows[-1]
            ):
                self.first_rows.append(first)
            if piece.endswith(b"\x1b[J"):
                self.frames.append(self.screen.text())
        return True

    def wait_for(self, *texts: str, condition: Callable[[], bool] = lambda: True) -> str:
        """Return what is shown, where there are frames the latest whole one, once that contains all of `texts`."""
        deadline = time.monotonic() + PATIENCE
        while True:
            shown = (
                self.screen.text()
                if not self.screen.alternate
                else self.frames[-1]
                if self.frames
                else ""
            )
            if all(text in shown for text in texts) and condition():
                return shown
            assert time.monotonic() < deadline, (
                f"waited in vain for {texts}; the screen shows:\n{shown}"
            )
            ended = self.process.poll() is not None
            assert self.read() or not ended, (
                f"ended with {self.process.returncode} without {texts}:\n{shown}"
            )

    def end(self) -> int:
        """Wait for the program's end, read all it wrote; its exit status. The terminal must be as it was found."""
        deadline = time.monotonic() + PATIENCE
        while self.process.poll() is None:
            assert time.monotonic() < deadline, (
                f"did not end; the screen shows:\n{self.screen.text()}"
            )
            self.read()
        while self.read(0.0):
            pass
        assert (self.screen.alternate, self.screen.cursor_shown, self.screen.wraps) == (
            False,
            True,
            True,
        )
        assert termios.tcgetattr(self._ours) == self.modes_before
        return self.process.returncode

    def close(self) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        os.close(self._ours)
        os.close(self._theirs)


@contextmanager
def terminal(
    *words: object, columns: int = 100, lines: int = 24, **more: str
) -> Iterator[Terminal]:
    """`orch-events WORDS` on a terminal; killed at the end of the body if it still runs."""
    shown = Terminal(command(*words), columns, lines, **more)
    try:
        yield shown
    finally:
        shown.close()


# What ends by itself is forked from a process that has imported all there is: 10 ms instead of 150.
_PROCESSES: Final = multiprocessing.get_context("forkserver")
_PROCESSES.set_forkserver_preload(
    [__name__, *(f"orch_events.cli.commands.{name}" for name in COMMANDS)]
)


def _child(words: list[str], cwd: str, folder: str, variables: dict[str, str]) -> None:
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        descriptor = os.open(os.path.join(folder, name), os.O_RDWR)
        os.dup2(descriptor, number)
        os.close(descriptor)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(variables)
    time.tzset()
    warnings.simplefilter("error")
    sys.exit(main(words))


def outcome(
    *words: object, cwd: Path | None = None, stdin: bytes = b"", **more: str
) -> tuple[int, str, str]:
    """What becomes of `orch-events WORDS`: its exit status, and all it writes to stdout and stderr."""
    if any(
        name.startswith(("PYTHON", "LC_")) for name in more
    ):  # which only a new interpreter heeds
        done = subprocess.run(
            command(*words), env=environment(**more), cwd=cwd, input=stdin, capture_output=True
        )
        return done.returncode, done.stdout.decode(), done.stderr.decode()
    with TemporaryDirectory() as folder:
        files = [Path(folder, name) for name in ("stdin", "stdout", "stderr")]
        for file in files:
            file.write_bytes(stdin if file.name == "stdin" else b"")
        arguments = (
            spelled(words),
            os.fspath(cwd or Path.cwd()),
            folder,
            environment(**more),
        )
        process = _PROCESSES.Process(target=_child, args=arguments)
        process.start()
        process.join(PATIENCE)
        assert process.exitcode is not None, "it hangs"
        stdout, stderr = (file.read_bytes().decode() for file in files[1:])
        return process.exitcode, stdout, stderr


def record_past(db: Path, *events: tuple[timedelta, dict[str, object]]) -> None:
    """Record events so long ago, each given as members of its line; without them it is an "x" of the task "t"."""
    now = datetime.now(UTC)
    usual = {"task_id": "t", "event_type": "x", "payload": {}}
    lines = [json.dumps({**usual, **event, "created_at": f"{now - age}"}) for age, event in events]
    words = ("--db", db, "emit", "--jsonl", "-", "--keep-times")
    code, _, complaint = outcome(*words, stdin="\n".join(lines).encode())
    assert (code, complaint) == (0, "")


@contextmanager
def background(
    *words: object, cwd: Path | None = None, **more: str
) -> Iterator["subprocess.Popen[bytes]"]:
    """`orch-events WORDS` with its output in pipes; killed at the end of the body if it still runs."""
    with subprocess.Popen(
        command(*words),
        env=environment(**more),
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


class Piped:
    """What a program has written into a pipe so far."""

    def __init__(self, process: "subprocess.Popen[bytes]") -> None:
        self.process = process
        self.data = b""

    def wait_for(self, expected: bytes | str) -> bytes:
        """Return all that was written once it contains `expected`."""
        assert self.process.stdout is not None
        expected = expected if isinstance(expected, bytes) else expected.encode()
        deadline = time.monotonic() + PATIENCE
        while expected not in self.data:
            ready = select.select(
                [self.process.stdout], [], [], max(0.0, deadline - time.monotonic())
            )[0]
            more = os.read(self.process.stdout.fileno(), 1 << 16) if ready else b""
            assert more, f"waited in vain for {expected!r}; there was only {self.data!r}"
            self.data += more
        return self.data

    def end(self) -> tuple[int, str, str]:
        """Wait for the program's end: its exit status, and all it has written to stdout and stderr."""
        stdout, stderr = self.process.communicate(timeout=PATIENCE)
        self.data += stdout
        return self.process.returncode, self.data.decode(), stderr.decode()
