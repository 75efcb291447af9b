# SPDX-License-Identifier: MIT
"""What a user's type checker says: ``typing/accepted.py`` is clean and runs, ``typing/rejected.py`` is not.

Both are checked twice with mypy's strictest common settings and no configuration of ours: against the source, and
against the stub alone, which proves that either may stand for the other.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

import orch_events

ROOT: Final = Path(__file__).resolve().parent.parent
ACCEPTED: Final = ROOT / "tests" / "typing" / "accepted.py"
REJECTED: Final = ROOT / "tests" / "typing" / "rejected.py"
MYPY: Final = (
    *(
        "-m",
        "mypy",
        "--config-file=",
        "--strict",
        "--warn-unreachable",
        "--strict-equality-for-none",
    ),
    *(
        "--enable-error-code=unused-awaitable",
        "--python-version=3.11",
        "--output=json",
        "--cache-dir=/dev/null",
    ),
)


def run(directory: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Python in `directory`, where nothing of ours can be found but what `environment` points to."""
    command = [sys.executable, "-W", "error", "-X", "dev", *arguments]
    merged = {**os.environ, **environment}
    return subprocess.run(
        command, cwd=directory, env=merged, capture_output=True, text=True, check=False
    )


@pytest.mark.long
@pytest.mark.parametrize("origin", [ROOT, ROOT / "typings"], ids=["source", "stub"])
def test_the_marked_lines_are_errors_and_no_others(origin: Path, tmp_path: Path) -> None:
    (tmp_path / "which.py").write_text(
        "import orch_events\nreveal_type(orch_events.Event)\n", encoding="utf-8"
    )
    done = run(tmp_path, *MYPY, str(ACCEPTED), str(REJECTED), "which.py", MYPYPATH=str(origin))
    assert not done.stderr
    messages = [json.loads(line) for line in done.stdout.splitlines()]
    module = "_values.events." if origin == ROOT else ""
    assert any(f") -> orch_events.{module}Event" in message["message"] for message in messages), (
        "another file"
    )

    found = {
        (m["file"], m["line"], m["code"]): m["message"]
        for m in messages
        if m["severity"] == "error"
    }
    marked = {
        (str(REJECTED), number, code)
        for number, line in enumerate(REJECTED.read_text(encoding="utf-8").splitlines(), 1)
        if (mark := re.search(r"  # E: (.+)$", line))
        for code in mark[1].split(", ")
    }
    assert {place: message for place, message in found.items() if place not in marked} == {}
    assert marked - found.keys() == set()


def test_the_accepted_program_runs(tmp_path: Path) -> None:
    done = run(tmp_path, str(ACCEPTED), str(tmp_path), PYTHONPATH=str(ROOT))
    assert (done.returncode, done.stderr) == (0, "")
    assert "step_spawned in process 7\tunspecified\t20\n" in done.stdout
    assert done.stdout.endswith("no file nowhere.db\npayload.a.b[0]\nPayloadError\n")


def test_the_accepted_program_uses_every_public_name() -> None:
    words = set(re.findall(r"\w+", ACCEPTED.read_text(encoding="utf-8")))
    assert set(orch_events.__all__) <= words
