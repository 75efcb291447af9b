# SPDX-License-Identifier: MIT
"""What the README shows is true: its programs check and run, its commands have the options it gives them, its copy of
the package can be made. Whatever it says is found by the language of its blocks and sections, so it may be rewritten.
"""

import ast
import http.server
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from itertools import count
from pathlib import Path
from typing import ClassVar, Final

import pytest

import orch_events

from .terminal import outcome

ROOT: Final = Path(__file__).resolve().parent.parent
README: Final = (ROOT / "README.md").read_text(encoding="utf-8")
PYTHON: Final = re.findall(r"^```python\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)
SHELL: Final = re.findall(r"^```(?:sh|console)\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)
PROSE: Final = re.sub(r"^```.*?^```$", "", README, flags=re.DOTALL | re.MULTILINE)
INLINE: Final = re.findall(r"`([^`\n]+)`", PROSE)
VENDORING: Final = README.partition("\n## Vendoring\n")[2].partition("\n## ")[0]
MYPY: Final = (
    "-m",
    "mypy",
    "--config-file=",
    "--strict",
    "--python-version=3.11",
    "--cache-dir=/dev/null",
)


def run(folder: Path, *arguments: str, path: Path | None = ROOT) -> str:
    """What Python printed in `folder`, with warnings as errors, nothing on stderr, and the package on `path`."""
    environment = {
        name: value
        for name, value in os.environ.items()
        if name not in ("ORCH_EVENTS_DB", "PYTHONPATH")
    }
    environment |= {} if path is None else {"PYTHONPATH": str(path), "MYPYPATH": str(path)}
    command = [sys.executable, "-W", "error", "-X", "dev", *arguments]
    done = subprocess.run(
        command,
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
    return done.stdout


@pytest.mark.long
def test_the_programs_check_strictly_and_run_one_after_the_other_in_an_empty_folder(
    tmp_path: Path,
) -> None:
    assert PYTHON, "the README shows no program"
    for number, block in enumerate(PYTHON, 1):
        program = tmp_path / f"block_{number}.py"
        program.write_text(block, encoding="utf-8")
        run(tmp_path, *MYPY, program.name)
        assert run(tmp_path, program.name).strip(), "a program that prints nothing shows nothing"


def with_programs(folder: Path, **programs: str) -> dict[str, str]:
    """An environment in which `orch-events` is found, and these programs, each given as a line of shell."""
    ours = {"orch-events": f'exec "{sys.executable}" -m orch_events "$@"'}
    for name, line in {**ours, **programs}.items():
        (folder / name).write_text(f"#!/bin/sh\n{line}\n", encoding="utf-8")
        (folder / name).chmod(0o700)
    return os.environ | {
        "PATH": f"{folder}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "ORCH_EVENTS_DB": "log.db",
        "NO_PROXY": "localhost",
    }


def test_its_shell_loop_tells_of_a_task_that_fails(tmp_path: Path) -> None:
    (loop,) = [block for block in SHELL if "while read" in block]
    environment = with_programs(tmp_path, **{"notify-send": 'printf "%s\\n" "$1" >>told'})
    with orch_events.EventLog(tmp_path / "log.db") as log:
        log.insert_event("before", None, "task_failed")
        with subprocess.Popen(
            ["sh", "-c", loop], cwd=tmp_path, env=environment, start_new_session=True
        ) as process:
            try:
                for number in count():
                    log.insert_event("well", None, "task_completed")
                    log.insert_event(f"badly-{number}", None, "task_failed")
                    if (tmp_path / "told").exists():
                        break
                    assert number < 600 and process.poll() is None, "nothing was told"
                    time.sleep(0.1)
            finally:
                os.killpg(process.pid, signal.SIGKILL)
    told = (tmp_path / "told").read_text(encoding="utf-8").splitlines()[0]
    assert json.loads(told)["task_id"].startswith("badly-")


class Collector(http.server.BaseHTTPRequestHandler):
    """Takes one trace, as an OpenTelemetry collector does."""

    received: ClassVar[list[tuple[str, str | None, str]]] = []

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        self.received.append((self.path, self.headers["Content-Type"], body))
        self.send_response(200)
        self.end_headers()


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_its_line_for_opentelemetry_hands_a_trace_to_a_collector(tmp_path: Path) -> None:
    (line,) = [block for block in SHELL if "curl" in block]
    with orch_events.EventLog(tmp_path / "log.db") as log, log.step("nightly", "build"):
        pass
    with http.server.HTTPServer(("localhost", 0), Collector) as server:
        handling = threading.Thread(target=server.handle_request)
        handling.start()
        here = line.replace("localhost:4318", f"localhost:{server.server_port}")
        assert here != line
        environment = with_programs(tmp_path)
        subprocess.run(["sh", "-c", here], cwd=tmp_path, env=environment, check=True)
        handling.join()
    ((path, kind, body),) = Collector.received
    assert (path, kind) == ("/v1/traces", "application/json")
    spans = json.loads(body)["resourceSpans"][0]["scopeSpans"][0]["spans"]
    assert [span["name"] for span in spans] == ["nightly", "build"]


# -------------------------------------------------------------------------------------------------------- command lines


def _commands() -> dict[str, set[str]]:
    """Every command the README mentions, and the options it gives it."""
    found: dict[str, set[str]] = {}
    lines = [
        part
        for block in SHELL
        for line in block.splitlines()
        for part in re.split(r"&&|[|;]", line)
    ]
    for line in [*lines, *INLINE]:
        if call := re.search(
            r"(?:^|\s)(?:orch-events|python3? -m orch_events)\s+(?:--db \S+\s+)?(\w+)(.*)", line
        ):
            ours = re.split(r"\s--(?:\s|$)", call[2])[0]  # what follows is somebody else's
            found.setdefault(call[1], set()).update(re.findall(r"(?<![\w-])--?[a-z][\w-]*", ours))
    return found


COMMANDS: Final = _commands()


def test_every_command_is_mentioned() -> None:
    helped = run(ROOT, "-m", "orch_events", "--help").partition("commands:")[2]
    commands = set(re.findall(r"^  (\w+)  ", helped, re.MULTILINE))
    assert commands
    assert COMMANDS.keys() <= commands
    assert not {name for name in commands if not re.search(rf"`[^`\n]*\b{name}\b[^`\n]*`", README)}


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_has_the_options_it_is_shown_with(command: str) -> None:
    _, helped, _ = outcome(command, "--help")
    assert not COMMANDS[command] - set(re.findall(r"(?<![\w-])--?[a-z][\w-]*", helped))


# ------------------------------------------------------------------------------------------------------------ vendoring

SPEAKER: Final = """
import logging, sys
{statement}
assert not {{name.partition(".")[0] for name in sys.modules}} & {{"orch_events", "cli"}}
logging.basicConfig(stream=sys.stdout, format="%(name)s", level="DEBUG")
from {module} import TracingEventSink
with EventLog("events.db", sink=TracingEventSink()) as log:
    log.insert_event("t", None, "x", {{}})
"""


@pytest.mark.long
def test_a_copy_as_the_readme_has_it_checks_strictly_and_its_logger_has_that_name(
    tmp_path: Path,
) -> None:
    """Without what may be left out, and with the name under which it is found made that of the README."""
    (statement,) = set(re.findall(r"`(from [\w.]+ import [\w, ]+)`", VENDORING))
    (logger,) = re.findall(r"logger[^`]*`([\w.]+)`", VENDORING)
    (source, target) = re.findall(r"`([\w/]*orch_events/?)`", VENDORING)[:2]
    left_out = [name.rstrip("/") for name in re.findall(r"`(cli/|__main__\.py)`", VENDORING)]
    assert left_out, "what may be left out?"

    shutil.copytree(
        ROOT / source, tmp_path / target, ignore=shutil.ignore_patterns("__pycache__", *left_out)
    )
    module = target.rstrip("/").replace("/", ".")
    assert module in statement
    program = tmp_path / "program.py"
    program.write_text(statement + "\n", encoding="utf-8")
    assert run(tmp_path, *MYPY, "-m", "program", "-p", module, path=None).startswith("Success")
    program.write_text(SPEAKER.format(statement=statement, module=module), encoding="utf-8")
    assert run(tmp_path, program.name, path=None).split() == [logger]


# ---------------------------------------------------------------------------------------------------------------- names


def test_what_it_calls_public_is_public() -> None:
    members = set(re.findall(r"\b(EventLog|EventReader)\.(\w+)", "\n".join(INLINE)))
    assert not [
        member for kind, member in members if not hasattr(getattr(orch_events, kind), member)
    ]
    code = "\n".join([*PYTHON, *re.findall(r"`(from \S*orch_events import [\w, ]+)`", README)])
    imported = {
        alias.name
        for node in ast.walk(ast.parse(code))
        if isinstance(node, ast.ImportFrom) and node.module and node.module.endswith("orch_events")
        for alias in node.names
    }
    assert imported
    assert imported <= set(orch_events.__all__)


@pytest.mark.parametrize("file", sorted(set(re.findall(r"`((?:[\w.-]+/)+[\w-]+\.\w+)`", README))))
def test_a_file_it_names_exists(file: str) -> None:
    assert (ROOT / file).exists()
