# SPDX-License-Identifier: MIT
"""Fixtures for every test module: a place for a log, and a log."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from orch_events import EventLog


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where a log may be created."""
    return tmp_path / "events.db"


@pytest.fixture
def log(path: Path) -> Iterator[EventLog]:
    """An open log at `path`."""
    with EventLog(path) as log:
        yield log
