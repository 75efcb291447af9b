# SPDX-License-Identifier: MIT
"""Connections that the host makes, with either driver, as a strict type checker must accept them."""

import psycopg
import psycopg2
from psycopg.rows import DictRow, dict_row

from orch_events import EventLog, EventReader, PostgresDatabase, insert_event_with_conn


def connect() -> psycopg.Connection[DictRow]:
    return psycopg.connect("service=logs", row_factory=dict_row)


def record_with_psycopg() -> int:
    with EventLog(PostgresDatabase(connect, "tasks")) as log:
        log.insert_event("t", None, "task_started", {})
    with psycopg.connect("service=logs") as connection:
        return insert_event_with_conn(connection, "t", None, "task_failed", {}, schema="tasks")


def record_with_psycopg2() -> int:
    with EventReader(PostgresDatabase(lambda: psycopg2.connect("service=logs"))) as reader:
        reader.stats()
    return insert_event_with_conn(psycopg2.connect("service=logs"), "t", None, "task_failed", {})
