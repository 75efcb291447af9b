# SPDX-License-Identifier: MIT
"""``doctor``: whether a log and what is around it are well, a line for each thing looked at.

What is looked at is the engine's affair: its `checkup`.
"""

import json
from argparse import ArgumentParser
from typing import Final

from ..._storage.interface import Finding
from ..._storage.open_store import open_store
from ..arguments import Options
from ..show.colours import tinted
from ..show.machine_output import print_json, print_text
from ..show.terminal_text import printable

__all__ = ["doctor"]

_LIKE: Final = {"ok": "completed", "warn": "paused", "bad": "failed"}
"""The verdicts, and the status that has the same colour."""


class _Options(Options):
    full: bool = False
    json: bool = False
    ddl: bool = False


def doctor(parser: ArgumentParser, words: list[str]) -> int:
    """Print all findings; 1 if anything is bad."""
    parser.epilog = "Changes nothing. Exits with 1 when anything is bad, with 0 otherwise, also after a warning."
    parser.add_argument(
        "--full", action="store_true", help="compare the indexes with the events; takes longer"
    )
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    parser.add_argument(
        "--ddl", action="store_true", help="only print the statements that make an empty log"
    )
    options = parser.parse_args(words, _Options())
    store = open_store(options.db)
    if options.ddl:
        print_text(store.ddl())
        return 0
    findings = list(store.check_up(options.full))
    for finding in findings:
        if options.json:
            print_json([json.dumps(finding._asdict(), ensure_ascii=False)])
        else:
            print(_line(finding))
    if any(finding.verdict == "bad" for finding in findings):
        return 1
    return 0


def _line(finding: Finding) -> str:
    verdict = tinted(finding.verdict.ljust(4), _LIKE[finding.verdict])
    line = f"{verdict}  {finding.check:<12}  {printable(finding.value)}"
    if finding.advice:
        line += f": {printable(finding.advice)}"
    return line
