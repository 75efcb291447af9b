# SPDX-License-Identifier: MIT
"""The names of the files that ``orch-events run`` keeps a command's output in: task, step, and what is new each time."""

import re
from typing import Final

_UNSAFE: Final = re.compile(r"[^\w.-]+")

_SURROGATE: Final = re.compile("[\ud800-\udfff]")
"""Stands for what another program has recorded and is not Unicode."""

_LONGEST: Final = 80
"""In bytes. A file's name may have 255, on some encrypted file systems 143; the rest of ours takes 16."""

_NAME: Final = re.compile(r"([\w.-]*)\.[0-9a-f]{8}\.(?:stdout|stderr)")


def output_names(task_id: str, step: str, token: str) -> tuple[str, str]:
    """Those of one run; `token` has eight hexadecimal digits that no other run has."""
    stem = f"{_beginning(f'{task_id}.{step}')}.{token}"
    return f"{stem}.stdout", f"{stem}.stderr"


def is_output_name(name: str, task_id: str) -> bool:
    """Whether a run of that task may have named a file so. No run is of a task whose name is empty or not Unicode."""
    match = _NAME.fullmatch(name)
    if match is None or not task_id or _SURROGATE.search(task_id):
        return False
    run: str = match[1]
    return run.startswith(_beginning(f"{task_id}."))


def _beginning(run: str) -> str:
    """As much of a run's name as a file's may have."""
    return _UNSAFE.sub("_", run).encode()[:_LONGEST].decode(errors="ignore")
