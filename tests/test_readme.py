# SPDX-License-Identifier: MIT
"""What the README shows is true: its programs check and run, its commands have the options it gives them, its copy of
the package can be made. Whatever it says is found by the language of its blocks and sections, so it may be rewritten.
"""

import ast
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

import orch_events

ROOT: Final = Path(__file__).resolve().parent.parent
README: Final = (ROOT / "README.md").read_text(encoding="utf-8")
PYTHON: Final = re.findall(r"^```python\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)
SHELL: Final = re.findall(r"^```(?:sh|console)\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)
PROSE: Final = re.sub(r"^```.*?^```$", "", README, flags=re.DOTALL | re.MULTILINE)
INLINE: Final = re.findall(r"`([^`\n]+)`", PROSE)
VENDORING: Final = README.partition("\n## Vendoring\n")[2].partition("\n## ")[0]
MYPY: Final = ("-m", "mypy", "--config-file=", "--strict", "--python-version=3.11", "--cache-dir=/dev/null")


def run(folder: Path, *arguments: str, path: Path | None = ROOT) -> str:
    """What Python printed in `folder`, with warnings as errors, nothing on stderr, and the package on `path`."""
    environment = {name: value for name, value in os.environ.items() if name not in ("ORCH_EVENTS_DB", "PYTHONPATH")}
    environment |= {} if path is None else {"PYTHONPATH": str(path), "MYPYPATH": str(path)}
    command = [sys.executable, "-W", "error", "-X", "dev", *arguments]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
    return done.stdout


@pytest.mark.long
def test_the_programs_check_strictly_and_run_one_after_the_other_in_an_empty_folder(tmp_path: Path) -> None:
    assert PYTHON, "the README shows no program"
    for number, block in enumerate(PYTHON, 1):
        program = tmp_path / f"block_{number}.py"
        program.write_text(block, encoding="utf-8")
        run(tmp_path, *MYPY, program.name)
        assert run(tmp_path, program.name).strip(), "a program that prints nothing shows nothing"


# -------------------------------------------------------------------------------------------------------- command lines


def _commands() -> dict[str, set[str]]:
    """Every command the README mentions, and the options it gives it."""
    found: dict[str, set[str]] = {}
    lines = [part for block in SHELL for line in block.splitlines() for part in re.split(r"&&|[|;]", line)]
    for line in [*lines, *INLINE]:
        if call := re.search(r"(?:^|\s)(?:orch-events|python3? -m orch_events)\s+(?:--db \S+\s+)?(\w+)(.*)", line):
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
    helped = run(ROOT, "-m", "orch_events", command, "--help")
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
def test_a_copy_as_the_readme_has_it_checks_strictly_and_its_logger_has_that_name(tmp_path: Path) -> None:
    """Without what may be left out, and with the name under which it is found made that of the README."""
    (statement,) = set(re.findall(r"`(from [\w.]+ import [\w, ]+)`", VENDORING))
    (logger,) = set(re.findall(r'getLogger\("([\w.]+)"\)', VENDORING))
    (source, target) = re.findall(r"`([\w/]*orch_events/?)`", VENDORING)[:2]
    left_out = [name.rstrip("/") for name in re.findall(r"`(cli/|__main__\.py)`", VENDORING)]
    assert left_out, "what may be left out?"

    shutil.copytree(ROOT / source, tmp_path / target, ignore=shutil.ignore_patterns("__pycache__", *left_out))
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
    assert not [member for kind, member in members if not hasattr(getattr(orch_events, kind), member)]
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
