# SPDX-License-Identifier: MIT
"""Deleting and archiving old events, and the figures of a log. May be deleted."""
