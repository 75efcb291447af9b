# SPDX-License-Identifier: MIT
"""``python -m tests.benchmarks``: how fast the library is beside plain `sqlite3` and its peers.

`candidates` says who does the work, `workloads` what it is and how it is clocked, `__main__` when it is done and what
is printed. Nothing here is a test: whether a figure is good is for the reader to say.
"""
