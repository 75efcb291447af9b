# SPDX-License-Identifier: MIT
"""A store made of lists, for tests of the core: no file, no SQL, and faults on demand."""

import threading
from collections import deque
from collections.abc import Iterator, Sequence
from queue import Empty, SimpleQueue
from typing import NamedTuple

from orch_events import OrchEventsError, StepLogPaths, TaskSummary, WriteError
from orch_events._storage.interface import (
    AppendError,
    Finding,
    MaintenanceSession,
    Moment,
    Page,
    PrunedEvents,
    Selection,
    StatusTotal,
    StoreSize,
)
from orch_events._values.event_types import LOG_PATH_EVENT_TYPES
from orch_events._values.json_text import JsonValue, parse_or_none
from orch_events._values.new_events import NewRow
from orch_events._values.step_fields import step_log_paths
from orch_events._values.task_status import UNKNOWN_STATUS, task_status


class Stored(NamedTuple):
    event_id: int
    row: NewRow


class Fault(NamedTuple):
    """What the next append meets."""

    affects_all: bool = False
    refused_task: str | None = None
    """Only a row of this task is at fault."""
    raised: BaseException | None = None
    """Not a failure of the store: as if a signal handler had raised it."""
    after_commit: bool = False


class Texts:
    """The payloads of a page."""

    def __init__(self, texts: list[str]) -> None:
        self._texts = texts

    def texts(self) -> list[str]:
        return self._texts

    def values(self) -> list[JsonValue]:
        return [parse_or_none(text) for text in self._texts]


class ListStore:
    """A log in memory. Sessions share it, and a lock stands for the commit."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.name = path
        self.key = path
        self.rows: list[Stored] = []
        self.last_id = 0
        self.pruned: dict[str, PrunedEvents] = {}
        self.commits: list[int] = []
        """Rows of each commit."""
        self.faults: deque[Fault] = deque()
        self.gate = threading.Event()
        """Appends wait for it, so that a test can hold one."""
        self.gate.set()
        self.open_sessions = 0
        self._lock = threading.Lock()

    def commit(self, rows: Sequence[NewRow]) -> int:
        with self._lock:
            for row in rows:
                self.last_id += 1
                self.rows.append(Stored(self.last_id, row))
            self.commits.append(len(rows))
            return self.last_id

    def prune(self, task_id: str, count: int) -> None:
        """Delete the task's oldest events, as a cleanup would."""
        with self._lock:
            gone = [stored for stored in self.rows if stored.row[0] == task_id][:count]
            self.rows = [stored for stored in self.rows if stored not in gone]
            self.pruned[task_id] = PrunedEvents(gone[-1].event_id, len(gone))

    def may_pass(self, _error: OrchEventsError) -> bool:
        return False

    def ddl(self) -> str:
        return ""

    def check_up(self, _thorough: bool) -> Iterator[Finding]:
        yield from ()

    def open_for_writing(self, _durability: str, _busy_timeout: float) -> "ListWriteSession":
        self.open_sessions += 1
        return ListWriteSession(self)

    def open_for_reading(self, _busy_timeout: float) -> "ListReadSession":
        self.open_sessions += 1
        return ListReadSession(self)

    def open_for_maintenance(self, _durability: str, _busy_timeout: float) -> MaintenanceSession:
        raise NotImplementedError("a store of lists is pruned by `prune`")

    def open_signal(self) -> "ListSignal":
        self.open_sessions += 1
        return ListSignal(self)


class _Session:
    def __init__(self, store: ListStore) -> None:
        self._store = store

    def close(self) -> None:
        self._store.open_sessions -= 1


class ListWriteSession(_Session):
    rows_per_commit: int = 100

    def __init__(self, store: ListStore) -> None:
        super().__init__(store)
        self._committed: tuple[Sequence[NewRow], int] | None = None

    def check(self, rows: Sequence[NewRow]) -> None:
        """A list holds anything."""

    def append(self, rows: Sequence[NewRow], deadline: float) -> int:
        fault = self._next_fault(rows)
        self._store.gate.wait()
        if fault is None:
            return self._commit(rows)
        if fault.raised is None:
            raise AppendError(lambda: WriteError("no", self._store.path), fault.affects_all)
        if fault.after_commit:
            self._commit(rows)
        raise fault.raised

    def _next_fault(self, rows: Sequence[NewRow]) -> Fault | None:
        if not self._store.faults:
            return None
        fault = self._store.faults[0]
        if fault.refused_task is not None:  # stays, as a trigger would
            if all(row[0] != fault.refused_task for row in rows):
                return None
            return fault
        return self._store.faults.popleft()

    def _commit(self, rows: Sequence[NewRow]) -> int:
        last_id = self._store.commit(rows)
        self._committed = (rows, last_id)
        return last_id

    def find_interrupted(self, rows: Sequence[NewRow]) -> int | None:
        if self._committed is None or self._committed[0] is not rows:
            return None
        return self._committed[1]


class ListReadSession(_Session):
    def _selected(self, selection: Selection) -> list[Stored]:
        prefix = selection.event_type_prefix or ""
        return [
            stored
            for stored in self._store.rows
            if selection.task_id in (None, stored.row[0])
            and stored.row[2].startswith(prefix)
            and (selection.event_types is None or stored.row[2] in selection.event_types)
        ]

    def page(self, selection: Selection, after_id: int, up_to: int, limit: int) -> Page:
        rows = [s for s in self._selected(selection) if after_id < s.event_id <= up_to][:limit]
        return Page(
            ids=[stored.event_id for stored in rows],
            task_ids=[stored.row[0] for stored in rows],
            task_item_ids=[stored.row[1] for stored in rows],
            event_types=[stored.row[2] for stored in rows],
            created_ats=[stored.row[4] for stored in rows],
            steps=[stored.row[5] for stored in rows],
            step_scopes=[stored.row[6] for stored in rows],
            payloads=Texts([stored.row[3] for stored in rows]),
            was_pruned=bool(self._store.pruned),
            limit=limit,
        )

    def last_id(self) -> int:
        return max((stored.event_id for stored in self._store.rows), default=0)

    def pruned(self, task_id: str | None, after_id: int) -> PrunedEvents:
        known = self._store.pruned
        if task_id is not None:
            return known.get(task_id, PrunedEvents(0, 0))
        last_id = max((pruned.last_id for pruned in known.values()), default=0)
        return PrunedEvents(last_id, sum(pruned.events for pruned in known.values()))

    def task_status(self, task_id: str, after_id: int = 0) -> str | None:
        for stored in reversed(self._selected(Selection(task_id))):
            status = task_status(stored.row[2], parse_or_none(stored.row[3]))
            if stored.event_id > after_id and status is not None:
                return status
        return None

    def latest_log_paths(self, task_id: str) -> StepLogPaths | None:
        for stored in reversed(self._selected(Selection(task_id))):
            if stored.row[2] in LOG_PATH_EVENT_TYPES:
                return step_log_paths(parse_or_none(stored.row[3]))
        return None

    def latest_task(self) -> str | None:
        named = [stored.row[0] for stored in self._store.rows if stored.row[0]]
        return named[-1] if named else None

    def task_names(self, shortest: int, longest: int, limit: int) -> list[str]:
        names = dict.fromkeys(stored.row[0] for stored in self._store.rows)
        return [name for name in names if shortest <= len(name) <= longest][:limit]

    def tasks(self, _before_id: int, _limit: int) -> list[TaskSummary]:
        raise NotImplementedError

    def status_totals(self) -> Sequence[StatusTotal]:
        return [StatusTotal(UNKNOWN_STATUS, 0, len(self._store.rows))]

    def event_types(self) -> dict[str, int]:
        return {}

    def sample_event_types(self, _events: int) -> dict[str, int]:
        return {}

    def oldest(self, from_id: int = 1) -> Moment | None:
        for stored in self._store.rows:
            if stored.event_id >= from_id:
                return Moment(stored.event_id, stored.row[4])
        return None

    def newest(self) -> Moment | None:
        if not self._store.rows:
            return None
        stored = self._store.rows[-1]
        return Moment(stored.event_id, stored.row[4])

    def size(self) -> StoreSize:
        return StoreSize(0, 0, 0)


class ListSignal(_Session):
    look_again_after: float = 0.001

    def __init__(self, store: ListStore) -> None:
        super().__init__(store)
        self._woken: SimpleQueue[None] = SimpleQueue()
        self._seen = store.last_id

    def start(self) -> None:
        pass

    def sleep(self, seconds: float) -> bool:
        try:
            self._woken.get(timeout=seconds)
        except Empty:
            return False
        return True

    def wake(self) -> None:
        self._woken.put(None)

    def has_changed(self) -> bool:
        seen = self._seen
        self._seen = self._store.last_id
        return seen != self._seen

    def is_gone(self) -> bool:
        return False
