# SPDX-License-Identifier: MIT
"""Several output files that grow, shown as one stream: whose output it is, and what a terminal may get of it.

The rule: files and bytes are dealt with here; when a run's files are opened and closed is decided in `_logs`. Memory is
bounded by a few blocks for each open file.
"""

import os
import sys
from collections.abc import Sequence
from typing import Self

from .._tail import BLOCK, Tail
from ._render import printable, printable_lines
from ._steps import Run

__all__ = ["Output", "Outputs"]


class Output:
    """One output file of a run."""

    def __init__(self, run: Run, stream: str, path: str, lines: int | None) -> None:
        self.tail = Tail(path, lines=lines)
        self.line = b""
        """The beginning of a line, while lines of several runs are mixed."""
        self.begun = 0
        """`restarts` of the tail when that was read: after another one its rest will never come."""
        self.assign(run, stream)

    def assign(self, run: Run, stream: str) -> None:
        """What comes from now on is this run's: a path may be used again, for appending or for overwriting."""
        label = printable(run.label)
        self.run = run
        self.done = False
        """Whether the run has ended, and what it wrote has been shown."""
        self.restarts = -1
        """Of the tail, at the latest marker: after another one there is to be another."""
        self.marker = f"==> {label} ({stream}) <==\n".encode()
        self.prefix = (f"{label} | " if stream == "stdout" else f"{label} ({stream}) | ").encode()


class Outputs:
    """The open files, and what was shown of them last. `mixed` means line by line, each with whose it is.

    Otherwise a marker tells of each change, unless there is nobody to tell apart (`marked` is false).
    """

    def __init__(self) -> None:
        self.open: list[Output] = []
        self.marked = True
        self._latest: Output | None = None
        """Whose output was shown last, unless lines were mixed."""
        self._last = b""
        """The last byte shown."""
        self._stdout = None if sys.__stdout__ is None else sys.__stdout__.buffer
        self._terminal = (os.device_encoding(1) or "ascii") if os.isatty(1) else None
        """The encoding of the terminal, if it is one."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close(self.open)

    def read(self, mixed: bool) -> bool:
        """Show the next block of each file; whether there was any."""
        found = False
        for output in self.open:
            data = output.tail.read()
            self._show(output, data, mixed)
            found = found or bool(data)
        return found

    def drain(self, outputs: Sequence[Output], mixed: bool) -> None:
        """Show all that is in some files that are at their end."""
        for output in outputs:
            for data in output.tail.rest():
                self._show(output, data, mixed)
            self._show(output, b"", mixed, final=True)
            output.done = True

    def close(self, outputs: Sequence[Output]) -> None:
        """Be done with some files, whatever may be in them."""
        for output in outputs:
            output.tail.close()
        self.open = [output for output in self.open if output not in outputs]

    def _show(self, output: Output, data: bytes, mixed: bool, final: bool = False) -> None:
        if self._terminal is not None:
            text = printable_lines(output.tail.decode(data, final=final))
            data = text.encode(self._terminal, "backslashreplace")
        broken_off = output.line and output.begun != output.tail.restarts
        data, output.line = output.line + (b"\n" if broken_off else b"") + data, b""
        if mixed:
            *lines, output.line = data.split(b"\n")
            output.begun = output.tail.restarts
            if output.line and (final or len(output.line) > BLOCK):
                lines.append(output.line)
                output.line = b""
            data = b"".join(output.prefix + line + b"\n" for line in lines)
        if not data:
            return
        line_end = b"" if self._last in (b"", b"\n") else b"\n"
        if mixed:
            data = line_end + data
        elif self.marked and (output is not self._latest or output.tail.restarts != output.restarts):
            data = line_end + (b"\n" if self._last else b"") + output.marker + data
        self._latest, output.restarts, self._last = None if mixed else output, output.tail.restarts, data[-1:]
        if self._stdout is not None:
            self._stdout.write(data)
            self._stdout.flush()
