# SPDX-License-Identifier: MIT
"""A child process: its group, its two log files, the signals on their way to it, the replay of its output.

The rule: processes, signals and descriptors are dealt with here, events are not. The child writes to its files itself,
so it goes on when we die; the replay has a thread of its own, so a reader that stops reading delays nothing else.
"""

import contextlib
import errno
import os
import re
import secrets
import signal
import subprocess
import sys
import threading
import time
from types import FrameType
from typing import Final, Self, cast

from .._tail import Tail
from ._render import say

__all__ = ["Child", "Output", "Replay"]

GRACE: Final = 5.0
"""Seconds between SIGTERM and SIGKILL."""
REPLAY_PAUSE: Final = 0.03
"""Seconds between two looks at the output: below what an eye notices, and 0.1 % of a core."""

_UNSAFE: Final = re.compile(r"[^\w.-]+")
_SIGNALS: Final[list[signal.Signals]] = [signal.SIGINT, signal.SIGTERM]
if sys.platform != "win32":
    _SIGNALS.append(signal.SIGHUP)


class Output:
    """The log files of one run: new ones each time, and only their owner may read them."""

    def __init__(self, folder: str, name: str) -> None:
        os.makedirs(folder, mode=0o700, exist_ok=True)
        stem = os.path.abspath(os.path.join(folder, f"{_UNSAFE.sub('_', name)[:80]}.{secrets.token_hex(4)}"))
        self.stdout_path, self.stderr_path = f"{stem}.stdout", f"{stem}.stderr"
        # Appending, so that a file truncated under a running command begins anew instead of with a hole.
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND
        self.stdout, self.stderr = (os.open(path, flags, 0o600) for path in (self.stdout_path, self.stderr_path))

    def sizes(self) -> tuple[int, int]:
        """Bytes in the two files so far."""
        return os.fstat(self.stdout).st_size, os.fstat(self.stderr).st_size

    def close(self) -> None:
        os.close(self.stdout)
        os.close(self.stderr)


class Child:
    """A command, in a process group of its own. While this is entered, what asks us to end goes to the group instead.

    The group is a session too: one in the background of our own session would be stopped when it reads the terminal.
    """

    def __init__(self) -> None:
        self.signals: list[int] = []
        """What has come so far."""
        self._sent = 0
        self._process: subprocess.Popen[bytes] | None = None
        self._restore = contextlib.ExitStack()

    def __enter__(self) -> Self:
        for number in _SIGNALS:
            # What is ignored (by `nohup`; SIGINT in a script's background jobs) the child ignores too.
            if cast("object", signal.getsignal(number)) is not signal.SIG_IGN:
                self._restore.callback(signal.signal, number, signal.signal(number, self._handle))
        return self

    def __exit__(self, *_: object) -> None:
        self._restore.close()

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        self.signals.append(number)
        self._forward()

    def _forward(self) -> None:
        while self._sent < len(self.signals) and self._process is not None and self._process.returncode is None:
            self._sent += 1
            _signal_group(self._process, self.signals[self._sent - 1])

    def start(self, command: list[str], output: Output) -> int:
        """Start `command` and return its process id. Raises `OSError` when that cannot be done."""
        self._process = subprocess.Popen(
            command, stdout=output.stdout, stderr=output.stderr, start_new_session=sys.platform != "win32"
        )
        self._forward()  # what came before it was there
        return self._process.pid

    def returncode(self, within: float = 0.0) -> int | None:
        """Its exit code, or minus the signal that ended it; ``None`` if it still runs after `within` seconds."""
        if self._process is None:
            return None
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self._process.wait(within)
        return None

    def end(self) -> None:
        """End the whole group: SIGTERM, then SIGKILL for whoever is left after `GRACE` seconds."""
        if self._process is None:
            return
        deadline = time.monotonic() + GRACE
        _signal_group(self._process, signal.SIGTERM)
        while time.monotonic() < deadline and (self._process.poll() is None or _signal_group(self._process, 0)):
            time.sleep(0.01)
        if sys.platform != "win32":
            _signal_group(self._process, signal.SIGKILL)
        self._process.wait()


def _signal_group(process: "subprocess.Popen[bytes]", number: int) -> bool:
    """Send a signal to the group; whether anybody was there to get it."""
    if sys.platform == "win32":
        process.terminate()  # Windows knows no other
        return process.poll() is None
    else:
        try:
            os.killpg(process.pid, number)
        except OSError:  # no such group; on macOS "not permitted" for one that has nobody but zombies
            return False
        return True


class Replay:
    """Copies what a child writes to its files to our own stdout and stderr, byte for byte, as it comes."""

    def __init__(self, output: Output) -> None:
        self._ended = threading.Event()
        # A daemon, since a reader that has stopped reading may block it for ever.
        self._thread = threading.Thread(target=self._work, args=(output,), daemon=True)
        self._thread.start()

    def finish(self, child: Child) -> None:
        """The child has ended: wait until everything it wrote is copied, or a signal says not to."""
        self._ended.set()
        before = len(child.signals)
        while self._thread.is_alive() and len(child.signals) == before:
            self._thread.join(0.1)

    def _work(self, output: Output) -> None:
        with Tail(output.stdout_path) as stdout, Tail(output.stderr_path) as stderr:
            # A stream is None when we were started with its descriptor closed, and the number may mean a file by now.
            pairs = ((stdout, sys.__stdout__), (stderr, sys.__stderr__))
            copies = [(tail, stream.fileno()) for tail, stream in pairs if stream is not None]
            ended = False
            while copies and not ended:
                ended = self._ended.wait(REPLAY_PAUSE)  # asked before reading, so that the last round misses nothing
                copies = [(tail, to) for tail, to in copies if all(_write(to, data) for data in tail.rest())]


def _write(descriptor: int, data: bytes) -> bool:
    """Write all of `data`; whether that went well."""
    rest = memoryview(data)
    while rest:
        try:
            rest = rest[os.write(descriptor, rest) :]
        except BlockingIOError:  # somebody who shares the terminal has made it non-blocking
            time.sleep(0.01)
        except OSError as error:
            if error.errno != errno.EPIPE:  # `head` has seen enough: no news
                say(f"the output is no longer shown: {error.strerror}")
            return False
    return True
