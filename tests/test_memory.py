# SPDX-License-Identifier: MIT
"""Memory stays flat however many events go through a log."""

import sys
from pathlib import Path

import pytest

from .helpers import run_script

SOURCE = """
import asyncio, resource, sys
from orch_events import EventLog

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024

def write(count):
    for n in range(count):
        log.submit_event("t", None, "step_heartbeat", {"step": "qa", "n": n, "text": "x" * 100})
    log.flush()

def read():
    assert sum(1 for _ in log.query_events()) == written

async def read_async():
    count = 0
    async for _ in log.query_events_async("t"):
        count += 1
    assert count == written

small, large = int(sys.argv[2]), int(sys.argv[3])
with EventLog(sys.argv[1], durability="normal") as log:
    peaks = []
    for count, written in ((small, small), (large - small, large)):
        write(count)
        read()
        asyncio.run(read_async(), debug=False)
        peaks.append(peak())
print(*peaks)
"""


@pytest.mark.long
@pytest.mark.skipif(sys.platform == "win32", reason="asks for the peak as POSIX has it")
def test_a_million_events_take_no_more_memory_than_a_few(tmp_path: Path, path: Path) -> None:
    few, million = map(
        int, run_script(tmp_path, SOURCE, path, 100_000, 1_000_000, patience=300).split()
    )
    assert million < few + 30, "megabytes"
