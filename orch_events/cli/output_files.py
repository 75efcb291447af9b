# SPDX-License-Identifier: MIT
"""The two files that a command's output goes to: new ones for each run, in a folder where no other user can interfere.

The command writes to them itself, so it goes on when this process dies.
"""

import contextlib
import errno
import os
import secrets
import stat
import sys
from typing import Final

from .._storage.open_store import is_database_url
from .._values.output_names import output_names

__all__ = ["OutputFiles", "output_folder"]

_PROBE: Final = bytes(64 << 10)


def output_folder(db: str) -> str:
    """Where `run` keeps its output if nothing else is said: beside the log, or here if that is in a server."""
    if is_database_url(db):
        return "orch-events-logs"
    return f"{os.path.splitext(os.path.abspath(db))[0]}-logs"


class OutputFiles:
    """The log files of one run: new ones each time, and only their owner may read, replace or delete them.

    Raises `OSError` when they cannot be made, or when their directory is one where others could interfere.
    """

    def __init__(
        self,
        folder: str,
        task_id: str,
        step: str,
    ) -> None:
        folder = os.path.abspath(folder)
        stdout_name, stderr_name = output_names(task_id, step, secrets.token_hex(4))
        self.stdout_path = os.path.join(folder, stdout_name)
        self.stderr_path = os.path.join(folder, stderr_name)
        try:
            self._open(folder)
        except OSError as error:
            raise OSError(error.errno, error.strerror, folder) from error

    def _open(self, folder: str) -> None:
        with contextlib.ExitStack() as undo:
            directory = _open_directory(folder)
            if directory is not None:
                undo.callback(os.close, directory)
            self.stdout, self.stdout_reader = _make_file(self.stdout_path, directory, undo)
            self.stderr, self.stderr_reader = _make_file(self.stderr_path, directory, undo)
            # A full disk, or a quota, would show only when the command writes: better not to begin.
            if os.write(self.stdout, _PROBE) < len(_PROBE):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.ftruncate(self.stdout, 0)
            undo.pop_all()
        if directory is not None:
            os.close(directory)

    def sizes(self) -> tuple[int, int]:
        """Bytes in the two files so far."""
        return os.fstat(self.stdout).st_size, os.fstat(self.stderr).st_size

    def close(self) -> None:
        for descriptor in (self.stdout, self.stderr, self.stdout_reader, self.stderr_reader):
            os.close(descriptor)

    def discard(self) -> None:
        """Delete them: there is no command to write to them."""
        self.close()
        for path in (self.stdout_path, self.stderr_path):
            with contextlib.suppress(OSError):
                os.unlink(path)


def _open_directory(path: str) -> int | None:
    """A descriptor of the directory, if no other user may replace the files in it.

    ``None`` where files cannot be opened relative to a directory.
    """
    if sys.platform == "win32":
        return None
    else:
        try:
            directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        except OSError as error:
            if os.path.islink(path):
                raise OSError(errno.ELOOP, "is a symbolic link") from error
            raise
        status = os.fstat(directory)
        problem = ""
        if status.st_uid not in (0, os.geteuid()):
            problem = "belongs to another user"
        elif status.st_mode & (stat.S_IWGRP | stat.S_IWOTH) and not status.st_mode & stat.S_ISVTX:
            problem = f"others may write to it (mode {stat.S_IMODE(status.st_mode):o})"
        if problem:
            os.close(directory)
            raise OSError(errno.EPERM, problem)
        return directory


def _make_file(path: str, directory: int | None, undo: contextlib.ExitStack) -> tuple[int, int]:
    """Descriptors of a new file, for the command to write to it and for us to read it."""
    name = path if directory is None else os.path.basename(path)
    # Appending, so that a file truncated under a running command begins anew instead of with a hole.
    writing = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND
    reading = os.O_RDONLY
    if sys.platform == "win32":
        reading |= os.O_BINARY
    else:
        writing |= os.O_NOFOLLOW
        reading |= os.O_NOFOLLOW
    writer = os.open(name, writing, 0o600, dir_fd=directory)
    undo.callback(os.unlink, name, dir_fd=directory)
    undo.callback(os.close, writer)
    reader = os.open(name, reading, dir_fd=directory)
    undo.callback(os.close, reader)
    if not os.path.samestat(os.fstat(writer), os.fstat(reader)):
        raise OSError(errno.EPERM, "a new file in it was replaced")
    return writer, reader
