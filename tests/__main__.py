# SPDX-License-Identifier: MIT
"""Runs the tests on two cores, half of the files on each: ``python -m tests``. Arguments are pytest's options.

Much of their time is spent waiting, for processes and for time to pass. `pytest` alone runs them one after another.
"""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

HALVES: Final = 2


def run(files: list[str]) -> int:
    """Pytest's exit code for these files; prints its output at the end."""
    command = [sys.executable, "-m", "pytest", *sys.argv[1:], *files]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    print(done.stdout, end="", flush=True)
    return done.returncode


def main() -> int:
    files = sorted(str(file) for file in Path(__file__).parent.glob("test_*.py"))
    halves = [files[half::HALVES] for half in range(HALVES)]
    with ThreadPoolExecutor() as pool:
        return max(pool.map(run, halves))


if __name__ == "__main__":
    sys.exit(main())
