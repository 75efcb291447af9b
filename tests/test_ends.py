# SPDX-License-Identifier: MIT
"""How a program ends: whatever was accepted is on disk, nothing hangs, and nothing is said on stderr.

Every program runs under ``-W error -X dev`` in an interpreter of its own.
"""

import gc
import os
import sys
import threading
from pathlib import Path
from typing import Final

import pytest

from orch_events import EventLog, EventReader, LogNotFoundError, OrchEventsError, WriteError

from .engines import only_files
from .helpers import (
    PATIENCE,
    execute,
    library_threads,
    poison,
    run_script,
    stored,
    wait_until,
    write_locked,
)

BOTH_ENGINES = True

START: Final = """
import asyncio, atexit, os, sys, threading, time
from concurrent.futures import ThreadPoolExecutor
from orch_events import EventLog, EventReader, LogClosedError

path = sys.argv[1]

def submit(log, count=20):
    for n in range(count):
        log.submit_event("t", None, "x", {"n": n})

"""

# ---------------------------------------------------------------------------------------------------- without close()

PROGRAMS: Final[dict[str, tuple[str, int, str]]] = {
    "falls off the end": ("log = EventLog(path); submit(log)", 0, ""),
    "keeps no reference": (
        "log = EventLog(path); log.self = log; f = log.submit_event; submit(log)",
        0,
        "",
    ),
    "idle long before": ("log = EventLog(path); submit(log); time.sleep(0.5)", 0, ""),
    "sys.exit": ("log = EventLog(path); submit(log); sys.exit(3)", 3, ""),
    "an exception": (
        "log = EventLog(path); submit(log); raise LookupError('boom')",
        1,
        "LookupError: boom",
    ),
    "KeyboardInterrupt": (
        "log = EventLog(path); submit(log); raise KeyboardInterrupt",
        130,
        "KeyboardInterrupt",
    ),
    "asyncio.run": (
        """
async def main():
    log = EventLog(path)
    submit(log, 10)
    await asyncio.gather(*(log.insert_event_async("t", None, "x", {"n": n}) for n in range(10, 20)))
    globals().update(log=log)
asyncio.run(main())
""",
        0,
        "",
    ),
    "asyncio.run, nobody awaits": (
        """
async def main():
    submit(log)
log = EventLog(path)
asyncio.run(main())
""",
        0,
        "",
    ),
    "a daemon thread submits": (
        """
log = EventLog(path)
thread = threading.Thread(target=submit, args=[log], daemon=True)
thread.start()
thread.join()
""",
        0,
        "",
    ),
    "a thread outlives main": (
        """
def late():
    threading.main_thread().join()
    submit(log, 10)
    for n in range(10, 20):
        log.insert_event("t", None, "x", {"n": n})
log = EventLog(path)
threading.Thread(target=late).start()
""",
        0,
        "",
    ),
    "a thread opens the log after main": (
        """
def late():
    threading.main_thread().join()
    globals().update(log=EventLog(path))
    submit(log)
threading.Thread(target=late).start()
""",
        0,
        "",
    ),
    "an executor's threads append": (
        """
log = EventLog(path)
pool = ThreadPoolExecutor(4)
for n in range(20):
    pool.submit(log.insert_event, "t", None, "x", {"n": n})
""",
        0,
        "",
    ),
    "inside atexit": ("log = EventLog(path); atexit.register(submit, log)", 0, ""),
    "inside atexit, acked": (
        """
def last():
    for n in range(20):
        log.insert_event("t", None, "x", {"n": n})
log = EventLog(path)
atexit.register(last)
""",
        0,
        "",
    ),
    "inside atexit, then flushed": (
        """
def last():
    submit(log)
    log.flush()
log = EventLog(path)
atexit.register(last)
""",
        0,
        "",
    ),
    "opened inside atexit": (
        """
def last():
    with EventLog(path) as log:
        submit(log)
atexit.register(last)
""",
        0,
        "",
    ),
    "two logs and a reader": (
        """
log, other, reader = EventLog(path), EventLog(path), EventReader(path)
submit(log, 10)
submit(other, 10)
list(reader.query_events())
list(log.query_events())
half_read = log.query_events()
next(half_read, None)
""",
        0,
        "",
    ),
}


QUICK: Final = (
    "falls off the end",
    "an exception",
    "KeyboardInterrupt",
    "asyncio.run",
    "a thread outlives main",
    "an executor's threads append",
    "inside atexit, acked",
    "opened inside atexit",
    "two logs and a reader",
)


@only_files
@pytest.mark.parametrize(
    ("source", "code", "stderr"),
    [
        pytest.param(*program, id=name, marks=() if name in QUICK else pytest.mark.long)
        for name, program in PROGRAMS.items()
    ],
)
def test_a_program_that_never_closes_loses_nothing(
    tmp_path: Path, path: Path, source: str, code: int, stderr: str
) -> None:
    if code == 130:
        code = -2  # the interpreter ends itself by the signal
    run_script(tmp_path, START + source, path, code=code, stderr=stderr)
    assert len(stored(path)) == 20


def test_a_daemon_thread_may_append_to_the_very_end(tmp_path: Path, path: Path) -> None:
    source = """
def append():
    n = 0
    while True:
        try:
            event_id = log.insert_event("t", None, "x", {"n": n})
        except LogClosedError:
            return
        os.write(1, b"%d," % event_id)
        n += 1
log = EventLog(path)
for _ in range(3):
    threading.Thread(target=append, daemon=True).start()
time.sleep(0.2)
"""
    acked = run_script(tmp_path, START + source, path).rstrip(",").split(",")
    assert set(map(int, acked)) <= {row.event_id for row in stored(path)}
    assert len(acked) > 3


@pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="asks for more stack than Linux can give"
)
def test_a_system_that_lets_no_thread_start_is_managed_without(tmp_path: Path, path: Path) -> None:
    source = """
threading.stack_size(1 << 47)
try:
    threading.Thread(target=print).start()
except RuntimeError:
    log = EventLog(path)
    submit(log, 3)
    futures = [log.submit_event("t", None, "x", {}) for _ in range(2)]
    print([future.result(10) for future in futures], log.insert_event("t", None, "x", {}))
    submit(log, 3)
    begun = time.monotonic()
    submit(log, 40)
    took = time.monotonic() - begun
    assert took < 20 * LINGER, f"whoever commits for himself waits for more: {took} s"
"""
    source = "from orch_events._core.commit_queue import LINGER\n" + source
    assert run_script(tmp_path, START + source, path) == "[4, 5] 6\n"
    assert len(stored(path)) == 49


@only_files
def test_the_end_waits_for_a_lock_held_elsewhere(tmp_path: Path, path: Path) -> None:
    source = """
import sqlite3
log = EventLog(path)
other = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
other.execute("BEGIN IMMEDIATE")
threading.Timer(0.3, other.close).start()
submit(log)
"""
    run_script(tmp_path, START + source, path)
    assert len(stored(path)) == 20


def test_a_loss_at_the_end_is_not_silent(tmp_path: Path, path: Path) -> None:
    EventLog(path).close()
    execute(path, poison())
    source = """
log = EventLog(path)
log.submit_event("t", None, "bad", {})
submit(log)
"""
    run_script(tmp_path, START + source, path, stderr="not written: no")
    assert len(stored(path)) == 20


# ------------------------------------------------------------------------------------------- closing, and not closing

INSIDE: Final[dict[str, str]] = {
    "close": "log.close()",
    "aclose": "asyncio.run(log.aclose())",
    "async with": "asyncio.run(log.__aexit__(None, None, None))",
    "insert_event_async": "asyncio.run(log.insert_event_async('t', None, 'x', {}))",
    "insert_events_async": "asyncio.run(log.insert_events_async([('t', None, 'x', {})]))",
    "flush_async": "asyncio.run(log.flush_async())",
    "submit_event": "log.submit_event('t', None, 'x', {}).result()",
}
"""What a sink must not do: the commit it is told of would wait for itself."""


WAITING = pytest.param("submit_event(*event).result()", marks=pytest.mark.long)


@pytest.mark.parametrize("lead", ["insert_event(*event)", "submit_event(*event)", WAITING])
def test_a_sink_that_waits_for_its_own_commit_gets_an_error(
    tmp_path: Path, path: Path, lead: str
) -> None:
    """With a bare ``submit_event``, mostly while the log is already being closed."""
    source = f"""
import asyncio, sys
from orch_events import EventLog, OrchEventsError

class Sink:
    def emit(self, *_):
        try:
            exec(call)
        except OrchEventsError as error:
            refused.append(error)

event = ("t", None, "x", {{}})
for call in {list(INSIDE.values())}:
    refused = []
    log = EventLog(sys.argv[1], sink=Sink())
    for _ in range(20):
        log.{lead}
    log.close()
    print(call, len(refused), sep=": ", flush=True)
"""
    refused = dict(line.rsplit(": ", 1) for line in run_script(tmp_path, source, path).splitlines())
    assert list(refused) == list(INSIDE.values())
    for call, count in refused.items():  # what it submits is told
        assert 20 <= int(count) <= (40 if call == INSIDE["submit_event"] else 20), call
    assert len(stored(path)) == sum(map(int, refused.values()))


@only_files
@pytest.mark.long
def test_ctrl_c_during_close_leaves_a_log_that_can_be_closed(tmp_path: Path, path: Path) -> None:
    source = """
import random, signal, sys

def unraisable(seen):
    # One that strikes within a weak reference's callback can reach nobody: the interpreter reports it.
    if seen.exc_type is not KeyboardInterrupt:
        sys.__unraisablehook__(seen)

sys.unraisablehook = unraisable
signal.signal(signal.SIGALRM, signal.default_int_handler)
events = [("t", None, "x", {"text": "x" * 500})] * 1000
hits = 0
for n in range(60):
    log = EventLog(f"{path}_{n % 10}")
    log.insert_events(events)
    submit(log, 20)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.0002 + random.random() * 0.004)
        log.close()
        signal.setitimer(signal.ITIMER_REAL, 0)
    except KeyboardInterrupt:
        hits += 1
    log.close()
assert hits > 3, hits
"""
    run_script(tmp_path, START + source, path)
    assert [len(stored(Path(f"{path}_{k}"))) for k in range(10)] == [6 * 1020] * 10


@only_files
@pytest.mark.parametrize("kind", [EventLog, EventReader])
def test_garbage_collection_warns_once_and_closes(
    path: Path, kind: type[EventLog] | type[EventReader]
) -> None:
    EventLog(path).close()
    log = kind(path)
    if isinstance(log, EventLog):
        for n in range(20):
            log.submit_event("t", None, "x", {"n": n})
    list(log.query_events())
    with pytest.warns(ResourceWarning) as caught:
        del log
        gc.collect()
    assert [str(warning.message) for warning in caught] == [
        f"{path}: {kind.__name__} was not closed"
    ]
    wait_until(lambda: library_threads() == [])
    assert len(stored(path)) == (20 if kind is EventLog else 0)
    assert descriptors(path) == []


@only_files
@pytest.mark.parametrize("kind", ["EventLog", "EventReader"])
def test_garbage_collection_closes_also_where_warnings_are_errors(
    tmp_path: Path, path: Path, kind: str
) -> None:
    source = f"""
EventLog(path).close()
log = {kind}(path)
if {kind} is EventLog:
    submit(log)
del log
while threading.active_count() > 1:
    time.sleep(0.001)
print(threading.active_count(), [name for fd in os.listdir("/proc/self/fd")
    if (name := os.path.realpath(f"/proc/self/fd/{{fd}}")).startswith(path)])
"""
    printed = run_script(
        tmp_path, START + source, path, stderr=f"ResourceWarning: {path}: {kind} was not closed"
    )
    if sys.platform == "linux":
        assert printed == "1 []\n"
    assert len(stored(path)) == (20 if kind == "EventLog" else 0)


@only_files
def test_the_collector_may_find_a_log_in_the_thread_that_commits_for_it(
    tmp_path: Path, path: Path
) -> None:
    source = """
import gc, sqlite3, warnings
warnings.simplefilter("ignore", ResourceWarning)
gc.disable()  # elsewhere, that is

class Collecting:
    def emit(self, *_):
        gc.collect()

EventLog(path).close()
for n in range(5):
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    log = EventLog(path, sink=Collecting())
    log.cycle = [log]
    submit(log, 4)
    del log
    other.close()
for thread in threading.enumerate():
    if thread is not threading.main_thread():
        thread.join()
gc.collect()
print(threading.active_count())
"""
    assert run_script(tmp_path, START + source, path) == "1\n"
    assert len(stored(path)) == 20
    assert descriptors(path) == []


@only_files
def test_a_log_that_could_not_be_opened_leaves_nothing_behind(tmp_path: Path, path: Path) -> None:
    EventLog(path).close()
    before = descriptors(tmp_path)
    attempts: list[tuple[Path, type[OrchEventsError]]] = [
        (tmp_path, WriteError),
        (tmp_path / "missing" / "x.db", LogNotFoundError),
    ]
    for where, error in attempts:
        with pytest.raises(error):
            EventLog(where)
    with write_locked(path):
        EventLog(path, busy_timeout=0.05).close()  # opening an existing log needs no write lock
    gc.collect()
    assert library_threads() == []
    assert descriptors(tmp_path) == before


def descriptors(where: Path) -> list[str]:
    """Files at or below `where` that this process holds open; none where the platform does not tell."""
    if not sys.platform.startswith("linux"):
        return []
    names = []
    for descriptor in os.listdir("/proc/self/fd"):
        try:
            names.append(os.readlink(f"/proc/self/fd/{descriptor}"))
        except FileNotFoundError:
            continue
    return [name for name in names if name.startswith(str(where))]


def test_many_cycles_leak_no_thread_and_no_descriptor(path: Path) -> None:
    before = threading.active_count()
    for _ in range(60):
        with EventLog(path) as log:
            log.submit_event("t", None, "x", {})
            log.insert_event("t", None, "x", {})
            assert log.query_step_events("t") == []
        assert descriptors(path) == []
        assert threading.active_count() == before
    assert len(stored(path)) == 120


def test_an_idle_log_keeps_no_thread_of_ours_for_long(log: EventLog) -> None:
    log.submit_event("t", None, "x", {}).result(PATIENCE)
    for thread in library_threads():
        thread.join(PATIENCE)
    assert library_threads() == []
    assert log.submit_event("t", None, "x", {}).result(PATIENCE) == 2
