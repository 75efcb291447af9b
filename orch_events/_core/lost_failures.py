# SPDX-License-Identifier: MIT
"""Failures of appends that no caller waits for any more: logged at once, and kept for `flush` and `close` to raise."""

import logging
from contextlib import suppress

from .._values.package import PACKAGE

_logger = logging.getLogger(PACKAGE)


class LostFailures:
    """Those of one log. May be used from any thread, a signal handler and a finalizer."""

    def __init__(self) -> None:
        self._errors: list[Exception] = []

    def report(self, error: Exception | None) -> None:
        """Log and keep a failure that reached no caller; ``None`` is no failure."""
        if error is None:
            return
        self._errors.append(error)
        with suppress(Exception):
            _logger.error("an event was lost and no caller was waiting for it: %s", error)

    def raise_first(self) -> None:
        """Raise the first failure since the last call; a note says how many more there were."""
        errors = self._errors
        self._errors = []
        if not errors:
            return
        if len(errors) > 1:
            errors[0].add_note(f"and {len(errors) - 1} more events were lost")
        raise errors[0]
