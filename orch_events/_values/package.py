# SPDX-License-Identifier: MIT
"""The name of the package: another one where it was vendored."""

from typing import Final

PACKAGE: Final = __name__.rpartition("._values.")[0]
