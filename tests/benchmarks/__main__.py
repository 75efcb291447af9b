# SPDX-License-Identifier: MIT
"""When the work is done and what is printed: each piece in a fresh process and directory, in another order each round.

A ratio compares two candidates in the same round; its median over the rounds is given, with the extremes in brackets.
"""

import argparse
import os
import platform
import random
import sqlite3
import tempfile
from collections import defaultdict
from datetime import datetime
from pathlib import Path
from statistics import median

from .postgres_candidates import DATABASES, SERVER, drop
from .registry import CANDIDATES
from .workloads import WORKLOADS, Figures, fresh_process


def text(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def spread(values: list[float]) -> str:
    return text(median(values)) + (
        f" [{text(min(values))}..{text(max(values))}]" if len(values) > 1 else ""
    )


def marked(name: str) -> str:
    return f"{name}†" if "NOT" in CANDIDATES[name].ack else name


def machine() -> str:
    """What the figures depend on."""
    kinds = {"": "unknown"}
    if os.path.exists("/proc/mounts"):
        kinds |= dict(line.split()[1:3] for line in Path("/proc/mounts").read_text().splitlines())
    place = Path(tempfile.gettempdir()).resolve()
    kind = next(kinds[name] for name in (*map(str, (place, *place.parents)), "") if name in kinds)
    return (
        f"{datetime.now():%Y-%m-%d %H:%M}, {os.cpu_count()} cores, {platform.platform()}, Python "
        f"{platform.python_version()}, SQLite {sqlite3.sqlite_version}, logs in {place} ({kind})"
    )


def measure(workload: str, names: list[str], quick: bool, rounds: int) -> dict[str, list[Figures]]:
    """The figures of each round, by candidate."""
    found = defaultdict[str, list[Figures]](list)
    _, run, full, small, more = WORKLOADS[workload]
    for number in range(rounds):
        for name in random.Random(f"{workload} {number}").sample(names, len(names)):
            size = small if quick else full
            if CANDIDATES[name].steady:
                size *= more
            with (
                tempfile.TemporaryDirectory(prefix="orch_events-") as folder,
                fresh_process() as process,
            ):
                path = os.path.join(folder, "log")
                try:
                    found[name].append(process.submit(run, name, path, size).result())
                except Exception as error:
                    if name.startswith("orch_events"):
                        raise
                    print(f"{name} failed: {error!r}\n")
                finally:
                    if name in DATABASES:
                        drop(path)
    return {name: found[name] for name in names if len(found[name]) == rounds}


def report(found: dict[str, list[Figures]]) -> None:
    """A row for each candidate: the medians of its figures, and how many times as good as it we are."""
    ours = [name for name in found if name.startswith("orch_events") and len(found) > 1]
    first, *others = next(iter(found.values()))[0]
    rate = first.endswith("/s")
    heads = ["", first, "worst round", *others, *(f"{name} is ×" for name in ours)]
    print("|".join(["", *heads, ""]), "|".join(["", *("---" for _ in heads), ""]), sep="\n")
    for name, rounds in found.items():
        values = [figures[first] for figures in rounds]
        cells = [marked(name), text(median(values)), text(min(values) if rate else max(values))]
        cells += [text(median(figures[other] for figures in rounds)) for other in others]
        for us in ours:
            if us == name:
                cells.append("")
                continue
            mine = [figures[first] for figures in found[us]]
            better, worse = (mine, values) if rate else (values, mine)
            cells.append(spread([a / b for a, b in zip(better, worse, strict=True)]))
        print("|".join(["", *cells, ""]))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument(
        "--quick", action="store_true", help="less than a minute instead of a quarter of an hour"
    )
    parser.add_argument(
        "--rounds", type=int, default=0, help="of each workload (3, with --quick 1)"
    )
    everything = "W,memory,import,loop"
    parser.add_argument(
        "--only", default=everything, help="beginnings of workloads' names, such as W1,W5,memory"
    )
    parser.add_argument(
        "--durability", choices=["full", "normal", "both"], default="both", help="of ours"
    )
    parser.add_argument("--postgres", metavar="URL", help="on this server, beside plain psycopg")
    options = parser.parse_args()
    if options.postgres is not None:
        os.environ[SERVER] = options.postgres
    for name in list(CANDIDATES):
        if (name in DATABASES) is (options.postgres is None):
            del CANDIDATES[name]
    if options.durability == "full":
        CANDIDATES.pop("orch_events_normal", None)
    elif (
        options.durability == "normal" and options.postgres is None
    ):  # which alone must do the work of both
        work = CANDIDATES.pop("orch_events").work
        CANDIDATES["orch_events_normal"] = CANDIDATES["orch_events_normal"]._replace(work=work)
    rounds = options.rounds or (1 if options.quick else 3)
    print(
        f"{machine()}\n\nRounds: {rounds}; median [least..most]; × means times as good. What an ack means:\n"
    )
    print(*(f"- {marked(name)}: {who.ack}" for name, who in CANDIDATES.items()), sep="\n")
    for workload in (name for name in WORKLOADS if name.startswith(tuple(options.only.split(",")))):
        names = [name for name, who in CANDIDATES.items() if workload in who.work.split()]
        if not names:
            continue
        print(f"\n### {workload}: {WORKLOADS[workload].title}\n", flush=True)
        report(measure(workload, names, options.quick, rounds))


if __name__ == "__main__":
    main()
