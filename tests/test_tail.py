# SPDX-License-Identifier: MIT
"""`_output_tail`: real files that grow, shrink, move and vanish, read by real reads."""

import errno
import os
import signal
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import pytest

from orch_events import follow_log_file
from orch_events._output_tail import BLOCK, Tail


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "step.stdout"


def append(path: Path, data: bytes) -> None:
    with path.open("ab") as file:
        file.write(data)


def everything(tail: Tail) -> bytes:
    return b"".join(iter(tail.read, b""))


def test_follows_a_file_that_does_not_exist_yet_in_bounded_reads(path: Path) -> None:
    with Tail(path, lines=1) as tail:  # `lines` is about what was there at first, which is nothing
        assert tail.read() == b""
        append(path, b"one\ntwo\n")
        assert tail.read() == b"one\ntwo\n"
        assert tail.read() == b""
        data = os.urandom(2 * BLOCK + 1)
        append(path, data)
        assert [len(block) for block in iter(tail.read, b"")] == [BLOCK, BLOCK, 1]
        append(path, data)
        assert everything(tail) == data
        assert tail.restarts == 0


def test_starts_again_at_0_when_truncated(path: Path) -> None:
    append(path, b"long enough")
    with Tail(path) as tail:
        assert everything(tail) == b"long enough"
        os.truncate(path, 0)
        assert tail.read() == b""
        append(path, b"new")
        assert (everything(tail), tail.restarts) == (b"new", 1)
        path.write_bytes(b"n")  # shrunk and written to between two reads
        assert (b"".join(tail.rest()), tail.restarts) == (b"n", 2)
        path.write_bytes(b"longer than it was")  # and looked at only now
        assert (everything(tail), tail.restarts) == (b"longer than it was", 3)
        path.write_bytes(b"longer than what was longer" * BLOCK)
        assert (b"".join(tail.rest()), tail.restarts) == (b"longer than what was longer" * BLOCK, 4)


def test_starts_again_at_0_when_truncated_before_the_first_read(path: Path) -> None:
    append(path, b"long enough\n")
    with Tail(path, lines=0) as tail:
        path.write_bytes(b"new")
        assert (everything(tail), tail.restarts) == (b"new", 1)


def test_finishes_a_replaced_file_to_its_last_byte(path: Path, tmp_path: Path) -> None:
    append(path, b"old")
    with Tail(path) as tail:
        assert tail.read() == b"old"
        path.rename(tmp_path / "rotated")
        assert tail.read() == b""  # nothing in its place yet
        append(tmp_path / "rotated", b", the end" * BLOCK)
        append(path, b"new")
        assert b"".join(tail.rest()) == b", the end" * BLOCK + b"new"
        assert tail.restarts == 1
        path.unlink()
        append(path, b"newer")
        assert everything(tail) == b"newer"


def test_loses_nothing_that_came_just_before_the_replacement(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    append(path, b"old")

    def rotate_meanwhile(descriptor: int) -> os.stat_result:
        monkeypatch.undo()
        append(path, b"er")
        path.rename(tmp_path / "rotated")
        append(path, b"new")
        return os.fstat(descriptor)

    with Tail(path) as tail:
        assert tail.read() == b"old"
        monkeypatch.setattr(
            os, "fstat", rotate_meanwhile
        )  # called after the read that finds nothing new
        assert list(iter(tail.read, b"")) == [b"er", b"new"]


@pytest.mark.parametrize(
    ("pieces", "texts"),
    [
        pytest.param([b"\xc3", b"\xa9!"], ["", "é!"], id="two-bytes"),
        pytest.param(
            [b"a\xf0\x9f", b"\x98", b"\x80b"], ["a", "", "\N{GRINNING FACE}b"], id="four-bytes"
        ),
        pytest.param([b"\xff", b"\xc3("], ["\ufffd", "\ufffd("], id="invalid"),
        pytest.param(
            [b"a\xc3", None, b"\xa9"], ["a", "\ufffd\ufffd"], id="truncated-within-a-character"
        ),
    ],
)
def test_decodes_a_split_character_once(
    path: Path, pieces: list[bytes | None], texts: list[str]
) -> None:
    path.touch()
    decoded: list[str] = []
    with Tail(path) as tail:
        for piece in pieces:
            if piece is None:
                os.truncate(path, 0)
            else:
                append(path, piece)
                decoded.append(tail.decode(tail.read()))
        assert decoded == texts
        append(path, b"\xe2\x82")
        assert tail.decode(tail.read()) + tail.decode(b"", final=True) == "\ufffd"


LONG = b"x" * (BLOCK - 2)


@pytest.mark.parametrize("lines", [0, 1, 2, 3, 1000])
@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\n",
        b"a",
        b"a\n",
        b"a\nb",
        b"a\nb\n",
        b"\n\n\n",
        b"a\n\n\nb\n",
        b"\n" + LONG + b"\n\n\n",
        *(b"%b\n%b\n%b\n" % (LONG[cut:], LONG, LONG[2 * cut :]) for cut in range(4)),
    ],
)
def test_starts_at_the_last_lines(path: Path, content: bytes, lines: int) -> None:
    path.write_bytes(content)
    with Tail(path, lines=lines) as tail:
        assert everything(tail) == b"".join(
            content.splitlines(keepends=True)[-lines:] if lines else []
        )
        append(path, b"more\n")
        assert tail.read() == b"more\n"


def test_the_last_lines_of_a_gigabyte_cost_no_memory(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(1 << 30)
    append(path, b"\nlast but one\nlast\n")
    tracemalloc.start()
    try:
        with Tail(path, lines=2) as tail:
            assert everything(tail) == b"last but one\nlast\n"
        with Tail(path) as tail:
            blocks = [len(data) for data, _ in zip(tail.rest(), range(3), strict=False)]
        assert blocks == [BLOCK] * 3
        assert tracemalloc.get_traced_memory()[1] < 16 * BLOCK
    finally:
        tracemalloc.stop()


def test_the_last_lines_behind_a_hole_of_a_terabyte(path: Path) -> None:
    append(path, b"first\n")
    os.truncate(path, 1 << 40)
    append(path, b"\nlast\n")
    with Tail(path, lines=2) as tail:
        assert tail.read() == b"\0" * BLOCK
    with Tail(path, lines=1) as tail:
        assert tail.read() == b"last\n"


def test_rest_ends_however_fast_the_file_grows(path: Path) -> None:
    append(path, b"a" * 3 * BLOCK)
    with Tail(path) as tail:
        got = 0
        for data in tail.rest():
            got += len(data)
            append(path, data * 2)
            assert got < 5 * BLOCK
        assert got >= 3 * BLOCK


def link_to_zeros(path: Path) -> None:
    path.symlink_to("/dev/zero")


def link_to_itself(path: Path) -> None:
    path.symlink_to(path)


def nothing(_path: Path) -> None:
    """The path itself is the fault."""


def name_of_a_file_s_child(path: Path) -> None:
    path.parent.rmdir()
    path.parent.touch()


@pytest.mark.parametrize(
    ("make", "name", "number", "kind"),
    [
        (os.mkfifo, "fifo", errno.EINVAL, OSError),
        (os.mkdir, "folder", errno.EISDIR, IsADirectoryError),
        (link_to_zeros, "device", errno.EINVAL, OSError),
        (link_to_itself, "loop", errno.ELOOP, OSError),
        (name_of_a_file_s_child, "child", errno.ENOTDIR, NotADirectoryError),
        (nothing, "a\0b", errno.EINVAL, OSError),
        (nothing, "\ud800", errno.EINVAL, OSError),
        (nothing, "x" * 300, errno.ENAMETOOLONG, OSError),
    ],
)
def test_what_can_never_be_read_is_an_error_that_names_it(
    tmp_path: Path, make: Callable[[Path], None], name: str, number: int, kind: type[OSError]
) -> None:
    path = tmp_path / "logs" / name
    path.parent.mkdir()
    make(path)
    with pytest.raises(kind) as caught:
        next(follow_log_file(path))
    assert (caught.value.errno, caught.value.filename) == (number, str(path))
    with pytest.raises(kind):
        Tail(path, lines=1)


def test_an_empty_path_is_not_waited_for() -> None:
    with pytest.raises(OSError, match="an empty path"):
        next(follow_log_file(""))


@contextmanager
def as_nobody() -> Iterator[None]:
    """As a user whom permissions stop."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture
def open_to_all(tmp_path: Path) -> Iterator[Path]:
    """A folder that a user other than the one that runs the tests can reach, too."""
    with TemporaryDirectory() as folder:
        os.chmod(folder, 0o777)
        yield Path(folder)


def test_a_file_that_may_not_be_read_is_an_error(open_to_all: Path) -> None:
    path = open_to_all / "step.stdout"
    append(path, b"secret")
    path.chmod(0)
    with as_nobody(), pytest.raises(PermissionError, match="step.stdout"):
        next(follow_log_file(path))


def test_a_new_file_may_be_refused_until_it_is_given_to_its_owner(open_to_all: Path) -> None:
    path = open_to_all / "step.stdout"
    append(path, b"old")
    path.chmod(0o644)
    with as_nobody(), Tail(path) as tail:
        assert tail.read() == b"old"
        os.seteuid(os.getuid())
        path.rename(open_to_all / "rotated")
        append(path, b"new")
        path.chmod(0)
        os.seteuid(65534 if os.getuid() == 0 else os.getuid())
        assert tail.read() == b""
        os.seteuid(os.getuid())
        path.chmod(0o644)
        os.seteuid(65534 if os.getuid() == 0 else os.getuid())
        assert tail.read() == b"new"
        os.seteuid(os.getuid())
        path.rename(open_to_all / "rotated again")
        append(path, b"newer")
        path.chmod(0)
        os.seteuid(65534 if os.getuid() == 0 else os.getuid())
        assert tail.read() == b""
        with pytest.raises(PermissionError):
            tail.read()


def test_what_comes_in_the_place_of_a_file_and_is_none_ends_it(path: Path) -> None:
    append(path, b"all there is")
    with Tail(path) as tail:
        assert everything(tail) == b"all there is"
        path.unlink()
        assert (tail.read(), list(tail.rest()), tail.restarts) == (b"", [], 0)
        path.mkdir()
        with pytest.raises(IsADirectoryError):
            tail.read()
        with pytest.raises(IsADirectoryError):
            list(tail.rest())


def test_a_pipe_that_comes_between_look_and_open_is_not_waited_for(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    append(path, b"a file")
    look = os.stat

    def replace_after(*arguments: object, **options: object) -> os.stat_result:
        status = look(path)
        monkeypatch.undo()
        path.unlink()
        os.mkfifo(path)
        return status

    monkeypatch.setattr(os, "stat", replace_after)
    with pytest.raises(OSError, match="not a regular file"):
        next(follow_log_file(path))


LINES: Final = b"".join(b"line %06d\n" % number for number in range(20_000))
OTHER: Final = LINES.replace(b"line 010000", b"LINE 010000")


@pytest.mark.parametrize("way", ["truncating", "in place"])
@pytest.mark.parametrize(
    ("before", "after"),
    [
        (b"step 1 of 2: done, nothing odd\n", b"step 2 of 2: done, nothing odd\n"),
        (LINES, OTHER),
        (LINES, OTHER + b"and more\n"),
        (LINES, b"anew: " + LINES),
        (LINES, LINES[:150_000]),
    ],
    ids=["small", "large", "longer, other beginning", "longer, other middle", "shorter"],
)
def test_starts_again_when_rewritten(path: Path, before: bytes, after: bytes, way: str) -> None:
    if len(after) > len(before) and after.startswith(OTHER[:1000]):
        after = b"." + after[1:]
    append(path, before)
    with Tail(path) as tail:
        assert everything(tail) == before
        with path.open("wb" if way == "truncating" else "r+b") as file:
            file.write(after)
            file.truncate()
        assert b"".join(tail.rest()) == after
        assert (tail.restarts, everything(tail)) == (1, b"")


def test_a_file_that_was_only_touched_or_has_grown_is_not_read_again(path: Path) -> None:
    append(path, LINES)
    with Tail(path) as tail:
        assert everything(tail) == LINES
        os.utime(path)
        path.chmod(0o600)
        assert everything(tail) == b""
        path.write_bytes(LINES + b"more")  # the same and more: that is growth
        assert (everything(tail), tail.restarts) == (b"more", 0)


def test_an_idle_look_reads_little_of_a_file(path: Path) -> None:
    append(path, b"x" * 4_000_000)
    with Tail(path) as tail:
        everything(tail)
        before = bytes_read()
        for _ in range(10):
            assert tail.read() == b""
        assert bytes_read() - before < 10 * 20_000


def bytes_read() -> int:
    """By this process so far."""
    return int(Path("/proc/self/io").read_text().split()[1])


def test_text_is_followed_until_told_to_stop(path: Path) -> None:
    append(path, b"one\ntwo\nthr")
    stop = threading.Event()
    text = follow_log_file(path, lines=2, stop=stop)
    assert next(text) == "two\nthr"
    append(path, "ee €".encode()[:-1])
    assert next(text) == "ee "
    append(path, "€".encode()[-1:] + b"\n")
    assert next(text) == "€\n"
    path.write_bytes(b"new")
    assert next(text) == "new"
    append(path, b"last \xe2")
    stop.set()
    assert list(text) == ["last ", "\ufffd"]


class NotWaitedFor(threading.Event):
    """Whoever waits for an event holds its lock for moments, and a signal handler that sets it hangs if it comes then."""

    def wait(self, timeout: float | None = None) -> bool:
        raise AssertionError("waited for")


def test_a_signal_handler_may_tell_it_to_stop(path: Path) -> None:
    append(path, b"all")
    stop = NotWaitedFor()
    before = signal.signal(signal.SIGALRM, lambda *_: stop.set())
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        assert "".join(follow_log_file(path, stop=stop)) == "all"
    finally:
        signal.signal(signal.SIGALRM, before)


def test_a_file_to_follow_may_come_later(path: Path) -> None:
    stop = threading.Event()

    def write() -> None:
        append(path, b"here")
        stop.set()

    writing = threading.Timer(0.15, write)
    writing.start()
    assert "".join(follow_log_file(path, stop=stop)) == "here"
    writing.join()
