# SPDX-License-Identifier: MIT
"""Several processes: forks that inherit a log, children that open their own, and many writers of one file."""

import json
import sqlite3
import stat
import subprocess
import sys
from collections import Counter
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Final

import pytest

from orch_events import EventLog, EventReader

from .engines import only_files
from .helpers import FORK, FORKING, PATIENCE, ROOT, numbers, run_script, start, stored, together

BOTH_ENGINES = True

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="forks, and POSIX locks")

START: Final = (
    FORK
    + """
import asyncio, json, os, signal, sqlite3, subprocess, sys, threading, time, traceback
from orch_events import EventLog, EventReader, ForkedError

path = sys.argv[1]
"""
)

# ------------------------------------------------------------------------------------------------ a log across a fork


def test_a_forked_child_is_refused_at_once_in_every_call(tmp_path: Path, path: Path) -> None:
    source = """
event = ("t", None, "x", {})

async def each():
    async for _ in log.query_events_async():
        pass

calls = [
    lambda: log.insert_event(*event),
    lambda: log.insert_events([event]),
    lambda: log.submit_event(*event),
    lambda: log.flush(),
    lambda: log.close(),
    lambda: list(log.query_events()),
    lambda: list(parked),
    lambda: log.query_step_events("t"),
    lambda: log.query_latest_step_log_paths("t"),
    lambda: asyncio.run(log.insert_event_async(*event)),
    lambda: asyncio.run(log.flush_async()),
    lambda: asyncio.run(log.aclose()),
    lambda: asyncio.run(each()),
    lambda: list(reader.query_events()),
    lambda: reader.query_step_events("t"),
]

def child():
    for call in calls:
        try:
            call()
        except ForkedError:
            continue
        raise AssertionError("not refused")
    with EventLog(path) as own:
        own.insert_event("child", None, "x", {})

log, reader = EventLog(path), EventReader(path)
log.insert_events([event] * 3000)
parked = log.query_events()
next(parked), next(reader.query_events())
log.submit_event(*event).result()
pids = [fork(child) for _ in range(3)]
log.insert_event(*event)
assert all([ended_well(pid) for pid in pids])
log.insert_event(*event)
log.close()
reader.close()
"""
    run_script(tmp_path, START + source, path, options=FORKING)
    rows = stored(path)
    assert len(rows) == 3000 + 3 + 3
    assert [row.task_id for row in rows].count("child") == 3


def test_a_fork_just_before_the_writer_thread_runs_leaves_its_work_to_the_parent(
    tmp_path: Path, path: Path
) -> None:
    source = """
def hold(*_):
    go_on.wait()

def child():
    for call in (lambda: log.insert_event("t", None, "x", {}), log.flush, log.close):
        try:
            call()
        except ForkedError:
            assert threading.active_count() == 1
            continue
        raise AssertionError("not refused")

go_on = threading.Event()
log = EventLog(path)
threading.settrace(hold)  # the writer thread is started here, and waits before its first line
for _ in range(3):
    log.submit_event("t", None, "x", {})
threading.settrace(None)
good = ended_well(fork(child))
go_on.set()
log.close()
print(good)
"""
    assert run_script(tmp_path, START + source, path, options=FORKING) == "True\n"
    assert len(stored(path)) == 3


def test_a_child_leaves_the_block_of_a_log_by_what_it_raises_itself(
    tmp_path: Path, path: Path
) -> None:
    source = """
async def leave_async():
    async with log:
        sys.exit(6)

with EventLog(path) as log, log.step("t", "build", heartbeat=0.01):
    for leave in (lambda: sys.exit(5), lambda: asyncio.run(leave_async())):
        pid = os.fork()
        if pid == 0:
            leave()
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""
    assert run_script(tmp_path, START + source, path, options=FORKING) == "5\n6\n"


def test_a_fork_in_a_sink_leaves_what_is_queued_to_the_parent(tmp_path: Path, path: Path) -> None:
    source = """
class Forking:
    def emit(self, task_id, task_item_id, event_type, payload):
        if event_type == "forks":
            go_on.wait()
            pids.append(os.fork())  # the child returns into the writer thread, which is all that it has

pids = []
go_on = threading.Event()
log = EventLog(path, sink=Forking())
log.submit_event("t", None, "forks", {})
for _ in range(200):
    log.submit_event("t", None, "rest", {})
go_on.set()
log.close()
print(ended_well(pids[0]))
"""
    assert run_script(tmp_path, START + source, path, options=FORKING) == "True\n"
    assert len(stored(path)) == 1 + 200


def test_a_fork_in_the_middle_of_an_append_leaves_a_child_whose_calls_end(
    tmp_path: Path, path: Path
) -> None:
    source = """
class Forking:
    def emit(self, task_id, task_item_id, event_type, payload):
        if event_type == "forks":
            pids.append(os.fork())

pids = []
log = EventLog(path, sink=Forking())
assert log.insert_event("t", None, "forks", {}) == 1
if pids[0] == 0:
    signal.alarm(30)
    try:
        log.insert_event("t", None, "rest", {})
    except ForkedError:
        os._exit(0)
    os._exit(1)
log.insert_event("t", None, "rest", {})
log.close()
print(ended_well(pids[0]))
"""
    assert run_script(tmp_path, START + source, path, options=FORKING) == "True\n"
    assert len(stored(path)) == 2


def test_a_fork_in_the_middle_of_a_commit_leaves_a_child_any_thread_of_which_may_write(
    tmp_path: Path, path: Path
) -> None:
    source = """
class Waiting:
    def emit(self, task_id, task_item_id, event_type, payload):
        go_on.wait()

def child():
    def write():
        all_run.wait()
        results.append(own.insert_event("child", None, "x", {}))

    results = []
    # So many at once that one gets the ident of the parent's thread that commits: the system gives them again.
    all_run = threading.Barrier(8)
    with EventLog(path) as own:
        threads = [threading.Thread(target=write) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(results) == 8

go_on = threading.Event()
log = EventLog(path, sink=Waiting())
writers = [threading.Thread(target=log.insert_event, args=("t", None, "x", {})) for _ in range(3)]
for writer in writers:
    writer.start()
while log._queue._commit_owner is None:
    time.sleep(0.001)
good = ended_well(fork(child))
go_on.set()
for writer in writers:
    writer.join()
log.close()
print(good)
"""
    assert run_script(tmp_path, START + source, path, options=FORKING) == "True\n"
    assert len(stored(path)) == 3 + 8


def test_a_fork_at_any_moment_leaves_a_child_that_answers(tmp_path: Path, path: Path) -> None:
    source = """
def write():
    while not stop:
        log.submit_event("t", None, "x", {})

def child():
    for call in (lambda: log.insert_event("t", None, "x", {}), log.flush, log.close):
        try:
            call()
        except ForkedError:
            continue
        raise AssertionError("not refused")
    with EventLog(path) as own:
        own.insert_event("child", None, "x", {})

stop = False
log = EventLog(path, durability="normal")
sys.setswitchinterval(0.00005)
threads = [threading.Thread(target=write) for _ in range(2)]
for thread in threads:
    thread.start()
good = 0
while good < 15 and ended_well(fork(child)):
    good += 1
stop = True
for thread in threads:
    thread.join()
log.close()
print(good)
"""
    assert run_script(tmp_path, START + source, path, options=FORKING) == "15\n"
    assert [row.task_id for row in stored(path)].count("child") == 15


INHERITED: Final = {
    "log": "log = EventLog(path)",
    "reader": "log = EventReader(path); next(log.query_events())",
    "follower": "log = EventReader(path); follower = log.follow_events(); next(follower)",
}
"""What a parent may have open at a fork."""


@pytest.mark.parametrize("inherited", INHERITED)
def test_what_a_child_commits_outlives_its_parent(
    tmp_path: Path, path: Path, inherited: str
) -> None:
    source = f"""
def child():
    with EventLog(path) as own:
        own.insert_event("child", None, "x", {{}})
        os.write(is_open, b".")
        os.read(hold, 1)
        own.insert_event("child", None, "x", {{}})

hold, go = os.pipe()
wait, is_open = os.pipe()
with EventLog(path) as first:
    first.insert_event("parent", None, "x", {{}})
{INHERITED[inherited]}
pid = fork(child)
os.read(wait, 1)
follower = None
log.close()  # the last that the parent has open
with EventLog(path) as another:
    another.insert_event("another", None, "x", {{}})
os.write(go, b".")
assert ended_well(pid)
"""
    run_script(tmp_path, START + source, path, options=FORKING)
    assert [row.task_id for row in stored(path)] == ["parent", "child", "another", "child"]


@only_files
def test_a_fork_waits_for_what_other_threads_commit(tmp_path: Path, path: Path) -> None:
    source = """
def child():
    with EventLog(path) as own:
        own.insert_event("child", None, "x", {})

log = EventLog(path)
locked = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
locked.execute("BEGIN IMMEDIATE")
writer = threading.Thread(target=log.insert_event, args=("parent", None, "x", {}))
writer.start()
time.sleep(0.2)  # until it waits for the lock
threading.Timer(0.5, locked.rollback).start()
pid = fork(child)
writer.join()
locked.close()
assert ended_well(pid)
log.close()
"""
    run_script(tmp_path, START + source, path, options=FORKING)
    assert [row.task_id for row in stored(path)] == ["parent", "child"]


@only_files
@pytest.mark.parametrize("goes_on", ["os._exit(0)", "returned = True"])
def test_a_child_of_a_fork_amid_a_transaction_is_refused_the_file_and_does_no_harm(
    tmp_path: Path, path: Path, goes_on: str
) -> None:
    source = f"""
def interrupt(frame, event, argument):
    global calls, pid
    calls += event == "call" and frame.f_code.co_name == "_insert_some"
    if pid is None and calls == 2:
        pid = os.fork()
        if not pid:
            signal.alarm(30)
            for open_log in (EventLog, EventReader):
                try:
                    list(open_log(path).query_events())
                except ForkedError as error:
                    assert "in the middle of a call" in str(error)
                else:
                    os._exit(1)
            {goes_on}

calls, pid = 0, None
log = EventLog(path)
sys.setprofile(interrupt)
try:
    # More than one statement, and more pages than SQLite holds back in memory.
    log.insert_events([("t", None, "x", {{"text": "x" * 4096}})] * 5000)
except ForkedError:
    os._exit(0 if pid == 0 else 1)
sys.setprofile(None)
assert pid and ended_well(pid)

def child():
    with EventLog(path) as own:
        own.insert_event("child", None, "x", {{}})

assert ended_well(fork(child))
log.close()
"""
    run_script(tmp_path, START + source, path, options=FORKING)
    assert len(stored(path)) == 5000 + 1


@only_files
@pytest.mark.long
def test_a_fork_does_not_wait_for_ever(tmp_path: Path, path: Path) -> None:
    source = """
def child():
    try:
        EventLog(path)
    except ForkedError:
        return
    raise AssertionError("not refused")

log = EventLog(path)
locked = sqlite3.connect(path, isolation_level=None)
locked.execute("BEGIN IMMEDIATE")
writer = threading.Thread(target=log.insert_event, args=("parent", None, "x", {}))
writer.start()
time.sleep(0.2)  # until it waits for the lock
assert ended_well(fork(child))
locked.rollback()
locked.close()
writer.join()
log.close()
"""
    run_script(tmp_path, START + source, path, options=FORKING)
    assert [row.task_id for row in stored(path)] == ["parent"]


def test_threads_may_fork_at_once(tmp_path: Path, path: Path) -> None:
    source = """
def child():
    with EventLog(path) as own:
        own.insert_event("child", None, "x", {})

def work():
    for _ in range(5):
        log.insert_event("parent", None, "x", {})
        good.append(ended_well(fork(child)))

good = []
log = EventLog(path)
threads = [threading.Thread(target=work) for _ in range(4)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
log.close()
print(good.count(True))
"""
    assert run_script(tmp_path, START + source, path, options=FORKING) == "20\n"
    assert [row.task_id for row in stored(path)].count("child") == 20


@pytest.mark.long
def test_forks_amid_threads_that_open_write_and_close_lose_nothing(
    tmp_path: Path, path: Path
) -> None:
    source = """
def child(depth):
    name = f"child {os.getpid()}"
    for _ in range(2):
        with EventLog(path, durability="normal") as own:
            for _ in range(3):
                own.insert_event(name, None, "x", {})
                os.write(acks, f"{name}\\n".encode())
            if depth:
                assert ended_well(fork(lambda: child(depth - 1)))

def write(name):
    while not stop:
        with EventLog(path, durability="normal") as log:
            for _ in range(10):
                log.insert_event(name, None, "x", {})
                os.write(acks, f"{name}\\n".encode())

def read():
    while not stop:
        with EventReader(path) as reader:
            for _ in range(3):
                list(reader.query_events())

def collect():
    with open(acked) as lines:
        for line in lines:
            print(line, end="")

stop = False
EventLog(path).close()
acked, acks = os.pipe()
collector = threading.Thread(target=collect)
threads = [threading.Thread(target=write, args=(f"writer {n}",)) for n in range(2)]
threads.append(threading.Thread(target=read))
for thread in (collector, *threads):
    thread.start()
pids = []
for n in range(60):
    pids.append(fork(lambda: child(n % 3 == 0)))
    if len(pids) > 3:
        assert ended_well(pids.pop(0))
assert all([ended_well(pid) for pid in pids])
stop = True
for thread in threads:
    thread.join()
os.close(acks)
collector.join()
"""
    acked = run_script(tmp_path, START + source, path, options=FORKING).splitlines()
    assert len(acked) > 60 * 6
    assert Counter(acked) == Counter(row.task_id for row in stored(path))


def test_a_cleanup_does_not_go_on_in_a_child(tmp_path: Path, path: Path) -> None:
    source = """
from datetime import datetime, timezone

def progress(done):
    if done.events and not pids:
        pids.append(os.fork())

pids = []
with EventLog(path) as log:
    log.insert_events([("t", None, "x", {})] * 5000)
    try:
        log.cleanup(keep_last=1, only_finished=False, batch=100, progress=progress)
    except ForkedError:
        os._exit(7)
    assert os.waitstatus_to_exitcode(os.waitpid(pids[0], 0)[1]) == 7
"""
    run_script(tmp_path, START + source, path, options=FORKING)
    assert len(stored(path)) == 1


@only_files
@pytest.mark.parametrize(
    "end",
    [
        "pass",
        "del log; gc.collect()",
        "open_late()",
        *(pytest.param(end, marks=pytest.mark.long) for end in ("os._exit(0)", "sys.exit(0)")),
    ],
)
def test_a_childs_end_does_not_touch_the_file(tmp_path: Path, path: Path, end: str) -> None:
    """By then the parent is gone and another writer has been killed: what it acked is in the -wal file alone."""
    source = f"""
import gc

def open_late():
    if sys.version_info >= (3, 12):
        with EventReader(path) as own:
            assert [event.task_id for event in own.query_events()] == ["parent", "killed"]
        return
    try:
        EventReader(path)
    except ForkedError as error:
        assert "needs Python 3.12" in str(error)
        return
    raise AssertionError("not refused")

log = EventLog(path)
log.insert_event("parent", None, "x", {{}})
hold, go = os.pipe()
pid = os.fork()
if not pid:
    os.close(go)
    os.read(hold, 1)
    {end}
else:
    log.close()
    victim = subprocess.Popen([sys.executable, "-c", '''
import os, sys, time
from orch_events import EventLog
log = EventLog(sys.argv[1])
log.insert_event("killed", None, "x", {{}})
print(flush=True)
time.sleep(60)
''', path], stdout=subprocess.PIPE)
    victim.stdout.readline()
    victim.kill()
    victim.communicate()
    assert os.path.getsize(path + "-wal")
    os.close(go)
    assert ended_well(pid)
"""
    run_script(tmp_path, START + source, path, options=FORKING)
    assert [row.task_id for row in stored(path)] == ["parent", "killed"]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_a_program_that_is_started_inherits_no_descriptor(log: EventLog, path: Path) -> None:
    log.insert_event("t", None, "x", {})
    list(log.query_events())
    look = "import os; print([os.path.realpath(f'/proc/self/fd/{fd}') for fd in os.listdir('/proc/self/fd')])"
    done = subprocess.run(
        [sys.executable, "-c", look], close_fds=False, capture_output=True, text=True, check=True
    )
    assert str(path) not in done.stdout


@pytest.mark.parametrize("method", ["spawn", "fork", "forkserver"])
def test_a_multiprocessing_child_may_submit_and_return(
    tmp_path: Path, path: Path, method: str
) -> None:
    source = f"""
import multiprocessing

def work(name):
    log = EventLog(path)
    for n in range(20):
        log.submit_event(name, None, "x", {{"n": n}})
    globals().update(log=log)  # not even garbage

if __name__ == "__main__":
    context = multiprocessing.get_context({method!r})
    log = EventLog(path)
    log.insert_event("parent", None, "x", {{}})
    children = [context.Process(target=work, args=[f"c{{k}}"]) for k in range(2)]
    for child in children:
        child.start()
    for child in children:
        child.join()
        assert child.exitcode == 0
    log.insert_event("parent", None, "x", {{}})
"""
    run_script(tmp_path, START + source, path, options=FORKING)
    tasks = [row.task_id for row in stored(path)]
    assert {name: tasks.count(name) for name in set(tasks)} == {"parent": 2, "c0": 20, "c1": 20}


# --------------------------------------------------------------------------------------------- many writers, one file

OPENING: Final = """
import multiprocessing

def work(rounds):
    for n in range(rounds):
        barrier.wait()
        with EventLog(f"{path}_{n}") as log:
            log.insert_event("t", None, "x", {"pid": os.getpid()})

context = multiprocessing.get_context("fork")
barrier = context.Barrier(8, timeout=30)
children = [context.Process(target=work, args=[int(sys.argv[2])]) for _ in range(8)]
for child in children:
    child.start()
for child in children:
    child.join()
print([child.exitcode for child in children])
"""


@only_files
@pytest.mark.parametrize("rounds", [10, pytest.param(100, marks=pytest.mark.long)])
def test_eight_processes_may_open_one_missing_file_at_once(
    tmp_path: Path, path: Path, rounds: int
) -> None:
    assert numbers(run_script(tmp_path, START + OPENING, path, rounds)) == [0] * 8
    for n in range(rounds):
        file = Path(f"{path}_{n}")
        assert [row.event_id for row in stored(file)] == list(range(1, 9))
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert len(list(tmp_path.iterdir())) == rounds + 1, "something else was left behind"


WRITING: Final = """
acked = []

def write(name):
    mine = []
    for n in range(40):
        mine.append((log.insert_event(name, None, "one", {"n": n}), name, "one", n))
        future = log.submit_event(name, None, "two", {"n": n})
        ids = log.insert_events([(name, None, "three", {"n": n})] * 3)
        mine.append((future.result(), name, "two", n))
        mine.extend((i, name, "three", n) for i in ids)
    assert mine == sorted(mine)
    acked.extend(mine)

with EventLog(path, busy_timeout=60) as log:
    threads = [threading.Thread(target=write, args=[sys.argv[2] + suffix]) for suffix in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
print(json.dumps(acked))
"""


def test_four_processes_with_two_threads_get_ids_in_commit_order(
    tmp_path: Path, path: Path
) -> None:
    names = [f"p{k}" for k in range(4)]
    expected = len(names) * 2 * 40 * 5
    for name in names:
        (tmp_path / name).mkdir()
    EventLog(path).close()

    def follow() -> list[int]:
        """All ids, as somebody sees them who asks again and again for those above the last."""
        seen = [0]
        with EventReader(path) as reader:
            while len(seen) <= expected:
                seen.extend(event.event_id for event in reader.query_events(after_id=seen[-1]))
        return seen[1:]

    followers = [start(follow) for _ in range(2)]
    printed = together(
        *(partial(run_script, tmp_path / name, START + WRITING, path, name) for name in names)
    )
    acked = sorted(tuple(entry) for text in printed for entry in json.loads(text))
    assert [(*tuple(row)[:3], row.payload["n"]) for row in stored(path)] == acked
    assert [entry[0] for entry in acked] == list(range(1, expected + 1))
    for follower in followers:
        assert follower.result(PATIENCE) == list(range(1, expected + 1))


@only_files
def test_readers_in_a_transaction_do_not_hold_writers_up(log: EventLog, path: Path) -> None:
    log.insert_events([("t", None, "x", {})] * 3000)
    with EventReader(path) as reader, closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN")
        cursor = other.execute("SELECT * FROM events")
        cursor.fetchone()
        parked = reader.query_events()
        next(parked)
        with EventLog(path, busy_timeout=0) as impatient:  # waits for no lock at all
            assert impatient.insert_event("t", None, "x", {}) == 3001
            assert impatient.submit_event("t", None, "x", {}).result(PATIENCE) == 3002
        assert len(cursor.fetchall()) == 2999
        assert sum(1 for _ in parked) == 2999


# ----------------------------------------------------------------------------------------------- killed at any moment


@pytest.mark.long
def test_torture(tmp_path: Path, seconds: int = 20) -> None:
    command = [
        sys.executable,
        "-m",
        "tests.torture",
        "--seconds",
        str(seconds),
        "--folder",
        str(tmp_path),
    ]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE + 10 * seconds
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "nothing lost" in done.stdout
