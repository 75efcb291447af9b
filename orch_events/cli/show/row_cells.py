# SPDX-License-Identifier: MIT
"""What a table says of a row of a trace, in text and on the page alike."""

from collections.abc import Mapping

from ..model.task_trace import Trace
from ..model.trace_tree import Row
from .units import span

__all__ = ["cells", "row_notes"]


def cells(trace: Trace, row: Row, now: float) -> dict[str, str]:
    """The cells of a row by column. Start and end are counted from the task's beginning."""
    start = span(max(0.0, row.started - trace.begin))
    end = span(max(0.0, row.ended - trace.begin))
    run = row.run
    if run is None:
        return {"start": start, "end": end, "took": span(max(0.0, row.ended - row.started))}
    state = trace.task.run_state(run, now)
    if state == "running":
        end = ""
    elif state == "lost":
        end = "?"
    return {
        "step": run.name,
        "item": run.item or "",
        "cycle": "" if run.cycle is None else str(run.cycle),
        "agent": run.agent or "",
        "status": state,
        "start": start,
        "end": end,
        "took": span(trace.task.duration(run, now)),
        "exit": "" if run.exit_code is None else str(run.exit_code),
        "details": ", ".join(text for text in (run.why, run.incident, run.note) if text),
    }


def row_notes(cells: Mapping[str, str]) -> str:
    """What else there is to say of a row: a bad exit code, and the details."""
    notes = list[str]()
    code = cells.get("exit", "")
    if code not in ("", "0"):
        notes.append(f"exit {code}")
    details = cells.get("details", "")
    if details:
        notes.append(details)
    return ", ".join(notes)
