# SPDX-License-Identifier: MIT
"""A command as a child process: its group, and the signals on their way to it."""

import contextlib
import errno
import os
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Mapping
from types import FrameType
from typing import (
    Final,
    Self,
    cast,
)

__all__ = ["SCARCE", "ChildProcess"]

_GRACE: Final = 5.0
"""Seconds between SIGTERM and SIGKILL."""

SCARCE: Final = {errno.EMFILE, errno.ENFILE, errno.ENOMEM}
"""Errors for lack of something. The process may start once our own descriptors are given back."""

_NOT_ENDING: Final = ("CHLD", "CLD", "CONT", "INFO", "STOP", "TSTP", "TTIN", "TTOU", "URG", "WINCH")

_OUR_OWN: Final = ("BUS", "FPE", "ILL", "PIPE", "SEGV", "XFSZ")
"""Signals that an act of our own may cause: they are not for the command, and a handler would return into a fault."""


def _numbers(*names: str) -> set[int]:
    """The signals of these names that this system has."""
    full_names = {f"SIG{name}" for name in names}
    return {number for name, number in signal.Signals.__members__.items() if name in full_names}


def _is_ignored(number: int) -> bool:
    return cast("object", signal.getsignal(number)) is signal.SIG_IGN


class ChildProcess:
    """A command, in a process group of its own. While this is entered, what asks us to end goes to the group instead.

    The group is a session too: one in the background of our own session would be stopped when it reads the terminal.
    Ctrl-Z (SIGTSTP) stops the group with us, and what continues us continues it.

    The command finds signals ignored that we were started to ignore, except SIGPIPE and SIGXFSZ: Python ignores these
    two itself and cannot know how they were set, so the command finds their defaults.
    """

    def __init__(self) -> None:
        self._signals = deque[int]()
        """Those that would have ended us and are not yet sent, in the order they came."""
        self._process: subprocess.Popen[bytes] | None = None
        self._restore = contextlib.ExitStack()
        self._blocked = False
        """Whether signals of `_OUR_OWN` are kept waiting, so that it can be asked where they come from."""
        self._ignored_children = False
        self._stop_asked = False
        self._stopped = 0.0

    def __enter__(self) -> Self:
        others = _numbers("KILL", *_NOT_ENDING, *_OUR_OWN)
        for number in sorted({int(number) for number in signal.valid_signals()} - others):
            # What is ignored (by `nohup`; SIGINT in a script's background jobs) the child ignores too.
            if not _is_ignored(number):
                self._handle_signal(number)
        if sys.platform != "win32":
            if not _is_ignored(signal.SIGTSTP):
                before = signal.signal(signal.SIGTSTP, self._handle_stop)
                self._restore.callback(signal.signal, signal.SIGTSTP, before)
            # Where SIGCHLD is ignored, the system drops exit statuses before they can be asked for.
            if _is_ignored(signal.SIGCHLD):
                self._ignored_children = True
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                self._restore.callback(_ignore_children)
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def release(self) -> None:
        """Let signals do to us what they did before."""
        self._restore.close()

    def is_hurried(self) -> bool:
        """Whether a signal that would end us has come after the command's end."""
        return len(self._signals) > 0

    def clock(self) -> float:
        """Seconds that pass while the command may run: not those for which Ctrl-Z has stopped it."""
        return time.monotonic() - self._stopped

    def _handle_signal(self, number: int) -> None:
        with contextlib.suppress(OSError, ValueError):  # the C library keeps it for itself
            before = signal.signal(number, self._handle)
            if before is not None:  # not Python's (`faulthandler`): cannot be put back
                self._restore.callback(signal.signal, number, before)

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        self._signals.append(number)
        self._forward()

    def _forward(self) -> None:
        """Send the command the signals that have arrived. A handler may run in the middle and send the rest."""
        process = self._process
        while process is not None and process.returncode is None:
            try:
                number = self._signals.popleft()
            except IndexError:
                return
            _signal_group(process, number)

    def _block(self) -> None:
        """In all threads, those to come too, but not in the command."""
        if sys.platform == "linux":
            before = signal.pthread_sigmask(signal.SIG_BLOCK, _numbers(*_OUR_OWN))
            self._restore.callback(signal.pthread_sigmask, signal.SIG_SETMASK, before)
            self._blocked = True

    def _take_blocked(self) -> None:
        if sys.platform == "linux" and self._blocked:
            while True:
                came = signal.sigtimedwait(_numbers(*_OUR_OWN), 0)
                if came is None:
                    return
                if came.si_pid != os.getpid():
                    self._handle(came.si_signo, None)

    def _handle_stop(self, _number: int, _frame: FrameType | None) -> None:
        self._stop_asked = True
        self._stop()

    def _stop(self) -> None:
        """Stop the command and ourselves until we are continued, if that was asked; once there is a command."""
        process = self._process
        if sys.platform != "win32" and self._stop_asked and process is not None:
            self._stop_asked = False
            began = time.monotonic()
            is_running = process.returncode is None
            if is_running:  # not SIGTSTP: nothing in a session without a terminal heeds it
                _signal_group(process, signal.SIGSTOP)
            signal.raise_signal(signal.SIGSTOP)  # returns when we are continued
            if is_running:
                _signal_group(process, signal.SIGCONT)
            self._stopped += time.monotonic() - began

    def start(
        self,
        command: list[str],
        stdout: int | None,
        stderr: int | None,
        environment: Mapping[str, str],
    ) -> int:
        """Start `command`, its output to these descriptors or to our own; its process id.

        Raises `OSError` when that cannot be done. Call it before any thread is started.
        """
        preexec = None
        if self._ignored_children:
            preexec = _ignore_children
        self._process = subprocess.Popen(
            command,
            stdout=stdout,
            stderr=stderr,
            env=environment,
            start_new_session=sys.platform != "win32",
            preexec_fn=preexec,
        )
        self._forward()  # what came before it was there
        self._stop()
        self._block()
        return self._process.pid

    def returncode(self, within: float = 0.0) -> int | None:
        """Its exit code, or minus the signal that ended it; ``None`` if it still runs after `within` seconds."""
        if self._process is None:
            return None
        self._take_blocked()
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self._process.wait(within)
        return None

    def end(self) -> None:
        """End the whole group: SIGTERM, then SIGKILL for what is left after `_GRACE` seconds."""
        if self._process is None:
            return
        deadline = time.monotonic() + _GRACE
        _signal_group(self._process, signal.SIGTERM)
        while time.monotonic() < deadline:
            if self._process.poll() is not None and not _signal_group(self._process, 0):
                break
            time.sleep(0.01)
        if sys.platform != "win32":
            _signal_group(self._process, signal.SIGKILL)
        self._process.wait()


def _ignore_children() -> None:
    if sys.platform != "win32":
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)


def _signal_group(process: "subprocess.Popen[bytes]", number: int) -> bool:
    """Send a signal to the group; whether it still has a process."""
    if sys.platform == "win32":
        process.terminate()  # Windows knows no other
        return process.poll() is None
    else:
        try:
            os.killpg(process.pid, number)
        except OSError:  # no such group; on macOS "not permitted" for one of zombies only
            return False
        return True
