# SPDX-License-Identifier: MIT
"""`orch-events watch`: what it makes of a task's events, and what a real terminal shows of it."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from contextlib import AbstractContextManager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final, TypeAlias

import pytest

from orch_events import Event, EventLog, EventReader
from orch_events.cli.model.overview import Overview
from orch_events.cli.model.task_state import TaskState
from orch_events.cli.show.watch_frame import frame, select_runs

from .helpers import PATIENCE, wait_until
from .terminal import (
    Piped,
    Terminal,
    background,
    command,
    outcome,
    shown_width,
    terminal,
)

Told: TypeAlias = tuple[float, str, dict[str, object]]
"""An event: after how many seconds, of which type (which may lack its ``step_``), its payload (and the item)."""

EPOCH = datetime(2026, 1, 2, tzinfo=UTC)
HOSTILE = "a\x1b[2J\x1b]0;owned\x07\r\n\x9b31m\u202e\ud55c\t"


@pytest.fixture
def db(tmp_path: Path) -> Path:
    return tmp_path / "log.db"


# ---------------------------------------------------------------------------------- the state, without a terminal


def fold(*events: Told, steps: TaskState | None = None) -> TaskState:
    """The state after `events`, or `steps` after them."""
    steps = TaskState() if steps is None else steps
    for at, kind, payload in events:
        others = kind.startswith(("task", "cycle", "auto", "custom"))
        payload = payload if others else {"step": "s", **payload}
        event = Event(
            event_id=steps.last_id + 1,
            task_id="t",
            task_item_id=str(payload["item"]) if "item" in payload else None,
            event_type=kind if others or kind.startswith("sandbox") else f"step_{kind}",
            payload_json=json.dumps(payload),
            created_at=(EPOCH + timedelta(seconds=at)).isoformat(timespec="microseconds"),
        )
        steps.apply(event)
    return steps


def states(steps: TaskState, at: float) -> list[str]:
    """``step item cycle: state`` of each run, so many seconds after the beginning."""
    now = EPOCH.timestamp() + at
    return [
        f"{run.label} {run.cycle or ''}".rstrip() + f": {steps.run_state(run, now)}"
        for run in steps.runs
    ]


@pytest.mark.parametrize(
    ("events", "expected"),
    [
        pytest.param([(0, "started", {})], ["s: running"], id="started"),
        pytest.param([(0, "spawned", {"pid": 1})], ["s: running"], id="spawned-alone"),
        pytest.param([(0, "heartbeat", {"pid": 1})], ["s: running"], id="heartbeat-alone"),
        pytest.param([(0, "finished", {"success": True})], ["s: succeeded"], id="end-alone"),
        pytest.param(
            [(0, "started", {}), (1, "finished", {"success": False})], ["s: failed"], id="failed"
        ),
        pytest.param(
            [(0, "started", {}), (1, "finished", {})], ["s: finished"], id="success-unknown"
        ),
        pytest.param(
            [(0, "started", {}), (1, "finished", {"success": 1})],
            ["s: finished"],
            id="success-no-bool",
        ),
        pytest.param([(0, "started", {}), (1, "timeout", {})], ["s: failed"], id="timeout"),
        pytest.param(
            [(0, "timeout", {}), (1, "finished", {"success": False})],
            ["s: failed"],
            id="timeout-then-end",
        ),
        pytest.param(
            [(0, "stall_killed", {}), (1, "finished", {})], ["s: finished"], id="stall-then-end"
        ),
        pytest.param(
            [(0, "finished", {"success": True}), (1, "heartbeat", {})],
            ["s: succeeded"],
            id="late-heartbeat",
        ),
        pytest.param(
            [
                (0, "started", {"item": "a"}),
                (0, "started", {"item": "b"}),
                (1, "finished", {"item": "a", "success": True}),
            ],
            ["s a: succeeded", "s b: running"],
            id="items",
        ),
        pytest.param(
            [
                *(
                    (0, "started", {"cycle": 1}),
                    (1, "finished", {"success": False}),
                    (2, "cycle_started", {"cycle": 2}),
                ),
                (3, "started", {}),
                (10, "heartbeat", {}),
            ],
            ["s 1: failed", "s 2: running"],
            id="cycles",
        ),
        pytest.param(
            [
                (0, "finished", {"success": True, "cycle": 1}),
                (1, "skipped", {}),
                (2, "finished", {"cycle": 2}),
            ],
            ["s 1: succeeded", "s 1: skipped", "s 2: finished"],
            id="ends-of-other-runs",
        ),
        pytest.param(
            [
                (0, "started", {}),
                (0, "spawned", {"pid": 1}),
                (1, "spawned", {"pid": 2}),
                (2, "finished", {"success": True}),
            ],
            ["s: succeeded"],
            id="spawned-again",
        ),
        pytest.param(
            [
                *(
                    (0, "started", {}),
                    (0, "started", {}),
                    (0, "spawned", {"pid": 1}),
                    (0, "spawned", {"pid": 2}),
                ),
                (1, "heartbeat", {"pid": 2}),
                (2, "finished", {"pid": 2, "success": False}),
            ],
            ["s: failed", "s: running"],
            id="told-apart-by-process",
        ),
        pytest.param(
            [
                (0, "started", {}),
                (0, "spawned", {"pid": 1}),
                (9, "started", {}),
                (10, "finished", {"success": True}),
            ],
            ["s: running", "s: succeeded"],
            id="started-anew",
        ),
        pytest.param(
            [(0, "heartbeat", {"step": 3}), (0, "custom_type", {}), (0, "cycle_started", {})],
            [],
            id="no-step",
        ),
        pytest.param([(0, "sandbox_denied", {})], [], id="incident-alone"),
    ],
)
def test_runs(events: list[Told], expected: list[str]) -> None:
    assert states(fold(*events), 11) == expected


BEATS: list[Told] = [
    (0, "started", {}),
    (0, "spawned", {"pid": 1}),
    (2, "heartbeat", {}),
    (4, "heartbeat", {}),
]


EVERY_TEN: list[Told] = [
    (0, "spawned", {"pid": 1}),
    (10, "heartbeat", {"pid": 1}),
    (20, "heartbeat", {"pid": 1}),
    (30, "heartbeat", {"pid": 1}),
]


PROMISED: Told = (0, "spawned", {"pid": 1, "heartbeat_secs": 10})


def beats(begin: float, *gaps: float) -> list[Told]:
    """Heartbeats with these seconds before each."""
    return [(begin + sum(gaps[:number]), "heartbeat", {}) for number in range(1, len(gaps) + 1)]


@pytest.mark.parametrize(
    ("events", "silent_for"),
    [
        pytest.param(BEATS, 6, id="learned"),
        pytest.param(BEATS[:3], 6, id="learned-from-the-first"),
        pytest.param(BEATS[:2], 30, id="nothing-learned"),
        pytest.param(
            [*BEATS[:2], (0.25, "heartbeat", {})], 30, id="nothing-learned-from-one-at-once"
        ),
        pytest.param([(0, "started", {}), (0.25, "heartbeat", {})], 30, id="nor-without-a-process"),
        pytest.param([(0, "spawned", {"pid": 1, "heartbeat_secs": 60})], 180, id="promised"),
        pytest.param([(0, "spawned", {"pid": 1, "heartbeat_secs": 0.5})], 1.5, id="promised-soon"),
        pytest.param(
            [(0, "spawned", {"pid": 1, "heartbeat_secs": "x"})], 30, id="promised-nonsense"
        ),
        pytest.param(BEATS[:1], None, id="promised-none"),
        pytest.param([*BEATS, (9, "heartbeat", {})], 15, id="one-delayed"),
        pytest.param(
            [*BEATS, (9, "heartbeat", {}), (11, "heartbeat", {})], 10.5, id="delay-half-forgotten"
        ),
        pytest.param([*BEATS, (4, "cycle_started", {})], 6, id="other-events-are-no-sign-of-life"),
        pytest.param(
            [*BEATS, (4, "spawned", {"item": "i", "pid": 2})], 6, id="others-do-not-matter"
        ),
        pytest.param(
            [
                (0, "spawned", {"item": "i"}),
                (60, "heartbeat", {"item": "i"}),
                (60, "spawned", {"pid": 2}),
            ],
            180,
            id="task-knows",
        ),
        pytest.param([*EVERY_TEN, *beats(30, 28_800)], 30, id="slept"),
        pytest.param([*EVERY_TEN, *beats(30, 28_800, 10)], 30, id="slept-a-while-ago"),
        pytest.param([*EVERY_TEN, *beats(30, *[28_800] * 9)], 30, id="slept-again-and-again"),
        pytest.param([*EVERY_TEN, *beats(30, 1_200)], 30, id="stood-still"),
        pytest.param([*EVERY_TEN, *beats(30, 10, 25)], 75, id="late"),
        pytest.param([BEATS[1], *beats(0, 28_800)], 30, id="slept-before-the-first"),
        pytest.param([BEATS[1], *beats(0, 1_200, 10)], 30, id="began-late"),
        pytest.param([PROMISED, *beats(0, 28_800)], 30, id="promised-and-slept"),
        pytest.param([PROMISED, *beats(0, 600)], 30, id="promised-and-stood-still"),
        pytest.param([PROMISED, *beats(0, 2, 2, 2)], 30, id="sooner-than-promised"),
        pytest.param([PROMISED, *beats(0, 40, 40, 40)], 120, id="later-than-promised"),
        pytest.param([*BEATS, *beats(4, 10, 10, 10)], 30, id="slower-from-now-on"),
        pytest.param(
            [
                (0, "spawned", {"item": "i"}),
                (5_000, "heartbeat", {"item": "i"}),
                (5_000, "spawned", {"pid": 2}),
            ],
            30,
            id="task-does-not-know-of-sleep",
        ),
    ],
)
def test_lost_after_three_intervals(events: list[Told], silent_for: float | None) -> None:
    steps = fold(*events)
    heard = events[-1][0]
    run = steps.runs[0 if "item" in events[-1][2] else -1]
    if silent_for is None:
        assert steps.run_state(run, EPOCH.timestamp() + 1e9) == "running"
        return
    lost = EPOCH.timestamp() + heard + silent_for
    assert (steps.run_state(run, lost - 0.001), steps.run_state(run, lost)) == ("running", "lost")
    assert steps.changes_in(lost - 1) == pytest.approx(1)
    assert (steps.problem(run, lost - 0.001), steps.problem(run, lost)) == (None, "no heartbeat")
    assert steps.duration(run, lost + 100) == heard - (run.started - EPOCH.timestamp())


def test_lost_and_found() -> None:
    steps = fold((0, "task_started", {}), *BEATS)
    end = EPOCH.timestamp() + 60
    assert (states(steps, 60), steps.task_state(end), steps.elapsed(end)) == (
        ["s: lost"],
        "lost",
        4,
    )
    fold((60, "heartbeat", {}), steps=steps)
    assert (states(steps, 61), steps.task_state(end + 1), steps.elapsed(end + 1)) == (
        ["s: running"],
        "running",
        61,
    )
    fold((62, "task_cancelled", {}), steps=steps)
    assert (states(steps, 62), steps.task_state(end + 2), steps.elapsed(end + 9)) == (
        ["s: lost"],
        "cancelled",
        62,
    )
    assert steps.problem(steps.runs[0], end + 2) is None
    assert "end not recorded" in "\n".join(frame("t", steps, end + 2, 100))


@pytest.mark.parametrize(
    ("events", "state"),
    [
        ([], "idle"),
        ([(0, "started", {})], "running"),
        ([(0, "started", {}), (1, "finished", {})], "idle"),
        ([(0, "task_started", {})], "running"),
        ([(0, "task_started", {}), (1, "task_paused", {}), (2, "started", {})], "paused"),
        ([(0, "task_started", {}), (1, "task_completed", {})], "completed"),
        ([(0, "task_failed", {}), (1, "task_started", {})], "running"),
    ],
)
def test_task_state(events: list[Told], state: str) -> None:
    assert fold(*events).task_state(EPOCH.timestamp() + 2) == state


@pytest.mark.parametrize(
    ("events", "details"),
    [
        ([(0, "spawned", {"pid": 7})], "pid 7"),
        (
            [(0, "heartbeat", {"pid": 7, "pid_alive": True, "output_state": "active"})],
            "pid 7 alive",
        ),
        (
            [
                (
                    0,
                    "heartbeat",
                    {
                        "stdout_bytes": 1234567,
                        "stdout_delta_bytes": 999,
                        "stderr_bytes": 0,
                        "stderr_delta_bytes": 0,
                    },
                )
            ],
            "out 1.2 MB +999 B, err 0 B",
        ),
        ([(0, "finished", {"exit_code": 3}), (1, "heartbeat", {"pid": 7})], "exit 3"),
        (
            [(0, "heartbeat", {"output_state": "low_output", "stagnant_heartbeats": 12})],
            "low_output ×12",
        ),
        (
            [
                (0, "heartbeat", {"output_state": "quiet"}),
                (1, "finished", {"exit_code": 3, "confidence": 0.25}),
            ],
            "confidence 0.25, exit 3",
        ),
        (
            [
                (0, "timeout", {"reason": "not finished after 1 s"}),
                (1, "finished", {"success": False}),
            ],
            "not finished after 1 s",
        ),
        (
            [
                (0, "started", {}),
                (1, "sandbox_denied", {"reason": "no"}),
                (2, "finished", {"exit_code": True}),
            ],
            "sandbox_denied",
        ),
    ],
)
def test_details(events: list[Told], details: str) -> None:
    picture = frame("t", fold(*events), EPOCH.timestamp() + events[-1][0], 200)
    assert re.split(" {2,}", picture[-1])[-1] == details


@pytest.mark.parametrize(
    ("payload", "problem"),
    [
        ({"pid_alive": True, "output_state": "low_output"}, "! s i: low output"),
        ({"pid_alive": False, "output_state": "low_output"}, "! s i: process dead"),
        ({"pid_alive": True, "output_state": "quiet"}, None),
    ],
)
def test_what_needs_attention(payload: dict[str, object], problem: str | None) -> None:
    steps = fold((0, "started", {"item": "i"}), (1, "heartbeat", {"item": "i", **payload}))
    found = [line for line in frame("t", steps, EPOCH.timestamp() + 1, 100) if line.startswith("!")]
    assert found == ([] if problem is None else [problem])
    fold((2, "auto_rollback_failed", {}), (2, "finished", {"item": "i"}), steps=steps)
    assert "! auto_rollback_failed" in frame("t", steps, EPOCH.timestamp() + 2, 100)


@pytest.mark.parametrize(
    ("milliseconds", "shown"),
    [
        *(
            (0, "0s"),
            (1, "1ms"),
            (40, "40ms"),
            (999, "999ms"),
            (1000, "1s"),
            (59_949, "59.9s"),
            (59_960, "1m 00s"),
            (59_940, "59.9s"),
            (60_000, "1m 00s"),
            (3_599_999, "59m 59s"),
            (3_600_000, "1h 00m"),
        ),
        (2**64 - 1, "5124095576030h"),
    ],
)
def test_durations(milliseconds: int, shown: str) -> None:
    assert (
        f"  {shown}"
        in frame("t", fold((0, "finished", {"duration_ms": milliseconds})), EPOCH.timestamp(), 100)[
            -1
        ]
    )


def many(count: int) -> TaskState:
    """A task of many steps: the 3rd failed, the 5th runs, the others have succeeded."""
    steps = TaskState()
    for index in range(count):
        fold((index, "started", {"step": f"step-{index}"}), steps=steps)
        if index != 5:
            fold(
                (
                    index,
                    "finished",
                    {"step": f"step-{index}", "success": index != 3, "duration_ms": 1},
                ),
                steps=steps,
            )
    return steps


def test_of_hundreds_of_steps_those_that_matter_are_shown() -> None:
    steps = many(400)
    picture = frame("t", steps, EPOCH.timestamp() + 400, 80, 20)
    assert len(picture) == 20
    assert picture[1] == "1 running, 398 succeeded, 1 failed, 0 skipped"
    assert [line.split()[0] for line in picture[3:-1]] == [
        "step-3",
        "step-5",
        *(f"step-{i}" for i in range(386, 400)),
    ]
    assert picture[-1] == "… 384 more: 0 running, 384 succeeded, 0 failed, 0 skipped"
    for room in range(401):
        shown = select_runs(steps.runs, room)
        assert len(shown) == room
        assert shown == sorted(shown, key=steps.runs.index)
        assert room < 1 or steps.runs[5] in shown
        assert room < 6 or {steps.runs[3], steps.runs[399]} <= set(shown)


def test_frames_fit_and_drive_no_terminal_with_any_content() -> None:
    fields = {
        "agent_id": HOSTILE,
        "reason": HOSTILE * 50,
        "output_state": HOSTILE,
        "pid": 2**64 - 1,
        "confidence": 1e308,
    }
    steps = fold(
        (0, "task_started", {"cycle": 2**62}),
        (1, "heartbeat", {"step": HOSTILE * 3, "item": HOSTILE, **fields}),
    )
    for run in range(30):
        fold((2, "heartbeat", {"step": f"{run}", "pid_alive": False}), steps=steps)
    now = EPOCH.timestamp() + 2
    whole = frame(HOSTILE, steps, now, None)
    assert len(whole) == 35 and r"a\x1b[2J\x1b]0;owned\x07\r\n\x9b31m\u202e한\t" in whole[0]
    for width in (*range(1, 40), 80, 200):
        for height in (1, 2, 3, 4, 5, 24):
            picture = frame(HOSTILE, steps, now, width, height)
            assert len(picture) <= height and all(line.isprintable() for line in picture)
            assert width < 40 or all(shown_width(line) <= width for line in picture), picture
    odd = Event(
        event_id=1,
        task_id="t",
        task_item_id=None,
        event_type="step_started",
        payload_json="[",
        created_at="?",
    )
    odder = Event(
        event_id=2,
        task_id="t",
        task_item_id=None,
        event_type="step_started",
        payload_json='{"step":"s"}',
        created_at="",
    )
    strange = TaskState()
    assert strange.apply(odd) is None
    strange.apply(odder)
    assert frame("t", strange, now, None)[-1].split() == ["s", "unspecified", "running", "0s"]


# ------------------------------------------------------------------------------------------------------- on a terminal


def running(
    db: Path, *words: str, command: str
) -> AbstractContextManager["subprocess.Popen[bytes]"]:
    """`run WORDS -- sh -c COMMAND` at work."""
    return background(
        "--db", db, "run", *words, "--heartbeat", "0.3", "--", "sh", "-c", command, cwd=db.parent
    )


@pytest.mark.long
def test_a_session_of_run_watch_and_logs(db: Path) -> None:
    """Three processes on one log that is not there at first. All end by themselves, with the task."""
    os.mkfifo(db.with_name("go"))
    command = "echo compiling; echo careful >&2; read x < go; printf linking; exit 3"
    with terminal(
        "--db", db, "watch", "--wait", COLUMNS="20"
    ) as watch:  # $COLUMNS is wrong as soon as a window is resized
        watch.wait_for("waiting for the first event")
        with running(db, "--step", "build", "--agent", "a1", command=command) as run:
            frame = watch.wait_for("out 10 B", "err 8 B", "quiet ×")
            head, counts, titles, row = frame.split("\n")
            assert re.fullmatch(r"task \S+  running  \ds", head)
            assert counts == "1 running, 0 succeeded, 0 failed, 0 skipped"
            assert titles.split() == [
                "step",
                "scope",
                "item",
                "agent",
                "status",
                "duration",
                "details",
            ]
            assert re.fullmatch(
                r"build +task +a1 +running +\ds +pid \d+ alive, out 10 B( \+10 B)?, .*, quiet ×\d+",
                row,
            )
            with background("--db", db, "logs", "-f", head.split()[1]) as following:
                logs = Piped(following)
                logs.wait_for("careful")
                watch.wait_for(" 2s ", "running")  # the clock ticks
                db.with_name("go").write_text("\n")
                assert run.wait(PATIENCE) == 3
                expected = "==> build (stdout) <==\ncompiling\n\n==> build (stderr) <==\ncareful\n"
                assert logs.end() == (0, f"{expected}\n==> build (stdout) <==\nlinking", "")
        assert watch.end() == 1
        assert re.search(
            r"^build +task +a1 +failed +[\d.]+s +exit 3$", watch.screen.text(), re.MULTILINE
        )
        waiting, chosen, title, *_ = watch.screen.text().splitlines()
        assert waiting == "orch-events: waiting for the first event"
        assert chosen.startswith("orch-events: the latest task: ") and title.startswith("task ")
        assert watch.screen.colours == {"0", "1", "31"}


@pytest.mark.long
def test_a_killed_run_is_lost_after_three_heartbeats_and_no_sooner(db: Path) -> None:
    with (
        terminal("--db", db, "watch", "t", "--wait") as watch,
        running(db, "--task", "t", command="exec sleep 60") as run,
    ):
        watch.wait_for("pid ", "quiet ×3")
        run.kill()
        killed = time.monotonic()
        frame = watch.wait_for("lost")
        assert 0.3 < time.monotonic() - killed < 10
        os.kill(int(re.findall(r"pid (\d+)", frame)[0]), signal.SIGKILL)
        assert frame.startswith("task t  unknown  lost  ")
        assert "\n! sh: no heartbeat\n" in frame
        assert "\n0 running, 0 succeeded, 0 failed, 0 skipped, 1 lost\n" in frame
        watch.wait_for("no heartbeat for 2s")
        # The log tells nothing of an end, and somebody may go on with the task.
        assert watch.process.poll() is None
        with EventLog(db) as log:
            log.insert_event(
                "t",
                None,
                "step_heartbeat",
                {"step": "sh", "pid_alive": True, "output_state": "low_output"},
            )
            watch.wait_for("running", "! sh: low output")
            log.insert_event("t", None, "task_cancelled", {})
        assert watch.end() == 1
        assert (
            "task t  cancelled  " in watch.screen.text()
            and "end not recorded" in watch.screen.text()
        )


@pytest.mark.parametrize(
    "end",
    [
        "ctrl-c",
        "q",
        "SIGTERM",
        "deleted",
        *(pytest.param(end, marks=pytest.mark.long) for end in ("ctrl-\\", "SIGHUP")),
    ],
)
def test_the_terminal_is_left_as_it_was_found(db: Path, end: str) -> None:
    with EventLog(db) as log, terminal("--db", db, "watch", "t", "--wait") as watch:
        log.insert_event("t", None, "step_started", {"step": "s"})
        watch.wait_for("s  ", "running")
        assert (watch.screen.alternate, watch.screen.cursor_shown) == (True, False)
        last = watch.screen.text()
        if end.startswith("ctrl"):
            watch.type(b"\x03" if end == "ctrl-c" else b"\x1c")
        elif end == "q":
            watch.type(b"x")  # no other key does anything
            watch.type(b"q")
        elif end == "deleted":
            db.rename(f"{db}.moved")
        else:
            watch.process.send_signal(signal.Signals[end])
        assert (
            watch.end()
            == {"ctrl-c": 130, "ctrl-\\": 131, "SIGTERM": 143, "SIGHUP": 129, "deleted": 1, "q": 1}[
                end
            ]
        )
        shown = watch.screen.text()
        assert last.split("\n")[0][:10] in shown and "\ns  " in shown
        unwrapped = "".join(shown.split())  # a line may end at any space, or within a word
        assert ("deletedorreplacedwhilebeingfollowed" in unwrapped) is (end == "deleted")
        assert "Traceback" not in shown


def test_ctrl_z_gives_the_terminal_back_and_fg_takes_it_again(db: Path) -> None:
    with EventLog(db) as log, terminal("--db", db, "watch", "t", "--wait") as watch:
        log.insert_event("t", None, "step_started", {"step": "s"})
        watch.wait_for("s  ", "running")
        watch.process.send_signal(signal.SIGTSTP)
        watch.wait_for(condition=lambda: not watch.screen.alternate)
        assert watch.screen.cursor_shown
        stat = Path(f"/proc/{watch.process.pid}/stat")
        wait_until(lambda: stat.read_text().rpartition(")")[2].split()[0] == "T")
        watch.process.send_signal(signal.SIGCONT)
        watch.wait_for("running", condition=lambda: watch.screen.alternate)
        log.insert_event("t", None, "task_completed", {})
        assert watch.end() == 0


def wait_for_extent(watch: Terminal, lines: int, columns: int) -> None:
    def reached() -> bool:
        rows = watch.frames[-1].split("\n")
        return (len(rows), max(map(len, rows))) == (lines, columns)

    watch.wait_for(condition=reached)


def test_follows_the_size_of_the_window(db: Path) -> None:
    with (
        EventLog(db) as log,
        terminal("--db", db, "watch", "--wait", columns=80, lines=24) as watch,
    ):
        log.insert_events(
            ("t", None, "step_started", {"step": f"step-{i:02}", "reason": "r" * 200})
            for i in range(40)
        )
        watch.wait_for("… 21 more", "step-39")
        for width, height in ((50, 10), (120, 50), (9, 3), (80, 24)):
            watch.resize(width, height)
            wait_for_extent(watch, min(43, height - 1), width - 1)
        log.insert_event("t", None, "task_completed", {})
        assert watch.end() == 0


@pytest.mark.long
def test_each_frame_replaces_the_one_before_without_an_empty_moment(db: Path) -> None:
    with EventLog(db) as log, terminal("--db", db, "watch", "--wait", lines=8) as watch:
        for index in range(30):
            log.insert_event(
                "t", None, "step_started", {"step": f"step-{index}", "agent_id": "a" * (index % 7)}
            )
            watch.wait_for(f"step-{index} ")
        log.insert_event("t", None, "task_completed", {})
        assert watch.end() == 0
        assert len(watch.frames) >= 30
        # Whatever part of its output a terminal has taken in, the header is there.
        assert {row[:6] for row in watch.first_rows if row} == {
            "task t"
        } and "" not in watch.first_rows[1:]


def test_shows_what_is_hostile_as_text(db: Path) -> None:
    with EventLog(db) as log, terminal("--db", db, "watch", "--wait", columns=400) as watch:
        fields = {"step": HOSTILE, "agent_id": HOSTILE, "reason": HOSTILE, "pid_alive": False}
        log.insert_event(HOSTILE, HOSTILE, "step_heartbeat", fields)
        shown = r"a\x1b[2J\x1b]0;owned\x07\r\n\x9b31m\u202e한\t"
        frame = watch.wait_for(f"! {shown} {shown}: process dead")
        assert frame.count(shown) == 7
        log.insert_event(HOSTILE, None, "task_completed", {})
        assert watch.end() == 0  # the emulator fails on all that it does not expect


def test_without_colour(db: Path) -> None:
    with EventLog(db) as log:
        log.insert_event("t", None, "task_failed", {})
    with terminal("--db", db, "watch") as watch:
        assert (watch.end(), watch.screen.colours) == (1, {"0", "31"})
    with terminal("--db", db, "watch", NO_COLOR="1") as watch:
        assert (watch.end(), watch.screen.colours) == (1, set())


def cpu(process_id: int) -> float:
    """Processor time a process has used, in seconds."""
    fields = Path(f"/proc/{process_id}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@pytest.mark.long
def test_a_frame_reads_only_what_is_new(db: Path) -> None:
    with EventLog(db) as log:
        log.insert_events(
            ("t", None, "step_heartbeat", {"step": "s", "elapsed_secs": i}) for i in range(15_000)
        )
        with terminal("--db", db, "watch", "t", "--wait") as watch:
            log.insert_event("t", None, "step_started", {"step": "last"})
            watch.wait_for("last ")
            first = cpu(watch.process.pid)
            count = len(watch.frames)
            watch.wait_for(condition=lambda: len(watch.frames) >= count + 3)
            assert cpu(watch.process.pid) - first < first / 4
            log.insert_event("t", None, "task_completed", {})
            assert watch.end() == 0


# -------------------------------------------------------------------------------------------------------- elsewhere


@pytest.mark.parametrize(
    ("ends", "status"),
    [
        (["task_cancelled"], 1),
        (["task_failed", "task_started", "task_completed"], 0),
        pytest.param(["task_completed"], 0, marks=pytest.mark.long),
        pytest.param(["task_failed"], 1, marks=pytest.mark.long),
    ],
)
def test_not_on_a_terminal_a_line_for_each_event(db: Path, ends: list[str], status: int) -> None:
    with background("--db", db, "watch", "t", "--wait") as process, EventLog(db) as log:
        watch = Piped(process)
        log.insert_event("other", None, "task_completed", {})
        log.insert_event(
            "t", "i", "step_started", {"step": "s\x1b", "step_scope": "item", "agent_id": "a"}
        )
        watch.wait_for("  step_started  s\\x1b  i  agent_id=a\n")
        log.insert_event("t", None, "no_event_of_ours", {})
        log.insert_event("t", "i", "step_heartbeat", {"step": "s\x1b", "pid_alive": False})
        watch.wait_for("! s\\x1b i: process dead\n")
        log.insert_event("t", None, "cycle_started", {"cycle": 2})
        watch.wait_for("cycle=2\n")
        log.insert_events(("t", None, end, {}) for end in ends)
        code, printed, complaint = watch.end()
    waited = "orch-events: waiting for task 't'\n"
    assert (code, complaint) in ((status, ""), (status, waited))
    types = [line.split("  ")[1] for line in printed.splitlines() if not line.startswith("!")]
    assert types == ["type", "step_started", "step_heartbeat", "cycle_started", *ends]
    assert printed.count("!") == 1


def test_a_dumb_terminal_gets_lines(db: Path) -> None:
    with EventLog(db) as log:
        log.insert_event("t", None, "task_completed", {})
    with terminal("--db", db, "watch", TERM="dumb") as watch:
        assert watch.end() == 0
        assert re.fullmatch(
            r"orch-events: the latest task: 't'\n"
            r"time \(UTC\)  type  step  item  details\n\d\d-.*  task_completed",
            watch.screen.text(),
        )


@pytest.mark.long
def test_lost_is_told_where_there_is_no_terminal(db: Path) -> None:
    with (
        running(db, "--task", "t", command="exec sleep 60") as run,
        background("--db", db, "watch", "t", "--wait") as process,
    ):
        watch = Piped(process)
        pid = re.findall(rb" pid=(\d+)", watch.wait_for("stagnant_heartbeats=2"))[0]
        run.kill()
        os.kill(int(pid), signal.SIGKILL)
        watch.wait_for("! sh: no heartbeat\n")
        process.send_signal(signal.SIGINT)
        code, printed, complaint = watch.end()
        assert (code, printed.count("no heartbeat")) == (130, 1)
        assert complaint in (
            "",
            "orch-events: waiting for task 't'\n",
        )  # it may come before the task


def test_once(db: Path) -> None:
    def once(*words: str) -> tuple[int, str, str]:
        return outcome("--db", db, "watch", "--once", *words)

    assert once()[::2] == (1, f"orch-events: {db}: no event log here\n")
    with EventLog(db) as log:
        assert once() == (1, "", "orch-events: no tasks yet\n")
        log.insert_event("t0", None, "task_started", {})
        log.insert_event("t1", None, "task_failed", {})
        log.insert_event(
            "t2", None, "step_skipped", {"step": "s", "step_scope": "task", "reason": "r" * 500}
        )
        log.insert_events(("t2", None, "step_started", {"step": f"s{i}"}) for i in range(100))
        log.insert_event("t1", None, "custom", {})
    assert once("no such task") == (1, "", "orch-events: no task 'no such task'\n")
    told = "task t1  failed  0s\n0 running, 0 succeeded, 0 failed, 0 skipped\n"
    assert once() == (0, told, "orch-events: the latest task: 't1'\n")
    code, printed, complaint = once("t2")
    lines = printed.splitlines()
    assert (code, complaint, len(lines)) == (0, "", 104)
    assert re.fullmatch(r"task t2  unknown  \ds", lines[0])
    assert lines[1] == "100 running, 0 succeeded, 0 failed, 1 skipped"
    assert re.split(" {2,}", lines[3]) == ["s", "task", "skipped", "0s", "r" * 500]
    with terminal("--db", db, "watch", "--once", "t2", lines=200) as watch:
        assert (watch.end(), watch.frames) == (0, [])
        assert len(watch.screen.text().splitlines()) == 104


SHELL: Final = """
import os, signal, subprocess, sys
signal.signal(signal.SIGTTOU, signal.SIG_IGN)
job = subprocess.Popen(sys.argv[1:], process_group=0)
os.tcsetpgrp(0, job.pid)
os.waitpid(job.pid, os.WUNTRACED)
os.tcsetpgrp(0, os.getpgrp())
print("stopped", flush=True)
assert sys.stdin.readline() == "bg\\n"
os.kill(job.pid, signal.SIGCONT)
assert sys.stdin.readline() == "fg\\n"
os.tcsetpgrp(0, job.pid)
sys.exit(job.wait())
"""
"""Runs a command in the foreground; when Ctrl-Z has stopped it, "bg" and then "fg" may be typed."""


def test_keys_come_again_once_watch_was_brought_back_from_the_background(db: Path) -> None:
    with EventLog(db) as log:
        log.insert_event("t", None, "task_started", {})
    watch = Terminal([sys.executable, "-c", SHELL, *command("--db", db, "watch", "t")])
    try:
        watch.wait_for("task t", condition=lambda: not watch.edits_lines())
        watch.type(b"\x1a")
        watch.wait_for("stopped", condition=watch.edits_lines)
        watch.type(b"bg\n")
        watch.wait_for("task t", condition=lambda: watch.screen.alternate)
        assert watch.edits_lines()
        watch.type(b"fg\n")
        watch.wait_for("task t", condition=lambda: not watch.edits_lines())
        watch.type(b"q")
        assert watch.end() == 1
    finally:
        watch.close()


def test_all_tasks_that_run_have_a_line_each(db: Path) -> None:
    with EventLog(db) as log:
        log.insert_event("old", None, "task_completed", {})
        log.insert_event("a", None, "task_started", {})
        log.insert_event("b", None, "step_started", {"step": "deploy"})
        code, printed, _ = outcome("--db", db, "watch", "--all", "--once")
        assert code == 0
        rows = [re.split(" {2,}", line) for line in printed.splitlines()]
        assert [row[:2] for row in rows] == [
            ["all tasks", "2 running"],
            ["task", "status"],
            ["b", "running"],
            ["a", "running"],
        ]
        assert rows[2][3:] == ["1", "deploy"]
        with terminal("--db", db, "watch", "--all") as watch:
            watch.wait_for("2 running", "deploy")
            log.insert_event("c", None, "task_started", {})
            log.insert_event("a", None, "task_failed", {"reason": "no space"})
            log.insert_event("", None, "daemon_started", {})
            shown = watch.wait_for("2 running", "no space")
            lines = shown.splitlines()[2:]
            assert [line.split()[:2] for line in lines] == [
                ["c", "running"],
                ["b", "running"],
                ["a", "failed"],
            ]
            log.insert_events(("many", None, "task_started", {}) for _ in range(2))
            log.insert_events((f"t{number}", None, "task_started", {}) for number in range(50))
            watch.wait_for("53 running", "t49", "… 34 more")
            watch.type(b"q")
            assert watch.end() == 1


def test_of_the_tasks_that_do_not_run_the_newest_are_remembered(db: Path) -> None:
    """Or `watch --all` would grow for as long as it goes on: many a task has no end."""
    with EventLog(db) as log, EventReader(db) as reader:
        overview = Overview(reader)
        log.insert_event("runs", None, "task_started", {})
        log.insert_events((f"idle {number}", None, "x", {}) for number in range(201))
        log.insert_events((f"ended {number}", None, "task_failed", {}) for number in range(101))

        def shown(after_id: int = 0) -> list[str]:
            for event in reader.query_events(after_id=after_id):
                overview.apply(event)
            return [task_id for task_id, _ in overview.tasks(time.time())]

        newest = [f"idle {number}" for number in range(200, 0, -1)]
        ends = [f"ended {number}" for number in range(100, 0, -1)]
        assert shown() == ["runs", *ends, *newest]
        event_id = log.insert_event("idle 0", None, "x", {})
        assert shown(event_id - 1) == ["runs", *ends, "idle 0", *newest[:-1]]


def test_all_tasks_need_a_terminal_and_no_task(db: Path) -> None:
    for words, complaint in (
        (
            ["--all"],
            "--all needs a terminal, or --once; 'events -f' prints the events of all tasks",
        ),
        (["--all", "t"], "--all is of every task, and needs none"),
    ):
        code, printed, said = outcome("--db", db, "watch", *words)
        assert (code, printed) == (2, "")
        assert complaint in said


def test_all_tasks_are_watched_before_there_is_a_log(db: Path) -> None:
    with terminal("--db", db, "watch", "--all", "--wait") as watch:
        watch.wait_for("all tasks", "0 running")
        with EventLog(db) as log:
            log.insert_event("first", None, "task_started", {})
        watch.wait_for("1 running", "first")


def test_events_follow(db: Path) -> None:
    with (
        background(
            "--db", db, "events", "t", "-f", "--wait", "--json", "--type", "step_"
        ) as process,
        EventLog(db) as log,
    ):
        log.insert_event("t", None, "step_started", {"step": "s"})
        shown = Piped(process)
        shown.wait_for('"event_type":"step_started"')  # at once, though the output is a pipe
        with terminal("--db", db, "events", "t", "-f", "--limit", "3") as table:
            table.wait_for("1  ", "step_started  ")
            log.insert_event("t", None, "task_started", {})
            log.insert_event("t", "i", "step_heartbeat", {"step": "s", "pid": 7})
            assert table.end() == 0
            rows = [re.split(" {2,}", row.strip()) for row in table.screen.text().split("\n")]
        assert [row[2:] for row in rows] == [
            ["type", "step", "item", "details"],
            ["step_started", "s"],
            ["task_started"],
            ["step_heartbeat", "s", "i", "pid=7"],
        ]
        log.insert_event("t", None, "task_failed", {})
        code, printed, complaint = shown.end()
    assert (code, complaint) == (0, "")
    assert re.findall('"event_type":"(.*?)"', printed) == ["step_started", "step_heartbeat"]


# ------------------------------------------------------------------------------- many at once, and ends without a start


def test_of_many_runs_at_once_each_event_finds_its_own() -> None:
    steps = TaskState()
    for number in range(200):
        fold(
            (number, "started", {"cycle": number}),
            (number, "spawned", {"pid": number}),
            steps=steps,
        )
    fold((200, "started", {}), (200, "started", {}), steps=steps)
    for number in (*range(0, 200, 2), *range(199, 0, -2)):
        fold((201, "finished", {"pid": number, "exit_code": number}), steps=steps)
    assert [run.exit_code for run in steps.runs] == [*range(200), None, None]
    fold(
        (202, "spawned", {"pid": 5}), (202, "finished", {"exit_code": -1}), steps=steps
    )  # the nameless goes first
    assert [run.exit_code for run in steps.runs[-2:]] == [-1, None]
    fold((203, "heartbeat", {"pid": 7}), (203, "finished", {"pid": 5, "exit_code": 5}), steps=steps)
    assert [(run.pid, run.exit_code) for run in steps.runs[-2:]] == [(None, -1), (5, 5)]


@pytest.mark.parametrize(
    ("events", "expected"),
    [
        ([(100, "finished", {"duration_ms": 90_000})], 10),
        ([(100, "timeout", {"duration_ms": 90_000})], 10),
        ([(100, "finished", {})], 100),
        ([(100, "finished", {"duration_ms": 90_000}), (101, "finished", {"duration_ms": 1})], 10),
        ([(20, "started", {}), (100, "finished", {"duration_ms": 90_000})], 20),
        ([(50, "task_started", {}), (100, "finished", {"duration_ms": 90_000})], 50),
        ([(50, "task_failed", {}), (100, "finished", {"duration_ms": 90_000})], 10),
        (
            [
                (50, "finished", {}),
                (60, "cycle_started", {"cycle": 2}),
                (100, "finished", {"duration_ms": 90_000}),
            ],
            50,
        ),
    ],
)
def test_without_a_start_the_duration_tells_it(events: list[Told], expected: float) -> None:
    """But none before the task began, or before the end of the run before: durations are of another clock."""
    assert fold(*events).runs[-1].started - EPOCH.timestamp() == expected
