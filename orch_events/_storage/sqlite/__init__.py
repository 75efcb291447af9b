# SPDX-License-Identifier: MIT
"""The SQLite engine: all of its SQL, and every ``import sqlite3``."""
