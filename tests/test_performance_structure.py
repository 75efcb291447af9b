# SPDX-License-Identifier: MIT
"""What makes it fast, counted instead of timed: statements, commits, parses, calls into a loop, threads, query plans.

A figure here depends on no clock and no machine. How fast all this is, `tests.benchmarks` measures.
"""

import asyncio
import re
import sqlite3
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from types import FrameType
from typing import Any, Final

import pytest

from orch_events import EventLog, EventReader
from orch_events._core.paging import PAGE_ROWS
from orch_events._storage.sqlite.inserting import MAX_ROWS
from orch_events._values.json_text import parse
from orch_events.cli.model.task_trace import Trace
from orch_events.cli.model.trace_document import document

from .helpers import (
    PATIENCE,
    Gate,
    NewEvent,
    all_statements,
    execute,
    library_threads,
    run_script,
    start,
    traced,
    wait_until,
    write_connection,
)

EVENT: Final[NewEvent] = ("t", None, "step_heartbeat", {"step": "qa", "elapsed_secs": 1})


# ------------------------------------------------------------------------------------------------------------- writing


@pytest.mark.parametrize(
    "count", [1, 2, 1000, MAX_ROWS, MAX_ROWS + 1, 2 * MAX_ROWS, 3 * MAX_ROWS + 7]
)
def test_a_batch_takes_the_fewest_statements(log: EventLog, count: int) -> None:
    with traced(write_connection(log)) as statements:
        assert log.insert_events([EVENT] * count) == list(range(1, count + 1))
    inserts = ["INSERT"] * -(-count // MAX_ROWS)
    whole = inserts if count <= MAX_ROWS else ["BEGIN", *inserts, "COMMIT"]
    assert [statement.split()[0] for statement in statements] == whole


def test_a_caller_alone_commits_by_itself(log: EventLog) -> None:
    with traced(write_connection(log)) as statements:
        for _ in range(20):
            log.insert_event(*EVENT)
        assert library_threads() == [], "no thread to hand over to"
    assert len(statements) == 20


def test_all_waiting_calls_share_the_next_commit(path: Path) -> None:
    gate = Gate()
    with EventLog(path, sink=gate) as log, traced(write_connection(log)) as statements:
        first = start(lambda: log.insert_event(*EVENT))
        assert gate.waiting.wait(PATIENCE)
        callers = [start(lambda: log.insert_event(*EVENT)) for _ in range(20)]
        futures = [log.submit_event(*EVENT) for _ in range(MAX_ROWS - 20)]
        wait_until(lambda: log._queue._depth == MAX_ROWS)
        gate.open()
        ids = [future.result(PATIENCE) for future in (first, *callers, *futures)]
        assert sorted(ids) == list(range(1, MAX_ROWS + 2))
        assert len(statements) == 2


def test_all_the_acks_of_a_commit_reach_a_loop_in_one_call(path: Path) -> None:
    gate = Gate()
    calls = list[object]()

    async def main() -> None:
        loop = asyncio.get_running_loop()
        genuine = loop.call_soon_threadsafe

        def counting(callback: Callable[..., object], *arguments: Any) -> asyncio.Handle:
            calls.append(callback)
            return genuine(callback, *arguments)

        with EventLog(path, sink=gate) as log, pytest.MonkeyPatch.context() as patch:
            patch.setattr(loop, "call_soon_threadsafe", counting)
            tasks = [asyncio.ensure_future(log.insert_event_async(*EVENT))]
            while not gate.waiting.is_set():
                await asyncio.sleep(0.001)
            tasks += [asyncio.ensure_future(log.insert_event_async(*EVENT)) for _ in range(200)]
            await asyncio.sleep(0)  # until they are queued
            gate.open()
            assert await asyncio.gather(*tasks) == list(range(1, 202))
            assert len(calls) == 2

    asyncio.run(main())


# ------------------------------------------------------------------------------------------------------------- reading


@pytest.mark.parametrize("count", [0, 1, PAGE_ROWS - 1, PAGE_ROWS, 2 * PAGE_ROWS + 5])
def test_a_page_is_one_statement_and_one_parse(log: EventLog, path: Path, count: int) -> None:
    log.insert_events([EVENT] * count)
    parses = 0

    def profile(frame: FrameType, event: str, _: object) -> None:
        nonlocal parses
        parses += (
            event == "call"
            and frame.f_code.co_name == "decode"
            and "json" in frame.f_code.co_filename
        )

    with all_statements() as statements, EventReader(path) as reader:
        before = len(statements)
        sys.setprofile(profile)
        try:
            found = reader.query_step_events("t")
        finally:
            sys.setprofile(None)
    assert [event.event_id for event in found] == list(range(1, count + 1))
    # The first page that is full is followed by asking where the log ends.
    pages = count // PAGE_ROWS + 1
    ends = int(count >= PAGE_ROWS)
    assert len(statements) - before == pages + ends
    columns = 7
    assert parses <= pages * (columns + 1)


def test_a_trace_parses_each_payload_once(log: EventLog, path: Path) -> None:
    told = [
        ("task_started", {}),
        ("step_started", {"step": "a", "cycle": 1}),
        ("step_finished", {"step": "a", "cycle": 1, "exit_code": 0}),
        ("task_spawned", {}),
        ("task_completed", {}),
    ]
    log.insert_events(("t", None, kind, payload) for kind, payload in told)
    parses = 0

    def profile(frame: FrameType, event: str, _: object) -> None:
        nonlocal parses
        parses += event == "call" and frame.f_code is parse.__code__

    seen = Trace("t")
    with EventReader(path) as reader:
        events = list(reader.query_events("t"))
    sys.setprofile(profile)
    try:
        for event in events:
            seen.apply(event)
    finally:
        sys.setprofile(None)
    assert document(seen, 0.0)["status"] == "completed"
    # Of an event that gives its task a status, and of no other, it may be asked again.
    assert parses <= len(told) + 1


@pytest.mark.parametrize("ask", ["query_latest_step_log_paths", "query_step_events"])
def test_a_short_question_is_one_statement(log: EventLog, path: Path, ask: str) -> None:
    log.insert_events([EVENT] * 100)
    with all_statements() as statements, EventReader(path) as reader:
        before = len(statements)
        getattr(reader, ask)("t")
        getattr(reader, ask)("unknown")
    assert len(statements) - before == 2


OURS: Final = ()
REFERENCE: Final = (
    "CREATE INDEX idx_events_task_created_at ON events(task_id, created_at)",
    "CREATE INDEX idx_events_task_type_step ON events(task_id, event_type, step)",
)
QUESTIONS: Final[dict[str, tuple[str, Callable[[EventReader], object]]]] = {
    "orch_events_task": ("payload_json", lambda log: log.query_step_events("t", after_id=9)),
    "orch_events_log_paths": ("payload_json", lambda log: log.query_latest_step_log_paths("t")),
    "orch_events_task_status": (
        "ORDER BY id DESC",
        lambda log: [*log.follow_events("t", timeout=0, until_finished=True)],
    ),
}


@pytest.mark.parametrize("analyzed", [(), ("ANALYZE",)], ids=["fresh", "analyzed"])
@pytest.mark.parametrize(
    ("index", "others"),
    [*((index, OURS) for index in QUESTIONS), ("orch_events_task_status", REFERENCE)],
)  # `test_file` asks the first two beside the reference's indexes
def test_each_index_answers_its_question(
    log: EventLog, path: Path, index: str, others: tuple[str, ...], analyzed: tuple[str, ...]
) -> None:
    kinds = ["step_heartbeat"] * 50 + ["step_spawned", "task_started"]
    log.insert_events(
        [("t" if n % 3 else f"u{n}", None, kinds[n % 52], {"step": "s"}) for n in range(3000)]
    )
    execute(path, *others, *analyzed)
    mark, ask = QUESTIONS[index]
    with all_statements() as statements, EventReader(path) as reader:
        ask(reader)
    selects = [
        text
        for text in statements
        if text.lstrip().startswith("SELECT") and mark in text and "events" in text
    ]
    with closing(sqlite3.connect(path)) as connection:
        plans = [
            [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {select}")]
            for select in selects
        ]
    on_events = [
        step for plan in plans for step in plan if re.match(r"(SEARCH|SCAN) events\b", step)
    ]
    assert on_events
    assert any(step.startswith(f"SEARCH events USING INDEX {index} ") for step in on_events), plans
    assert not any(
        "SCAN events" in step or "TEMP B-TREE" in step for plan in plans for step in plan
    ), plans


# ------------------------------------------------------------------------------------------------------------- imports


def test_a_program_without_coroutines_never_imports_asyncio(tmp_path: Path, path: Path) -> None:
    source = """
import sys
from orch_events import EventLog, EventReader

with EventLog(sys.argv[1]) as log, EventReader(sys.argv[1]) as reader:
    log.insert_event("t", None, "step_started", {})
    log.insert_events([("t", None, "step_finished", {})] * 5000)
    log.submit_event("t", None, "task_completed", {}).result()
    log.flush()
    for queries in (log, reader):
        assert len(list(queries.query_events())) == 5002
        assert len(queries.query_step_events("t")) == 5001
        assert len(list(queries.follow_events("t", until_finished=True))) == 5002
        queries.query_latest_step_log_paths("t")
print("asyncio" in sys.modules)
"""
    assert run_script(tmp_path, source, path) == "False\n"
