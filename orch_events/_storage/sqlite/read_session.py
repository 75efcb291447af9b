# SPDX-License-Identifier: MIT
"""Answers the questions of the seam with one connection; SQLite's errors leave it as `ReadError`."""

import os
import sqlite3
from collections.abc import Sequence
from contextlib import AbstractContextManager

from ..._values.errors import ReadError
from ..._values.events import StepLogPaths
from ..._values.task_summary import TaskSummary
from ..interface import (
    Moment,
    Page,
    PrunedEvents,
    Selection,
    StatusTotal,
    StoreSize,
)
from .error_codes import translated
from .figures import (
    read_newest,
    read_oldest,
    read_size,
    read_totals,
    read_types,
    sample_types,
)
from .pruned_table import has_pruned, read_pruned
from .reading import (
    read_last_id,
    read_latest_log_paths,
    read_latest_task,
    read_page,
    read_task_names,
    read_tasks,
)
from .task_status import read_task_status


class SqliteReadSession:
    """A read-only connection to a file; the schema was checked."""

    def __init__(self, connection: sqlite3.Connection, path: str) -> None:
        self._connection = connection
        self._path = path

    def _translated(self) -> AbstractContextManager[None]:
        return translated(ReadError, self._path, "cannot read")

    def page(
        self,
        selection: Selection,
        after_id: int,
        up_to: int,
        limit: int,
    ) -> Page:
        with self._translated():
            return read_page(
                self._connection,
                selection,
                after_id,
                up_to,
                limit,
            )

    def last_id(self) -> int:
        with self._translated():
            return read_last_id(self._connection)

    def pruned(self, task_id: str | None, after_id: int) -> PrunedEvents:
        with self._translated():
            if not has_pruned(self._connection):
                return PrunedEvents(0, 0)
            return read_pruned(self._connection, task_id, after_id)

    def task_status(self, task_id: str, after_id: int = 0) -> str | None:
        with self._translated():
            return read_task_status(self._connection, task_id, after_id)

    def latest_log_paths(self, task_id: str) -> StepLogPaths | None:
        with self._translated():
            return read_latest_log_paths(self._connection, task_id)

    def latest_task(self) -> str | None:
        with self._translated():
            return read_latest_task(self._connection)

    def task_names(
        self,
        shortest: int,
        longest: int,
        limit: int,
    ) -> list[str]:
        with self._translated():
            return read_task_names(self._connection, shortest, longest, limit)

    def tasks(self, before_id: int, limit: int) -> list[TaskSummary]:
        with self._translated():
            return read_tasks(self._connection, before_id, limit)

    def status_totals(self) -> Sequence[StatusTotal]:
        with self._translated():
            return [StatusTotal(*row) for row in read_totals(self._connection)]

    def event_types(self) -> dict[str, int]:
        with self._translated():
            return read_types(self._connection)

    def sample_event_types(self, events: int) -> dict[str, int]:
        with self._translated():
            return sample_types(self._connection, events)

    def oldest(self, from_id: int = 1) -> Moment | None:
        with self._translated():
            found = read_oldest(self._connection, from_id)
        if found is None:
            return None
        return Moment(*found)

    def newest(self) -> Moment | None:
        with self._translated():
            found = read_newest(self._connection)
        if found is None:
            return None
        return Moment(*found)

    def size(self) -> StoreSize:
        with self._translated():
            total, free = read_size(self._connection)
        wal = f"{os.path.realpath(self._path)}-wal"
        return StoreSize(os.stat(self._path).st_size, _file_bytes(wal), total - free)

    def close(self) -> None:
        self._connection.close()


def _file_bytes(path: str) -> int:
    try:
        return os.stat(path).st_size
    except FileNotFoundError:
        return 0
