# SPDX-License-Identifier: MIT
"""Plain values and what they mean: errors, JSON text, events. Pure: no file, no thread, no SQL."""
