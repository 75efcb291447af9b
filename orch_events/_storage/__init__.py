# SPDX-License-Identifier: MIT
"""Where rows live: `interface` is the seam, each folder an engine behind it."""
