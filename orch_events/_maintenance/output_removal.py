# SPDX-License-Identifier: MIT
"""Removes the output files of ``run`` that deleted events have named, or moves them to the archive.

What an event names is never followed as a path, since any program can record one. Its last part is looked for in the
folders: a file goes if an event of its task named it, its name is one that `run` makes for that task, and it is a plain
file of the folder's owner or of ours.

A file goes with the event that names it, or no later cleanup would know it. But where the rest of a task is to stay, or
its commands may still run, the file stays until the task is gone. A kill between events and files leaves files.
"""

import os
import re
import shutil
import stat
import sys
from collections.abc import (
    Collection,
    Iterator,
    Sequence,
)
from contextlib import closing, suppress
from typing import Final, NamedTuple

from .._storage.interface import MaintenanceSession
from .._values.event_types import LOG_PATH_EVENT_TYPES
from .._values.json_text import parse_or_none
from .._values.output_names import is_output_name
from .._values.step_fields import step_log_paths

_NAMING_TYPES: Final = frozenset(LOG_PATH_EVENT_TYPES)

_SEPARATORS: Final = re.compile(r"[/\\]")
"""Of a path on whatever system it was recorded."""


class Removed(NamedTuple):
    """What became of the files; in a dry run, what would."""

    files: int
    missing: int
    """Names in none of the folders."""


class _Named(NamedTuple):
    """A file that an event names."""

    event_id: int
    task_id: str
    name: str


class OutputRemoval:
    """The files in some folders. Raises `OSError` that names the file which cannot be removed."""

    def __init__(
        self,
        session: MaintenanceSession,
        folders: Sequence[str],
        archive: str | None,
        goes_with_event: bool,
    ) -> None:
        """If not `goes_with_event`, a file goes with its task."""
        self._session = session
        self._folders = folders
        self._archive = archive
        self._goes_with_event = goes_with_event
        self._named: set[_Named] = set()
        """What the events that go have named."""

    def note(self, ids: Sequence[int]) -> None:
        """Before these events are deleted: remember the files that they name."""
        with closing(self._session.events(ids, _NAMING_TYPES)) as events:
            for event in events:
                paths = step_log_paths(parse_or_none(event.payload_json))
                if paths is None:
                    continue
                for path in (paths.stdout_path, paths.stderr_path):
                    name = _SEPARATORS.split(path)[-1]
                    if is_output_name(name, event.task_id):
                        self._named.add(_Named(event.event_id, event.task_id, name))

    def count(self, last_ids: Sequence[int]) -> Removed:
        """What would go with the events noted, and the tasks of which these are the last events."""
        going = self._named
        if not self._goes_with_event:
            with closing(self._session.events(last_ids)) as events:
                tasks = {event.task_id for event in events}
            going = {named for named in self._named if named.task_id in tasks}
        names = self._take_names(going)
        files = list(self._files(names))
        return Removed(len(files), len(names) - len(files))

    def remove(self) -> Removed:
        """Remove the files of what is gone."""
        tasks = self._session.tasks_present({named.task_id for named in self._named})
        gone = {named for named in self._named if named.task_id not in tasks}
        if self._goes_with_event:
            ids = sorted({named.event_id for named in self._named - gone})
            with closing(self._session.events(ids)) as events:
                there = {event.event_id for event in events}
            gone |= {named for named in self._named if named.event_id not in there}
        names = self._take_names(gone)
        removed = 0
        failure: OSError | None = None
        for file in self._files(names):
            try:
                if self._archive is None:
                    os.unlink(file)
                else:
                    shutil.move(file, self._archive)
                removed += 1
            except FileNotFoundError:
                pass
            except OSError as error:  # the others go all the same: no event names them any more
                failure = failure or error
        if failure is not None:
            raise failure
        return Removed(removed, len(names) - removed)

    def _take_names(self, named: Collection[_Named]) -> set[str]:
        self._named = self._named.difference(named)
        return {one.name for one in named}

    def _files(self, names: Collection[str]) -> Iterator[str]:
        """Where they are."""
        for folder in self._folders:
            with suppress(FileNotFoundError):
                owners = {os.stat(folder).st_uid}
                # In a folder of root's with the sticky bit they are ours.
                if sys.platform != "win32":
                    owners.add(os.geteuid())
                paths = [os.path.join(folder, name) for name in sorted(names)]
                yield from (path for path in paths if _is_plain_file_of(owners, path))


def _is_plain_file_of(owners: Collection[int], path: str) -> bool:
    try:
        status = os.lstat(path)
    except FileNotFoundError:
        return False
    return stat.S_ISREG(status.st_mode) and status.st_uid in owners
