# SPDX-License-Identifier: MIT
"""Answers the questions of the seam with one connection; the driver's errors leave it as `ReadError`.

A connection that was lost is replaced, and the question asked again: reading changes nothing.
"""

import time
from collections.abc import Callable, Sequence
from typing import TypeVar

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
from . import figures, reading
from .connectors import RECONNECT_PAUSE, Connector
from .driver import Connection
from .error_codes import (
    is_lost,
    is_unprepared,
    translate,
)
from .pruned_table import read_pruned
from .storable_rows import sought
from .task_status import read_task_status

T = TypeVar("T")


class PostgresReadSession:
    """A connection for reading; the schema was checked."""

    def __init__(
        self,
        connector: Connector,
        connection: Connection,
        patience: float,
    ) -> None:
        self._connector = connector
        self._connection = connection
        self._label = connector.location.label
        self._schema = connector.location.schema
        self._patience = patience

    def _ask(self, question: Callable[[Connection], T]) -> T:
        deadline = time.monotonic() + self._patience
        while True:
            try:
                if self._connection.closed:
                    self._connection = self._connector.connect(deadline - time.monotonic())
                return question(self._connection)
            except self._connector.errors as error:
                if is_unprepared(error):
                    self._connection.prepare_threshold = None
                    continue
                if not is_lost(error) or time.monotonic() > deadline:
                    raise translate(ReadError, self._label, "cannot read", error) from error
                self._connection.close()
            time.sleep(RECONNECT_PAUSE)

    def page(
        self,
        selection: Selection,
        after_id: int,
        up_to: int,
        limit: int,
    ) -> Page:
        if selection.task_id is not None:
            selection = selection._replace(task_id=sought(selection.task_id))
        if selection.event_type_prefix is not None:
            selection = selection._replace(event_type_prefix=sought(selection.event_type_prefix))
        return self._ask(
            lambda connection: reading.read_page(
                connection,
                self._schema,
                selection,
                after_id,
                up_to,
                limit,
            )
        )

    def last_id(self) -> int:
        return self._ask(lambda connection: reading.read_last_id(connection, self._schema))

    def pruned(self, task_id: str | None, after_id: int) -> PrunedEvents:
        task = None if task_id is None else sought(task_id)
        return self._ask(lambda connection: read_pruned(connection, self._schema, task, after_id))

    def task_status(self, task_id: str, after_id: int = 0) -> str | None:
        task = sought(task_id)
        return self._ask(
            lambda connection: read_task_status(connection, self._schema, task, after_id)
        )

    def latest_log_paths(self, task_id: str) -> StepLogPaths | None:
        task = sought(task_id)
        return self._ask(
            lambda connection: reading.read_latest_log_paths(connection, self._schema, task)
        )

    def latest_task(self) -> str | None:
        return self._ask(lambda connection: reading.read_latest_task(connection, self._schema))

    def task_names(
        self,
        shortest: int,
        longest: int,
        limit: int,
    ) -> list[str]:
        return self._ask(
            lambda connection: reading.read_task_names(
                connection,
                self._schema,
                shortest,
                longest,
                limit,
            )
        )

    def tasks(self, before_id: int, limit: int) -> list[TaskSummary]:
        return self._ask(
            lambda connection: reading.read_tasks(connection, self._schema, before_id, limit)
        )

    def status_totals(self) -> Sequence[StatusTotal]:
        return self._ask(lambda connection: figures.read_totals(connection, self._schema))

    def event_types(self) -> dict[str, int]:
        return self._ask(lambda connection: figures.read_types(connection, self._schema))

    def sample_event_types(self, events: int) -> dict[str, int]:
        return self._ask(lambda connection: figures.sample_types(connection, self._schema))

    def oldest(self, from_id: int = 1) -> Moment | None:
        return self._ask(lambda connection: figures.read_oldest(connection, self._schema, from_id))

    def newest(self) -> Moment | None:
        return self._ask(lambda connection: figures.read_newest(connection, self._schema))

    def size(self) -> StoreSize:
        total, free = self._ask(lambda connection: figures.read_size(connection, self._schema))
        return StoreSize(total, 0, total - free)

    def close(self) -> None:
        self._connection.close()
