# SPDX-License-Identifier: MIT
"""Distinguishes errors of the package's own calls from exceptions that the host's code raised in them."""

from typing import cast

from .package import PACKAGE


def is_from_host(error: BaseException, *through: str) -> bool:
    """Whether the host's code raised `error`, such as a signal handler during a call of this
    package.

    Such an error reaches the caller as it is, even if it has the type that a system call or SQLite
    raises. Those are raised in a frame of this package, or of a module of the standard library that
    it called: the names in `through`.
    """
    traceback = error.__traceback__
    if traceback is None:
        return False
    while traceback.tb_next is not None:
        traceback = traceback.tb_next
    module = cast("dict[str, object]", traceback.tb_frame.f_globals)
    name = module.get("__name__", "")
    return name not in through and not f"{name}.".startswith(f"{PACKAGE}.")
