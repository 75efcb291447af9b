# SPDX-License-Identifier: MIT
"""`FAILURE_MODES.md` names tests that exist, and leaves no row out."""

import ast
import re
from pathlib import Path
from typing import Final

HERE: Final = Path(__file__).parent
TABLE: Final = (HERE / "FAILURE_MODES.md").read_text()
LAST: Final = {"A": 12, "B": 8, "C": 12, "D": 8, "E": 13, "F": 8, "G": 12, "H": 11}


def test_every_row_is_there_with_a_test_or_a_reason() -> None:
    rows = re.findall(r"^\| ([A-H]\d+) \| (.+) \| (.+) \|$", TABLE, re.MULTILINE)
    assert [row for row, _, _ in rows] == [
        f"{part}{n}" for part, last in LAST.items() for n in range(1, last + 1)
    ]
    for row, _, guard in rows:
        assert "::test_" in guard or len(guard) > 20, row


def test_every_test_named_exists() -> None:
    named = set(re.findall(r"`(test_\w+\.py)::(test_\w+)`", TABLE))
    assert len(named) > 60
    there = set[tuple[str, str]]()
    for module in {module for module, _ in named}:
        body = ast.parse((HERE / module).read_text()).body
        there |= {(module, node.name) for node in body if isinstance(node, ast.FunctionDef)}
    assert named <= there
