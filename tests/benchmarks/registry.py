# SPDX-License-Identifier: MIT
"""All candidates by name."""

from typing import Final

from .candidates import FILES, PEERS, Candidate
from .postgres_candidates import DATABASES

CANDIDATES: Final[dict[str, Candidate]] = {**FILES, **PEERS, **DATABASES}
