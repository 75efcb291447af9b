# SPDX-License-Identifier: MIT
"""The soak, for seconds instead of hours."""

from pathlib import Path

import pytest

from .soak import soak


@pytest.mark.long
def test_nothing_that_a_busy_log_takes_grows(path: Path) -> None:
    grown = soak(str(path), seconds=24, rate=200)
    assert max(grown["memory"], grown["threads"]) < 1.1, grown
    assert grown["descriptors"] < 1.3, grown  # two or three of them come and go with a cleanup
    assert grown["size"] < 1.5, grown
