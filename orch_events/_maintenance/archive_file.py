# SPDX-License-Identifier: MIT
"""Writes one file of an archive: events as JSON lines, under its final name only when all of it is on the disk.

Written under a temporary name, synced, renamed, and the folder synced: after a crash there is the whole file
or none. The line format is decided in `archive_lines`.
"""

import contextlib
import errno
import os
import re
import time
from collections.abc import (
    Iterable,
    Iterator,
    Sequence,
)
from datetime import UTC, datetime
from functools import partial
from typing import Final, NamedTuple

from .._values.archive_lines import event_json
from .._values.events import Event
from .._values.host_errors import is_from_host
from .._values.limits import MAX_LINE_BYTES

_LEFTOVER: Final = re.compile(r"\.orch_events-\w{16}")
_LEFTOVER_SECONDS: Final = 86_400
"""Age of a temporary file that a killed cleanup has left: a younger one may still be written to."""

_NO_FOLDER_SYNC: Final = {
    errno.EINVAL,
    errno.EBADF,
    errno.EACCES,
    errno.EPERM,
    errno.EISDIR,
    errno.ENOSYS,
    errno.ENOTSUP,
    errno.EOPNOTSUPP,
    errno.ENOTTY,
}
"""Errors of opening or syncing a folder where the file system cannot do that: CIFS, FUSE, some of NFS."""


class Written(NamedTuple):
    """What became of the events of one file."""

    name: str | None
    """``None`` if each event was too large."""
    too_large: list[int]


def write_archive(
    folder: str,
    log_name: str,
    ids: Sequence[int],
    events: Iterable[Event],
    gzip: bool,
) -> Written:
    """Write `events`; the log's name, the time and the first and last of `ids` name the file.

    Creates the folder. Raises `OSError` that names the file; then there is none.
    """
    os.makedirs(folder, exist_ok=True)
    _remove_leftovers(folder)
    name = os.path.join(folder, _file_name(log_name, ids, gzip))
    temporary = os.path.join(folder, f".orch_events-{os.urandom(8).hex()}")
    too_large: list[int] = []
    made = temporary
    try:
        _write(temporary, _lines(events, too_large), gzip)
        if len(too_large) == len(ids):
            os.unlink(temporary)
            return Written(None, too_large)
        os.rename(temporary, name)
        made = name
        _sync_folder(folder)
    except BaseException as error:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(made)
        if isinstance(error, OSError) and not is_from_host(error, "gzip"):
            raise OSError(error.errno, error.strerror, name) from error
        raise
    return Written(name, too_large)


def _file_name(log_name: str, ids: Sequence[int], gzip: bool) -> str:
    ending = ".jsonl"
    if gzip:
        ending = ".jsonl.gz"
    return f"{log_name}-{datetime.now(UTC):%Y%m%dT%H%M%S.%fZ}-{ids[0]}-{ids[-1]}{ending}"


def _write(path: str, lines: Iterator[bytes], compressed: bool) -> None:
    with open(path, "xb", opener=partial(os.open, mode=0o600)) as file:
        if compressed:
            import gzip

            with gzip.open(file, "wb", 6) as stream:
                stream.writelines(lines)
        else:
            file.writelines(lines)
        file.flush()
        os.fsync(file.fileno())


def _lines(events: Iterable[Event], too_large: list[int]) -> Iterator[bytes]:
    """The line of each event; the id of an event with too long a line goes to `too_large`."""
    for event in events:
        line = None
        if len(event.payload_json) <= MAX_LINE_BYTES:
            line = event_json(event).encode(errors="backslashreplace")
        if line is None or len(line) > MAX_LINE_BYTES:
            too_large.append(event.event_id)
        else:
            yield line + b"\n"


def _remove_leftovers(folder: str) -> None:
    for entry in os.scandir(folder):
        if not _LEFTOVER.fullmatch(entry.name):
            continue
        try:
            if entry.stat().st_mtime < time.time() - _LEFTOVER_SECONDS:
                os.unlink(entry)
        except OSError as error:
            if is_from_host(error):  # a signal handler's TimeoutError, say
                raise


def _sync_folder(folder: str) -> None:
    """Let the name of a new file survive a power cut, as far as the file system can."""
    if os.name == "nt":
        return
    try:
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        if error.errno not in _NO_FOLDER_SYNC:
            raise
