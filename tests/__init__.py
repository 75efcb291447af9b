# SPDX-License-Identifier: MIT
"""The tests of orch_events: one module for each promise, `helpers` for what they share, `torture` to run for hours."""
