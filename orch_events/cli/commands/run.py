# SPDX-License-Identifier: MIT
"""``run``: a command as a step of a task, from its first event to its last.

The command comes first. Nothing that goes wrong with recording stops it, delays it or changes its exit code; standard
error says what went wrong. So the command is started before the log is opened, which is done in the background; and
where its output cannot be kept, it goes where ours goes. What becomes which event is decided here.
"""

import errno
import math
import os
import secrets
import time
from argparse import REMAINDER, ArgumentParser
from contextlib import suppress
from typing import Final, NamedTuple

from ... import EventType
from ..arguments import (
    Options,
    name,
    path,
    seconds,
)
from ..background_recorder import BackgroundRecorder
from ..child_process import SCARCE, ChildProcess
from ..enclosing_step import (
    Surroundings,
    enclosing_item,
    enclosing_step,
    enclosing_task,
)
from ..host_name import host_name
from ..model.heartbeat_payload import HeartbeatState
from ..output_echo import OutputEcho
from ..output_files import OutputFiles, output_folder
from ..recorded_command import recorded_command
from ..show.messages import error_text, say
from ..show.units import span

__all__ = ["run"]

# Exit codes as shells and coreutils' `timeout` have them.
_TIMED_OUT: Final = 124  # also for a stall
_NOT_EXECUTABLE: Final = 126
_NOT_FOUND: Final = 127
_SIGNALLED: Final = 128  # and the signal's number

_TICK: Final = 0.2
"""Longest wait between two looks at the command, in seconds: how exact ``--stall-timeout`` is."""


class _Options(Options):
    task: str | None = None
    step: str | None = None
    item: str | None = None
    agent: str | None = None
    timeout: float = math.inf
    stall_timeout: float = math.inf
    heartbeat: float = 10.0
    logs: str | None = None
    quiet: bool = False
    command: list[str]


def run(parser: ArgumentParser, words: list[str]) -> int:
    """Run a command as a step; its exit code."""
    parser.usage = "%(prog)s [options] -- COMMAND ..."
    parser.epilog = (
        "Exits as COMMAND does: 128+n on signal n. 124 after a timeout, 126 or 127 if it cannot be started."
        " Signals that would end this process go to COMMAND and its children instead; Ctrl-Z stops them with it."
        " COMMAND runs even where nothing can be recorded, and says so on stderr."
        " COMMAND finds the log, the task, the step and its item in ORCH_EVENTS_DB, ORCH_EVENTS_TASK, ORCH_EVENTS_STEP"
        " and ORCH_EVENTS_ITEM; of a TRACEPARENT it gets one with its own span. In the recorded command, but not in its output, values of variables"
        " called ...TOKEN, ...SECRET, ...PASSWORD or ...KEY are masked."
        " TIME is in seconds, or as in 90s, 5m, 2h."
    )
    alone = "the task it is a step of (default: that of the step it is run in; else a new one)"
    parser.add_argument("--task", metavar="ID", type=name, help=alone)
    parser.add_argument(
        "--step", metavar="NAME", type=name, help="the step's name (default: the command's)"
    )
    parser.add_argument(
        "--item", metavar="ID", type=name, help="the item it is run for (default: as for the task)"
    )
    parser.add_argument("--agent", metavar="ID", type=name, help="the agent that runs it")
    parser.add_argument("--timeout", metavar="TIME", type=seconds, help="end it after this long")
    parser.add_argument(
        "--stall-timeout", metavar="TIME", type=seconds, help="end it after so long without output"
    )
    parser.add_argument(
        "--heartbeat", metavar="TIME", type=seconds, help="time between heartbeats (default: 10 s)"
    )
    parser.add_argument(
        "--logs",
        metavar="DIR",
        type=path,
        help="where its output is kept (default: beside the log); not a symbolic link, nor a"
        + " directory that others made or may write to",
    )
    parser.add_argument("--quiet", action="store_true", help="keep its output, but do not show it")
    parser.add_argument("command", metavar="COMMAND", nargs=REMAINDER)
    options = parser.parse_args(words, _Options())
    if options.command[:1] == ["--"]:
        del options.command[0]
    if not options.command:
        parser.error("no COMMAND to run")
    program = options.command[0]
    options.step = options.step or _text(os.path.basename(program) or program) or "command"
    enclosing = enclosing_task(options.db)
    options.task = options.task or enclosing
    parent_step = None
    if enclosing is not None and options.task == enclosing:
        parent_step = enclosing_step()
        options.item = options.item or enclosing_item()
    task_id = options.task or f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(3)}"
    recorder = BackgroundRecorder(
        options.db,
        task_id,
        options.step,
        parent_step,
        options.item,
        options.agent,
    )
    with ChildProcess() as child:
        return _StepRun(options, child, recorder).run()


def _text(name: str) -> str:
    r"""A name from the operating system as text that JSON can hold.

    Bytes that are no UTF-8 become escapes such as ``\udce9`` for byte E9: with them decoded again a path can be opened.
    """
    return name.encode(errors="backslashreplace").decode()


class _End(NamedTuple):
    """How a step ended."""

    event_type: str
    exit_code: int
    reason: str | None = None

    def payload(self, started: float) -> dict[str, object]:
        payload: dict[str, object] = {
            "success": self.exit_code == 0,
            "exit_code": self.exit_code,
            "duration_ms": int((time.monotonic() - started) * 1000),
        }
        if self.reason is not None:
            payload["reason"] = self.reason
        return payload


class _StepRun:
    """The command as a step, within a task of its own unless it belongs to one."""

    def __init__(
        self,
        options: _Options,
        child: ChildProcess,
        recorder: BackgroundRecorder,
    ) -> None:
        self._options = options
        self._child = child
        self._recorder = recorder
        self._has_own_task = not options.task
        self._surroundings = Surroundings.make(
            options.db,
            recorder.task_id,
            recorder.step_name,
            options.item,
        )
        self._output: OutputFiles | None = None
        """``None`` when its output cannot be kept, and goes where ours goes."""
        self._output_error: OSError | None = None
        """Why it cannot be kept."""

    def run(self) -> int:
        """Run it from its first event to its last; the exit code."""
        recorder = self._recorder
        started = time.monotonic()
        if self._has_own_task:
            say(f"task {recorder.task_id}")
            recorder.task(EventType.TASK_STARTED, {})
        words = _text(recorded_command(self._options.command))
        recorder.step(EventType.STEP_STARTED, {"command": words, **self._surroundings.trace})
        end = self._start()
        recorder.start()
        self._say_output_error()
        echo = None
        if self._output is not None and not self._options.quiet:
            echo = OutputEcho(self._output)
        if end is None:
            end = self._watch()
        recorder.step(end.event_type, end.payload(started))
        if self._has_own_task:
            task_end = EventType.TASK_COMPLETED
            if end.exit_code:
                task_end = EventType.TASK_FAILED
            recorder.task(task_end, end.payload(started))
        recorder.close()
        # Last: a reader that has stopped reading holds up only this process.
        is_copied = echo is None or echo.finish(self._child)
        if is_copied and self._output is not None:
            self._output.close()
        return end.exit_code

    def _start(self) -> _End | None:
        """Start the command; the end if it cannot be started."""
        try:
            self._output = self._make_output()
        except OSError as error:
            self._output_error = error
        try:
            pid = self._spawn()
        except OSError as error:
            return self._could_not_start(error)
        payload: dict[str, object] = {}
        if self._output is not None:
            payload["stdout_path"] = _text(self._output.stdout_path)
            payload["stderr_path"] = _text(self._output.stderr_path)
            payload["host"] = host_name()
        payload["heartbeat_secs"] = self._options.heartbeat
        self._recorder.spawned(pid, payload)
        return None

    def _could_not_start(self, error: OSError) -> _End:
        code = _NOT_EXECUTABLE
        reason = error.strerror or "command not found"
        if isinstance(error, FileNotFoundError):
            code = _NOT_FOUND
            reason = "command not found"
        say(f"{self._options.command[0]}: {reason}")
        self._drop_output()
        self._output_error = None
        return _End(EventType.STEP_FINISHED, code, reason)

    def _make_output(self) -> OutputFiles:
        db = self._options.db
        folder = self._options.logs
        if folder is None:
            if os.path.exists(db) and not os.path.isfile(db):
                raise OSError(errno.EINVAL, "not a regular file", db)
            folder = output_folder(db)
        with suppress(FileExistsError):  # whether it is a directory shows when it is opened
            if self._options.logs is not None:
                os.makedirs(os.path.dirname(os.path.abspath(folder)), exist_ok=True)
            os.mkdir(folder, 0o700)
        return OutputFiles(folder, self._recorder.task_id, self._recorder.step_name)

    def _drop_output(self) -> None:
        if self._output is not None:
            self._output.discard()
            self._output = None

    def _spawn(self) -> int:
        command = self._options.command
        if self._output is not None:
            try:
                return self._child.start(
                    command,
                    self._output.stdout,
                    self._output.stderr,
                    self._surroundings.environment,
                )
            except OSError as error:
                if error.errno not in SCARCE:
                    raise
                self._drop_output()
                self._output_error = error
        # Nothing is lost, and with --quiet nothing appears on stdout.
        shown_on = None
        if self._options.quiet:
            shown_on = 2
        return self._child.start(command, shown_on, shown_on, self._surroundings.environment)

    def _say_output_error(self) -> None:
        if self._output_error is None:
            return
        what = "not kept"
        if self._options.stall_timeout != math.inf:
            what = "not kept, so --stall-timeout cannot be heeded"
        say(f"its output is {what}: {error_text(self._output_error)}")

    def _watch(self) -> _End:
        """Wait for the command's end, or make it end."""
        options = self._options
        child = self._child
        stall_timeout = options.stall_timeout
        if self._output is None:
            stall_timeout = math.inf
        heartbeats = HeartbeatState()
        started = child.clock()
        times_out = started + options.timeout
        grew = started
        heartbeat_due = started + options.heartbeat
        sizes = (0, 0)
        while True:
            due = min(heartbeat_due, times_out, grew + stall_timeout)
            code = child.returncode(within=min(_TICK, max(0.0, due - child.clock())))
            if code is not None:
                return _finished(code)
            now = child.clock()
            new_sizes = self._sizes(sizes)
            if new_sizes != sizes:
                sizes = new_sizes
                grew = now
            if now >= times_out:
                child.end()
                reason = f"not finished after {span(options.timeout)}"
                return _End(EventType.STEP_TIMEOUT, _TIMED_OUT, reason)
            is_stalled = now >= grew + stall_timeout
            if not is_stalled and now < heartbeat_due:
                continue
            elapsed = int(now - started)
            is_alive = child.returncode() is None
            payload: dict[str, object] = {"elapsed_secs": elapsed, "pid_alive": is_alive}
            if self._output is not None:
                payload = heartbeats.next_payload(elapsed, *sizes, is_alive)
            if is_stalled:
                reason = f"no output for {span(stall_timeout)}"
                self._recorder.step(EventType.STEP_STALL_KILLED, {**payload, "reason": reason})
                child.end()
                return _End(EventType.STEP_FINISHED, _TIMED_OUT, reason)
            self._recorder.heartbeat(payload)
            heartbeat_due = now + options.heartbeat

    def _sizes(self, known: tuple[int, int]) -> tuple[int, int]:
        """Bytes of output so far; `known` if that cannot be asked, because a file server is away."""
        if self._output is not None:
            with suppress(OSError):
                return self._output.sizes()
        return known


def _finished(code: int) -> _End:
    if code < 0:
        return _End(EventType.STEP_FINISHED, _SIGNALLED - code, f"ended by signal {-code}")
    return _End(EventType.STEP_FINISHED, code)
