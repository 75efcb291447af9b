# SPDX-License-Identifier: MIT
"""Following among processes: garbage collection, forks, ends of programs; many writers, many who come and go."""

import os
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Final

import pytest

from orch_events import EventLog

from .following import BEAT, END, PROGRAM, Beside, nobody_stays
from .helpers import FORK, FORKING, PATIENCE, ROOT, run_script, start, together

__all__ = ["nobody_stays"]  # a fixture

LINUX: Final = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
FORKS: Final = pytest.mark.skipif(sys.platform == "win32", reason="forks")

# --------------------------------------------------------------------------------------------- garbage, forks, the end


@pytest.mark.long
def test_a_follower_may_become_garbage_at_any_moment(tmp_path: Path, path: Path) -> None:
    """Also while another follower is starting or leaving, or a commit is being told of, in the same thread."""
    source = """
orch_events._core.commit_watcher.TICK = 0.001
log, second = EventLog(path, durability="normal"), EventLog(path + "2", durability="normal")
log.insert_event(*BEAT)
second.insert_event(*BEAT)
gc.freeze()
for n in range(1, 160):
    gc.collect()
    gc.disable()
    for log_ in (log, second)[:1 + n % 2]:
        cycle = [log_.follow_events()]
        next(cycle[0])
        cycle.append(cycle)
    del cycle
    gc.set_threshold(gc.get_count()[0] + n // 2)
    gc.enable()
    follower = second.follow_events()
    next(follower)
    log.insert_event(*BEAT)
    second.insert_event(*BEAT)
    del follower
    gc.set_threshold(700)
    gc.collect()
    while watchers() and n % 4 < 2:
        time.sleep(0.001)
log.close()
second.close()
print("well")
"""
    assert run_script(tmp_path, PROGRAM + source, path) == "well\n"


@FORKS
@pytest.mark.parametrize("prelude", ["", "without_inotify()"])
def test_a_forked_child_is_refused_and_may_begin_anew(
    tmp_path: Path, path: Path, prelude: str
) -> None:
    source = f"""
{prelude}
log, reader = EventLog(path), EventReader(path)
log.insert_events([BEAT] * 3)
parked = [log.follow_events(after_id=2), reader.follow_step_events("t", after_id=2)]
assert [next(follower).event_id for follower in parked] == [3, 3]
waiting = threading.Thread(target=lambda: list(log.follow_events("t", until_finished=True)))
waiting.start()

async def follow(log):
    return [event.event_id async for event in log.follow_events_async("t", until_finished=True)]

def child():
    fresh = [each.follow_events("t") for each in (log, reader)]
    for call in [*(lambda f=f: next(f) for f in parked + fresh), lambda: asyncio.run(follow(log))]:
        try:
            call()
        except ForkedError:
            continue
        raise AssertionError("not refused")
    parked.clear()
    gc.collect()
    with EventReader(path) as own:
        seen = [event.event_id for event in own.follow_events("t", until_finished=True)]
        os.write(1, f"{{seen}} {{asyncio.run(follow(own))}}\\n".encode())
    while watchers():
        time.sleep(0.001)

pids = [fork(child) for _ in range(3)]
log.insert_event(*BEAT)
assert [next(follower).event_id for follower in parked] == [4, 4]
log.insert_event(*END)
waiting.join()
assert [ended_well(pid) for pid in pids] == [True] * 3
log.insert_event(*BEAT)
assert [next(follower).event_id for follower in parked] == [5, 6]
reader.close()
log.close()
"""
    seen = [1, 2, 3, 4, 5]
    assert (
        run_script(tmp_path, FORK + PROGRAM + source, path, options=FORKING)
        == f"{seen} {seen}\n" * 3
    )


@LINUX
def test_a_forked_child_never_closes_what_it_inherited(tmp_path: Path, path: Path) -> None:
    """Or SQLite, taking itself for the last user, would delete the ``-wal`` file under the parent."""
    source = """
def descriptors():
    names = [os.path.realpath(f"/proc/self/fd/{number}") for number in os.listdir("/proc/self/fd")]
    return sorted(name for name in names if name.startswith(os.path.realpath(path)))

log, reader = EventLog(path), EventReader(path)
log.insert_events([BEAT] * 3)
parked = [log.follow_events(after_id=1), reader.follow_step_events("t", after_id=1)]
assert [next(follower).event_id for follower in parked] == [2, 2]
assert len(list(log.query_events())) == len(list(reader.query_events())) == 3
time.sleep(0.3)  # until the watcher sleeps
inherited = descriptors()
assert len(inherited) > 8, inherited

def child():
    global log, reader
    parked.clear()
    log = reader = None
    gc.collect()
    assert descriptors() == inherited, (descriptors(), inherited)

assert ended_well(fork(child))
assert [next(follower).event_id for follower in parked] == [3, 3]
reader.close()
log.close()
"""
    options = (*FORKING, "-W", "ignore::ResourceWarning")
    assert run_script(tmp_path, FORK + PROGRAM + source, path, options=options) == ""


@pytest.mark.parametrize(
    "end",
    [
        "pass",
        "asyncio.run(follow())",
        pytest.param("log.close()", marks=pytest.mark.long),
        pytest.param("sys.exit()", marks=pytest.mark.long),
        pytest.param("del parked; gc.collect()", marks=pytest.mark.long),
        pytest.param("os.kill(os.getpid(), signal.SIGINT)", marks=FORKS),
    ],
)
def test_a_program_may_end_while_it_follows(tmp_path: Path, path: Path, end: str) -> None:
    source = f"""
def wait(log):
    try:
        for event in log.follow_events():
            pass
    except Exception:
        pass  # that the log is closed

async def follow():
    kept = asyncio.ensure_future(anext(aiter(log.follow_events_async(after_id=3))))
    async for event in log.follow_events_async():
        break

log = EventLog(path)
log.insert_events([BEAT] * 3)
parked = log.follow_events()
next(parked)
for _ in range(4):  # which may begin before the end or after it
    threading.Thread(target=wait, args=[log], daemon=True).start()
try:
    {end}
except KeyboardInterrupt:
    pass
if log:
    log.close()
"""
    run_script(tmp_path, PROGRAM + source, path)


@pytest.mark.parametrize("kind", ["EventLog", pytest.param("EventReader", marks=pytest.mark.long)])
def test_a_daemon_thread_that_follows_ends_without_complaint(
    tmp_path: Path, path: Path, kind: str
) -> None:
    EventLog(path).close()
    begin = "import atexit, time; atexit.register(time.sleep, 0.3)"  # runs after what the library does at the end
    source = f"""
log = {kind}(path)
for wanted in 1, 2, 3:
    threading.Thread(target=lambda: list(log.follow_events()), daemon=True).start()
time.sleep(0.2)
"""
    run_script(tmp_path, f"{begin}\n{PROGRAM}{source}", path)


@FORKS
def test_ctrl_c_ends_a_waiting_follower(tmp_path: Path, path: Path) -> None:
    source = """
log = EventLog(path)
log.insert_event(*BEAT)

def interrupt():
    while not watchers():
        time.sleep(0.001)
    time.sleep(0.05)
    os.kill(os.getpid(), signal.SIGINT)

async def follow():
    async for event in log.follow_events_async():
        pass

for n in range(6):
    threading.Thread(target=interrupt).start()
    try:
        asyncio.run(follow()) if n % 2 else [event for event in log.follow_events(timeout=(None, 30)[n // 3])]
    except KeyboardInterrupt:
        print("interrupted")
    gc.collect()
    while watchers():
        time.sleep(0.001)
log.close()
"""
    assert run_script(tmp_path, PROGRAM + source, path) == "interrupted\n" * 6


# ------------------------------------------------------------------------------------------------------------ processes

ECHO: Final = """
if sys.argv[2] == "polling":
    without_inotify()

async def follow(log):
    async for event in log.follow_events_async("t", until_finished=True):
        print(event.event_id, flush=True)

with EventReader(path) as log:
    if sys.argv[3] == "async":
        asyncio.run(follow(log))
    else:
        for event in log.follow_events("t", until_finished=True):
            print(event.event_id, flush=True)
"""


@pytest.mark.parametrize("how", ["sync", "async"])
@pytest.mark.parametrize("waking", ["inotify", "polling"])
def test_another_process_wakes_it(
    tmp_path: Path, log: EventLog, path: Path, waking: str, how: str
) -> None:
    """Each event is committed after the one before was seen, by a follower that has gone to sleep again since."""
    program = tmp_path / "echo.py"
    program.write_text(PROGRAM + ECHO)
    command = [sys.executable, str(program), str(path), waking, how]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as other:
        try:
            assert other.stdout is not None
            lines = Beside(map(int, other.stdout))
            for n in range(15):
                assert log.insert_event(*(BEAT if n < 14 else END)) == n + 1
                assert len(lines.saw(n + 1)) == n + 1
            assert lines.end() == list(range(1, 16))
            assert other.wait(PATIENCE) == 0
        finally:
            other.kill()


WRITE: Final = """
name, count = sys.argv[2], int(sys.argv[3])
with EventLog(path, durability="normal", busy_timeout=60) as log:
    while count:
        size = min(count, random.choice([1, 1, 1, 5, 300]))
        if size > 1:
            log.insert_events([(name, None, "step_heartbeat", {"text": "x" * 200})] * size)
        else:
            random.choice([log.insert_event, log.submit_event])(name, None, "step_heartbeat", {})
        count -= size
    log.insert_event(name, None, "task_completed", {})
"""

JOIN: Final = """
total, each = int(sys.argv[2]), int(sys.argv[3])
if random.random() < 0.3:
    without_inotify()

async def some(stream, count):
    seen = []
    async for event in stream:
        seen.append(event.event_id)
        if len(seen) == count or seen[-1] == total:
            break
    return seen

last = visits = 0
while last < total:
    with EventReader(path, must_exist=False) as log:
        for _ in range(random.randint(1, 5)):
            after_id, count = random.choice([0, last, last, random.randint(0, last)]), random.choice([1, 9, 700])
            if after_id >= total:
                break
            seen = []
            if random.random() < 0.5:
                seen = asyncio.run(some(log.follow_events_async(after_id=after_id), count))
            else:
                for event in log.follow_events(after_id=after_id):
                    seen.append(event.event_id)
                    if len(seen) == count or seen[-1] == total:
                        break
            assert seen == [*range(after_id + 1, after_id + 1 + len(seen))], (after_id, count, seen)
            last, visits = max(last, seen[-1]), visits + 1
with EventReader(path) as log:
    for name in ("p0", "p3"):
        assert len(list(log.follow_step_events(name, until_finished=True))) == each
print(visits)
"""

STAY: Final = """
total, each = int(sys.argv[2]), int(sys.argv[3])
with EventReader(path, must_exist=False) as log:
    follower = log.follow_events()
    assert [next(follower).event_id for _ in range(total)] == [*range(1, total + 1)]
    follower.close()
print(1)
"""


@pytest.mark.long
@pytest.mark.parametrize("each", [400, pytest.param(5000, marks=pytest.mark.long)])
def test_four_processes_write_and_others_join_and_leave(
    tmp_path: Path, path: Path, each: int
) -> None:
    """Whoever follows, from whenever on, has every id after that once, in order; some were there before the file."""
    total = 4 * (each + 1)
    parts = (
        [(WRITE, f"p{k}", each) for k in range(4)]
        + [(JOIN, total, each)] * 3
        + [(STAY, total, each)] * 2
    )

    def run(number: int) -> str:
        source, *arguments = parts[number]
        folder = tmp_path / str(number)
        folder.mkdir()
        return run_script(folder, PROGRAM + source, path, *arguments)

    visits = [
        int(text)
        for text in together(*(partial(run, number) for number in range(len(parts))))
        if text
    ]
    assert len(visits) == 5 and max(visits) > 3


RESIDENT: Final = """
with EventReader(path) as log:
    kind = log.follow_step_events if sys.argv[2] == "steps" else log.follow_events
    for event in kind("t", until_finished=True):
        pass
with open("/proc/self/status") as status:
    print(*(line.split()[1] for line in status if line.startswith("VmHWM:")))
"""


@LINUX
@pytest.mark.long
@pytest.mark.parametrize("kind", ["steps", "events"])
def test_memory_does_not_grow_with_the_log(tmp_path: Path, kind: str) -> None:
    def peak(name: str, history: int, live: int) -> int:
        """Bytes resident at most in a process that follows so many events already there and then so many more."""
        path = tmp_path / name
        path.mkdir()
        with EventLog(path / "events.db", durability="normal") as log:
            log.insert_events([BEAT] * history)
            result = start(lambda: run_script(path, PROGRAM + RESIDENT, path / "events.db", kind))
            for _ in range(live // 1000):
                log.insert_events([BEAT] * 1000)
            log.insert_event(*END)
            return int(result.result(PATIENCE)) << 10

    usual = peak("usual", 5000, 5000)
    assert peak("history", 200_000, 1000) < usual + (4 << 20)
    assert peak("live", 5000, 200_000) < usual + (4 << 20)
