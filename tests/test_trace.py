# SPDX-License-Identifier: MIT
"""`orch-events trace`: what it makes of a task's events, in each of its forms. A browser's view of the page is a check
of its own, in ``.ci/browser``.
"""

import inspect
import itertools
import json
import os
import pty
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from pathlib import Path
from types import FrameType
from typing import Any, TypeAlias

import pytest

from orch_events import Event, EventLog
from orch_events.cli.model.anomalies import anomalies
from orch_events.cli.model.task_trace import Trace
from orch_events.cli.show.chrome_trace import trace_event_lines
from orch_events.cli.show.html_page import page
from orch_events.cli.show.time_scale import TimeScale

from .helpers import STEP, execute
from .terminal import environment, outcome, shown_width, terminal

Told: TypeAlias = tuple[float, str, dict[str, object]]
"""An event: after how many seconds, of which type (which may lack its ``step_``), its payload (and the item)."""

EPOCH = datetime(2026, 1, 2, tzinfo=UTC)
HOSTILE = "<script>touched=1</script></style></title><img src=x onerror=touched=1>\"'\x1b[2J\x00\r\n\u202e"


def event(number: int, at: float, kind: str, payload: dict[str, object], item: str | None) -> Event:
    kind = kind if kind.startswith(("task", "cycle", "sandbox", "auto")) else f"step_{kind}"
    if kind.startswith("step"):
        payload = {"step": "s", **payload}
    created = (EPOCH + timedelta(seconds=at)).isoformat(timespec="microseconds")
    text = json.dumps(payload)
    return Event(
        event_id=number,
        task_id="t",
        task_item_id=item,
        event_type=kind,
        payload_json=text,
        created_at=created,
    )


def events(told: tuple[Told, ...] | list[Told]) -> Iterator[Event]:
    for number, (at, kind, payload) in enumerate(told, 1):
        item = str(payload["item"]) if "item" in payload else None
        yield event(
            number, at, kind, {key: value for key, value in payload.items() if key != "item"}, item
        )


def record(db: Path, *told: Told) -> None:
    """A log of the task ``t`` whose events have these times."""
    found = list(events(told))
    with EventLog(db) as log:
        ids = log.insert_events(
            [(e.task_id, e.task_item_id, e.event_type, json.loads(e.payload_json)) for e in found]
        )
    pairs = zip(ids, found, strict=True)
    execute(
        db,
        *(
            f"UPDATE events SET created_at = '{e.created_at}' WHERE id = {number}"
            for number, e in pairs
        ),
    )


def trace(db: Path, *words: object, code: int = 0, **more: str) -> str:
    status, stdout, stderr = outcome("--db", db, "trace", *words, cwd=None, stdin=b"", **more)
    assert (status, stderr) == (code, ""), stderr
    return stdout


def refused(db: Path, *words: object) -> tuple[int, str]:
    status, stdout, stderr = outcome("--db", db, "trace", *words)
    assert stdout == ""
    return status, stderr.strip().splitlines()[-1]


@pytest.fixture
def db(tmp_path: Path) -> Path:
    return tmp_path / "log.db"


BUILD: list[Told] = [
    (0, "task_started", {}),
    (0, "cycle_started", {"cycle": 1}),
    (0, "started", {"step": "plan", "agent_id": "ann"}),
    (10, "finished", {"step": "plan", "success": True, "duration_ms": 10_000, "exit_code": 0}),
    (10, "started", {"item": "web", "step": "build", "agent_id": "bob"}),
    (12, "started", {"item": "api", "step": "build"}),
    (12.5, "spawned", {"item": "api", "step": "build", "pid": 7}),
    (
        17.5,
        "heartbeat",
        {"item": "api", "step": "build", "pid": 7, "stdout_bytes": 5, "stderr_bytes": 1},
    ),
    (20, "finished", {"item": "web", "step": "build", "success": False, "exit_code": 2}),
    (22.5, "heartbeat", {"item": "api", "step": "build", "pid": 7, "stdout_bytes": 9}),
    (30, "timeout", {"item": "api", "step": "build"}),
    (30, "skipped", {"step": "ship", "reason": "a build failed"}),
    (30, "cycle_started", {"cycle": 2}),
    (30, "started", {"step": "plan"}),
    (35, "sandbox_denied", {"step": "plan"}),
    (40, "task_failed", {"reason": "no luck"}),
]

# ------------------------------------------------------------------------------------------------------------- the tree

TREE = """\
task t  failed  40s
since 2026-01-02 00:00:00 UTC, 2 failed, 1 lost, 1 skipped, 1 succeeded
no luck

step       agent  status     start  end  took  timeline                                          details
cycle 1                      0s     30s  30s   ├───────────────────────────────────┤
├─ plan    ann    succeeded  0s     10s  10s   █████████████
├─ build                     10s    30s  20s               ├───────────────────────┤
│  ├─ web  bob    failed     10s    20s  10s               █████████████                         exit 2
│  └─ api         failed     12s    30s  18s                 ███████████████████████             timeout
└─ ship           skipped    30s    30s  0s                                        ·             a build failed
cycle 2                      30s    30s  0s                                        │
└─ plan           lost       30s    ?    0s                                        ░             sandbox_denied

! error: missing_end: plan, cycle 2: no event says how it ended; the last came after 30s
! warning: sandbox_denied: plan: sandbox_denied once
"""


def test_the_tree_has_cycles_steps_items_and_a_bar_to_scale(db: Path) -> None:
    record(db, *BUILD)
    shown = trace(db, "t")
    assert shown.splitlines() == TREE.splitlines()
    plain = trace(db, "t", LC_ALL="C", PYTHONUTF8="0", PYTHONCOERCECLOCALE="0")
    assert plain.isascii()
    assert "|- plan" in plain


def test_no_line_is_wider_than_the_terminal_and_none_drives_it(db: Path) -> None:
    hostile: dict[str, object] = {
        "step": HOSTILE,
        "agent_id": HOSTILE,
        "reason": HOSTILE * 9,
        "item": HOSTILE,
    }
    record(
        db,
        *BUILD[:-1],
        (36, "finished", {**hostile, "success": False}),
        (40, "task_failed", {"reason": HOSTILE}),
    )
    for columns in (40, 120):
        with terminal("--db", db, "trace", "t", columns=columns, lines=40) as shown:
            shown.wait_for("missing_end")
            assert shown.end() == 0
            assert {"31"} <= shown.screen.colours
            lines = [line for line in shown.screen.text().splitlines() if line]
            assert len(lines) == len(TREE.split("\n")) - 3 + 1, "a line was wrapped"
    with terminal("--db", db, "trace", "t", NO_COLOR="1") as shown:
        assert shown.end() == 0
        assert not shown.screen.colours


@pytest.mark.parametrize(
    ("columns", "missing"),
    [
        (66, {"end"}),
        (50, {"end", "start", "agent"}),
        pytest.param(100, set[str](), marks=pytest.mark.long),
        pytest.param(62, {"end", "start"}, marks=pytest.mark.long),
    ],
)
def test_a_narrow_terminal_has_fewer_columns_and_still_a_timeline(
    db: Path, columns: int, missing: set[str]
) -> None:
    record(db, *BUILD)
    with terminal("--db", db, "trace", "t", columns=columns) as shown:
        assert shown.end() == 0
        titles = next(
            line for line in shown.screen.text().splitlines() if line.startswith("step ")
        ).split()
    assert set(TREE.splitlines()[4].split()) - set(titles) == missing
    assert "├────" in shown.screen.text()


EACH_WIDTH = """
import fcntl, struct, sys, termios
from orch_events.cli import main
for width in range(20, 201, int(sys.argv.pop(1))):
    fcntl.ioctl(1, termios.TIOCSWINSZ, struct.pack("HHHH", 50, width, 0, 0))
    print("width", width, flush=True)
    main(sys.argv[1:])
"""


def at_each_width(step: int, *words: object) -> dict[int, list[str]]:
    """What a command shows on a terminal of each width, or some, from 20 to 200 columns, a pty, without colours."""
    ours, theirs = pty.openpty()
    argv = [sys.executable, "-c", EACH_WIDTH, *map(str, [step, *words])]
    with subprocess.Popen(argv, env=environment(NO_COLOR="1"), stdin=theirs, stdout=theirs):
        os.close(theirs)
        written = b""
        with suppress(OSError):  # as Linux says that the other end is closed
            while some := os.read(ours, 1 << 16):
                written += some
        os.close(ours)
    shown = re.split(r"^width (\d+)\r\n", written.decode(), flags=re.MULTILINE)[1:]
    found = {
        int(width): text.splitlines() for width, text in zip(shown[::2], shown[1::2], strict=True)
    }
    assert list(found) == list(range(20, 201, step))
    return found


@STEP
@pytest.mark.parametrize(
    "details",
    [
        {"exit_code": 1, "reason": "r" * 300},
        {"exit_code": 1},
        pytest.param({}, marks=pytest.mark.long),
    ],
)
def test_at_no_width_is_a_bar_cut_or_a_line_too_long(
    db: Path, details: dict[str, object], step: int
) -> None:
    failed = {"success": False, **details}
    named = {"item": "漢字の項目", "agent_id": "agent-17"}
    record(db, *BUILD[:-1], (36, "finished", {"step": "compile-the-world", **named, **failed}))
    for width, lines in at_each_width(step, "--db", db, "trace", "t").items():
        assert all(shown_width(line) <= width for line in lines), width
        assert not any(re.search("[█─░▒]…", line) for line in lines), "\n".join(lines)
        (titles,) = (line.split() for line in lines if line.startswith("step "))
        assert {"step", "status"} <= set(titles)
        assert all("…" not in title for title in titles)
        if "timeline" in titles:
            bars = [bar for line in lines for bar in re.findall("├─+┤|█+", line)]
            assert len(max(bars, key=len)) >= 9, "\n".join(lines)
        assert ("timeline" in titles) is (width > 51) or width < 60


@STEP
@pytest.mark.parametrize(
    ("words", "stay"),
    [
        (["watch", "--once", "task-with-a-long-name"], ["step", "status"]),
        (["tasks"], ["task", "status"]),
        (["events", "task-with-a-long-name"], ["type"]),
        (["stats"], ["status", "tasks"]),
    ],
)
def test_at_each_width_what_matters_most_can_be_read(
    db: Path, words: list[str], stay: list[str], step: int
) -> None:
    fields: dict[str, object] = {"step": "compile-" * 5, "agent_id": "a" * 30, "reason": "r" * 90}
    with EventLog(db) as log:
        log.insert_event("task-with-a-long-name", "item-" * 7, "step_started", fields)
        log.insert_event("task-with-a-long-name", None, "task_completed", {})
        log.insert_event("n" * 300, None, "task_cancelled", {})
    for width, lines in at_each_width(step, "--db", db, *words).items():
        assert all(shown_width(line) <= width for line in lines), width
        at = next(
            at for at, line in enumerate(lines) if re.match(rf"({stay[0]}|id|time|type)\b", line)
        )
        titles = re.split("  +", lines[at].strip())
        assert set(stay) <= set(titles), lines[at]
        text = "\n".join(lines)
        for word in {
            "watch": ["completed", "lost"],
            "tasks": ["completed", "cancelled"],
            "stats": ["completed", "cancelled", "day (UTC)"],
        }.get(words[0], ["step_started", "task_completed"]):
            assert word in text, text
        rows = [re.split("  +", line.strip()) for line in lines[at + 1 :]]
        short = [cell for row in rows for cell in row if "…" in cell and len(cell) < 6]
        assert not short, text


def test_times_are_local_with_their_zone_on_a_terminal_and_utc_in_files(db: Path) -> None:
    record(db, *BUILD)
    page = db.with_name("page.html")
    for words, told in (
        (["trace", "t"], "since 2026-01-02 09:00:00 EAST, 2 failed"),
        (["events", "t"], "id  time (EAST)"),
        (["tasks"], "started (EAST)"),
        (["stats"], "oldest    2026-01-02 09:00:00 EAST\nnewest    2026-01-02 09:00:40 EAST\n"),
        (["watch", "t"], "time (EAST)  type  step  item  details\n"),
    ):
        shown = outcome("--db", db, *words, TZ="EAST-9")[1]
        assert told in shown
        assert "01-02 09:00:" in shown and "01-02 00:00" not in shown and shown.count("EAST") < 3
    assert "time (UTC+0530)" in outcome("--db", db, "events", "t", TZ="<+0530>-5:30")[1]
    assert trace(db, "t", "--html", page, TZ="EAST-9") == ""
    assert "2026-01-02 00:00:00 to 00:00:40 UTC" in page.read_text()
    document = json.loads(trace(db, "t", "--json", TZ="EAST-9"))
    assert document["started_at"] == "2026-01-02T00:00:00.000000+00:00"
    assert json.loads(outcome("--db", db, "stats", "--json", TZ="EAST-9")[1])["oldest"].startswith(
        "2026-01-02T00:00:00"
    )


@pytest.mark.parametrize(
    ("kinds", "status"),
    [
        (["step_started"], "unknown"),
        (["step_started", "step_finished"], "unknown"),
        (["task_started"], "running"),
        (["task_started", "step_started", "step_finished"], "running"),
        (["task_paused", "step_started"], "paused"),
        (["task_started", "task_completed"], "completed"),
        (["task_failed"], "failed"),
        (["task_cancelled", "step_started"], "cancelled"),
    ],
)
def test_a_status_has_one_name_everywhere(db: Path, kinds: list[str], status: str) -> None:
    with EventLog(db) as log:
        log.insert_events(
            ("t", None, kind, {"step": "s"} if "step" in kind else {}) for kind in kinds
        )
    assert trace(db, "t").startswith(f"task t  {status}  ")
    assert json.loads(trace(db, "t", "--json"))["status"] == status
    assert f'class="pill {status}">{status}<' in page_of(db)
    assert outcome("--db", db, "watch", "--once", "t")[1].startswith(f"task t  {status}  ")
    assert outcome("--db", db, "tasks")[1].splitlines()[1].split()[1] == status
    assert json.loads(outcome("--db", db, "tasks", "--json")[1])["status"] == status
    assert re.search(rf"^{status} +1$", outcome("--db", db, "stats")[1], re.MULTILINE)
    assert json.loads(outcome("--db", db, "stats", "--json")[1])["tasks"] == {status: 1}


def page_of(db: Path) -> str:
    return trace(db, "t", "--html", "-")


def test_what_is_lost_is_still_of_the_status_that_was_recorded(db: Path) -> None:
    record(db, (0, "task_started", {}), (1, "heartbeat", {"pid": 7}))
    assert trace(db, "t").startswith("task t  running  lost  ")
    document = json.loads(trace(db, "t", "--json"))
    assert (document["status"], document["lost"]) == ("running", True)
    assert outcome("--db", db, "watch", "--once", "t")[1].startswith("task t  running  lost  ")


def test_a_running_task_is_traced_so_far(db: Path) -> None:
    with EventLog(db) as log:
        log.insert_event("t", None, "task_started", {})
        log.insert_event("t", None, "step_started", {"step": "build"})
    shown = trace(db, "t")
    assert re.match(r"task t  running  .* so far\nsince .* UTC, 1 running\n", shown), shown
    assert "▒" in shown
    document = json.loads(trace(db, "t", "--json"))
    assert (document["finished"], document["ended_at"]) == (False, None)
    assert [(step["status"], step["ended_at"]) for step in document["cycles"][0]["steps"]] == [
        ("running", None)
    ]


# ----------------------------------------------------------------------------------------------------------- anomalies


def beats(count: int, **payload: object) -> list[Told]:
    return [(5 + 10 * number, "heartbeat", payload) for number in range(count)]


def several(*seconds: float) -> list[Told]:
    """Runs of one step, one after the other."""
    told = list[Told]()
    for number, length in enumerate(seconds):
        told.append((1e5 * number, "started", {}))
        told.append((1e5 * number + length, "finished", {"success": True}))
    return told


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        pytest.param(BUILD[:-3], [], id="nothing"),
        pytest.param([(0, "started", {}), (9, "task_failed", {})], ["error missing_end s"], id="no-end"),
        pytest.param([(0, "started", {})], [], id="still-running"),
        pytest.param([(0, "spawned", {"pid": 1}), *beats(2, pid=1)], ["error missing_end s"], id="silent"),
        pytest.param(
            [(0, "started", {}), (2, "started", {}), (3, "finished", {}), (4, "finished", {})],
            ["error overlapping_runs s"], id="overlap",
        ),
        pytest.param(
            [(0, "started", {}), (2, "finished", {}), (2, "started", {}), (4, "finished", {})], [], id="in-turn"
        ),
        pytest.param(
            [(0, "started", {"item": "a"}), (0, "started", {"item": "b"}), (2, "finished", {"item": "a"}),
             (4, "finished", {"item": "b"})], [], id="two-items",
        ),
        pytest.param([(0, "cycle_started", {"cycle": 1}), (1, "cycle_started", {"cycle": 2}), (2, "task_failed", {})],
                     ["warning empty_cycle cycle 1", "warning empty_cycle cycle 2"], id="empty-cycles"),
        pytest.param([(0, "cycle_started", {"cycle": 1})], [], id="cycle-just-begun"),
        pytest.param([(0, "task_started", {}), (1, "task_started", {}), (2, "task_completed", {})],
                     ["error duplicate_runner task"], id="task-started-twice"),
        pytest.param([(0, "task_started", {}), (1, "task_paused", {}), (2, "task_started", {}), (3, "task_failed", {}),
                      (4, "task_started", {})], [], id="task-resumed-and-retried"),
        pytest.param(
            [(0, "started", {}), (1, "spawned", {"pid": 1}), (2, "started", {}), (3, "spawned", {"pid": 2}),
             (4, "finished", {"pid": 1}), (5, "finished", {"pid": 2})],
            ["error duplicate_runner s", "error overlapping_runs s"], id="two-runs-two-processes",
        ),
        pytest.param(
            [(0, "started", {}), *((n, "heartbeat", {"pid": n % 2}) for n in range(1, 9)), (9, "finished", {})],
            ["error duplicate_runner s"], id="two-processes-take-turns",
        ),
        pytest.param(
            [(0, "started", {}), (1, "heartbeat", {"pid": 1, "pid_alive": False}), (2, "spawned", {"pid": 2}),
             (3, "finished", {})], [], id="process-replaced",
        ),
        pytest.param([(0, "started", {}), *beats(3, output_state="low_output"), *beats(0), (99, "finished", {})],
                     ["warning low_output s"], id="low-output"),
        pytest.param([(0, "started", {}), *beats(3, output_state="quiet"), (99, "finished", {})], [], id="quiet"),
        pytest.param(several(601), ["info long_running s"], id="ten-minutes"),
        pytest.param(several(600), [], id="not-quite"),
        pytest.param(several(10, 11, 12, 40), ["info long_running s"], id="longer-than-usual"),
        pytest.param(several(900, 1100, 1000, 1200), [], id="usual-if-long"),
        pytest.param(several(1, 1, 1, 9), [], id="short-anyway"),
    ],
)  # fmt: skip
def test_what_is_odd_has_a_name_and_a_severity(told: list[Told], expected: list[str]) -> None:
    traced = Trace("t")
    for one in events(told):
        traced.apply(one)
    later = 1000 if told[0][1] == "spawned" else 0
    found = anomalies(traced, EPOCH.timestamp() + max(at for at, _, _ in told) + later)
    assert [f"{one.severity} {one.name} {one.where}" for one in found] == expected
    assert all(
        one.explanation and "{" not in one.explanation and "\n" not in one.explanation
        for one in found
    )


@pytest.mark.parametrize("several", [True, False])
def test_where_there_are_several_cycles_what_is_odd_tells_its_own(several: bool) -> None:
    traced = Trace("t")
    told = list[Told]()
    for cycle in (1, 3)[: 1 + several]:
        told.append((cycle, "cycle_started", {"cycle": cycle}))
        told.append((cycle, "heartbeat", {"item": "a", "output_state": "low_output"}))
        told.append((cycle, "finished", {"item": "a", "success": False}))
    for one in events(told):
        traced.apply(one)
    expected = ["s a, cycle 1", "s a, cycle 3"] if several else ["s a"]
    assert [one.where for one in anomalies(traced, EPOCH.timestamp())] == expected
    said = Page(page(traced, EPOCH.timestamp(), {})).text
    assert [said.count(f"{where} low output: ") for where in expected] == [1] * len(expected)
    assert [said.count(f"failed {where} ") for where in expected] == [1] * len(expected)


@pytest.mark.parametrize("gone", [0, 1, 16])
def test_that_a_cleanup_has_deleted_events_is_said(db: Path, tmp_path: Path, gone: int) -> None:
    said = f"{gone} earlier event{' was' if gone == 1 else 's were'} deleted by a cleanup"
    told = [
        *((number, "heartbeat", dict[str, object]()) for number in range(18)),
        (18, "task_completed", {}),
    ]
    record(db, *told)
    if gone:
        with EventLog(db) as log:
            assert log.cleanup(keep_last=len(told) - gone).events == gone
    trace(db, "t", "--html", tmp_path / "page.html")
    html = Page((tmp_path / "page.html").read_text(encoding="utf-8")).text
    chrome_file = json.loads(trace(db, "t", "--format", "chrome"))
    check_trace_events(chrome_file)
    for text in (html, trace(db, "t"), json.dumps(chrome_file.get("otherData"))):
        assert (said in text, "cleanup" in text) == (gone > 0, gone > 0), text
    assert json.loads(trace(db, "t", "--json"))["pruned"] == gone


def test_of_a_run_without_a_start_its_duration_tells_the_beginning(db: Path) -> None:
    record(db, (100, "finished", {"duration_ms": 90_000, "cycle": 1}), (100, "task_completed", {}))
    document = json.loads(trace(db, "t", "--json"))
    (cycle,) = document["cycles"]
    for one in (document, cycle, *cycle["steps"]):
        assert (one["started_at"], one["duration_ms"]) == (
            "2026-01-02T00:00:10.000000+00:00",
            90_000,
        )
    found = check_trace_events(json.loads(trace(db, "t", "--format", "chrome")))
    assert [one["dur"] for one in found if one["ph"] == "X"] == [90_000_000] * 2


def test_times_that_are_none_and_payloads_that_are_none_end_nothing(
    db: Path, tmp_path: Path
) -> None:
    record(db, *BUILD)
    usual = "2026-01-02T00:00:00.000000+00:00"
    for created, first in (
        ("''", usual),
        ("'yesterday'", usual),
        ("'9999-12-31T23:59:59-14:00'", usual),  # what dates cannot say is null
        ("'0001-01-01T00:00:00+14:00'", None),
    ):
        execute(db, f"UPDATE events SET created_at = {created} WHERE id % 3 = 1")
        execute(db, "UPDATE events SET payload_json = '{' WHERE id = 3")
        for words in (["--format=chrome"], [], ["--html", tmp_path / "page.html"]):
            shown = trace(db, "t", *words)
            if words == ["--format=chrome"]:
                check_trace_events(json.loads(shown))
        started = json.loads(trace(db, "t", "--json"))["started_at"]
        assert started == first


# ------------------------------------------------------------------------------------------------------------- as JSON

TIMES = {"started_at", "ended_at", "duration_ms"}
OF_A_STEP = {
    "step",
    "parent_step",
    "scope",
    "item",
    "agent",
    "status",
    "exit_code",
    "timed_out",
    "restart",
    "reason",
    "incident",
    "pid",
    "stdout_bytes",
}


def test_the_document_has_what_its_description_says(db: Path) -> None:
    record(db, *BUILD)
    document = json.loads(trace(db, "t", "--json"))
    assert trace(db, "t", "--format", "json") == trace(db, "t", "--json")
    named = {
        "task_id",
        "status",
        "lost",
        "reason",
        "finished",
        "events",
        "last_event_id",
        "pruned",
        "cycles",
        "anomalies",
    }
    assert set(document) == named | TIMES
    assert document["started_at"] == "2026-01-02T00:00:00.000000+00:00"
    assert (document["ended_at"], document["duration_ms"]) == (
        "2026-01-02T00:00:40.000000+00:00",
        40_000,
    )
    assert (document["status"], document["reason"], document["events"]) == (
        "failed",
        "no luck",
        len(BUILD),
    )
    first, second = document["cycles"]
    assert set(first) == {"cycle", "steps"} | TIMES
    assert (first["cycle"], first["duration_ms"], len(first["steps"])) == (1, 30_000, 4)
    assert second["ended_at"] is None, "of a step in it nobody knows the end"
    plan, web, api, ship = first["steps"]
    assert set(plan) == OF_A_STEP | {"stderr_bytes"} | TIMES
    assert (plan["agent"], plan["exit_code"], plan["status"]) == ("ann", 0, "succeeded")
    assert (web["item"], web["exit_code"], web["ended_at"]) == (
        "web",
        2,
        "2026-01-02T00:00:20.000000+00:00",
    )
    assert (api["pid"], api["stdout_bytes"], api["stderr_bytes"], api["status"]) == (
        7,
        9,
        None,
        "failed",
    )
    assert (ship["status"], ship["reason"], ship["duration_ms"]) == ("skipped", "a build failed", 0)
    anomaly, denied = document["anomalies"]
    assert (denied["name"], denied["step"]) == ("sandbox_denied", "plan")
    assert set(anomaly) == {"name", "severity", "step", "item", "cycle", "at", "explanation"}
    assert (anomaly["name"], anomaly["step"], anomaly["cycle"]) == ("missing_end", "plan", 2)


# ---------------------------------------------------------------------------------------------------- for trace viewers

# Of the Trace Event Format's description: what every event has, and what each phase has besides.
COMMON = {"name": str, "ph": str, "ts": int, "pid": int, "tid": int}
ALLOWED = {
    "X": {"cat", "dur", "args", "cname"},
    "C": {"args"},
    "i": {"cat", "s", "args"},
    "M": {"args"},
}
METADATA = {
    "process_name": {"name": str},
    "thread_name": {"name": str},
    "thread_sort_index": {"sort_index": int},
}
RESERVED_COLOURS = {"good", "bad", "terrible", "black", "grey", "white", "yellow", "olive"}


def check_trace_events(document: dict[str, Any]) -> list[dict[str, Any]]:
    """That a document is in the Trace Event Format, and that a viewer can place each event; the events."""
    assert set(document) <= {"traceEvents", "displayTimeUnit", "otherData"}
    assert document["displayTimeUnit"] in ("ms", "ns")
    slices = dict[tuple[int, int], list[tuple[int, int]]]()
    names = Counter[tuple[int, int, str]]()
    for one in document["traceEvents"]:
        assert all(type(one[key]) is kind for key, kind in COMMON.items()), one
        assert set(one) <= set(COMMON) | ALLOWED[one["ph"]], one
        assert one["pid"] > 0 < one["tid"], "0 is the idle process"
        assert 0 <= one["ts"] < 2**53, "JSON's readers have doubles"
        if one["ph"] == "X":
            assert type(one["dur"]) is int and one["dur"] >= 0
            assert one.get("cname", "good") in RESERVED_COLOURS
            slices.setdefault((one["pid"], one["tid"]), []).append(
                (one["ts"], one["ts"] + one["dur"])
            )
        elif one["ph"] == "C":
            assert one["args"], "series"
            assert all(type(value) in (int, float) for value in one["args"].values()), "of numbers"
        elif one["ph"] == "i":
            assert one["s"] in ("g", "p", "t")
        else:
            assert {key: type(value) for key, value in one["args"].items()} == METADATA[one["name"]]
            names[one["pid"], one["tid"], one["name"]] += 1
        assert isinstance(one.get("args", {}), dict)
    assert set(names.values()) <= {1}
    for thread, spans in slices.items():
        assert (*thread, "thread_name") in names
        spans.sort()
        for (_, end), (start, _) in itertools.pairwise(spans):
            assert end <= start, "on one thread slices may nest, but not cross; ours do neither"
    events = document["traceEvents"]
    assert isinstance(events, list)
    return events


def test_the_file_for_trace_viewers_is_in_their_format(db: Path) -> None:
    overlapping: list[Told] = [
        (31, "started", {"item": "web", "step": "build"}), (32, "started", {"item": "web", "step": "build"}),
        (33, "finished", {"item": "web", "step": "build"}), (34, "finished", {"item": "web", "step": "build"}),
        (35, "finished", {"item": HOSTILE, "step": HOSTILE, "success": False}),
    ]  # fmt: skip
    record(db, *BUILD[:-1], *overlapping, BUILD[-1])
    found = check_trace_events(json.loads(trace(db, "t", "--format", "chrome")))
    threads = {one["tid"]: one["args"]["name"] for one in found if one["name"] == "thread_name"}
    micros = int(EPOCH.timestamp() * 1e6)
    slices = [
        (one["name"], threads[one["tid"]], one["ts"] - micros, one["dur"])
        for one in found
        if one["ph"] == "X"
    ]
    assert {
        ("cycle 1", "cycles", 0, 30_000_000),
        ("plan", "ann", 0, 10_000_000),
        ("build web", "web, bob", 10_000_000, 10_000_000),
        ("build api", "api", 12_000_000, 18_000_000),
        ("ship", "task", 30_000_000, 0),
        ("build web", "web", 31_000_000, 3_000_000),
        ("build web", "web (2)", 32_000_000, 1_000_000),
    } <= set(slices)
    assert [(one["ts"] - micros, one["args"]) for one in found if one["ph"] == "C"] == [
        (17_500_000, {"stdout": 5, "stderr": 1}),
        (22_500_000, {"stdout": 9}),
    ]
    struck = [(one["name"], one["s"], threads[one["tid"]]) for one in found if one["ph"] == "i"]
    assert struck[:2] == [("step_failed", "t", "web, bob"), ("step_timeout", "t", "api")]
    assert struck[2] == ("sandbox_denied", "t", "task")
    assert struck[-1][:2] == ("task_failed", "p")
    (plan,) = (one for one in found if one["name"] == "plan" and one["args"].get("agent") == "ann")
    assert (plan["cname"], plan["args"]["status"], plan["args"]["exit_code"]) == (
        "good",
        "succeeded",
        0,
    )


def instructions(action: Callable[[], object]) -> int:
    """How many instructions of the package `action` takes."""
    count = 0

    def tell(frame: FrameType, kind: str, _: object) -> Callable[..., Any] | None:
        nonlocal count
        count += kind == "opcode"
        frame.f_trace_opcodes = True
        frame.f_trace_lines = False
        return tell if "orch_events" in frame.f_code.co_filename else None

    before = sys.gettrace()
    own = inspect.currentframe()
    assert own is not None
    own.f_trace_opcodes = (
        True  # CPython 3.12 looks when tracing begins whether any frame wants to hear of them
    )
    sys.settrace(tell)
    try:
        action()
    finally:
        sys.settrace(before)
    return count


def unended(count: int, *kinds: str) -> list[Told]:
    """Runs of one step at once, each in a cycle and a process of its own, and then what ends them."""
    told = list[Told]()
    for number in range(count):
        told.extend(
            (number, kind, {"cycle": number, "pid": number}) for kind in ("cycle_started", *kinds)
        )
    for number in (*range(0, count, 3), *range(count - 1, -1, -3)):
        told.append((count, "finished", {"pid": number}))
    return told


BEGUN = [
    pytest.param(kinds, marks=pytest.mark.long) for kinds in (["started"], ["started", "spawned"])
]


@pytest.mark.long
@pytest.mark.parametrize("kinds", [["spawned"], *BEGUN])
def test_four_times_as_many_runs_at_once_are_four_times_the_work(kinds: list[str]) -> None:
    def work(count: int) -> int:
        told = list(events(unended(count, *kinds)))
        return instructions(
            lambda: list(trace_event_lines(Trace("t"), told, lambda: EPOCH.timestamp() + count))
        )

    few = work(100)
    many = work(400)
    assert 3.5 < many / few < 5


# --------------------------------------------------------------------------------------------------------------- a page


class Page(HTMLParser):
    """What a page is made of."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags = Counter[str]()
        self.attributes = set[str]()
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.attributes |= {name for name, _ in attrs}

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_page_says_all_and_asks_for_nothing(db: Path, tmp_path: Path) -> None:
    hostile: dict[str, object] = {
        "step": HOSTILE,
        "agent_id": HOSTILE,
        "reason": HOSTILE,
        "item": HOSTILE,
    }
    record(
        db,
        *BUILD[:-1],
        (36, "finished", {**hostile, "success": False}),
        (40, "task_failed", {"reason": HOSTILE}),
    )
    file = tmp_path / "page.html"
    assert trace(db, "t", "--html", file) == ""
    text = file.read_text(encoding="utf-8")
    page = Page(text)
    assert not {"script", "img", "link", "iframe", "object", "base", "form"} & set(page.tags)
    assert not {
        name for name in page.attributes if name.startswith("on") or name in ("src", "href")
    }
    assert "default-src 'none'; style-src 'unsafe-inline'" in text
    assert not re.search(r"https?:|url\(|@import", text)
    assert (page.tags["style"], page.tags["title"]) == (1, 1 + page.tags["rect"])
    assert text.isprintable() or set(text) - {"\n"} == {c for c in text if c.isprintable()}
    for said in (
        "<script>",
        "a build failed",
        "missing end",
        "sandbox_denied",
        "exit 2",
        "timeout",
        "failed",
        "ann",
    ):
        assert said in page.text


class Folded(HTMLParser):
    """What of a page is seen before anything is unfolded: its rows, its list, and the bars by their labels."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.rows = 0
        self.list = list[str]()
        self.bars = dict[str, tuple[float, float]]()
        self.text = ""
        self._folded: list[bool] = []
        self._summaries = 0
        self._label = False
        self._latest = ""
        self.feed(text)

    def _seen(self) -> bool:
        return not any(self._folded[:-1] if self._summaries else self._folded)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        of = dict(attrs)
        if tag == "details":
            self._folded.append("open" not in of)
        self._summaries += tag == "summary"
        if tag == "li":
            self.list.append("")
        if self._seen() and (tag == "tr" or "row" in (of.get("class") or "").split()):
            self.rows += 1
        if tag == "span" and of.get("class") in (None, "fold"):
            self._label = True
            self._latest = ""
        if tag == "rect":
            first, width = (float((of[name] or "").rstrip("%")) for name in ("x", "width"))
            self.bars[self._latest] = (first, width)

    def handle_endtag(self, tag: str) -> None:
        self._label = self._label and tag != "span"
        self._summaries -= tag == "summary"
        if tag == "details":
            self._folded.pop()

    def handle_data(self, data: str) -> None:
        if self._label:
            self._latest += data
        if self._seen():
            self.text += data
            if self.list:
                self.list[-1] += data


def many_runs() -> list[Told]:
    told: list[Told] = [(0, "task_started", {})]
    for number in range(3000):
        named: dict[str, object] = {"step": f"step-{number % 3}", "item": f"item-{number:04}"}
        told.append((number, "started", {**named, "pid": number}))
        if number % 10:
            told.append((number + 0.5, "finished", {**named, "success": number % 7 > 0}))
    return [*told, (3000, "task_failed", {})]


def test_the_axis_of_a_page_begins_where_the_task_does() -> None:
    for microseconds in range(10):
        begin = EPOCH.timestamp() + microseconds / 1e6
        assert TimeScale(begin, begin + 400_000).time(0.0) == begin


@pytest.mark.long
def test_a_page_of_thousands_of_runs_shows_few_rows_until_they_are_unfolded() -> None:
    traced = Trace("t")
    for one in events(many_runs()):
        traced.apply(one)
    text = page(traced, EPOCH.timestamp() + 3001, {})
    assert text.count("item-1234") >= 2, "in the timeline and in the table"
    seen = Folded(text)
    assert 3 < seen.rows < 50
    (lost,) = (entry for entry in seen.list if "missing end" in entry)
    assert lost.startswith("error missing end, 300 times ")
    assert "and 295 more" in lost
    assert len(seen.list) == 4, "one for each step that failed, and one for what is lost"
    assert "100 lost" in seen.text, "what is folded is counted"


def test_many_anomalies_of_one_name_do_not_flood_the_tree(db: Path) -> None:
    record(
        db, *(told for told in many_runs()[:201] if told[1] != "finished"), (999, "task_failed", {})
    )
    lines = trace(db, "t").splitlines()
    told = [line for line in lines if line.startswith("! error: missing_end: ")]
    assert len(told) == 6
    total = len(json.loads(trace(db, "t", "--json"))["anomalies"])
    assert told[-1] == f"! error: missing_end: {total - 5} more"


def test_what_takes_seconds_is_seen_beside_what_takes_days() -> None:
    day = 86400.0
    told: list[Told] = [(0, "task_started", {}), (0, "spawned", {"step": "watcher", "pid": 7})]
    for number in range(3):
        for step in ("fetch", "build"):
            at = number * day + (90 if step == "build" else 60)
            named: dict[str, object] = {"step": f"{step}-{number}"}
            told += [(at, "started", named), (at + 20, "finished", {**named, "success": True})]
    told.append((3 * day, "heartbeat", {"step": "watcher", "pid": 7}))
    traced = Trace("t")
    for one in events(told):
        traced.apply(one)
    shown = Folded(page(traced, EPOCH.timestamp() + 3 * day, {}))
    assert shown.bars["watcher"] == (0.0, 100.0)
    short = [shown.bars[f"{step}-{number}"] for number in range(3) for step in ("fetch", "build")]
    assert all(width > 3 for _, width in short), short
    assert all(first + width < after for (first, width), (after, _) in itertools.pairwise(short))
    assert "time is stretched where much happens" in shown.text
    traced = Trace("t")
    for one in events(BUILD):
        traced.apply(one)
    shown = Folded(page(traced, EPOCH.timestamp() + 40, {}))
    assert (shown.bars["web"], "stretched" in shown.text) == ((25.0, 25.0), False)
    assert all(f"{10 * number}s" in shown.text for number in range(4))


@pytest.mark.parametrize(
    "created",
    [
        "0001-01-01T00:00:00Z",
        "9999-12-31T23:59:59Z",
        "?",
        pytest.param("", marks=pytest.mark.long),
    ],
)
@pytest.mark.parametrize(
    "duration",
    [
        10**308,
        *(
            pytest.param(number, marks=pytest.mark.long)
            for number in (0, 2**63, 10**15, 10**30, 10**300)
        ),
    ],
)
def test_no_time_breaks_a_view(db: Path, created: str, duration: int) -> None:
    record(
        db,
        *BUILD[:4],
        (11, "finished", {"step": "long", "duration_ms": duration}),
        (12, "finished", {"step": "long", "duration_ms": 1}),
    )
    execute(db, f"UPDATE events SET created_at = '{created}' WHERE id > 4")
    for words in (["--html", "-"], [], ["--json"], ["--format", "chrome"]):
        trace(db, "t", *words)


def test_the_page_can_go_to_stdout_and_an_error_names_the_file(db: Path) -> None:
    record(db, *BUILD)
    status, stdout, stderr = outcome("--db", db, "trace", "t", "--html", "-", cwd=db.parent)
    assert (status, stdout[:15], stdout[-8:], stderr) == (0, "<!doctype html>", "</html>\n", "")
    assert not db.with_name("-").exists()
    for file, told in (
        ("/no/such/folder/page.html", "No such file or directory"),
        ("/dev/full", "No space left on device"),
        (f"{db.parent}/{'n' * 300}", "File name too long"),
        (f"{db}/page.html", "Not a directory"),
    ):
        assert refused(db, "t", "--html", file) == (1, f"orch-events: {file}: {told}")


def test_the_page_replaces_a_file_as_a_whole_or_not_at_all(db: Path, tmp_path: Path) -> None:
    record(db, *BUILD)
    folder = tmp_path / "pages"
    folder.mkdir()
    (file := folder / "page.html").write_text("old")
    (folder / "link.html").symlink_to(file)
    with file.open() as old:
        trace(db, "t", "--html", folder / "link.html")
        assert old.read() == "old", "who has it open keeps what was there"
    assert file.read_text().endswith("</html>\n")
    assert (folder / "link.html").is_symlink()
    assert stat_mode(file) == 0o666 & ~umask()
    before = file.read_bytes()
    assert refused(db, "unknown", "--html", file)[0] == 1
    assert file.read_bytes() == before
    assert sorted(os.listdir(folder)) == ["link.html", "page.html"]
    assert trace(db, "t", "--html", "/dev/stdout").endswith("</html>\n")


def umask() -> int:
    os.umask(mask := os.umask(0))
    return mask


def stat_mode(file: Path) -> int:
    return file.stat().st_mode & 0o777


# ----------------------------------------------------------------------------------------------------------- exit codes


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["unknown"], 1, "no task 'unknown'"),
        (["unknown", "--json"], 1, "no task 'unknown'"),
        (["unknown", "--format", "chrome"], 1, "no task 'unknown'"),
        (["a\x1b[2Jb"], 1, r"no task 'a\x1b[2Jb'"),
        (["t", "--html", "/no/such/folder/page.html"], 1, "No such file or directory"),
        (["t", "--html", "/"], 1, "Is a directory"),
        (["t", "--format", "svg"], 2, "invalid choice: 'svg'"),
        (["t", "--json", "--html", "x"], 2, "not allowed with argument"),
        (["t", "--html", "log.db"], 2, "that FILE is the log"),
        (["t", "--html", "log.db-wal"], 2, "that FILE is the log"),
    ],
)
def test_what_cannot_be_done_is_said_in_a_line(
    db: Path, words: list[str], code: int, message: str
) -> None:
    record(db, *BUILD)
    (db.parent / "log.db-wal").touch()
    words = [str(db.parent / word) if word.startswith("log.db") else word for word in words]
    status, said = refused(db, *words)
    assert (status, message in said) == (code, True), said
    assert trace(db, "t")


def test_a_log_that_is_not_there_is_not_made(db: Path) -> None:
    status, said = refused(db, "t", "--html", db.parent / "page.html")
    assert (status, "log.db" in said) == (1, True)
    assert not list(db.parent.iterdir())
