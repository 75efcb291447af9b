# SPDX-License-Identifier: MIT
"""The future that `submit_event` returns."""

from concurrent.futures import Future
from typing import (
    Final,
    Protocol,
    cast,
)


class Owner(Protocol):
    """What a future asks of the log that has made it."""

    def refuse_inside_commit(self) -> None:
        """Raise where waiting for an outcome would never end."""

    def report_lost(self, error: Exception) -> None:
        """An event failed, and nothing asked what became of it."""


class _Alarm:
    """Held by a failed future alone: when that is dropped, reports the failure unless it was asked for."""

    __slots__ = ("error", "heard", "owner")

    def __init__(self, owner: Owner, error: Exception) -> None:
        self.owner = owner
        self.error = error
        self.heard = False

    def __del__(self) -> None:
        # Without that field it was never made: an exception came in between.
        if hasattr(self, "heard") and not self.heard:
            self.owner.report_lost(self.error)


class LazyFuture(Future[int]):
    """A future that makes its fields when one of them is first looked at, which hardly ever happens.

    With its condition a `Future` is eleven objects for the garbage collector to walk over, again and again while they
    wait: submitting 100,000 events took twice as long.

    There is no lock, since a signal handler or a finalizer may look, or wait for another event, in the middle of a
    look. What comes first, a look or the outcome, is decided by one `dict.setdefault`, which is atomic: after a look,
    `tell` resolves what the look made; after `tell`, a look makes what is resolved.
    """

    _alarm: _Alarm | None = None

    def __init__(self, owner: Owner | None = None) -> None:  # not that of `Future`
        self._outcome: int | Exception | None = None
        self._owner = owner

    def tell(self, outcome: int | Exception) -> None:
        """Resolve it. May be called again, with the same outcome, where an exception broke off the first call."""
        if isinstance(outcome, Exception) and self._owner is not None and self._alarm is None:
            self._alarm = _Alarm(self._owner, outcome)
        self._outcome = outcome
        made = self._fields().setdefault("_made", _TOLD)
        if made is not _TOLD:
            self._adopt(made)
            _resolve(self, outcome)

    def _checked_result(self, timeout: float | None = None) -> int:
        self._before_waiting()
        try:
            return super().result(timeout)
        finally:
            self._silence_alarm()

    def _checked_exception(self, timeout: float | None = None) -> BaseException | None:
        self._before_waiting()
        try:
            return super().exception(timeout)
        finally:
            self._silence_alarm()

    # Assigned, since a method that overrides another has to say so, and Python 3.11 has no `typing.override`.
    result = _checked_result
    exception = _checked_exception

    def _silence_alarm(self) -> None:
        if self._alarm is not None:
            self._alarm.heard = True

    def _before_waiting(self) -> None:
        if self._outcome is None and self._owner is not None:
            self._owner.refuse_inside_commit()

    def __getattr__(self, name: str) -> object:
        if name not in _FIELDS:
            raise AttributeError(f"a future has no {name!r}")
        made = self._fields().setdefault("_made", _future_fields())
        if made is _TOLD and self._outcome is not None:
            resolved = _future_fields(self._outcome)
            made = self._fields().setdefault("_resolved", resolved)
        self._adopt(made)
        return self._fields()[name]

    def _fields(self) -> dict[str, object]:
        return cast("dict[str, object]", vars(self))

    def _adopt(self, made: object) -> None:
        """Make these fields our own, each once."""
        for field in reversed(_FIELDS):
            self._fields().setdefault(field, cast("dict[str, object]", made)[field])


_TOLD: Final = "told"


def _future_fields(outcome: int | Exception | None = None) -> dict[str, object]:
    future = Future[int]()
    future.set_running_or_notify_cancel()  # what was accepted cannot be cancelled
    if outcome is not None:
        _resolve(future, outcome)
    return cast("dict[str, object]", vars(future))


def _resolve(future: Future[int], outcome: int | Exception) -> None:
    if isinstance(outcome, Exception):
        future.set_exception(outcome)
    else:
        future.set_result(outcome)


_FIELDS: Final = tuple(_future_fields())
"""`_condition` is the first, and so the last that is adopted: where it is, the others are."""
