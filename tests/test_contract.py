# SPDX-License-Identifier: MIT
"""``typings/orch_events/__init__.pyi`` spells the public signatures of the source: all of them, and exactly.

stubtest compares names, kinds of parameters and defaults with the package at run time, but no types. So the source and
the stub are also reduced to the same form and compared as text: bodies and docstrings go, private base classes are
replaced by their members, private aliases and constants by their values, and quoted annotations lose their quotes.

A change of the public surface needs a change of the stub, and of nothing in this file.
"""

import ast
import copy
import dataclasses
import os
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Final, TypeAlias

import pytest

from orch_events import EventType, StepEvent

ROOT: Final = Path(__file__).resolve().parent.parent
SOURCE: Final = sorted(
    path for path in (ROOT / "orch_events").rglob("*.py") if "cli" not in path.parts
)
STUB: Final = ROOT / "typings" / "orch_events" / "__init__.pyi"

Function: TypeAlias = ast.FunctionDef | ast.AsyncFunctionDef


class Reduction(ast.NodeTransformer):
    """The definitions in some files, taken as one module, and what remains of each."""

    def __init__(self, texts: Iterable[str]) -> None:
        self.definitions: dict[str, ast.ClassDef | Function | ast.AnnAssign] = {}
        self.exported: list[str] = []
        self.seen: list[str] = []
        """Private classes that a signature mentions."""
        for node in (node for text in texts for node in ast.parse(text).body):
            match node:
                case ast.ClassDef() | ast.FunctionDef() | ast.AsyncFunctionDef():
                    self.definitions[node.name] = node
                case ast.AnnAssign(target=ast.Name(id=name)):
                    self.definitions[name] = node
                case ast.Assign(targets=[ast.Name(id="__all__")], value=value):
                    self.exported = max(
                        self.exported, ast.literal_eval(value), key=len
                    )  # the front door has them all
                case _:
                    pass

    def surface(self) -> dict[str, str]:
        """The reduced text of every exported name, and of the private classes these mention."""
        texts = {name: self.text(name) for name in self.exported}
        for name in self.seen:  # grows while we look
            texts[name.lstrip("_")] = self.text(name)
        return texts

    def text(self, name: str) -> str:
        node = copy.deepcopy(self.definitions[name])
        if isinstance(node, ast.AnnAssign) and "Final" in ast.unparse(node.annotation):
            node.value = None  # the value of a constant is no part of a stub
        return ast.unparse(ast.fix_missing_locations(self.visit(node)))

    # ------------------------------------------------------------------------------------------------- expressions

    def visit_Name(self, node: ast.Name) -> ast.expr:
        definition = None if node.id in self.exported else self.definitions.get(node.id)
        if isinstance(definition, ast.AnnAssign) and definition.value:
            return self.visit_expression(definition.value)
        if isinstance(definition, ast.ClassDef):
            self.seen += [node.id] if node.id not in self.seen else []
            return ast.Name(node.id.lstrip("_"))
        return node

    def visit_Constant(self, node: ast.Constant) -> ast.expr:
        if not isinstance(node.value, str) or not node.value.replace("_", "a").isidentifier():
            return node
        return self.visit_expression(ast.parse(node.value, mode="eval").body)

    def visit_expression(self, node: ast.expr) -> ast.expr:
        reduced = self.visit(copy.deepcopy(node))
        assert isinstance(reduced, ast.expr)
        return reduced

    # ------------------------------------------------------------------------------------------------- definitions

    def visit_FunctionDef(self, node: Function) -> ast.stmt:
        # An async generator is called like a plain function that returns an iterator, and a stub has to say so.
        is_async = isinstance(node, ast.AsyncFunctionDef) and not any(
            isinstance(n, ast.Yield) for n in ast.walk(node)
        )
        for arg in node.args.posonlyargs:
            arg.arg = arg.arg.lstrip("_")  # nobody can write it
        reduced = (ast.AsyncFunctionDef if is_async else ast.FunctionDef)(
            name=node.name,
            args=node.args,
            returns=node.returns,
            decorator_list=node.decorator_list,
            body=[_DOTS],
        )
        return self.generic_statement(reduced)

    visit_AsyncFunctionDef = visit_FunctionDef

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.stmt:
        members = [part for parts in self.members(node).values() for part in parts]
        data = [member for member in members if isinstance(member, ast.AnnAssign | ast.Assign)]
        methods = [member for member in members if isinstance(member, Function)]
        methods.sort(key=lambda method: method.name)  # order matters to fields alone
        node.name = node.name.lstrip("_")
        node.bases = list(self.public_bases(node))
        node.body = [*data, *methods, _DOTS]
        return self.generic_statement(node)

    def generic_statement(self, node: ast.stmt) -> ast.stmt:
        self.generic_visit(node)
        return node

    def private_bases(self, node: ast.ClassDef) -> Iterator[ast.ClassDef]:
        for base in node.bases:
            definition = self.definitions.get(ast.unparse(base))
            if isinstance(definition, ast.ClassDef) and definition.name not in self.exported:
                yield definition

    def public_bases(self, node: ast.ClassDef) -> Iterator[ast.expr]:
        private = {base.name for base in self.private_bases(node)}
        yield from (base for base in node.bases if ast.unparse(base) not in private)
        for base in self.private_bases(node):
            yield from self.public_bases(base)

    def members(self, node: ast.ClassDef) -> dict[str, list[ast.stmt]]:
        """The public members of a class, and of its private bases where it has none of that name."""
        own: dict[str, list[ast.stmt]] = {}
        for child in node.body:
            match child:
                case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                    own.setdefault(name, []).append(child)
                    own |= _attributes(child) if name == "__init__" else {}
                case (
                    ast.AnnAssign(target=ast.Name(id=name))
                    | ast.Assign(targets=[ast.Name(id=name)])
                ):
                    own[name] = [child]
                case _:
                    pass
        inherited = [self.members(copy.deepcopy(base)) for base in self.private_bases(node)]
        found = {name: parts for members in (*inherited, own) for name, parts in members.items()}
        return {name: parts for name, parts in found.items() if _is_public(name)}


_DOTS: Final = ast.Expr(ast.Constant(...))


def _is_public(name: str) -> bool:
    return name != "__slots__" and (not name.startswith("_") or name.endswith("__"))


def _attributes(init: Function) -> dict[str, list[ast.stmt]]:
    """What ``__init__`` sets, typed as in ``self.name: Type = …`` or as the parameter of the same name."""
    types = {arg.arg: arg.annotation for arg in (*init.args.args, *init.args.kwonlyargs)}
    attributes: dict[str, list[ast.stmt]] = {}
    for node in init.body:
        match node:
            case ast.AnnAssign(target=ast.Attribute(ast.Name("self"), name), annotation=annotation):
                pass
            case ast.Assign(targets=[ast.Attribute(ast.Name("self"), name)]):
                annotation = types.get(name) or ast.Name("without_annotation")
            case _:
                continue
        attributes[name] = [ast.AnnAssign(ast.Name(name), annotation, simple=1)]
    return attributes


@cache
def _surface(*texts: str) -> dict[str, str]:
    return Reduction(texts).surface()


def test_the_stub_spells_the_public_signatures_of_the_source() -> None:
    source = _surface(*(file.read_text(encoding="utf-8") for file in SOURCE))
    stub = _surface(STUB.read_text(encoding="utf-8"))
    assert list(stub) == list(source)
    for name, text in source.items():
        assert stub[name].splitlines() == text.splitlines()


@pytest.mark.long
def test_stubtest_finds_no_difference_at_run_time(tmp_path: Path) -> None:
    allowed = tmp_path / "allowed"
    allowed.write_text(
        "orch_events\\.(_|cli).*\n", encoding="utf-8"
    )  # private modules, and programs
    command = [
        "-m",
        "mypy.stubtest",
        "orch_events",
        "--allowlist",
        str(allowed),
        "--ignore-unused-allowlist",
    ]
    environment = {**os.environ, "MYPYPATH": str(STUB.parent.parent), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, *command],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


# What neither may overlook: a pattern of the stub and what it might have become.
DRIFT: Final = {
    "-> list[StepEvent]": "-> list[Event]",
    "task_id: str,": "task_id: object,",
    'TASK = "task"': 'TASK = "tasks"',
    "frozen=True, slots=True": "slots=True",
    "busy_timeout: float = 10.0": "busy_timeout: float = 5.0",
    "step: str | None\n": "step: str\n",
    "stdout_path: str\n    stderr_path: str\n": "stderr_path: str\n    stdout_path: str\n",
    "payload: Mapping[str, object],\n        /,\n": "payload: Mapping[str, object],\n",
    "async def insert_events_async": "def insert_events_async",
    "def query_events_async": "async def query_events_async",
    "stop: threading.Event | None = None,\n": "",
    'Literal["full", "normal"]': 'Literal["full", "off"]',
    "key_path: str\n": "key_path: str | None\n",
    "(OrchEventsError, ValueError)": "(OrchEventsError)",
    "(_DatabaseError)": "(OrchEventsError)",
    "(Protocol)": "",
    "    @property\n": "",
    "Future[int]": "Future[object]",
    "Final[frozenset[str]]": "Final[set[str]]",
    "list[JsonValue]": "list[object]",
    "_NewEvent: TypeAlias = tuple[str, str | None,": "_NewEvent: TypeAlias = tuple[str, str,",
    "events: list[_NewEvent]": "events: list[object]",
    '    "WriteError",\n': "",
    "    def flush(self) -> None: ...\n": "",
}


@pytest.mark.parametrize("old", DRIFT)
def test_every_kind_of_drift_is_noticed(old: str) -> None:
    stub = STUB.read_text(encoding="utf-8")
    assert old in stub
    assert _surface(stub.replace(old, DRIFT[old])) != _surface(stub)


def test_the_vocabulary_names_every_type_and_every_field_that_is_read() -> None:
    """In the docstring and, the same, on the page of the contract."""
    assert EventType.__doc__ is not None
    table = EventType.__doc__.split("shown:\n")[1]
    names = set(re.findall(r"\w+", table))
    assert {str(kind) for kind in EventType} <= names
    known = {field.name for field in dataclasses.fields(StepEvent)}
    assert known - {"event_id", "event_type", "task_item_id", "created_at"} <= names
    page = STUB.read_text(encoding="utf-8")
    spelled = "\n".join(f"# {line.strip()}" for line in table.strip().splitlines())
    assert re.sub(r"# +", "# ", page).count(spelled) == 1
