# SPDX-License-Identifier: MIT
"""A PostgreSQL server for tests: one that is started in a temporary folder, or the one that the environment names.

It listens on a socket in that folder alone. As root it runs as another user, since it refuses root.
"""

import os
import shutil
import socket
import subprocess
import sys
import threading
from contextlib import suppress
from glob import glob
from importlib.util import find_spec
from pathlib import Path
from typing import Final

NAMED: Final = "ORCH_EVENTS_TEST_POSTGRES"
"""The environment variable with the URL of a server to be used instead; its database is used up."""


def missing() -> str:
    """What a test with PostgreSQL lacks here, if anything."""
    if find_spec("psycopg") is None:
        return "psycopg is not installed"
    if NAMED not in os.environ and programs() is None:
        return f"there is no PostgreSQL server; {NAMED} may name one"
    return ""


def programs() -> Path | None:
    """The folder of the newest server's programs."""
    if sys.platform == "win32":
        return None
    found = sorted(glob("/usr/lib/postgresql/*/bin/pg_ctl"))
    if found:
        return Path(found[-1]).parent
    on_path = shutil.which("pg_ctl")
    return None if on_path is None else Path(on_path).resolve().parent


def as_another_user(folder: Path) -> list[str]:
    """What a command begins with that must not run as root, and is to use that folder."""
    if sys.platform == "win32" or os.geteuid() != 0:
        return []
    shutil.chown(folder, "nobody")
    return ["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups"]


class Server:
    """A server of our own: a new one, or a hot standby of `primary`."""

    def __init__(self, folder: Path, primary: "Server | None" = None) -> None:
        self.folder = folder
        self._data = folder / "data"
        self._wrapper = as_another_user(folder)
        if primary is not None:
            self._run("pg_basebackup", "-h", primary.folder, "-U", "orch", "-D", self._data, "-R")
            self.start()
            return
        self._run("initdb", "-D", self._data, "-A", "trust", "-U", "orch", "--no-sync")
        self.start()
        self._run("createdb", "-h", folder, "-U", "orch", "events")

    @property
    def url(self) -> str:
        return f"postgresql://orch:hidden@/events?host={self.folder}"

    def start(self) -> None:
        settings = f"-c listen_addresses= -c unix_socket_directories={self.folder} -c fsync=off"
        log = self.folder / "log"
        self._run("pg_ctl", "-D", self._data, "-o", settings, "-l", log, "-w", "start")

    def stop(self, how: str = "immediate") -> None:
        self._run("pg_ctl", "-D", self._data, "-m", how, "-w", "stop")

    def _run(self, program: str, *arguments: object) -> None:
        folder = programs()
        assert folder is not None
        command = [*self._wrapper, str(folder / program), *map(str, arguments)]
        # Its output goes to a file: the server would hold a pipe open.
        with open(self.folder / "said", "a") as said:
            done = subprocess.run(command, stdout=said, stderr=said, cwd="/")
        assert done.returncode == 0, (self.folder / "said").read_text()


class Pooler:
    """PgBouncer in transaction mode before a server: each transaction may get another of its connections."""

    def __init__(self, server: Server, folder: Path) -> None:
        self._socket = folder / ".s.PGSQL.5432"
        settings = folder / "settings"
        settings.write_text(f"""[databases]
events = host={server.folder} user=orch
[pgbouncer]
listen_port = 5432
unix_socket_dir = {folder}
auth_type = any
pool_mode = transaction
default_pool_size = 3
""")
        program = shutil.which("pgbouncer", path=f"/usr/sbin:{os.environ['PATH']}")
        assert program is not None
        with open(folder / "said", "w") as said:
            self._process = subprocess.Popen(
                [*as_another_user(folder), program, str(settings)], stdout=said, stderr=said
            )

    def accepts(self) -> bool:
        """Whether it can be connected to, which is so a moment after its socket is there."""
        with socket.socket(socket.AF_UNIX) as probe:
            return probe.connect_ex(str(self._socket)) == 0

    def __enter__(self) -> "Pooler":
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait()


def has_pooler() -> bool:
    return shutil.which("pgbouncer", path=f"/usr/sbin:{os.environ['PATH']}") is not None


class Proxy:
    """Stands between clients and a server, on a socket in a folder of its own; may drop a reply and the connection."""

    def __init__(self, server: Server, folder: str) -> None:
        self.folder = folder
        self.drop_next_reply = threading.Event()
        self.dropped = 0
        self._target = str(server.folder / ".s.PGSQL.5432")
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(f"{folder}/.s.PGSQL.5432")
        self._listener.listen()

    def __enter__(self) -> "Proxy":
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            server = socket.socket(socket.AF_UNIX)
            try:
                server.connect(self._target)
            except OSError:  # it is away
                client.close()
                continue
            threading.Thread(target=self._requests, args=(client, server), daemon=True).start()
            threading.Thread(target=self._replies, args=(server, client), daemon=True).start()

    def _requests(self, client: socket.socket, server: socket.socket) -> None:
        with suppress(OSError):
            while data := _received(client):
                server.sendall(data)
        # Or the server would not notice: the other thread waits in a call on this socket, which keeps it open.
        with suppress(OSError):
            server.shutdown(socket.SHUT_RDWR)
        server.close()

    def _replies(self, server: socket.socket, client: socket.socket) -> None:
        while data := _received(server):
            if self.drop_next_reply.is_set():
                self.drop_next_reply.clear()
                self.dropped += 1
                break
            with suppress(OSError):
                client.sendall(data)
        with suppress(OSError):
            client.shutdown(socket.SHUT_RDWR)
        client.close()


def _received(end: socket.socket) -> bytes:
    try:
        return end.recv(1 << 16)
    except OSError:
        return b""
