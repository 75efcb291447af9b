# SPDX-License-Identifier: MIT
"""The commands, each in a module of its own."""
