# SPDX-License-Identifier: MIT
"""The seam between the core and a storage engine: what an engine implements, and the plain values that cross.

Rules for an engine: ids are given in the order of commits and never again. An error of its driver
leaves it as one of ours with the driver's error as the cause; an `AppendError` also says what the
failure means for other rows. Any other exception that comes out of a session is the host's, such as
one that a signal handler has raised, and passes through unchanged.
"""

from collections.abc import (
    Callable,
    Collection,
    Generator,
    Iterator,
    Sequence,
)
from datetime import datetime
from typing import (
    Final,
    Literal,
    NamedTuple,
    Protocol,
    TypeAlias,
)

from .._values.errors import OrchEventsError
from .._values.events import Event, StepLogPaths
from .._values.json_text import JsonValue
from .._values.new_events import NewRow
from .._values.task_summary import TaskSummary

Durability: TypeAlias = Literal["full", "normal"]
"""What an acknowledged event survives: a power cut, or a crash of the program only."""

MAX_ID: Final = (1 << 63) - 1


class AppendError(Exception):
    """An append has failed, and nothing of it was written."""

    def __init__(self, make_error: Callable[[], OrchEventsError], affects_all: bool) -> None:
        super().__init__()
        self.make_error = make_error
        """A new error for each caller, since several threads may raise theirs at once."""
        self.affects_all = affects_all
        """Whether any other rows would have failed too: the fault is not that of a single row."""


class WriteSession(Protocol):
    """Commits rows. One thread uses it at a time. The log exists and has the current schema."""

    rows_per_commit: int
    """How many rows one commit takes at full speed."""

    def check(self, rows: Sequence[NewRow]) -> None:
        """Raise `PayloadError` for what this engine cannot hold. Any thread may call it, at any time."""
        ...

    def append(self, rows: Sequence[NewRow], deadline: float) -> int:
        """Commit `rows` in one transaction, or none of them; the id of the last.

        Their ids are contiguous and in order. Waits for other writers until `deadline` (of
        `time.monotonic`), then raises `AppendError`.
        """
        ...

    def find_interrupted(self, rows: Sequence[NewRow]) -> int | None:
        """After an `append` that an exception of the host's broke off: what has become of its rows.

        The id of the last row if they were committed, else ``None``.
        """
        ...

    def close(self) -> None:
        """Release what the session holds."""


class Selection(NamedTuple):
    """Which events a query wants, apart from where it starts."""

    task_id: str | None = None
    event_type_prefix: str | None = None
    """Literal: no character is a wildcard."""
    event_types: frozenset[str] | None = None
    """Only these, which are constants of ours."""


class Payloads(Protocol):
    """The payloads of a page, as texts or parsed. An engine may parse all of them in one run."""

    def texts(self) -> list[str]:
        """As they are stored."""
        ...

    def values(self) -> list[JsonValue]:
        """Parsed; ``None`` for a text that is not JSON."""
        ...


class Page(NamedTuple):
    """A run of rows by id, in columns."""

    ids: list[int]
    task_ids: list[str]
    task_item_ids: list[str | None]
    event_types: list[str]
    created_ats: list[str]
    steps: list[str | None]
    step_scopes: list[str | None]
    payloads: Payloads
    was_pruned: bool
    """Whether events were ever pruned from the log."""
    limit: int
    """How many rows it might have had; with fewer, there are no more."""


class PrunedEvents(NamedTuple):
    """What a store remembers of events that were deleted."""

    last_id: int
    """The newest of them; 0 if there are none."""
    events: int
    """How many."""


class StatusTotal(NamedTuple):
    """The tasks of one status."""

    status: str
    tasks: int
    events: int
    """For ``"unknown"``, with those of no task."""


class Moment(NamedTuple):
    """An event's place in the log, and its time as stored."""

    event_id: int
    created_at: str


class StoreSize(NamedTuple):
    """Bytes that a store takes."""

    file_bytes: int
    wal_bytes: int
    """Commits that are not yet merged into the file."""
    used_bytes: int
    """Without the space that was freed inside the file."""


class ReadSession(Protocol):
    """Reads. One thread uses it at a time. There is a log, of a version that can be read.

    Every method raises `ReadError`, and holds no lock and no snapshot when it has returned.
    """

    def page(
        self,
        selection: Selection,
        after_id: int,
        up_to: int,
        limit: int,
    ) -> Page:
        """At most `limit` rows with ``after_id < id <= up_to``; fewer if they would take much memory."""
        ...

    def last_id(self) -> int:
        """The newest event's id; 0 in an empty log."""
        ...

    def pruned(self, task_id: str | None, after_id: int) -> PrunedEvents:
        """What was deleted of a task, or of all, as far as a reader at `after_id` may have missed it."""
        ...

    def task_status(self, task_id: str, after_id: int = 0) -> str | None:
        """The task's status by its events above `after_id`; ``None`` if none of them sets one."""
        ...

    def latest_log_paths(self, task_id: str) -> StepLogPaths | None:
        """Those of the task's newest spawned or started event."""
        ...

    def latest_task(self) -> str | None:
        """The task of the newest event that has one."""
        ...

    def task_names(
        self,
        shortest: int,
        longest: int,
        limit: int,
    ) -> list[str]:
        """At most `limit` task ids with that many characters."""
        ...

    def tasks(self, before_id: int, limit: int) -> list[TaskSummary]:
        """At most `limit` tasks with a newest event before that id, the most recently active first.

        The events of no task are one of them: "".
        """
        ...

    def status_totals(self) -> Sequence[StatusTotal]:
        """For each status its tasks and their events."""
        ...

    def event_types(self) -> dict[str, int]:
        """The events of each type, the most frequent first. Looks at all of them."""
        ...

    def sample_event_types(self, events: int) -> dict[str, int]:
        """The same of a sample of some 10,000; `events` is how many there are."""
        ...

    def oldest(self, from_id: int = 1) -> Moment | None:
        """The oldest event with an id of `from_id` or more."""
        ...

    def newest(self) -> Moment | None:
        """The newest event."""
        ...

    def size(self) -> StoreSize:
        """What the store takes now."""
        ...

    def close(self) -> None:
        """Release what the session holds."""


class RetentionRules(NamedTuple):
    """Which events a cleanup may delete: those of tasks that have ended, except each task's newest."""

    cutoff: datetime | None
    """Only events before it, in UTC."""
    keep_last: int
    """How many of each task's newest events stay."""
    only_finished: bool
    """Whether a task has to have ended; if not, the events of all tasks may go."""
    abandoned: frozenset[str] = frozenset()
    """Tasks that count as ended while all their events are before the cutoff, and none has an id above `up_to`."""
    up_to: int = MAX_ID
    """Which events are a task's newest is decided as of this id: later ones must not move the limit meanwhile."""


class Prunable(NamedTuple):
    """Events that may be deleted."""

    ids: list[int]
    """In their order."""
    last_ids: list[int]
    """Each the last of its task, which gives the task its status: to be deleted after all others."""
    end: int
    """The id up to which rows were looked at."""


class Deleted(NamedTuple):
    """What one commit of a cleanup has deleted."""

    events: int
    tasks: int
    """Tasks of which nothing is left."""
    locked_seconds: float
    """For how long other writers had to wait."""
    no_restart_up_to: int | None
    """No ended task has begun again up to this id, for the next call; ``None`` if some may have."""


class Space(NamedTuple):
    """Bytes inside the database."""

    total: int
    free: int
    """Of these, free to be used again."""


class MaintenanceSession(Protocol):
    """Deletes and restores, beside live writers. One thread uses it at a time.

    Every method raises `WriteError`, and leaves no transaction open.
    """

    def last_id(self) -> int:
        """The newest event's id; 0 in an empty log."""
        ...

    def count_events(self) -> int:
        """How many events there are."""
        ...

    def space(self) -> Space:
        """What the database takes now."""
        ...

    def select_prunable(
        self,
        rules: RetentionRules,
        after_id: int,
        count: int,
    ) -> Prunable:
        """What of the next `count` rows above `after_id` may go. Takes no lock."""
        ...

    def delete(
        self,
        ids: Sequence[int],
        last_ids: Sequence[int],
        no_restart_up_to: int | None,
        rules: RetentionRules,
    ) -> Deleted:
        """Delete what may still go, in one transaction, and remember it for `ReadSession.pruned`.

        `rules` are those by which it was selected.
        """
        ...

    def merge_forgotten_tasks(self) -> None:
        """Keep the memory of deleted events small."""

    def give_back(self) -> None:
        """Give some free space back to the file system, in one short commit."""

    def merge_commits(self) -> None:
        """Bring what was committed into the database, as far as that hinders no reader or writer."""

    def let_others_write(self, seconds: float) -> None:
        """Between two commits, pause for about `seconds`, so that a waiting writer gets its turn."""

    def events(
        self, ids: Sequence[int], event_types: frozenset[str] | None = None
    ) -> Generator[Event, None, None]:
        """Those of `ids`, in ascending order, that are there and of these types; in bounded memory. To be closed."""
        ...

    def count_present(self, ids: Sequence[int]) -> int:
        """How many of `ids` are there."""
        ...

    def tasks_present(self, task_ids: Collection[str]) -> set[str]:
        """Those of `task_ids` of which any event is there."""
        ...

    def restore(self, events: Sequence[Event]) -> tuple[int, int]:
        """Insert `events` with their ids, in one transaction, up to the first with an id of another event.

        How many come before that one, and how many of these were not there already.
        """
        ...

    def close(self) -> None:
        """Release what the session holds."""


class Signal(Protocol):
    """Notices that a store has changed. `has_changed` is the truth; a hint says that it is worth asking."""

    look_again_after: float
    """Seconds until the next look after a hint, which may come before its commit can be seen."""

    def start(self) -> None:
        """Begin to listen for hints. Called by the thread that will sleep."""

    def sleep(self, seconds: float) -> bool:
        """Sleep; whether `wake` or a hint has ended it."""
        ...

    def wake(self) -> None:
        """Have the sleeper look soon, at the end of its current sleep at the latest.

        May be called from anywhere, a signal handler too; never blocks.
        """

    def has_changed(self) -> bool:
        """Whether anything was committed since the last call."""
        ...

    def is_gone(self) -> bool:
        """Whether the store is no longer there, or another one stands in its place."""
        ...

    def close(self) -> None:
        """Release what the signal holds."""


class Finding(NamedTuple):
    """What a check-up found about one thing."""

    check: str
    """The name of what was looked at."""
    value: str
    verdict: str = "ok"
    """``"ok"``, ``"warn"`` or ``"bad"``."""
    advice: str = ""
    """What to do about it."""


class Store(Protocol):
    """Where one log lives. Holds nothing open itself."""

    @property
    def path(self) -> str:
        """For messages."""
        ...

    @property
    def name(self) -> str:
        """A short one, for the names of files."""
        ...

    @property
    def key(self) -> str:
        """The same for all stores that are one log, under which path they were opened."""
        ...

    def open_for_writing(self, durability: Durability, busy_timeout: float) -> WriteSession:
        """Creates the log if there is none. `busy_timeout`, in seconds, bounds the wait for locks.

        Raises `LogNotFoundError`, `SchemaError` and `WriteError`.
        """
        ...

    def open_for_reading(self, busy_timeout: float) -> ReadSession:
        """Creates nothing. Raises `LogNotFoundError` when there is no log, `SchemaError`, `ReadError`."""
        ...

    def open_for_maintenance(
        self, durability: Durability, busy_timeout: float
    ) -> MaintenanceSession:
        """Of a log that is there and was opened for writing before."""
        ...

    def open_signal(self) -> Signal:
        """Raises as `open_for_reading`."""
        ...

    def may_pass(self, error: OrchEventsError) -> bool:
        """Whether what made opening fail may pass by itself: a lock, a server that is away."""
        ...

    def ddl(self) -> str:
        """The statements that make an empty log, for an administrator to run. Opens nothing."""
        ...

    def check_up(self, thorough: bool) -> Iterator[Finding]:
        """Look at the log and what is around it; changes nothing. An error is a finding too."""
        ...
