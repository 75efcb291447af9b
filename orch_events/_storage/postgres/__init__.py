# SPDX-License-Identifier: MIT
"""The engine for a PostgreSQL database. Loaded by `open_store` when a URL is opened; may be deleted."""
