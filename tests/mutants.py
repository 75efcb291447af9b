# SPDX-License-Identifier: MIT
"""Make small faults in the package, one at a time, and see whether the default tests notice.

    python -m tests.mutants
    python -m tests.mutants orch_events/_core/commit_queue.py --at-most 50 --seed 7
    python -m tests.mutants --list orch_events/_core/paging.py

A mutant is a copy of the package with one change in one file: a comparison swapped, ``and`` for ``or``, a ``not`` or a
statement left out, 0 for 1, an empty ``except`` body, ``<`` for ``<=`` in SQL (see `_changed`). Without files, those of
the core and of both engines are changed; PostgreSQL's need psycopg and a server. Of all their possible mutants
`--at-most` are drawn, by `--seed`.

A mutant is killed when a test fails, or takes far longer than any does (`EACH`): it hangs. First those tests run
that know the file best (`KNOWS`), for all mutants; then, for what is left, those that touch nearly everything (`BROAD`).
What none of them notices survives, and is printed with its line. It is one of three things, and somebody has to look which:

- a hole in the tests: what the line is there for is not tested, or only by the long tests or by those in no table here;
- harmless: the change makes no difference, or only one of speed;
- code that is not needed.

The copy is in a temporary folder and the tests are its own, so nothing here is changed. Comments and line breaks are lost
in the file that is mutated, so the tests of the source's form say nothing about a mutant and are not run. The tests run
one at a time: a second run of them on the same machine may make one hang that is sound.
"""

import argparse
import ast
import os
import random
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from copy import deepcopy
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final, NamedTuple

ROOT: Final = Path(__file__).resolve().parent.parent

FOLDERS: Final = (
    "orch_events/_core",
    "orch_events/_storage/sqlite",
    "orch_events/_storage/postgres",
)

KNOWS: Final[dict[str, tuple[str, ...]]] = {
    "_core": ("store", "sinks", "futures", "queue", "interleavings"),
    "_core/async_append": ("store", "futures", "asyncio"),
    "_core/commit_queue": (
        "store",
        "schedules",
        "futures",
        "queue",
        "ends",
        "interrupts",
        "faults",
    ),
    "_core/commit_watcher": ("store", "watcher_schedules", "follow", "follow_files"),
    "_core/following": ("store", "gaps", "follow"),
    "_core/loop_acks": ("store", "futures", "asyncio"),
    "_core/paging": ("store", "gaps", "log"),
    "_core/read_sessions": ("store", "log", "connections", "interrupted_reading"),
    "_storage/sqlite": ("store", "log", "file", "connections", "foreign_files"),
    "_storage/sqlite/archiving": ("retention", "cleanup", "archive"),
    "_storage/sqlite/checkup": ("doctor", "damage"),
    "_storage/sqlite/checkup_surroundings": ("doctor",),
    "_storage/sqlite/commit_signal": ("follow_files", "follow"),
    "_storage/sqlite/deleting": ("gaps", "retention", "cleanup"),
    "_storage/sqlite/figures": ("stats", "tasks", "steps"),
    "_storage/sqlite/inserting": ("merging", "outbox", "queue", "faults"),
    "_storage/sqlite/interruptible": ("foreign_files", "interrupted_reading"),
    "_storage/sqlite/lock_retries": ("file", "processes", "faults"),
    "_storage/sqlite/maintenance_session": ("retention", "cleanup", "archive"),
    "_storage/sqlite/outbox": ("outbox",),
    "_storage/sqlite/page_text": ("log", "sizes"),
    "_storage/sqlite/prunable": ("retention", "cleanup"),
    "_storage/sqlite/pruned_table": ("gaps", "retention"),
    "_storage/sqlite/read_session": ("store", "log", "gaps", "stats"),
    "_storage/sqlite/reading": ("log", "tasks", "damage", "foreign_files"),
    "_storage/sqlite/replaced_files": ("file", "follow_files", "interrupted_reading"),
    "_storage/sqlite/schema": ("file", "foreign_files", "stats", "follow_files"),
    "_storage/sqlite/task_status": ("tasks", "stats", "foreign_files", "follow"),
    "_storage/sqlite/wal_hints": ("follow_files", "follow", "follow_costs"),
    "_storage/sqlite/write_session": ("queue", "merging", "faults"),
    "_storage/postgres": ("log", "postgres"),
    "_storage/postgres/archiving": ("archive", "retention", "postgres"),
    "_storage/postgres/checkup": ("postgres",),
    "_storage/postgres/commit_signal": ("follow", "postgres"),
    "_storage/postgres/deleting": ("gaps", "retention", "cleanup", "postgres"),
    "_storage/postgres/figures": ("stats", "tasks", "postgres"),
    "_storage/postgres/inserting": ("log", "merging", "queue", "postgres"),
    "_storage/postgres/maintenance_session": ("retention", "cleanup", "archive", "postgres"),
    "_storage/postgres/outbox": ("postgres",),
    "_storage/postgres/prunable": ("retention", "cleanup", "postgres"),
    "_storage/postgres/pruned_table": ("gaps", "retention", "postgres"),
    "_storage/postgres/read_session": ("log", "gaps", "stats", "postgres"),
    "_storage/postgres/reading": ("log", "tasks", "postgres"),
    "_storage/postgres/task_status": ("tasks", "stats", "postgres"),
    "_storage/postgres/write_session": ("log", "queue", "postgres"),
}
"""The test modules that know a file or folder of the package best, the fastest first."""

BROAD: Final = (
    *("store", "log", "queue", "conformance", "gaps", "tasks", "stats", "damage", "sizes"),
    *("file", "connections", "foreign_files", "outbox", "merging", "doctor", "cleanup"),
    *("performance_structure", "processes", "ends", "faults", "payload_properties"),
    *("interrupted_reading", "follow_files", "retention", "archive", "asyncio"),
    *("follow", "follow_costs", "interrupts"),
)
"""The test modules that run more or less all of the core and of an engine, the fastest first."""

# ------------------------------------------------------------------------------------------------------------ changes

_COMPARED: Final[dict[type[ast.cmpop], type[ast.cmpop]]] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
}
_JOINED: Final[dict[type[ast.boolop], type[ast.boolop]]] = {ast.And: ast.Or, ast.Or: ast.And}
_SQL: Final = re.compile(r"\b(SELECT|UPDATE|DELETE|AND|OR)\b")
_IN_SQL: Final[dict[str, str]] = {
    " < ": " <= ",
    " <= ": " < ",
    " > ": " >= ",
    " >= ": " > ",
    " = ": " <> ",
    " <> ": " = ",
    " AND ": " OR ",
    " OR ": " AND ",
    " DESC": "",
    "max(": "min(",
    "min(": "max(",
    " NOT ": " ",
    "coalesce(": "nullif(",
    "DISTINCT ": "",
    " + ": " - ",
}


class Change(NamedTuple):
    """One change of a file."""

    line: int
    before: str
    after: str

    def __str__(self) -> str:
        return f"{self.line}  {self.before}  →  {self.after}"


def _line_of(node: ast.AST) -> str:
    """A node in one line."""
    if isinstance(node, ast.ExceptHandler):
        node = ast.Try([ast.Pass()], [node], [], [])
    return " ".join(ast.unparse(ast.fix_missing_locations(deepcopy(node))).split())


def _shortened(text: str, start: int) -> str:
    """What of a long text is around the place where it was changed."""
    start = max(0, start - 40)
    end = start + 90
    return f"{'…' * (start > 0)}{text[start:end]}{'…' * (end < len(text))}"


def _change(line: int, before: ast.AST, after: ast.AST) -> Change:
    texts = _line_of(before), _line_of(after)
    pairs = enumerate(zip(*texts))
    start = next((n for n, (old, new) in pairs if old != new), 0)
    return Change(line, *[_shortened(text, start) for text in texts])


def _is_text(node: ast.expr) -> bool:
    return isinstance(node, ast.JoinedStr) or (
        isinstance(node, ast.Constant) and isinstance(node.value, str)
    )


def _changed_text(text: str) -> Iterator[str]:
    """A text of SQL, each time with one of its operators replaced."""
    if not _SQL.search(text):
        return
    for before, after in _IN_SQL.items():
        for found in re.finditer(re.escape(before), text):
            yield text[: found.start()] + after + text[found.end() :]


def _changed_operation(node: ast.AST) -> Iterator[ast.AST]:
    match node:
        case ast.Compare(left, operators, right):
            for n, operator in enumerate(operators):
                swapped = _COMPARED[type(operator)]()
                yield ast.Compare(left, [*operators[:n], swapped, *operators[n + 1 :]], right)
        case ast.BoolOp(operator, values):
            yield ast.BoolOp(_JOINED[type(operator)](), values)
        case ast.UnaryOp(ast.Not(), operand):
            yield operand
        case ast.BinOp(left, ast.Add(), right) if not _is_text(left) and not _is_text(right):
            yield ast.BinOp(left, ast.Sub(), right)
        case ast.BinOp(left, ast.Sub(), right):
            yield ast.BinOp(left, ast.Add(), right)
        case _:
            pass


def _changed_constant(node: ast.AST) -> Iterator[ast.AST]:
    match node:
        case ast.Constant(bool() as truth):
            yield ast.Constant(not truth)
        case ast.Constant(0 | 1 as number):
            yield ast.Constant(1 - number)
        case ast.Constant(str() as text):
            yield from map(ast.Constant, _changed_text(text))
        case _:
            pass


def _changed_flow(node: ast.AST) -> Iterator[ast.AST]:
    match node:
        case ast.If(ast.Name() | ast.Attribute() | ast.Call() as test, body, others):
            yield ast.If(ast.UnaryOp(ast.Not(), test), body, others)
        case ast.Break():
            yield ast.Continue()
        case ast.Continue():
            yield ast.Break()
        case ast.ExceptHandler(kind, name, [_, _, *_]):
            yield ast.ExceptHandler(kind, name, [ast.Pass()])
        case ast.Try(body, handlers, others, [_, *_]):
            last: list[ast.stmt] = [] if handlers else [ast.Pass()]
            yield ast.Try(body, handlers, others, last)
        case ast.Return(ast.expr() as value) if not isinstance(value, ast.Constant):
            yield ast.Return(ast.Constant(None))
        case _:
            pass


def _left_out(node: ast.AST) -> Iterator[ast.AST]:
    """Without this statement; not that which gives a local name its value, or the next would fail anyway."""
    match node:
        case ast.AugAssign() | ast.Raise() | ast.Delete():
            yield ast.Pass()
        case ast.Assign([ast.Attribute() | ast.Subscript(), *_]):
            yield ast.Pass()
        case ast.Expr(ast.Call() | ast.Await()):
            yield ast.Pass()
        case _:
            pass


def _changed(node: ast.AST) -> Iterator[ast.AST]:
    """What may be put in the place of `node`, which itself is left as it is."""
    yield from _changed_operation(node)
    yield from _changed_constant(node)
    yield from _changed_flow(node)
    yield from _left_out(node)


class _Changer(ast.NodeTransformer):
    """Makes the change of a number, of all that there are; they are counted in the order of a walk."""

    def __init__(self, number: int) -> None:
        self.changes: list[Change] = []
        """All that were possible on the way."""
        self._number = number
        self._line = 1

    def visit(self, node: ast.AST) -> ast.AST:
        self._line = getattr(node, "lineno", self._line)
        line = self._line
        result = node
        for changed in _changed(node):
            if len(self.changes) == self._number:
                result = ast.copy_location(changed, node)
            self.changes.append(_change(line, node, changed))
        self.generic_visit(node)
        return result

    def visit_children(self, node: ast.AST, *fields: str) -> None:
        """Visit these fields alone: annotations and docstrings are not run."""
        for name in fields:
            value = getattr(node, name)
            if isinstance(value, list):
                value[:] = [item and self.visit(item) for item in value]
            elif value is not None:
                setattr(node, name, self.visit(value))

    def generic_visit(self, node: ast.AST) -> ast.AST:
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                self.visit_children(node.args, "defaults", "kw_defaults")
                self.visit_children(node, "body")
            case ast.AnnAssign():
                self.visit_children(node, "value")
            case ast.Expr(ast.Constant()):
                pass
            case _:
                super().generic_visit(node)
        return node


def changes_of(source: str) -> list[Change]:
    """Every change that can be made."""
    changer = _Changer(-1)
    changer.visit(ast.parse(source))
    return changer.changes


def mutant(source: str, number: int) -> str:
    """The source with the change of that number."""
    tree = _Changer(number).visit(ast.parse(source))
    # The first line, of the licence, is not the parser's.
    return f"{source.splitlines()[0]}\n{ast.unparse(ast.fix_missing_locations(tree))}\n"


# -------------------------------------------------------------------------------------------------------------- tests


class Mutant(NamedTuple):
    """A file with one of its changes."""

    file: str
    number: int
    """Of the change, among those of the file."""
    change: Change

    def __str__(self) -> str:
        return f"{self.file}:{self.change}"


EACH: Final = 15
"""Seconds that a test may take; the slowest needs 2 on an idle machine."""

AT_ALL: Final = 540
"""Seconds that all may take. A guard, for a mutant that keeps the tests from ending."""

PYTEST: Final = (
    *(sys.executable, "-m", "pytest", "-q", "--tb=no", "-p", "no:cacheprovider"),
    *("-o", f"faulthandler_timeout={EACH}", "-o", "faulthandler_exit_on_timeout=true"),
)

END_AT_A_FAILURE: Final = '''

def pytest_exception_interact(node: pytest.Item) -> None:
    """A test has failed: say which, and end, since what the fault has left behind may never end."""
    Path(__file__).with_name("failed").write_text(node.nodeid)
    os._exit(1)
'''
"""Of the tests in the copy."""


class Copy:
    """A copy of the project whose tests can be run, with one of its files changed."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "project"
        self._files = folder / "files"
        self._failed = self.root / "tests" / "failed"
        skipped = shutil.ignore_patterns(".*", "__pycache__")
        shutil.copytree(ROOT, self.root, ignore=skipped)
        with (self.root / "tests" / "conftest.py").open("a", encoding="utf-8") as hooks:
            hooks.write(END_AT_A_FAILURE)

    def killed_by(self, made: Mutant, modules: Sequence[str]) -> str:
        """The first test of these modules that fails or hangs with the mutant; empty if none does."""
        path = self.root / made.file
        sound = path.read_text(encoding="utf-8")
        path.write_text(mutant(sound, made.number), encoding="utf-8")
        try:
            return self.failing(modules, made.file)
        finally:
            path.write_text(sound, encoding="utf-8")

    def failing(self, modules: Sequence[str], file: str = "") -> str:
        files = [f"tests/test_{module}.py" for module in modules]
        only = ("-k", "postgres") if "/postgres/" in file else ()
        self._failed.unlink(missing_ok=True)
        with subprocess.Popen(
            [*PYTEST, *only, f"--basetemp={self._files}", *files],
            cwd=self.root,
            env={**os.environ, "PYTHONPATH": str(self.root)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        ) as process:
            try:
                printed, _ = process.communicate(timeout=AT_ALL)
            except subprocess.TimeoutExpired:
                printed = "a hang"
            finally:
                self._kill_all()
                process.kill()
        if process.returncode == 0:
            return ""
        if self._failed.exists():
            return self._failed.read_text(encoding="utf-8")
        hung = re.search(r'(tests/test_\w+\.py)", line \d+ in (test_\w+)', printed)
        if hung:
            return f"a hang of {hung[1]}::{hung[2]}"
        return printed[-200:].strip()

    def _kill_all(self) -> None:
        """End what the tests have left behind: a program under test that hangs is in a session of its own.

        Everything that was started for the copy, and nothing else, has its folder in the environment. Only Linux tells.
        """
        mark = f"PYTHONPATH={self.root}".encode()
        for entry in Path("/proc").glob("[0-9]*/environ"):
            with suppress(OSError):  # it has ended, or is another user's
                if mark in entry.read_bytes():
                    os.kill(int(entry.parent.name), signal.SIGKILL)


# ---------------------------------------------------------------------------------------------------------------- main


def modules_of(file: str) -> tuple[str, ...]:
    """The test modules that know the file best."""
    within = file.removeprefix("orch_events/").removesuffix(".py")
    return KNOWS.get(within) or KNOWS[within.rpartition("/")[0]]


def other_modules_of(file: str) -> tuple[str, ...]:
    return tuple(module for module in BROAD if module not in modules_of(file))


def all_files() -> list[str]:
    found = [file for folder in FOLDERS for file in sorted((ROOT / folder).glob("*.py"))]
    return [file.relative_to(ROOT).as_posix() for file in found]


def drawn(files: Sequence[str], at_most: int, seed: int) -> list[Mutant]:
    """The mutants to be made, in the order of the files."""
    possible = [
        Mutant(file, number, change)
        for file in files
        for number, change in enumerate(changes_of((ROOT / file).read_text(encoding="utf-8")))
    ]
    if len(possible) <= at_most:
        return possible
    return sorted(random.Random(seed).sample(possible, at_most))


def survivors(
    copy: Copy, mutants: Sequence[Mutant], tests: Callable[[str], tuple[str, ...]]
) -> list[Mutant]:
    """Those that `tests` of their file do not notice."""
    left: list[Mutant] = []
    for n, made in enumerate(mutants, 1):
        modules = tests(made.file)
        killer = modules and copy.killed_by(made, modules)
        if not killer:
            left.append(made)
        fate = f"killed by {killer}" if killer else "SURVIVES"
        print(f"{n}/{len(mutants)} {made}\n    {fate}", flush=True)
    return left


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tests.mutants", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("files", nargs="*", metavar="FILE")
    parser.add_argument("--at-most", type=int, default=50, help="mutants (50)")
    parser.add_argument("--seed", type=int, default=0, help="which of them (0)")
    parser.add_argument("--list", action="store_true", help="say which, and run nothing")
    options = parser.parse_args()
    mutants = drawn(options.files or all_files(), options.at_most, options.seed)
    if options.list:
        print(*mutants, sep="\n")
        return
    with TemporaryDirectory(prefix="mutants-") as folder:
        copy = Copy(Path(folder))
        known = dict.fromkeys(module for made in mutants for module in modules_of(made.file))
        failed = copy.failing([*known])
        if failed:
            parser.exit(1, f"without any mutant: {failed}\n")
        left = survivors(copy, mutants, modules_of)
        print(f"{len(left)} are left for the other tests", flush=True)
        left = survivors(copy, left, other_modules_of)
    killed = len(mutants) - len(left)
    print("\nSurvivors:", *left, sep="\n")
    print(f"\n{len(mutants)} mutants, seed {options.seed}: {killed} killed, {len(left)} survived")


if __name__ == "__main__":
    main()
