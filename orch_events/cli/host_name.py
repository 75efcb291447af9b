# SPDX-License-Identifier: MIT
"""The name of this machine, which is recorded beside the paths of output files: on another they mean nothing."""

__all__ = ["host_name"]


def host_name() -> str:
    """As the system has it."""
    from socket import gethostname  # 5 ms of the start of each command, of which few need it

    return gethostname()
