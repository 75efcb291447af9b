# SPDX-License-Identifier: MIT
"""What the events of a task say about its steps. Pure: events in, values out."""
