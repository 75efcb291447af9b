# SPDX-License-Identifier: MIT
"""Fixtures for every test module: a place for a log, and a log."""

import os
import shutil
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import pytest

from orch_events import EventLog

from .engines import Current, Database
from .postgres_server import NAMED, Server, missing

MEMORY: Final = Path("/dev/shm")


def pytest_configure(config: pytest.Config) -> None:
    """Spare the tests what takes long and is not tested: waiting for a disk, compiling the same source for each child.

    Temporary files are in memory where there is enough of it for them. With ``--basetemp`` they are where that says.
    """
    if sys.platform == "linux" and MEMORY.is_dir():
        forbids = os.statvfs(MEMORY).f_flag & (os.ST_NOEXEC | os.ST_RDONLY)
        if not forbids and shutil.disk_usage(MEMORY).free > 4 << 30:
            os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(MEMORY))
    # What `nohup`, or a shell that runs the tests in the background, ignores is not to be inherited by the children.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if sys.platform != "win32":
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
        signal.signal(signal.SIGQUIT, signal.SIG_DFL)
    compiled = TemporaryDirectory()
    config.add_cleanup(compiled.cleanup)
    os.environ["PYTHONPYCACHEPREFIX"] = compiled.name
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)


def pytest_report_header() -> str:
    """What is not tested here, in one line."""
    lacking = missing()
    return f"nothing is tested on PostgreSQL: {lacking}" if lacking else "also tested on PostgreSQL"


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run the tests of a module on both engines if it says so; on files alone where there is no PostgreSQL."""
    if not getattr(metafunc.module, "BOTH_ENGINES", False) or missing():
        return
    if metafunc.definition.get_closest_marker("only_files") is None:
        metafunc.parametrize("engine", ["sqlite", "postgres"], indirect=True)


@pytest.fixture(autouse=True)
def engine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the logs of a test are."""
    if getattr(request, "param", "sqlite") == "sqlite":
        return
    database = Database(request.getfixturevalue("base_url"))
    monkeypatch.setattr(Current, "database", database)
    for module in ("_event_log", "_event_reader", "cli.commands.emit", "cli.commands.doctor"):
        monkeypatch.setattr(f"orch_events.{module}.open_store", database.open_store)


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    """A PostgreSQL server that may be stopped and started."""
    if NAMED in os.environ:
        pytest.skip("the server that is named is not ours to stop")
    with TemporaryDirectory(prefix="pg", dir="/tmp", ignore_cleanup_errors=True) as folder:
        started = Server(Path(folder))
        yield started
        started.stop()


@pytest.fixture(scope="session")
def base_url(request: pytest.FixtureRequest) -> str:
    """The URL of a database of a PostgreSQL server."""
    if NAMED in os.environ:
        return os.environ[NAMED]
    server = request.getfixturevalue("server")
    assert isinstance(server, Server)
    return server.url


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where a log may be created."""
    return tmp_path / "events.db"


@pytest.fixture
def log(path: Path) -> Iterator[EventLog]:
    """An open log at `path`."""
    with EventLog(path) as log:
        yield log
