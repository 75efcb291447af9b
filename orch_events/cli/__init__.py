# SPDX-License-Identifier: MIT
"""The command line: ``orch-events``, or ``python -m orch_events``.

This module holds the table of commands and what they have in common: how the arguments become a
call, and how its outcome becomes an exit status. A command is a function with a module of its own
in `commands`; both have the command's name. It adds its arguments to the parser, parses them, does
the work and returns the status. The library knows nothing of `cli` and works with this folder
deleted.
"""

import os
import sys
from argparse import (
    REMAINDER,
    ArgumentParser,
    RawDescriptionHelpFormatter,
)
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from typing import (
    Final,
    TypeAlias,
    cast,
)

from .. import OrchEventsError, __version__
from .._storage.open_store import shown_location
from .arguments import path
from .show.messages import say
from .show.output_streams import Streams

__all__ = ["main"]

Command: TypeAlias = Callable[[ArgumentParser, list[str]], int]

COMMANDS: Final = {
    "run": "run a command as a step and record what becomes of it",
    "emit": "record one event, or a file of them",
    "events": "list events, of a task or of all",
    "tasks": "list the tasks",
    "steps": "sum up how each step went, over all tasks",
    "watch": "show a task's steps, live",
    "logs": "show the output of a task's steps",
    "stats": "show event counts and file size",
    "cleanup": "delete old events, into an archive if wanted",
    "doctor": "check the log for problems",
    "trace": "show what happened in a task, and when",
}


_EXAMPLES: Final = {
    "run": "run --task nightly --timeout 5m -- make test",
    "emit": "emit nightly note text='disk replaced' disks:=2",
    "events": "events nightly --type step_ -n 20",
    "tasks": "tasks --failed --since 1d",
    "steps": "steps --since 7d --slowest",
    "watch": "watch nightly --wait",
    "logs": "logs nightly -f --step test",
    "stats": "stats --json",
    "cleanup": "cleanup --older-than 30d --archive old --gzip",
    "doctor": "doctor",
    "trace": "trace nightly --html nightly.html",
}
"""Of each command, what its help shows."""


def _load(name: str) -> Command:
    """The function of a command. Imported only now: all of them would take 60 ms of each call."""
    module = import_module(f".commands.{name}", __package__)
    return cast("dict[str, Command]", vars(module))[name]


_INTERRUPTED: Final = 130  # 128 + SIGINT, as a shell has it

_BROKEN_PIPE: Final = 141  # 128 + SIGPIPE, as `cat` ends when `head` has seen enough


class _Words:
    db: str
    command: str
    others: list[str]


def _start(argv: list[str]) -> int:
    commands = "\n".join(f"  {name:<10} {purpose}" for name, purpose in COMMANDS.items())
    front = ArgumentParser(
        prog="orch-events",
        usage="%(prog)s [-h] [--version] [--db FILE] COMMAND ...",
        description="Record what the steps of a workflow do, and see it.",
        epilog=f"commands:\n{commands}\n\n'%(prog)s COMMAND -h' says more.",
        formatter_class=RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    front.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    db = os.environ.get("ORCH_EVENTS_DB") or "orch-events.db"
    front.add_argument(
        "--db",
        metavar="FILE",
        type=path,
        default=db,
        help="the log (default: $ORCH_EVENTS_DB, or orch-events.db)",
    )
    front.add_argument("command", metavar="COMMAND", choices=COMMANDS, help="one of those below")
    front.add_argument("others", metavar="...", nargs=REMAINDER, help="its arguments")
    # What stands behind "--" is not parsed here: versions of argparse differ in how they treat it.
    end = len(argv)
    if "--" in argv:
        end = argv.index("--")
    words = front.parse_args(argv[:end], _Words())
    parser = ArgumentParser(
        prog=f"orch-events {words.command}",
        description=f"{COMMANDS[words.command]}. Example: orch-events {_EXAMPLES[words.command]}",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--db",
        metavar="FILE",
        type=path,
        default=words.db,
        help=f"the log (default: {shown_location(words.db)})".replace("%", "%%"),
    )
    command = _load(words.command)
    return command(parser, words.others + argv[end:])


def _occupy_standard_streams() -> None:
    """Put /dev/null in the place of each standard stream that was closed at the start.

    Otherwise the next file to be opened, perhaps the log, gets its number and the text meant for
    the stream, and `print` and `argparse` use the other stream instead. ``sys.__stdout__`` and
    ``sys.__stderr__`` stay ``None``, and a command that `run` starts still finds the stream closed.
    """
    with suppress(OSError):
        for number in range(3):
            try:
                os.fstat(number)
            except OSError:
                os.open(os.devnull, os.O_RDWR)  # gets the lowest free number, which is this one
        if sys.stdout is None:
            sys.stdout = open(1, "w", errors="backslashreplace", closefd=False)
        if sys.stderr is None:
            sys.stderr = open(2, "w", errors="backslashreplace", closefd=False)


def main(argv: list[str] | None = None) -> int:
    """Run one command; returns its exit status.

    Bad usage raises ``SystemExit(2)``, as `argparse` does.
    """
    _occupy_standard_streams()
    with Streams() as streams:
        try:
            if argv is None:
                argv = sys.argv[1:]
            return _status(streams, argv)
        except KeyboardInterrupt:
            return _INTERRUPTED


def _status(streams: Streams, argv: list[str]) -> int:
    """Run a command and write all of its standard output; its exit status."""
    try:
        status = _start(argv)
    except SystemExit:  # from `argparse`, which may have printed the help, or from a signal handler
        failed = _finish_output(streams)
        if failed:
            return failed
        raise
    except (OrchEventsError, OSError) as error:
        failed = _finish_output(streams)
        if failed:
            return failed
        say(error)
        return 1
    return _finish_output(streams) or status


def _finish_output(streams: Streams) -> int:
    """Write the rest of standard output; 0, or the exit status if that failed.

    Standard error says why.
    """
    error = streams.finish()
    if error is None:
        return 0
    if isinstance(error, BrokenPipeError):
        return _BROKEN_PIPE
    say(error)
    return 1
