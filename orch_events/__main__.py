# SPDX-License-Identifier: MIT
"""``python -m orch_events``, under whatever name the package was vendored. Only starts the command line."""

import sys

from .cli import main

if __name__ == "__main__":
    sys.exit(main())
