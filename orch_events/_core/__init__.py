# SPDX-License-Identifier: MIT
"""The commit queue, acknowledgements for coroutines, paging and following."""
