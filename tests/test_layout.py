# SPDX-License-Identifier: MIT
"""The layout of the package: folders are layers, each imports only what stands left of it, and SQL stays in its engine."""

import ast
import graphlib
import re
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Final, NamedTuple

from .helpers import run_script

PACKAGE: Final = Path(__file__).resolve().parent.parent / "orch_events"

FRONT: Final = (
    "_event_log",
    "_event_reader",
    "_outbox",
    "_output_tail",
    "_queries",
    "_recorded_step",
    "_sinks",
)
LAYERS: Final[dict[str, int]] = {
    "_values": 0,
    "_storage": 1,
    "_core": 2,
    "_maintenance": 3,
    **dict.fromkeys(FRONT, 4),
    "__init__": 5,
    "cli": 6,
    "__main__": 7,
}
"""The folders and files of the package, and how far up each stands."""

SQL: Final = re.compile(
    r"\b(SELECT|INSERT|UPDATE|DELETE|CREATE|ALTER|DROP|PRAGMA|BEGIN|COMMIT|ROLLBACK|VALUES)\b"
)


class Import(NamedTuple):
    """One name in an import statement."""

    place: str
    importer: tuple[str, ...]
    """The module that imports, as the parts of its name below the package."""
    imported: tuple[str, ...]
    """The module of the package that is imported; empty for one from outside."""
    outside: str
    """The top-level name of what is imported from outside."""


def module_of(file: Path) -> tuple[str, ...]:
    return file.relative_to(PACKAGE).with_suffix("").parts


def sources() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


@cache
def parsed(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"))


def is_module(parts: tuple[str, ...]) -> bool:
    return PACKAGE.joinpath(*parts).with_suffix(".py").is_file()


def imported_modules(file: Path, node: ast.ImportFrom) -> Iterator[tuple[str, ...]]:
    """The modules of the package that a relative import reads."""
    folder = module_of(file)[:-1]
    assert node.level <= len(folder) + 1, f"{file}: imports from outside of the package"
    base = folder[: len(folder) - node.level + 1]
    source = (*base, *(node.module.split(".") if node.module else ()))
    for alias in node.names:
        if is_module((*source, alias.name)):
            yield (*source, alias.name)
        elif is_module(source):
            yield source
        else:
            yield (*source, "__init__")


def imports() -> Iterator[Import]:
    for file in sources():
        importer = module_of(file)
        for node in ast.walk(parsed(file)):
            place = f"{'/'.join(importer)}:{getattr(node, 'lineno', 0)}"
            if isinstance(node, ast.Import):
                for alias in node.names:
                    yield Import(place, importer, (), alias.name.partition(".")[0])
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                assert node.module is not None
                yield Import(place, importer, (), node.module.partition(".")[0])
            elif isinstance(node, ast.ImportFrom):
                for module in imported_modules(file, node):
                    yield Import(place, importer, module, "")


def layer(module: tuple[str, ...]) -> int:
    return LAYERS[module[0]]


def test_every_file_stands_in_a_layer() -> None:
    assert {module_of(file)[0] for file in sources()} == LAYERS.keys()


def test_a_module_imports_only_the_package_and_the_standard_library() -> None:
    outside = [(found.place, found.outside) for found in imports() if not found.imported]
    assert not [found for found in outside if found[1] not in sys.stdlib_module_names]


def test_a_module_imports_from_its_own_layer_or_a_lower_one() -> None:
    upwards = [
        (found.place, "/".join(found.imported))
        for found in imports()
        if found.imported and layer(found.imported) > layer(found.importer)
    ]
    assert not upwards


ENGINES: Final = {("_storage", "postgres"), ("_storage", "sqlite")}


def test_an_engine_is_imported_by_its_own_modules_alone() -> None:
    """`open_store` loads it by name."""
    knows = {
        found.importer
        for found in imports()
        if found.imported[:2] in ENGINES and found.importer[:2] != found.imported[:2]
    }
    assert not knows


def test_the_driver_is_imported_by_its_engine_alone() -> None:
    users = {found.importer for found in imports() if found.outside == "sqlite3"}
    outside = {module for module in users if module[:2] != ("_storage", "sqlite")}
    # For the type of a parameter: in the front at run time too, so that `typing.get_type_hints` resolves it.
    assert outside == {("_outbox",), ("_storage", "open_store")}


def test_importing_the_package_imports_no_engine(tmp_path: Path) -> None:
    source = """
import orch_events, sys
print([name for name in sys.modules if name.startswith("orch_events._storage.")])
"""
    printed = run_script(tmp_path, source)
    assert "sqlite" not in printed and "postgres" not in printed


def test_no_module_imports_itself_through_others() -> None:
    graph: dict[tuple[str, ...], set[tuple[str, ...]]] = {}
    for found in imports():
        if found.imported and found.imported != found.importer:
            graph.setdefault(found.importer, set()).add(found.imported)
    tuple(graphlib.TopologicalSorter(graph).static_order())  # raises CycleError


def has_sql(file: Path) -> bool:
    tree = parsed(file)
    docstrings = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    return any(
        isinstance(node, ast.Constant)
        and isinstance(node.value, str)
        and id(node) not in docstrings
        and SQL.search(node.value)
        for node in ast.walk(tree)
    )


def test_sql_stands_in_the_engines_alone() -> None:
    with_sql = {module_of(file)[:2] for file in sources() if has_sql(file)}
    assert with_sql == {("_storage", "postgres"), ("_storage", "sqlite")}


def test_no_module_has_the_name_of_one_of_the_standard_library() -> None:
    """Or a program run from its folder would import it instead. A command's module has the command's name."""
    names = {file.stem for file in sources() if module_of(file)[:2] != ("cli", "commands")}
    assert not (names - {"__init__", "__main__"}) & sys.stdlib_module_names


def test_every_file_names_its_licence() -> None:
    for file in sources():
        text = file.read_text(encoding="utf-8")
        assert text.startswith("# SPDX-License-Identifier: MIT\n"), file
