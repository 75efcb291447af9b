# SPDX-License-Identifier: MIT
"""Several output files that grow, shown as one stream that says which step's output follows.

Two forms. Normally each file's new bytes are shown as they are, behind a marker that names the step where the file
changes. While several runs write (`mixed`), whole lines are shown, each with its step and item in front. Memory is
bounded by a few blocks for each open file.

When a run's files are opened and closed is decided in `commands.logs`. The paths come from payloads, and other users may
write where they lead: a file that cannot be shown is named with the reason, and so is one that may not be what the step
wrote.
"""

import errno
import os
import stat
import sys
from collections.abc import Iterator, Sequence
from typing import Final, Self

from .._output_tail import BLOCK, Tail
from .arguments import is_log
from .model.step_run import StepRun
from .recorded_paths import (
    is_elsewhere,
    owners,
    real_path,
)
from .show.messages import say
from .show.output_streams import write_bytes
from .show.terminal_text import (
    cut,
    printable,
    printable_lines,
)

__all__ = ["Output", "Outputs"]

_LABEL: Final = 120
"""Columns of a step's and item's name before each line at most."""

_PATH_ENDS: Final = 150
"""Characters of a long path that a message has from its beginning, and from its end."""

_HOST: Final = 64
"""Characters of a host's name that a message has."""

_LONGEST_LINE: Final = 2 * BLOCK
"""Bytes of a line without an end that are held back at most."""


class Output:
    """One output file of a run."""

    def __init__(
        self,
        run: StepRun,
        stream: str,
        path: str,
        tail: Tail,
    ) -> None:
        self.path = path
        """As it was recorded."""
        self.tail = tail
        self.line_begin = b""
        """The beginning of a line, while lines of several runs are mixed."""
        self.line_restarts = 0
        """`restarts` of the tail when that was read: after another one its rest will never come."""
        self.owner_restarts = -1
        """`restarts` of the tail when the file's owner was last checked."""
        self.assign(run, stream)

    def assign(self, run: StepRun, stream: str) -> None:
        """What comes from now on is this run's: a path may be used again, for appending or for overwriting."""
        label = cut(printable(run.label[: 2 * _LABEL]), _LABEL)
        self.run = run
        self.done = False
        """Whether the run has ended, and what it wrote has been shown."""
        self.marker_restarts = -1
        """`restarts` of the tail at the latest marker: after another one there is to be another."""
        self.marker = f"==> {label} ({stream}) <==\n".encode()
        prefix = f"{label} ({stream}) | "
        if stream == "stdout":
            prefix = f"{label} | "
        self.prefix = prefix.encode()

    def take_line_begin(self) -> bytes:
        """The beginning of a line that was held back; on a line of its own, if its rest will never come."""
        begin = self.line_begin
        self.line_begin = b""
        if begin and self.line_restarts != self.tail.restarts:
            begin += b"\n"
        return begin


class Outputs:
    """The open files, and what was shown of them last."""

    def __init__(self, db: str) -> None:
        self.open: list[Output] = []
        self.marked = True
        """Whether markers say which step's output follows; not needed for a single file."""
        self.failed = False
        """Whether a file could not be shown."""
        self._db = db
        self._owners = owners(db)
        self._said = set[str]()
        self._latest: Output | None = None
        """The file shown last; ``None`` if lines were mixed."""
        self._last_byte = b""
        """The last byte shown."""
        self._is_terminal = os.isatty(1)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for output in self.open:
            output.tail.close()

    def add(
        self,
        run: StepRun,
        stream: str,
        path: str,
        lines: int | None,
    ) -> None:
        """Open a file of a run, at its last `lines` lines or its beginning. A message names one that cannot be shown."""
        real = real_path(path)
        try:
            if is_log(real, self._db):
                raise OSError(errno.EINVAL, "this is the log itself", real)
            tail = Tail(real, lines=lines, through_links=False)
        except OSError as error:
            self._fail(run, real, error)
        else:
            self.open.append(Output(run, stream, path, tail))

    def read(self, mixed: bool) -> bool:
        """Show the next block of each file; whether there was any."""
        found = False
        for output in tuple(self.open):
            try:
                data = output.tail.read()
            except OSError as error:
                self._drop(output, error, mixed)
                continue
            self._show(output, data, mixed)
            if data:
                found = True
        return found

    def drain(self, outputs: Sequence[Output], mixed: bool) -> None:
        """Show all that is left in some files that are complete."""
        for output in tuple(outputs):
            for data in self._rest(output, mixed):
                self._show(output, data, mixed)
            self._show(output, b"", mixed, final=True)
            output.done = True

    def close(self, outputs: Sequence[Output]) -> None:
        """Close some files, even if something is left in them. A message names those of a run that left none."""
        for output in tuple(outputs):
            if output in self.open and output.tail.status() is None and not _has_files(output.run):
                missing = FileNotFoundError(errno.ENOENT, "no such file")
                self._fail(output.run, output.tail.path, missing)
            output.tail.close()
        self.open = [output for output in self.open if output not in outputs]

    def _rest(self, output: Output, mixed: bool) -> Iterator[bytes]:
        try:
            yield from output.tail.rest()
        except OSError as error:
            self._drop(output, error, mixed)

    def _drop(
        self,
        output: Output,
        error: OSError,
        mixed: bool,
    ) -> None:
        """Close a file that can be read no further."""
        self._show(output, b"", mixed, final=True)
        self._fail(output.run, output.tail.path, error)
        output.done = True
        output.tail.close()
        self.open.remove(output)

    # ----------------------------------------------------------------------------------------------------- messages

    def _fail(
        self,
        run: StepRun,
        path: str,
        error: OSError,
    ) -> None:
        self.failed = True
        why = error.strerror or str(error)
        if run.host is not None and is_elsewhere(run):
            why += f" (it was written on host {run.host[:_HOST]!r})"
        self._say(path, why)

    def _say(self, path: str, what: str) -> None:
        """Say something of a file or folder, once."""
        if len(path) > 2 * _PATH_ENDS:
            path = f"{path[:_PATH_ENDS]}…{path[-_PATH_ENDS:]}"
        message = f"{path}: {what}"
        if message not in self._said:
            self._said.add(message)
            say(message)

    def _check_owner(self, output: Output) -> None:
        """Warn, before it is shown, if a file may be another user's work."""
        output.owner_restarts = output.tail.restarts
        file = output.tail.status()
        if sys.platform != "win32" and file is not None:
            folder = os.path.dirname(output.tail.path) or "."
            try:
                place = os.stat(folder)
            except OSError:  # it is gone, so no other user writes there any more
                return
            doubt = "what is shown may not be what the step wrote"
            if file.st_uid not in self._owners:
                self._say(output.tail.path, f"belongs to another user ({file.st_uid}); {doubt}")
            if place.st_uid not in self._owners:
                self._say(folder, f"belongs to another user ({place.st_uid}); {doubt}")
            elif place.st_mode & stat.S_IWOTH and not place.st_mode & stat.S_ISVTX:
                self._say(folder, f"every user may write there; {doubt}")

    # ------------------------------------------------------------------------------------------------------ showing

    def _show(
        self,
        output: Output,
        data: bytes,
        mixed: bool,
        final: bool = False,
    ) -> None:
        """Show the next bytes of a file; `final` if no more will come."""
        if data and output.owner_restarts != output.tail.restarts:
            self._check_owner(output)
        if self._is_terminal:
            data = printable_lines(output.tail.decode(data, final=final)).encode()
        data = output.take_line_begin() + data
        if mixed:
            data = self._prefixed_lines(output, data, final)
        if not data:
            return
        data = self._separator(output, mixed) + data
        self._latest = output
        if mixed:
            self._latest = None
        output.marker_restarts = output.tail.restarts
        self._last_byte = data[-1:]
        if self._is_terminal:
            print(data.decode(), end="", flush=True)
        else:
            write_bytes(data)

    def _prefixed_lines(
        self,
        output: Output,
        data: bytes,
        final: bool,
    ) -> bytes:
        """The whole lines, each with its prefix; a line without an end is held back, unless it gets too long."""
        *lines, rest = data.split(b"\n")
        if self._is_terminal:
            lines = [_overwritten(line) for line in lines]
            rest = _shortened(rest)
        if rest and (final or len(rest) > _LONGEST_LINE):
            lines.append(_overwritten(rest) if self._is_terminal else rest)
            rest = b""
        output.line_begin = rest
        output.line_restarts = output.tail.restarts
        return b"".join(output.prefix + line + b"\n" for line in lines)

    def _separator(self, output: Output, mixed: bool) -> bytes:
        """What goes before the next bytes: the end of an unfinished line, and a marker where the file changes."""
        line_end = b"\n"
        if self._last_byte in (b"", b"\n"):
            line_end = b""
        if mixed:
            return line_end
        is_same = output is self._latest and output.tail.restarts == output.marker_restarts
        if is_same or not self.marked:
            return b""
        blank_line = b""
        if self._last_byte:
            blank_line = b"\n"
        return line_end + blank_line + output.marker


def _has_files(run: StepRun) -> bool:
    """Whether at least one is there. The other may come with the first byte, and need never come."""
    if run.paths is None:
        return False
    paths = (run.paths.stdout_path, run.paths.stderr_path)
    return any(path and os.path.lexists(real_path(path)) for path in paths)


def _overwritten(line: bytes) -> bytes:
    """What a terminal shows of a line in the end: after a carriage return it is written over from its beginning."""
    if b"\r" not in line:
        return line
    shown = list[str]()
    for state in line.decode().split("\r"):
        shown[: len(state)] = state
    return "".join(shown).encode()


def _shortened(line: bytes) -> bytes:
    """As short a line that will look the same with any addition."""
    if b"\r" not in line:
        return line
    _, _, latest = line.rpartition(b"\r")
    return _overwritten(line) + b"\r" + latest
