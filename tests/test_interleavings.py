# SPDX-License-Identifier: MIT
"""Whatever several threads do to one log in whatever order: nothing is lost, and every ack names the right event."""

import itertools
import tempfile
from concurrent.futures import Future
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from orch_events import EventLog, LogClosedError, RecordingSink

from .helpers import PATIENCE, NewEvent, stored, together

BOTH_ENGINES = True

OPERATIONS = st.sampled_from(
    ["insert", "insert", "submit", "submit", "submit", "many", "flush", "query", "close"]
)


class Player:
    """One thread's part of an interleaving, and what it was promised."""

    def __init__(self, log: EventLog, name: str, plan: list[str]) -> None:
        self._log = log
        self.name = name
        self._plan = plan
        self._numbers = itertools.count()
        self.inserted: dict[int, str] = {}
        """Acked, by id."""
        self.submitted: dict[str, Future[int]] = {}

    def play(self) -> None:
        for operation in self._plan:
            try:
                getattr(self, operation)()
            except LogClosedError:
                return

    def _event(self) -> NewEvent:
        return (self.name, None, f"{self.name}.{next(self._numbers)}", {})

    def insert(self) -> None:
        event = self._event()
        self.inserted[self._log.insert_event(*event)] = event[2]

    def many(self) -> None:
        events = [self._event() for _ in range(3)]
        ids = self._log.insert_events(events)
        assert ids == list(range(ids[0], ids[0] + 3))
        self.inserted |= {event_id: event[2] for event_id, event in zip(ids, events, strict=True)}

    def submit(self) -> None:
        event = self._event()
        self.submitted[event[2]] = self._log.submit_event(*event)

    def flush(self) -> None:
        self._log.flush()
        assert all(future.done() for future in self.submitted.values())

    def query(self) -> None:
        seen = {event.event_id: event.event_type for event in self._log.query_events(self.name)}
        assert seen.items() >= self.inserted.items()

    def close(self) -> None:
        self._log.close()

    def promised(self) -> dict[int, str]:
        return self.inserted | {future.result(0): name for name, future in self.submitted.items()}


@settings(max_examples=25, deadline=None)
@given(
    plans=st.lists(st.lists(OPERATIONS, max_size=12), min_size=1, max_size=4),
    capacity=st.integers(1, 6),
)
def test_any_interleaving_loses_nothing_and_acks_the_right_ids(
    plans: list[list[str]], capacity: int
) -> None:
    sink = RecordingSink()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "events.db")
        with EventLog(path, sink=sink, queue_capacity=capacity, busy_timeout=PATIENCE) as log:
            players = [Player(log, f"w{k}", plan) for k, plan in enumerate(plans)]
            together(*(player.play for player in players))
        rows = stored(path)
    promised = {
        event_id: name for player in players for event_id, name in player.promised().items()
    }
    assert {row.event_id: row.event_type for row in rows} == promised
    assert [heard[2] for heard in sink.events] == [row.event_type for row in rows]
    for player in players:
        own = [int(row.event_type.partition(".")[2]) for row in rows if row.task_id == player.name]
        assert own == sorted(own)
