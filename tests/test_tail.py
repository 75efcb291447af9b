# SPDX-License-Identifier: MIT
"""`_tail`: real files that grow, shrink, move and vanish, read by real reads."""

import os
import threading
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest

from orch_events import follow_log_file
from orch_events._tail import BLOCK, Tail


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
        monkeypatch.setattr(os, "fstat", rotate_meanwhile)  # called after the read that finds nothing new
        assert list(iter(tail.read, b"")) == [b"er", b"new"]


@pytest.mark.parametrize(
    ("pieces", "texts"),
    [
        pytest.param([b"\xc3", b"\xa9!"], ["", "é!"], id="two-bytes"),
        pytest.param([b"a\xf0\x9f", b"\x98", b"\x80b"], ["a", "", "\N{GRINNING FACE}b"], id="four-bytes"),
        pytest.param([b"\xff", b"\xc3("], ["\ufffd", "\ufffd("], id="invalid"),
        pytest.param([b"a\xc3", None, b"\xa9"], ["a", "\ufffd\ufffd"], id="truncated-within-a-character"),
    ],
)
def test_decodes_a_split_character_once(path: Path, pieces: list[bytes | None], texts: list[str]) -> None:
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
    [b"", b"\n", b"a", b"a\n", b"a\nb", b"a\nb\n", b"\n\n\n", b"a\n\n\nb\n"]
    + [b"\n" + LONG + b"\n\n\n", *(b"%b\n%b\n%b\n" % (LONG[cut:], LONG, LONG[2 * cut :]) for cut in range(4))],
)
def test_starts_at_the_last_lines(path: Path, content: bytes, lines: int) -> None:
    path.write_bytes(content)
    with Tail(path, lines=lines) as tail:
        assert everything(tail) == b"".join(content.splitlines(keepends=True)[-lines:] if lines else [])
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


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, link_to_zeros])
def test_reads_nothing_but_regular_files(path: Path, make: Callable[[Path], None]) -> None:
    make(path)
    with Tail(path, lines=1) as tail:
        assert (tail.read(), list(tail.rest())) == (b"", [])


def test_keeps_to_the_file_it_has_when_no_file_replaces_it(path: Path) -> None:
    append(path, b"all there is")
    with Tail(path) as tail:
        assert everything(tail) == b"all there is"
        path.unlink()
        path.mkdir()
        assert (tail.read(), list(tail.rest()), tail.restarts) == (b"", [], 0)
    assert list(Tail("no\0path").rest()) == []


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


def test_a_file_to_follow_may_come_later(path: Path) -> None:
    stop = threading.Event()

    def write() -> None:
        append(path, b"here")
        stop.set()

    writing = threading.Timer(0.15, write)
    writing.start()
    assert "".join(follow_log_file(path, stop=stop)) == "here"
    writing.join()
