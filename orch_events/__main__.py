# SPDX-License-Identifier: MIT
"""``python -m orch_events``, also under the name of a vendored copy. Only starts the command line."""

import sys

from .cli import main

if __name__ == "__main__":
    sys.exit(main())
