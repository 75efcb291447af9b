# SPDX-License-Identifier: MIT
"""The package works, and type-checks, when it is copied: under any name, inside any package, from a zip, without its
tools.
"""

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

PACKAGE: Final = Path(__file__).resolve().parent.parent / "orch_events"

APP: Final = '''
"""A tool with a copy of the package inside."""

import asyncio
from collections.abc import Mapping
from pathlib import Path

from ._vendor import {name} as oe
from ._vendor.{name} import EventLog, EventReader, EventSink, StepEvent, query_step_events


class Recorder:
    def __init__(self) -> None:
        self.seen: list[str] = []

    def emit(self, task: str, item: str | None, kind: str, payload: Mapping[str, object], /) -> None:
        self.seen.append(kind)


async def read(path: Path) -> list[StepEvent]:
    async with EventReader(path) as reader:
        return await reader.query_step_events_async("t")


def main(path: Path) -> list[StepEvent]:
    recorder = Recorder()
    sink: EventSink = oe.FanoutSink([recorder, oe.NoopSink(), oe.TracingEventSink()])
    with EventLog(path, sink=sink) as log:
        number: int = log.insert_event("t", None, oe.EventType.STEP_STARTED, {{"step": "qa"}})
        assert log.submit_event("t", None, "step_finished", {{"success": True}}).result() == number + 1
    assert recorder.seen == ["step_started", "step_finished"]
    assert asyncio.run(read(path)) == query_step_events(path, "t")
    return query_step_events(path, "t")
'''

BOOT: Final = """
import importlib, pickle, sys
from pathlib import Path
sys.modules["orch_events"] = None  # whoever imports the original name fails
where, name, folder = sys.argv[1], sys.argv[2], Path(sys.argv[3])
sys.path.insert(0, where)
app = importlib.import_module(f"consumer.app_{name}")
started, finished = app.main(folder / "events.db")
assert (started.step, finished.success) == ("qa", True)
assert pickle.loads(pickle.dumps(started)) == started
try:
    app.EventReader(folder / "none.db")
except app.oe.OrchEventsError as error:
    assert isinstance(error, FileNotFoundError)
print(app.oe.__name__, app.oe.EventLog.__module__, app.oe.StepEvent.__module__, app.oe.TracingEventSink()._logger.name)
"""

TWO_COPIES: Final = """
import sys
from pathlib import Path
sys.path.insert(0, ".")
from consumer._vendor import orch_events as one, renamed as two
heard = one.RecordingSink()
with one.EventLog("events.db") as a, two.EventLog("events.db", sink=heard) as b, two.EventReader("events.db") as c:
    ids = [log.insert_event("t", None, kind, {"pid": n}) for n, (log, kind) in enumerate(
        [(a, one.EventType.STEP_STARTED), (b, two.EventType.STEP_STARTED)] * 50)]
    read = [[e.pid for e in log.query_step_events("t")] for log in (a, b, c)]
    assert ids == sorted(set(ids)) and read == [list(range(100))] * 3, read
    assert one.StepEvent is not two.StepEvent and one.EventType.STEP_STARTED == two.EventType.STEP_STARTED
    assert len(heard.events) == 50
"""

COPIES: Final = {
    "orch_events": (),
    "renamed": (),
    "core": ("cli", "__main__.py", "_maintenance", "postgres"),
}
"""Names to copy it to, and what to leave behind."""


def copied(folder: Path, *names: str) -> Path:
    """A program in `folder` that has the package as ``consumer._vendor.<name>``, and an app for each name."""
    vendor = folder / "consumer" / "_vendor"
    for name in names:
        shutil.copytree(
            PACKAGE, vendor / name, ignore=shutil.ignore_patterns("__pycache__", *COPIES[name])
        )
        (vendor.parent / f"app_{name}.py").write_text(APP.format(name=name), encoding="utf-8")
    for package in (vendor.parent, vendor):
        (package / "__init__.py").write_text("", encoding="utf-8")
    return folder


def run(folder: Path, *arguments: str, isolated: bool = True) -> str:
    """What Python printed in `folder`, with warnings as errors and nothing on stderr."""
    command = [sys.executable, *["-I"] * isolated, "-W", "error", "-X", "dev", *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("name", COPIES)
def test_a_copy_runs(name: str, tmp_path: Path) -> None:
    assert (
        run(copied(tmp_path, name), "-c", BOOT, ".", name, ".").split()
        == [f"consumer._vendor.{name}"] * 4
    )


def test_a_copy_runs_from_a_zip(tmp_path: Path) -> None:
    archive = shutil.make_archive(
        str(tmp_path / "app"), "zip", copied(tmp_path / "source", "renamed"), "consumer"
    )
    assert (
        run(tmp_path, "-c", BOOT, archive, "renamed", ".").split()
        == ["consumer._vendor.renamed"] * 4
    )


def test_two_copies_share_a_file_in_one_process(tmp_path: Path) -> None:
    run(copied(tmp_path, "orch_events", "renamed"), "-c", TWO_COPIES)


WITHOUT_MAINTENANCE: Final = """
import sys
sys.path.insert(0, ".")
from consumer._vendor import core
with core.EventLog("events.db") as log:
    for call in (log.stats, lambda: log.cleanup(keep_last=0)):
        try:
            call()
        except core.OrchEventsError as error:
            print(error)
"""


def test_a_copy_without_maintenance_says_what_it_lacks(tmp_path: Path) -> None:
    said = run(copied(tmp_path, "core"), "-c", WITHOUT_MAINTENANCE)
    lacks = "this copy of the package has no folder '_maintenance', which cleanup and stats need"
    assert said.splitlines() == [lacks, lacks]


CORE: Final = ("test_reference", "test_conformance", "test_values", "test_outbox")
"""The tests of what a program sees when it records and reads."""


@pytest.mark.long
def test_the_core_of_the_tests_passes_against_a_copy(tmp_path: Path) -> None:
    copied(tmp_path, "renamed")
    tests = tmp_path / "tests"
    shutil.copytree(Path(__file__).parent / "data", tests / "data")
    for name in ("__init__", "conftest", "engines", "helpers", "postgres_server", *CORE):
        text = Path(__file__).with_name(f"{name}.py").read_text(encoding="utf-8")
        text = re.sub(r"\borch_events\b", "consumer._vendor.renamed", text)
        (tests / f"{name}.py").write_text(text, encoding="utf-8")
    boot = "import sys, pytest; sys.path.insert(0, '.'); sys.modules['orch_events'] = None; sys.exit(pytest.main())"
    options = "-W error -q -p no:cacheprovider --import-mode=importlib --rootdir=."
    (tmp_path / "pytest.ini").write_text(
        f"[pytest]\naddopts = {options}\nmarkers =\n    long: as in the project\n    only_files: likewise\n",
        encoding="utf-8",
    )
    assert re.search(r"^[1-9]\d\d passed in ", run(tmp_path, "-c", boot), re.MULTILINE)


def test_the_command_line_of_a_copy_works(tmp_path: Path) -> None:
    command = ("-m", "consumer._vendor.renamed", "--db", "events.db")
    copied(tmp_path, "renamed")
    assert run(tmp_path, *command[:2], "--version", isolated=False).split()[0] == "orch-events"
    run(tmp_path, *command, "emit", "t", "step_started", "step=qa", isolated=False)
    assert '"step":"qa"' in run(
        tmp_path, *command, "events", "t", "--json", isolated=False
    ).replace(" ", "")


STRICT: Final = (
    "-m",
    "mypy",
    "--config-file=",
    "--strict",
    "--python-version=3.11",
    "--cache-dir=/dev/null",
)
STRICTER: Final = (
    *(
        "--no-namespace-packages",
        "--warn-unreachable",
        "--strict-equality-for-none",
        "--disallow-any-expr",
    ),
    "--disallow-any-explicit",
    "--disallow-any-decorated",
    "--disallow-any-unimported",
)


@pytest.mark.long
@pytest.mark.parametrize("options", [(), STRICTER], ids=["strict", "stricter"])
def test_copies_check_strictly(options: tuple[str, ...], tmp_path: Path) -> None:
    assert run(copied(tmp_path, *COPIES), *STRICT, *options, "consumer").startswith(
        "Success: no issues found"
    )


def test_importing_it_costs_little() -> None:
    costly = ["asyncio", "argparse", "subprocess", "ctypes", "multiprocessing", "typing_extensions"]
    costly += ["pathlib", "random", "tempfile", "urllib"]
    code = f"""if True:
        import sys, concurrent.futures._base
        standard = {{*sys.modules}}  # on some Pythons even these bring pathlib
        sys.path.insert(0, {str(PACKAGE.parent)!r})
        import orch_events
        print(*{{*sys.modules}} - standard)
    """
    assert not set(run(PACKAGE.parent, "-S", "-c", code).split()) & set(costly)
