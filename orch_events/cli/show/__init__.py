# SPDX-License-Identifier: MIT
"""How things look on a terminal, on a page and in a file."""
