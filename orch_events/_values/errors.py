# SPDX-License-Identifier: MIT
"""Every error a caller can meet, and nothing else; imports nothing from the package.

One base, `OrchEventsError`, so that one ``except`` catches all; each class also derives from the
built-in exception a caller would expect. What went wrong is in the type, the details are
attributes, a `sqlite3` error is the ``__cause__``.
"""


class OrchEventsError(Exception):
    """Base of every error raised on purpose.

    Raised itself only for a re-entrant call that would wait for itself: from a sink into the log
    that is calling it, or from a signal handler that has interrupted a commit of the log.
    """


class PayloadError(OrchEventsError, ValueError):
    """An event was refused before it was queued; nothing of it, nor of its batch, was written.

    `key_path` names the offending place, such as ``payload.steps[2].confidence`` or
    ``events[7].task_id``.
    """

    def __init__(self, message: str, key_path: str = "") -> None:
        super().__init__(message)
        self.key_path = key_path


class QueueFullError(OrchEventsError):
    """The queue stayed full for `busy_timeout` seconds, and the event was not accepted.

    The log recovers by itself.
    """


class LogClosedError(OrchEventsError):
    """The log or reader was closed before this call."""


class ForkedError(OrchEventsError):
    """The log or reader was opened before `os.fork()` and used in the child. Open a new one there.

    A fork waits until no other thread is in the middle of a commit or a query, for at most 5 seconds.
    A new log of a file is refused too if it waited in vain, if a signal handler forked in the middle
    of such a call, or, before Python 3.12, if the parent has closed the file since and others have
    opened it.

    SQLite connections must not cross a fork (https://sqlite.org/howtocorrupt.html, section 2.6): what
    the program itself has open on the file, by `sqlite3` or another copy of this package, is to be
    closed before. Where other threads of it use SQLite, the child may hang: ``spawn`` it instead.
    """


class LogNotFoundError(OrchEventsError, FileNotFoundError):
    """There is no log at the path.

    No file, or no directory to create it in, or the path (`filename`) cannot name a file.
    """


class SchemaError(OrchEventsError):
    """The file is no log that this version can use: another program's, or a newer version's.

    It was left as it is.
    """


class _DatabaseError(OrchEventsError):
    def __init__(
        self,
        message: str,
        path: str = "",
        sqlite_errorname: str = "",
    ) -> None:
        super().__init__(message)
        self.path = path
        """The file, as it was given."""
        self.sqlite_errorname = sqlite_errorname
        """Such as ``SQLITE_FULL``; empty when SQLite was not the cause."""


class WriteError(_DatabaseError):
    """Opening `path` for writing or committing to it failed; the event is not in the log."""


class ReadError(_DatabaseError):
    """Opening `path` for reading or reading it failed."""


class PrunedError(OrchEventsError):
    """The next events are no longer in the log, because `EventLog.cleanup` has deleted them.

    To go on with what is left, ask again with ``after_id=error.first_available_id - 1``.
    """

    def __init__(self, message: str, first_available_id: int = 1) -> None:
        super().__init__(message)
        self.first_available_id = first_available_id
