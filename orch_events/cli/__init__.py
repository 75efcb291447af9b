# SPDX-License-Identifier: MIT
"""The command line: ``orch-events``, or ``python -m orch_events``.

This module holds the table of commands and what is true of them all: how words become a call, and its outcome an exit
status. A command is a function in a module of its own that adds its arguments to the parser, parses the words, does
the work and returns the status. The library knows nothing of `cli` and works with this folder deleted.
"""

import os
import sys
from argparse import REMAINDER, ArgumentParser, RawDescriptionHelpFormatter
from collections.abc import Callable
from io import TextIOWrapper
from typing import Final

from .. import OrchEventsError, __version__
from ._cleanup import cleanup
from ._doctor import doctor
from ._emit import emit
from ._listing import events, tasks
from ._render import say, silence_stdout
from ._logs import logs
from ._run import run
from ._stats import stats
from ._trace import trace
from ._watch import watch

__all__ = ["main"]

COMMANDS: Final[dict[str, tuple[Callable[[ArgumentParser, list[str]], int], str]]] = {
    "run": (run, "run a command as a step and record what becomes of it"),
    "emit": (emit, "record one event, or a file of them"),
    "events": (events, "list the events of a task"),
    "tasks": (tasks, "list the tasks"),
    "watch": (watch, "show a task's steps, live"),
    "logs": (logs, "show the output of a task's steps"),
    "stats": (stats, "show how much there is of what"),
    "cleanup": (cleanup, "delete old events, into an archive if wanted"),
    "doctor": (doctor, "see whether the log, and what is around it, is well"),
    "trace": (trace, "show what happened in a task, and when"),
}

_INTERRUPTED: Final = 130  # 128 + SIGINT, as a shell has it
_BROKEN_PIPE: Final = 141  # 128 + SIGPIPE, as `cat` ends when `head` has seen enough


class _Words:
    db: str
    command: str
    others: list[str]


def _start(argv: list[str]) -> int:
    commands = "\n".join(f"  {name:<10} {purpose}" for name, (_, purpose) in COMMANDS.items())
    front = ArgumentParser(
        prog="orch-events",
        usage="%(prog)s [-h] [--version] [--db FILE] COMMAND ...",
        description="Record what the steps of a workflow do, and see it.",
        epilog=f"commands:\n{commands}\n\n'%(prog)s COMMAND -h' tells more.",
        formatter_class=RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    front.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    db = os.environ.get("ORCH_EVENTS_DB") or "orch-events.db"
    front.add_argument("--db", metavar="FILE", default=db, help="the log (default: $ORCH_EVENTS_DB, or orch-events.db)")
    front.add_argument("command", metavar="COMMAND", choices=COMMANDS, help="one of those below")
    front.add_argument("others", metavar="...", nargs=REMAINDER, help="its arguments")
    # Nothing from "--" on is ours to interpret, and versions of argparse differ in what they make of it.
    cut = argv.index("--") if "--" in argv else len(argv)
    words = front.parse_args(argv[:cut], _Words())
    command, purpose = COMMANDS[words.command]
    parser = ArgumentParser(prog=f"orch-events {words.command}", description=f"{purpose}.", allow_abbrev=False)
    parser.add_argument("--db", metavar="FILE", default=words.db, help="the log (default: %(default)s)")
    return command(parser, words.others + argv[cut:])


def main(argv: list[str] | None = None) -> int:
    """Run one command; returns its exit status. Bad usage raises ``SystemExit(2)``, as `argparse` does."""
    for stream in (sys.__stdout__, sys.__stderr__):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # what a terminal cannot show must not stop us
    try:
        status = _start(sys.argv[1:] if argv is None else argv)
        if sys.__stdout__ is not None:
            sys.__stdout__.flush()
        return status
    except KeyboardInterrupt:
        status = _INTERRUPTED
    except BrokenPipeError:
        status = _BROKEN_PIPE
    except (OrchEventsError, OSError) as error:
        say(error)
        status = 1
    silence_stdout()
    return status
