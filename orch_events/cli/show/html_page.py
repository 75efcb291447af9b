# SPDX-License-Identifier: MIT
"""A trace as one page that needs nothing else: no script, no font, no request, and a policy that forbids them.

Every text from the log goes through `html_text`; numbers and our own words alone go in as they are. Colours say nothing
that words do not say too. The sections are built in `page_troubles`, `page_timeline` and `page_table`; `page.css` is the
look of it all.
"""

from collections.abc import Mapping
from pkgutil import get_data

from ... import __version__
from ..model.step_run import StepRun
from ..model.task_trace import Trace
from ..model.trace_document import moment
from .excerpt import Excerpt
from .html_text import MARKS, html_text
from .page_table import table_section
from .page_timeline import timeline_section
from .page_tree import forest
from .page_troubles import STATUSES, troubles_section
from .units import span

__all__ = ["page"]

_PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{name}: {status}</title>
<style>
{style}</style>
<main>
<header><h1>{name}</h1>{pills}{notes}</header>
{sections}
<footer>{footer}</footer>
</main>
</html>
"""


def page(trace: Trace, now: float, outputs: Mapping[StepRun, Excerpt]) -> str:
    """The whole page. `outputs` stand beside what failed."""
    task = trace.task
    counts = task.counts(now)
    shown_states = [state for state in MARKS if counts[state]]
    sections = [
        _section("", _figures(trace, shown_states, now)),
        _section("What needs a look", troubles_section(trace, now, outputs)),
        _section("Timeline", timeline_section(trace, forest(trace, now), shown_states, now)),
        _section("Steps", table_section(trace, now)),
    ]
    return _PAGE.format(
        name=html_text(f"task {trace.task_id}"),
        status=html_text(task.status_name),
        style=_style(),
        pills=_pills(trace, now),
        notes=_notes(trace, now),
        sections="".join(sections),
        footer=_footer(trace),
    )


def _style() -> str:
    css = get_data(__name__, "page.css")
    return "" if css is None else css.decode()


def _section(title: str, content: str) -> str:
    if not content:
        return ""
    heading = ""
    if title:
        heading = f"<h2>{title}</h2>"
    return f"<section>{heading}{content}</section>"


def _pills(trace: Trace, now: float) -> str:
    status = trace.task.status_name  # which may be any word that an event says
    kind = "unknown"
    if status in STATUSES:
        kind = status
    pills = f'<span class="pill {kind}">{html_text(status)}</span>'
    if trace.task.is_lost(now):
        pills += ' <span class="pill lost">lost</span>'
    return pills


def _notes(trace: Trace, now: float) -> str:
    """When it was, and whether events are missing."""
    notes = ""
    begin, end = trace.extent(now)
    since = moment(begin)
    until = moment(end)
    if since is not None and until is not None:
        ended = f"{until:%H:%M:%S}"
        if since.date() != until.date():
            ended = f"{until:%Y-%m-%d} {ended}"
        notes += f"<p>{since:%Y-%m-%d %H:%M:%S} to {ended} UTC</p>"
    if trace.gap:
        notes += f"<p>{trace.gap}</p>"
    return notes


def _figures(trace: Trace, shown_states: list[str], now: float) -> str:
    begin, end = trace.extent(now)
    counts = trace.task.counts(now)
    figures = {
        "took" if trace.task.finished else "so far": span(end - begin),
        "steps": f"{len(trace.task.runs):,}",
    }
    for state in shown_states:
        figures[state] = f"{counts[state]:,}"
    entries = "".join(
        f"<div><dt>{name}</dt><dd>{figure}</dd></div>" for name, figure in figures.items()
    )
    return f"<dl>{entries}</dl>"


def _footer(trace: Trace) -> str:
    so_far = "The task had not ended when this was written. "
    if trace.task.finished:
        so_far = ""
    return f"{so_far}Up to event {trace.task.last_id}.\nWritten by orch-events {__version__}."
