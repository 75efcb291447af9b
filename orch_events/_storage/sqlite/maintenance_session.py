# SPDX-License-Identifier: MIT
"""Deletes and restores rows with one connection; SQLite's errors leave it as `WriteError`."""

import sqlite3
from collections.abc import (
    Collection,
    Generator,
    Sequence,
)
from contextlib import AbstractContextManager

from ..._values.errors import WriteError
from ..._values.events import Event
from ..interface import (
    Deleted,
    Prunable,
    RetentionRules,
    Space,
)
from .archiving import (
    bounded_pages,
    count_present,
    read_events,
    restore,
    tasks_present,
)
from .deleting import (
    checkpoint,
    delete_selected,
    give_back,
    let_others_write,
)
from .error_codes import translated
from .figures import count_events, read_size
from .prunable import name_abandoned, select_prunable
from .pruned_table import merge_forgotten_tasks
from .reading import read_last_id


class SqliteMaintenanceSession:
    """A connection of its own, so that the commit queue goes on meanwhile."""

    def __init__(
        self,
        connection: sqlite3.Connection,
        path: str,
        busy_timeout: float,
    ) -> None:
        self._connection = connection
        self._path = path
        self._busy_timeout = busy_timeout
        self._named: frozenset[str] | None = None
        """The abandoned tasks that statements can ask for."""

    def _translated(self) -> AbstractContextManager[None]:
        return translated(WriteError, self._path, "cleanup stopped")

    def last_id(self) -> int:
        with self._translated():
            return read_last_id(self._connection)

    def count_events(self) -> int:
        with self._translated():
            return count_events(self._connection)

    def space(self) -> Space:
        with self._translated():
            return Space(*read_size(self._connection))

    def select_prunable(
        self,
        rules: RetentionRules,
        after_id: int,
        count: int,
    ) -> Prunable:
        with self._translated():
            self._name_abandoned(rules)
            return select_prunable(self._connection, rules, after_id, count)

    def delete(
        self,
        ids: Sequence[int],
        last_ids: Sequence[int],
        no_restart_up_to: int | None,
        rules: RetentionRules,
    ) -> Deleted:
        with self._translated():
            self._name_abandoned(rules)
            return delete_selected(
                self._connection,
                ids,
                last_ids,
                no_restart_up_to,
                rules,
                self._busy_timeout,
            )

    def _name_abandoned(self, rules: RetentionRules) -> None:
        if rules.abandoned is not self._named:
            name_abandoned(self._connection, rules.abandoned)
            self._named = rules.abandoned

    def merge_forgotten_tasks(self) -> None:
        with self._translated():
            merge_forgotten_tasks(self._connection, self._busy_timeout)

    def give_back(self) -> None:
        with self._translated():
            give_back(self._connection, self._busy_timeout)

    def merge_commits(self) -> None:
        with self._translated():
            checkpoint(self._connection)

    def let_others_write(self, seconds: float) -> None:
        with self._translated():
            let_others_write(self._connection, seconds)

    def events(
        self, ids: Sequence[int], event_types: frozenset[str] | None = None
    ) -> Generator[Event, None, None]:
        with self._translated(), bounded_pages(self._connection):
            yield from read_events(self._connection, ids, event_types)

    def count_present(self, ids: Sequence[int]) -> int:
        with self._translated():
            return count_present(self._connection, ids)

    def tasks_present(self, task_ids: Collection[str]) -> set[str]:
        with self._translated():
            return tasks_present(self._connection, task_ids)

    def restore(self, events: Sequence[Event]) -> tuple[int, int]:
        with translated(WriteError, self._path, "not written"):
            return restore(self._connection, events)

    def close(self) -> None:
        self._connection.close()
