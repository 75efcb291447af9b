# SPDX-License-Identifier: MIT
"""``run``: a command as a step of a task, from its first event to its last.

The rule: the command comes first. Nothing that goes wrong with recording stops it, delays it or changes its exit code.
What becomes which event is decided here; how a process is started, signalled and listened to is in `_child`.
"""

import math
import os
import secrets
import shlex
import time
from argparse import REMAINDER, ArgumentParser
from collections import deque
from collections.abc import Mapping
from concurrent.futures import Future
from contextlib import closing
from pathlib import Path
from typing import Final, NamedTuple

from .. import EventLog, EventType, OrchEventsError
from ._arguments import Options, seconds, text
from ._child import Child, Output, Replay
from ._heartbeat import Pulse
from ._render import say

__all__ = ["run"]

_TIMED_OUT: Final = 124  # as coreutils' `timeout` has it; also for a stall
_NOT_EXECUTABLE, _NOT_FOUND, _SIGNALLED = 126, 127, 128  # as shells have them

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
    parser.epilog = "Exits as COMMAND does: 128+n on signal n. 124 after a timeout, 126 or 127 if it cannot be started."
    alone = "the task it is a step of (default: a new one, for it alone)"
    parser.add_argument("--task", metavar="ID", type=text, help=alone)
    parser.add_argument("--step", metavar="NAME", type=text, help="the step's name (default: the command's)")
    parser.add_argument("--item", metavar="ID", type=text, help="the item it is run for")
    parser.add_argument("--agent", metavar="ID", type=text, help="the agent that runs it")
    parser.add_argument("--timeout", metavar="SECS", type=seconds, help="end it after this long")
    parser.add_argument("--stall-timeout", metavar="SECS", type=seconds, help="end it after so long without output")
    parser.add_argument("--heartbeat", metavar="SECS", type=seconds, help="time between heartbeats (default: 10)")
    parser.add_argument("--logs", metavar="DIR", help="where its output is kept (default: beside the log)")
    parser.add_argument("--quiet", action="store_true", help="keep its output, but do not show it")
    parser.add_argument("command", metavar="COMMAND", nargs=REMAINDER)
    options = parser.parse_args(words, _Options())
    if options.command[:1] == ["--"]:
        del options.command[0]
    if not options.command:
        parser.error("no COMMAND to run")
    options.step = options.step or _text(os.path.basename(options.command[0]))
    task = options.task or f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(3)}"
    folder = options.logs or f"{Path(options.db).with_suffix('')}-logs"
    with closing(_Recorder(task, options)) as recorder, closing(Output(folder, f"{task}.{options.step}")) as output:
        return _run(options, recorder, output)


def _text(name: str) -> str:
    """A name from the operating system as text that JSON can hold."""
    return name.encode(errors="backslashreplace").decode()


class _Recorder:
    """Records events in the background. The first that cannot be recorded is told of; none stops anything."""

    def __init__(self, task_id: str, options: _Options) -> None:
        self.task_id = task_id
        self._item_id = options.item
        agent = {} if options.agent is None else {"agent_id": options.agent}
        scope = "task" if options.item is None else "item"
        named: dict[str, object] = {"step": options.step, "phase": options.step, "step_scope": scope}
        self._step = {**named, **agent}
        self._pending: deque[Future[int]] = deque()
        self._complete = True
        self._log = EventLog(options.db)

    def step(self, event_type: str, payload: Mapping[str, object]) -> None:
        self._submit(self._item_id, event_type, {**self._step, **payload})

    def spawned(self, pid: int, payload: Mapping[str, object]) -> None:
        """From now on each event names the process: a step of the same name may run beside this one."""
        self._step = {**self._step, "pid": pid}
        self.step(EventType.STEP_SPAWNED, payload)

    def task(self, event_type: str, payload: Mapping[str, object]) -> None:
        self._submit(None, event_type, payload)

    def _submit(self, item_id: str | None, event_type: str, payload: Mapping[str, object]) -> None:
        try:
            self._pending.append(self._log.submit_event(self.task_id, item_id, event_type, payload))
        except OrchEventsError as error:
            self._missed(error)
        self._hear()

    def _hear(self) -> None:
        while self._pending and self._pending[0].done():
            if error := self._pending.popleft().exception():
                self._missed(error)

    def _missed(self, error: BaseException) -> None:
        if self._complete:
            say(f"not everything is recorded: {error}")
        self._complete = False

    def close(self) -> None:
        try:
            self._log.close()
        except OrchEventsError as error:
            self._missed(error)
        self._hear()


class _End(NamedTuple):
    """How a step ended."""

    event_type: str
    exit_code: int
    reason: str | None = None

    def payload(self, started: float) -> dict[str, object]:
        ended: dict[str, object] = {"success": self.exit_code == 0, "exit_code": self.exit_code}
        ended["duration_ms"] = int((time.monotonic() - started) * 1000)
        return ended if self.reason is None else {**ended, "reason": self.reason}


def _run(options: _Options, recorder: _Recorder, output: Output) -> int:
    """The step, within a task of its own unless it belongs to one; the exit code."""
    started = time.monotonic()
    if not options.task:
        say(f"task {recorder.task_id}")
        recorder.task(EventType.TASK_STARTED, {})
    recorder.step(EventType.STEP_STARTED, {"command": _text(shlex.join(options.command))})
    with Child() as child:
        replay = None if options.quiet else Replay(output)
        end = _step(child, options, recorder, output)
        recorder.step(end.event_type, end.payload(started))
        if not options.task:
            recorder.task(EventType.TASK_FAILED if end.exit_code else EventType.TASK_COMPLETED, end.payload(started))
        if replay is not None:  # last: a reader who has stopped reading holds up nobody but us
            replay.finish(child)
    return end.exit_code


def _step(child: Child, options: _Options, recorder: _Recorder, output: Output) -> _End:
    try:
        pid = child.start(options.command, output)
    except OSError as error:
        found = not isinstance(error, FileNotFoundError)
        reason = error.strerror if found and error.strerror else "command not found"
        say(f"{options.command[0]}: {reason}")
        return _End(EventType.STEP_FINISHED, _NOT_EXECUTABLE if found else _NOT_FOUND, reason)
    paths = {"stdout_path": _text(output.stdout_path), "stderr_path": _text(output.stderr_path)}
    recorder.spawned(pid, {**paths, "heartbeat_secs": options.heartbeat})

    pulse = Pulse()
    started = grown_at = time.monotonic()
    beat_at = started + options.heartbeat
    size = (0, 0)
    while True:
        due = min(beat_at, started + options.timeout, grown_at + options.stall_timeout)
        code = child.returncode(within=min(_TICK, max(0.0, due - time.monotonic())))
        if code is not None and code < 0:
            return _End(EventType.STEP_FINISHED, _SIGNALLED - code, f"ended by signal {-code}")
        if code is not None:
            return _End(EventType.STEP_FINISHED, code)
        before, size, now = size, output.sizes(), time.monotonic()
        if size != before:
            grown_at = now
        if now >= started + options.timeout:
            child.end()
            return _End(EventType.STEP_TIMEOUT, _TIMED_OUT, f"not finished after {options.timeout:g} s")
        stalled = now >= grown_at + options.stall_timeout
        if stalled or now >= beat_at:
            beat = pulse.beat(int(now - started), *size, child.returncode() is None)
            if stalled:
                reason = f"no output for {options.stall_timeout:g} s"
                recorder.step(EventType.STEP_STALL_KILLED, {**beat, "reason": reason})
                child.end()
                return _End(EventType.STEP_FINISHED, _TIMED_OUT, reason)
            recorder.step(EventType.STEP_HEARTBEAT, beat)
            beat_at = now + options.heartbeat
