# SPDX-License-Identifier: MIT
"""`insert_event_with_conn`: one INSERT in the caller's transaction, and nothing that begins or ends one."""

import sqlite3
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, Final

import pytest

from orch_events import EventLog, PayloadError, SchemaError, WriteError, insert_event_with_conn

from .helpers import poison, stored, traced, write_locked

KINDS: Final[dict[str, dict[str, Any]]] = {
    "legacy": {},
    "immediate": {"isolation_level": "IMMEDIATE"},
    "manual": {"isolation_level": None},
    **({"autocommit=False": {"autocommit": False}} if sys.version_info >= (3, 12) else {}),
    **({"autocommit=True": {"autocommit": True}} if sys.version_info >= (3, 12) else {}),
}
MANUAL: Final = ("manual", "autocommit=True")
kinds = pytest.mark.parametrize("kind", KINDS)


@pytest.fixture
def connect(path: Path) -> Iterator[Callable[[str], sqlite3.Connection]]:
    """Connects as a host application might, to a file with a log and a table of its own."""
    EventLog(path).close()
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE orders(n INTEGER)")
    opened: list[sqlite3.Connection] = []

    def connect(kind: str) -> sqlite3.Connection:
        opened.append(sqlite3.connect(path, timeout=0.1, **KINDS[kind]))
        return opened[-1]

    yield connect
    for connection in opened:
        connection.close()


@kinds
@pytest.mark.parametrize("kept", [True, False], ids=["commit", "rollback"])
def test_event_and_rows_live_or_die_together(
    connect: Callable[[str], sqlite3.Connection], path: Path, kind: str, kept: bool
) -> None:
    connection = connect(kind)
    if kind in MANUAL:
        connection.execute("BEGIN IMMEDIATE")
    connection.execute("INSERT INTO orders VALUES (1)")
    assert insert_event_with_conn(connection, "t", None, "ordered", {"n": 1}) == 1
    connection.execute("INSERT INTO orders VALUES (2)")
    assert insert_event_with_conn(connection, "t", None, "ordered", {"n": 2}) == 2
    assert connection.in_transaction
    assert stored(path) == []
    if kind in MANUAL:
        connection.execute("COMMIT" if kept else "ROLLBACK")
    elif kept:
        connection.commit()
    else:
        connection.rollback()
    assert [row.payload for row in stored(path)] == ([{"n": 1}, {"n": 2}] if kept else [])
    assert connection.execute("SELECT count(*) FROM orders").fetchone() == (2 if kept else 0,)


@kinds
def test_one_statement_and_no_transaction_control(
    connect: Callable[[str], sqlite3.Connection], kind: str
) -> None:
    connection = connect(kind)
    with traced(connection) as statements:
        insert_event_with_conn(connection, "t", None, "x", {})
    ours = [statement for statement in statements if not statement.startswith("BEGIN")]
    assert len(ours) == 1 and ours[0].startswith("INSERT INTO events")
    if kind in MANUAL:
        assert len(statements) == 1
        assert not connection.in_transaction


def test_what_goes_wrong_has_a_type_and_leaves_the_transaction_to_its_owner(
    connect: Callable[[str], sqlite3.Connection], path: Path
) -> None:
    connection = connect("manual")
    with pytest.raises(PayloadError):
        insert_event_with_conn(connection, "t", None, "x", {"a": float("nan")})
    with write_locked(path), pytest.raises(WriteError) as caught:
        insert_event_with_conn(connection, "t", None, "x", {})
    assert caught.value.sqlite_errorname == "SQLITE_BUSY"
    assert isinstance(caught.value.__cause__, sqlite3.OperationalError)
    connection.execute(poison())
    connection.execute("BEGIN")
    connection.execute("INSERT INTO orders VALUES (1)")
    with pytest.raises(WriteError):
        insert_event_with_conn(connection, "t", None, "bad", {})
    assert connection.in_transaction
    connection.execute("COMMIT")
    assert connection.execute("SELECT count(*) FROM orders").fetchone() == (1,)
    connection.close()
    with pytest.raises(WriteError):
        insert_event_with_conn(connection, "t", None, "x", {})
    with closing(sqlite3.connect(":memory:")) as elsewhere, pytest.raises(SchemaError):
        insert_event_with_conn(elsewhere, "t", None, "x", {})


def test_it_shares_the_ids_of_the_log(
    connect: Callable[[str], sqlite3.Connection], log: EventLog
) -> None:
    connection = connect("legacy")
    assert log.insert_event("t", None, "x", {}) == 1
    assert insert_event_with_conn(connection, "t", None, "x", {}) == 2
    connection.commit()
    assert log.insert_event("t", None, "x", {}) == 3
