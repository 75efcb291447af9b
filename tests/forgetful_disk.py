# SPDX-License-Identifier: MIT
"""What a program wrote and synced, as `strace` saw it, and the files that a power cut in the middle could leave.

`record` runs a program and tells its `Step`s in the folder it works in, and what it said meanwhile, in one order.
`Disk` takes the steps one by one, and `Disk.after_cut` gives files as they may be when the power fails after the last:

- what was written before an `fsync` or `fdatasync` of the file began is there, once that has returned;
- of what was written or cut off since, each piece is there or not, whole writes or sectors of 512 bytes, in any order;
- a name that was made or removed since the folder was synced is there or not, each by itself;
- shared memory, the ``-shm`` file, is gone or full of anything.

More can go wrong than this knows: a disk that lies about syncs, or spoils sectors that nobody wrote to; and a file
that grew may hold what somebody else deleted where this leaves zeros. And it is harsher than many file systems, which
keep the order of names. Whether anything escaped it, a program that ended by itself tells: `Disk.files` must be what is
there.
"""

import random
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, NamedTuple, TypeAlias

SECTOR: Final = 512
SHARED_MEMORY: Final = "-shm"
SHARED_MEMORY_BYTES: Final = 32768

CALLS: Final = (
    "write,pwrite64,pwritev,pwritev2,?ftruncate,?truncate,fallocate,fsync,fdatasync,"
    "openat,?open,?creat,?link,linkat,?unlink,unlinkat,?rename,?renameat,renameat2"
)


class Write(NamedTuple):
    name: str
    offset: int
    data: bytes


class Truncate(NamedTuple):
    name: str
    size: int


class Sync(NamedTuple):
    name: str
    """Of a file; empty for the folder."""
    begun: int
    """How many steps had been taken then: those are on disk."""


class Link(NamedTuple):
    """A name in the folder."""

    name: str
    other: str = ""
    """Whose file it names too; none if it is a new one."""


class Unlink(NamedTuple):
    name: str


class Said(NamedTuple):
    """Written to standard output."""

    text: str


Step: TypeAlias = Write | Truncate | Sync | Link | Unlink | Said

# ------------------------------------------------------------------------------------------------------- recording


def missing() -> str:
    """Why nothing can be recorded here; empty if it can."""
    if not sys.platform.startswith("linux") or shutil.which("strace") is None:
        return "there is no strace"
    tried = subprocess.run(["strace", "-o", "/dev/null", "true"], capture_output=True)
    return "strace is not allowed" if tried.returncode else ""


def record(command: Sequence[str], folder: Path, trace: Path) -> list[Step]:
    """Run a program that works in `folder`, to its end; what it did there and said."""
    strace = f"strace -f -y -xx -s 10000000 -e trace={CALLS} -o".split()
    subprocess.run([*strace, str(trace), *command], check=True, stdout=subprocess.PIPE)
    with trace.open() as lines:
        return _Tracing(folder).steps(lines)


_CALL: Final = re.compile(r"(\w+)\((.*)\) += (-?\d+)", re.DOTALL)
_HEX: Final = r"((?:\\x[0-9a-f]{2})*)"
_FILE: Final = re.compile(rf"(\d+)<{_HEX}>(\(deleted\))?")
_TEXT: Final = re.compile(rf'"{_HEX}"')
_NAMING: Final = ("open", "creat", "link", "unlink", "rename", "truncate")
"""How the calls begin that take a path."""


def _plain(text: str) -> bytes:
    return bytes.fromhex(text.replace("\\x", ""))


class _Tracing:
    """Turns lines of `strace` into steps."""

    def __init__(self, folder: Path) -> None:
        self._folder = f"{folder}/"
        self._steps = list[Step]()
        self._names = set[str]()
        self._unfinished = dict[str, tuple[str, int]]()
        """Of each thread that is in a call: the line so far, and how many steps had been taken."""

    def steps(self, lines: Iterator[str]) -> list[Step]:
        for line in lines:
            thread, text = line.rstrip("\n").split(None, 1)
            begun = len(self._steps)
            if text.endswith(" <unfinished ...>"):
                self._unfinished[thread] = text.removesuffix(" <unfinished ...>"), begun
                continue
            if text.startswith("<..."):
                start, begun = self._unfinished.pop(thread)
                text = start + text.split(" resumed>", 1)[1]
            call = _CALL.match(text)
            if call and not call[3].startswith("-"):
                self._take(call[1], call[2], int(call[3]), begun)
        return self._steps

    def _take(self, call: str, arguments: str, result: int, begun: int) -> None:
        if call.startswith(_NAMING):
            names = [self._name(_plain(text).decode()) for text in _TEXT.findall(arguments)]
            if any(name is not None for name in names):
                self._take_names(call, arguments, [name or "" for name in names])
            return
        file = _FILE.match(arguments)
        if file is None or file[3]:
            return
        name = self._name(_plain(file[2]).decode())
        if call == "write" and file[1] == "1":
            self._steps.append(Said(_plain(_TEXT.findall(arguments)[0]).decode()))
        elif name is not None:
            self._take_file(call, name, arguments, result, begun)

    def _name(self, path: str) -> str | None:
        """Of a file in the folder; empty for the folder, none for any other."""
        if path == self._folder[:-1]:
            return ""
        return path.removeprefix(self._folder) if path.startswith(self._folder) else None

    def _take_names(self, call: str, arguments: str, names: list[str]) -> None:
        if call in ("open", "openat"):
            if "O_CREAT" in arguments and names[0] not in self._names:
                self._names.add(names[0])
                self._steps.append(Link(names[0]))
            assert "O_TRUNC" not in arguments, "a step this does not know"
        elif call.startswith("unlink"):
            self._names.remove(names[0])
            self._steps.append(Unlink(names[0]))
        else:
            assert call.startswith("link"), f"a step this does not know: {call}"
            self._names.add(names[1])
            self._steps.append(Link(names[1], names[0]))

    def _take_file(self, call: str, name: str, arguments: str, result: int, begun: int) -> None:
        *_, last = arguments.split(", ")
        if call in ("fsync", "fdatasync"):
            self._steps.append(Sync(name, begun))
        elif call == "ftruncate":
            self._steps.append(Truncate(name, int(last)))
        else:
            assert call == "pwrite64", f"a step this does not know: {call}"
            data = _plain(_TEXT.findall(arguments)[0])[:result]
            self._steps.append(Write(name, int(last), data))


# ------------------------------------------------------------------------------------------------------ forgetting


class _File:
    def __init__(self) -> None:
        self.synced = bytearray()
        self.unsynced: list[tuple[int, Write | Truncate]] = []
        """With the number of the step."""

    def sync(self, begun: int) -> None:
        for number, change in self.unsynced:
            if number < begun:
                _apply(change, self.synced)
        self.unsynced = [pair for pair in self.unsynced if pair[0] >= begun]

    def whole(self) -> bytes:
        """As the program sees it."""
        content = bytearray(self.synced)
        for _, change in self.unsynced:
            _apply(change, content)
        return bytes(content)

    def after_cut(self, chance: random.Random) -> bytes:
        changes = [change for _, change in self.unsynced]
        if chance.random() < 0.5:
            changes = [piece for change in changes for piece in _sectors(change)]
        share = chance.choice([0, 0.1, 0.5, 0.9, 1])
        changes = [change for change in changes if chance.random() < share]
        if chance.random() < 0.5:
            chance.shuffle(changes)
        content = bytearray(self.synced)
        for change in changes:
            _apply(change, content)
        return bytes(content)


def _apply(change: Write | Truncate, content: bytearray) -> None:
    end = change.size if isinstance(change, Truncate) else change.offset
    if isinstance(change, Truncate):
        del content[end:]
    content.extend(bytes(max(0, end - len(content))))
    if isinstance(change, Write):
        content[end : end + len(change.data)] = change.data


def _sectors(change: Write | Truncate) -> Iterator[Write | Truncate]:
    if isinstance(change, Truncate):
        yield change
        return
    start, end = change.offset, change.offset + len(change.data)
    while start < end:
        stop = min(end, start - start % SECTOR + SECTOR)
        yield Write(change.name, start, change.data[start - change.offset : stop - change.offset])
        start = stop


class Disk:
    """A folder, as a program sees it and as it is on disk. Forgets what was not synced, when it is told to."""

    def __init__(self) -> None:
        self._names = dict[str, _File]()
        self._synced_names = dict[str, _File]()
        self._unsynced_names: list[tuple[int, str, _File | None]] = []
        """The number of the step, the name, and what has it since."""
        self._taken = 0

    def take(self, step: Step) -> None:
        match step:
            case Write() | Truncate():
                self._names[step.name].unsynced.append((self._taken, step))
            case Sync("", begun):
                self._sync_names(begun)
            case Sync(name, begun):
                self._names[name].sync(begun)
            case Link():
                self._rename(step.name, self._names[step.other] if step.other else _File())
            case Unlink():
                self._rename(step.name, None)
            case Said():
                pass
        self._taken += 1

    def files(self) -> dict[str, bytes]:
        """What the program sees, but for what is in shared memory."""
        return {
            name: file.whole()
            for name, file in self._names.items()
            if not name.endswith(SHARED_MEMORY)
        }

    def after_cut(self, chance: random.Random) -> dict[str, bytes]:
        """What may be there when the power comes back."""
        names = dict(self._synced_names)
        share = chance.choice([0, 0.5, 1])
        for _, name, file in self._unsynced_names:
            if chance.random() < share:
                _set(names, name, file)
        return {
            name: file.after_cut(chance)
            if not name.endswith(SHARED_MEMORY)
            else chance.randbytes(SHARED_MEMORY_BYTES)
            for name, file in names.items()
        }

    def _rename(self, name: str, file: _File | None) -> None:
        _set(self._names, name, file)
        self._unsynced_names.append((self._taken, name, file))

    def _sync_names(self, begun: int) -> None:
        for number, name, file in self._unsynced_names:
            if number < begun:
                _set(self._synced_names, name, file)
        self._unsynced_names = [change for change in self._unsynced_names if change[0] >= begun]


def _set(names: dict[str, _File], name: str, file: _File | None) -> None:
    if file is None:
        names.pop(name, None)
    else:
        names[name] = file
