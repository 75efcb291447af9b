# SPDX-License-Identifier: MIT
"""Deletes and restores rows with one connection; the driver's errors leave it as `WriteError`."""

import time
from collections.abc import (
    Collection,
    Generator,
    Sequence,
)
from contextlib import AbstractContextManager, contextmanager

from ..._values.errors import WriteError
from ..._values.events import Event
from ..interface import (
    Deleted,
    Prunable,
    RetentionRules,
    Space,
)
from .archiving import (
    count_present,
    read_events,
    restore,
    tasks_present,
)
from .connectors import Connector
from .deleting import delete_selected
from .driver import Connection
from .error_codes import translated
from .figures import count_events, read_size
from .prunable import select_prunable
from .pruned_table import merge_forgotten_tasks
from .reading import read_last_id


class PostgresMaintenanceSession:
    """A connection of its own, so that the commit queue goes on meanwhile."""

    def __init__(
        self,
        connector: Connector,
        connection: Connection,
        busy_timeout: float,
    ) -> None:
        self._connector = connector
        self._connection = connection
        self._location = connector.location
        self._schema = connector.location.schema
        self._busy_timeout = busy_timeout

    def _translated(self, what: str = "cleanup stopped") -> AbstractContextManager[None]:
        return translated(self._connector, WriteError, what)

    @contextmanager
    def _transaction(self) -> Generator[None, None, None]:
        self._connection.execute("BEGIN")
        try:
            yield
            self._connection.execute("COMMIT")
        except BaseException:
            if not self._connection.closed:
                self._connection.execute("ROLLBACK")
            raise

    def last_id(self) -> int:
        with self._translated():
            return read_last_id(self._connection, self._schema)

    def count_events(self) -> int:
        with self._translated():
            return count_events(self._connection, self._schema)

    def space(self) -> Space:
        with self._translated():
            return Space(*read_size(self._connection, self._schema))

    def select_prunable(
        self,
        rules: RetentionRules,
        after_id: int,
        count: int,
    ) -> Prunable:
        with self._translated():
            return select_prunable(
                self._connection,
                self._schema,
                rules,
                after_id,
                count,
            )

    def delete(
        self,
        ids: Sequence[int],
        last_ids: Sequence[int],
        no_restart_up_to: int | None,
        rules: RetentionRules,
    ) -> Deleted:
        with self._translated(), self._transaction():
            return delete_selected(
                self._connection,
                self._location,
                ids,
                last_ids,
                no_restart_up_to,
                rules,
                self._busy_timeout,
            )

    def merge_forgotten_tasks(self) -> None:
        with self._translated():
            merge_forgotten_tasks(self._connection, self._schema)

    def give_back(self) -> None:
        """Left to autovacuum."""

    def merge_commits(self) -> None:
        """Left to the server's checkpoints."""

    def let_others_write(self, seconds: float) -> None:
        """Those that wait for the log's lock get it in their order."""
        time.sleep(seconds)

    def events(
        self, ids: Sequence[int], event_types: frozenset[str] | None = None
    ) -> Generator[Event, None, None]:
        with self._translated():
            yield from read_events(self._connection, self._schema, ids, event_types)

    def count_present(self, ids: Sequence[int]) -> int:
        with self._translated():
            return count_present(self._connection, self._schema, ids)

    def tasks_present(self, task_ids: Collection[str]) -> set[str]:
        with self._translated():
            return tasks_present(self._connection, self._schema, task_ids)

    def restore(self, events: Sequence[Event]) -> tuple[int, int]:
        with self._translated("not written"), self._transaction():
            return restore(self._connection, self._location, events, self._busy_timeout)

    def close(self) -> None:
        self._connection.close()
