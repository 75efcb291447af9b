# SPDX-License-Identifier: MIT
"""What several test modules share: fresh interpreters, threads that must end, and a look at the file from outside.

Nothing here knows the inside of the library but `write_connection`, the one door through which faults are injected.
"""

import json
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import closing, contextmanager
from operator import attrgetter
from pathlib import Path
from textwrap import dedent
from types import FrameType
from typing import Any, Final, NamedTuple, TypeAlias, TypeVar, cast
from unittest.mock import patch

import pytest

from orch_events import EventLog

from . import engines
from .engines import Current

T = TypeVar("T")
Tracer: TypeAlias = Callable[[FrameType, str, Any], Any]
NewEvent: TypeAlias = tuple[str, str | None, str, Mapping[str, object]]

ROOT: Final = Path(__file__).resolve().parent.parent
LIBRARY: Final = str(ROOT / "orch_events") + os.sep
PATIENCE: Final = 60.0
"""Seconds after which something counts as hung. A guard, never a measure of speed."""

# Since 3.12 a fork beside living threads draws a warning. Programs that fork all the same are the point of some tests.
FORKING: Final = ("-W", "ignore:This process:DeprecationWarning")


# For scripts: a child that hangs is killed, and one that fails says why.
FORK: Final = """
import os, signal, traceback

def fork(child):
    pid = os.fork()
    if pid:
        return pid
    signal.alarm(30)
    try:
        child()
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)

def ended_well(pid):
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
"""


class Stored(NamedTuple):
    """One row of the file."""

    event_id: int
    task_id: str
    event_type: str
    payload: dict[str, object]


def stored(path: Path) -> list[Stored]:
    """Every event by id, read without the library; the file must be sound."""
    if Current.database is None:
        assert outside(path, "PRAGMA integrity_check") == [("ok",)]
    rows = outside(path, "SELECT id, task_id, event_type, payload_json FROM events ORDER BY id")
    return [
        Stored(i, task_id, event_type, json.loads(text)) for i, task_id, event_type, text in rows
    ]


def outside(
    path: Path, sql: str, rows: Iterable[Sequence[object]] | None = None
) -> list[tuple[Any, ...]]:
    """Run a statement as some other program would, once or, in one transaction, for each row of values; what it gives.

    On either engine: the log is a file or what stands for it.
    """
    if Current.database is not None:
        return engines.run(Current.database.url_of(path), sql, rows)
    with closing(sqlite3.connect(path, timeout=PATIENCE)) as connection, connection:
        if rows is not None:
            connection.executemany(sql, rows)
            return []
        return connection.execute(sql).fetchall()


def execute(path: Path, *statements: str) -> None:
    """Run SQL as some other program would."""
    if Current.database is not None:
        for statement in statements:
            outside(path, statement)
        return
    with closing(sqlite3.connect(path, timeout=PATIENCE, isolation_level=None)) as connection:
        for statement in statements:
            connection.execute(statement)


def poison(kind: str = "ABORT") -> str:
    """SQL after which the database itself refuses events of type ``bad``."""
    if Current.database is not None:
        return engines.POISON
    return f"CREATE TRIGGER p BEFORE INSERT ON events WHEN new.event_type = 'bad' BEGIN SELECT raise({kind}, 'no'); END"


@contextmanager
def write_locked(path: Path) -> Iterator[None]:
    """Another connection holds the file's write lock while the body runs."""
    if Current.database is not None:
        with engines.write_locked(Current.database.url_of(path)):
            yield
        return
    with closing(sqlite3.connect(path, timeout=PATIENCE, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        yield


def write_connection(log: EventLog) -> sqlite3.Connection:
    """The connection a log writes through."""
    connection = attrgetter("_queue._session._connection")(log)
    assert isinstance(connection, sqlite3.Connection)
    return connection


@contextmanager
def traced(connection: sqlite3.Connection) -> Iterator[list[str]]:
    """The statements that `connection` runs during the body."""
    statements: list[str] = []
    connection.set_trace_callback(statements.append)
    try:
        yield statements
    finally:
        connection.set_trace_callback(None)


def together(*jobs: Callable[[], T]) -> list[T]:
    """The results of `jobs`, each run in a thread of its own, all released at the same moment."""
    barrier = threading.Barrier(len(jobs))

    def run(job: Callable[[], T], future: Future[T]) -> None:
        try:
            barrier.wait(PATIENCE)
            future.set_result(job())
        except BaseException as error:
            future.set_exception(error)

    futures = [Future[T]() for _ in jobs]
    threads = [
        threading.Thread(target=run, args=pair, daemon=True)
        for pair in zip(jobs, futures, strict=True)
    ]
    for thread in threads:
        thread.start()
    results = [future.result(PATIENCE) for future in futures]
    for thread in threads:
        thread.join(PATIENCE)
    return results


def start(job: Callable[[], T]) -> Future[T]:
    """Run `job` in a thread beside the test; ask its result with a timeout."""
    future = Future[T]()

    def run() -> None:
        try:
            future.set_result(job())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return future


def wait_until(condition: Callable[[], object]) -> None:
    """Return once `condition` holds."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.002)


class LineTracer:
    """A trace function that calls `interrupt` before the n-th line of the library that is executed."""

    def __init__(self, number: int, interrupt: Callable[[], object]) -> None:
        self.lines = 0
        """How many there were so far."""
        self._number = number
        self._interrupt = interrupt

    def __call__(self, frame: FrameType, _event: str, _argument: object) -> Tracer | None:
        return self._trace_line if frame.f_code.co_filename.startswith(LIBRARY) else None

    def _trace_line(self, _frame: FrameType, event: str, _argument: object) -> Tracer:
        if event == "line":
            self.lines += 1
            if self.lines == self._number:
                self._interrupt()
        return self._trace_line


def interrupted_at_line(
    number: int, scenario: Callable[[], object], interrupt: Callable[[], object]
) -> bool:
    """Run `scenario` with a call of `interrupt` before the n-th line of the library that it executes in this thread;
    whether it has so many.

    A signal handler of the host's, a finalizer or a trace function may run at just these moments. What `interrupt`
    raises is raised there.
    """
    tracer = LineTracer(number, interrupt)
    before = sys.gettrace()
    sys.settrace(tracer)
    try:
        scenario()
    finally:
        sys.settrace(before)
    return tracer.lines >= number


STEP: Final = pytest.mark.parametrize("step", [7, pytest.param(1, marks=pytest.mark.long)])
"""Of the lines to interrupt: every so many in the default tests, all of them in the long ones."""


def interrupted_at_each_line(
    scenario: Callable[[], object], interrupt: Callable[[], object], step: int = 1
) -> int:
    """Run `scenario` again and again, interrupted at its first line, at its second (or, with a `step`, at some), and so
    on; how often.

    `scenario` must be repeatable and need not execute the same lines each time.
    """
    number = count = 1
    while interrupted_at_line(number, scenario, interrupt):
        number += step
        count += 1
    return count - 1


def library_threads() -> list[threading.Thread]:
    """The library's own threads in this process."""
    return [thread for thread in threading.enumerate() if thread.name.startswith("orch_events")]


class Gate:
    """A sink that lets nothing pass while it is shut: whoever committed an event waits in it, owning the log."""

    def __init__(self) -> None:
        self._open = threading.Event()
        self.waiting = threading.Event()
        """Somebody arrived."""

    def emit(
        self, _task: str, _item: str | None, _type: str, _payload: Mapping[str, object], /
    ) -> None:
        self.waiting.set()
        assert self._open.wait(PATIENCE)

    def open(self) -> None:
        self._open.set()


def python_path() -> str:
    """PYTHONPATH of a child: the root, and what is on it already."""
    return os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])


def run_script(
    folder: Path,
    source: str,
    *arguments: object,
    code: int = 0,
    stderr: str = "",
    options: tuple[str, ...] = (),
    wrapper: tuple[str, ...] = (),
    patience: float = PATIENCE,
) -> str:
    """What `source` prints when run as a program under ``-W error -X dev``.

    It must end by itself, with exit code `code`, and its stderr must end in `stderr`, or be empty. If it hangs, every
    thread's stack is printed.
    """
    program = folder / "program.py"
    program.write_text(dedent(source))
    command = [
        *wrapper,
        sys.executable,
        "-X",
        "dev",
        "-W",
        "error",
        *options,
        str(program),
        *engines.spelled(arguments),
    ]
    with subprocess.Popen(
        command,
        env={**os.environ, "PYTHONPATH": python_path()},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            printed, complaint = process.communicate(timeout=patience)
        except subprocess.TimeoutExpired:
            os.killpg(
                process.pid, signal.SIGABRT
            )  # on which faulthandler, part of -X dev, prints the stacks
            printed, complaint = process.communicate()
            raise AssertionError(f"hung; printed {printed!r}\n{complaint}") from None
    assert process.returncode == code, complaint
    assert complaint == "" if not stderr else complaint.rstrip().endswith(stderr), complaint
    return printed


def numbers(text: str) -> list[int]:
    """The JSON list of integers that a script printed."""
    return cast("list[int]", json.loads(text))


@contextmanager
def all_statements() -> Iterator[list[str]]:
    """The statements of all connections opened during the body, parameters filled in; each begins with its timeout."""
    statements: list[str] = []
    genuine = sqlite3.connect

    def connect(*arguments: Any, **options: Any) -> sqlite3.Connection:
        connection: sqlite3.Connection = genuine(*arguments, **options)
        (milliseconds,) = connection.execute("PRAGMA busy_timeout").fetchone()
        statements.append(f"waits {milliseconds} ms")
        connection.set_trace_callback(statements.append)
        return connection

    with patch.object(sqlite3, "connect", connect):
        yield statements
