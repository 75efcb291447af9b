# SPDX-License-Identifier: MIT
"""The rows of a trace as trees that a page can fold: what is inside what, and how much of it.

Many rows of one level are put into blocks, so that no level of the page is longer than a few screens.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from ..model.task_trace import Trace
from ..model.trace_tree import Row, rows

__all__ = ["Node", "blocks", "forest", "leaves"]

_BLOCK: Final = 40
"""Rows of one level that stand together; more are put into blocks."""

_INDENT: Final = 3
"""Characters of a row's prefix for each level."""


@dataclass(slots=True, eq=False)
class Node:
    """A row, and those inside it."""

    row: Row
    children: list["Node"] = field(default_factory=list["Node"])
    rows: int = 1
    """How many there are, with all that are inside."""
    counts: Counter[str] = field(default_factory=Counter[str])
    """How many runs inside are in which state."""
    state: str | None = None
    """Of the run it is, if it is one."""

    def add(self, child: "Node") -> None:
        """Put another node inside, which is complete."""
        self.children.append(child)
        self.rows += child.rows
        self.counts += child.counts
        if child.state is not None:
            self.counts[child.state] += 1


def forest(trace: Trace, now: float) -> list[Node]:
    """The rows of a trace as trees."""
    roots = list[Node]()
    path = list[Node]()
    for row in rows(trace, now):
        while len(path) > len(row.prefix) // _INDENT:
            _close(path, roots)
        node = Node(row)
        if row.run is not None:
            node.state = trace.task.run_state(row.run, now)
        path.append(node)
    while path:
        _close(path, roots)
    return roots


def _close(path: list[Node], roots: list[Node]) -> None:
    """Put the last node of the path, which is now complete, where it belongs."""
    node = path.pop()
    if path:
        path[-1].add(node)
    else:
        roots.append(node)


def blocks(nodes: Sequence[Node]) -> list[Node]:
    """The same nodes, or if there are many, a few that contain them."""
    if len(nodes) <= _BLOCK:
        return list(nodes)
    size = max(_BLOCK, math.ceil(len(nodes) / _BLOCK))
    return [_block(nodes[at : at + size]) for at in range(0, len(nodes), size)]


def _block(nodes: Sequence[Node]) -> Node:
    label = nodes[0].row.label
    if len(nodes) > 1:
        label = f"{label} … {nodes[-1].row.label}"
    started = min(node.row.started for node in nodes)
    ended = max(node.row.ended for node in nodes)
    block = Node(Row("", label, started, ended))
    for node in nodes:
        block.add(node)
    return block


def leaves(nodes: Sequence[Node]) -> list[Node]:
    """Those of all levels that have none inside."""
    found = list[Node]()
    for node in nodes:
        if node.children:
            found += leaves(node.children)
        else:
            found.append(node)
    return found
