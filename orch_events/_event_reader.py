# SPDX-License-Identifier: MIT
"""The log opened for reading only, and the one-call queries on a path."""

import os

from ._core.read_sessions import ReadSessions
from ._queries import BUSY_TIMEOUT, Queries
from ._storage.open_store import open_store
from ._values.events import StepEvent, StepLogPaths
from ._values.postgres_database import PostgresDatabase


class EventReader(Queries):
    """An event log opened for reading only. Creates nothing, writes nothing, works beside any number of live writers.

    (SQLite itself may create the ``-wal`` and ``-shm`` files that every reader of a log needs, so the directory must be
    writable unless they exist.) `busy_timeout` is the longest wait for a lock, in seconds. Raises `LogNotFoundError`
    when there is no file or it is empty, `SchemaError` when it is no event log, `ReadError` when it cannot be opened.
    With ``must_exist=False`` it may come later: until then queries raise `LogNotFoundError`, and the ``follow_…``
    methods wait.

    In a folder that every user may write to, as ``/tmp`` is, others can forge events: a WARNING of our logger says so,
    once for each path.

    Safe to share between threads and tasks. Close it, or use it as a context manager (``with`` or ``async with``).
    """

    def __init__(
        self,
        path: str | os.PathLike[str] | PostgresDatabase,
        *,
        busy_timeout: float = BUSY_TIMEOUT,
        must_exist: bool = True,
    ) -> None:
        sessions = ReadSessions(open_store(path), busy_timeout, must_exist)
        sessions.exists()  # what is wrong with the file is raised now, not at the first query
        super().__init__(sessions, sessions.close, sessions.close, lambda: None)


def query_step_events(
    db_path: str | os.PathLike[str] | PostgresDatabase, task_id: str
) -> list[StepEvent]:
    """`EventReader.query_step_events` on a path: opens the log for this one call. Raises what `EventReader` does."""
    with EventReader(db_path) as reader:
        return reader.query_step_events(task_id)


def query_latest_step_log_paths(
    db_path: str | os.PathLike[str] | PostgresDatabase, task_id: str
) -> StepLogPaths | None:
    """`EventReader.query_latest_step_log_paths` on a path: opens the log for this one call."""
    with EventReader(db_path) as reader:
        return reader.query_latest_step_log_paths(task_id)
