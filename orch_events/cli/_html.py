# SPDX-License-Identifier: MIT
"""A trace as one page that needs nothing else: no script, no font, no request, and a policy that forbids them.

The rule: what a page looks like is decided here. Every text from the log goes through `_text`; numbers and our own
words alone go in as they are. Bars are SVG, placed in per cent, as wide as the window has room for. Colours say nothing
that words do not say too.
"""

from collections.abc import Collection, Iterator
from html import escape
from typing import Final

from .. import __version__
from ._render import printable, span
from ._timeline import Trace, moment, told

__all__ = ["page"]

_MARKS: Final = {"succeeded": "✓", "finished": "✓", "failed": "✕", "lost": "?", "running": "▸", "skipped": "–"}
_TICKS: Final = (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1200, 1800, 3600, 7200, 21600, 43200, 86400)
_COLUMNS: Final = {
    **{"step": "step", "item": "", "cycle": "short", "agent": "", "status": "short"},
    **{**dict.fromkeys(("start", "end", "took", "exit"), "n short"), "details": ""},
}
"""The columns of the table, and the class of each."""
_LEAST: Final = 0.004
"""Of the timeline's width: what took no time is to be seen too."""
_STYLE: Final = """
:root{color-scheme:light dark;--page:#f4f5f7;--card:#fff;--ink:#1b1f26;--soft:#59626f;--line:#e2e6eb;--ok:#1c7c4c;
--bad:#c42b38;--warn:#a65300;--go:#2160c4;--off:#6c7684}
@media(prefers-color-scheme:dark){:root{--page:#0e1115;--card:#171b21;--ink:#e7eaef;--soft:#9aa4b2;--line:#2a313b;
--ok:#45b983;--bad:#f4707b;--warn:#e9a04f;--go:#74abff;--off:#8791a0}}
*{box-sizing:border-box;margin:0}
body{background:var(--page);color:var(--ink);font:15px/1.45 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif;
font-variant-numeric:tabular-nums;overflow-wrap:anywhere;-webkit-text-size-adjust:100%}
main{max-width:72rem;margin:0 auto;padding:2rem 1.25rem}
header{display:flex;flex-wrap:wrap;align-items:center;gap:.35rem .9rem;margin-bottom:1.1rem}
h1{font-size:1.55rem;line-height:1.25;letter-spacing:-.015em}
h2{font-size:.95rem;font-weight:650;margin-bottom:.8rem}
header p{flex-basis:100%;color:var(--soft)}
section{background:var(--card);border:1px solid var(--line);border-radius:12px;padding:1.1rem 1.25rem;margin-top:1rem}
.pill{font-weight:650;font-size:.85rem;padding:.12rem .7rem;border:1.5px solid currentColor;border-radius:99px}
.succeeded,.finished,.completed{color:var(--ok)}.failed,.lost,.error{color:var(--bad)}
.running{color:var(--go)}.skipped,.idle,.info{color:var(--off)}.cancelled,.paused,.warning{color:var(--warn)}
dl{display:flex;flex-wrap:wrap;gap:.6rem 2.2rem}dt{color:var(--soft);font-size:.8rem}
dd{font-size:1.3rem;font-weight:600}
ul{list-style:none;padding:0}li{display:grid;grid-template-columns:5.2rem 1fr;padding:.45rem 0}
li+li{border-top:1px solid var(--line)}li:first-child{padding-top:0}li:last-child{padding-bottom:0}
li span{color:var(--soft)}
.row{display:grid;grid-template-columns:minmax(9rem,17rem) 1fr 4.6rem;gap:0 1rem;align-items:center}
.name{padding:.22rem 0}.name small{color:var(--soft);font-size:.85em}.name i{font-style:normal;font-weight:700}
.row .name{color:var(--ink)}.group .name{font-weight:650}.d1 .name{padding-left:1.1rem}.d2 .name{padding-left:2.2rem}
.took{text-align:right;color:var(--soft);white-space:nowrap}
.bar{align-self:stretch;min-height:1.5rem;display:flex;align-items:center;border-right:1px solid var(--line);
background:linear-gradient(to right,var(--line) 1px,transparent 1px) 0 0/var(--tick) 100%}
svg{display:block;width:100%;height:14px;overflow:visible}rect{fill:currentColor;stroke:currentColor;stroke-width:2}
.lost rect{fill-opacity:.2;stroke-dasharray:4 3}.running rect{fill-opacity:.55}.skipped rect{fill:none}
.group rect{fill:var(--soft);stroke:none;opacity:.55;y:5px;height:4px}text{fill:var(--soft);font-size:12px}
.axis .bar{background:none;border:0}
.legend{display:flex;flex-wrap:wrap;gap:.3rem 1.3rem;color:var(--soft);font-size:.85rem;margin-top:.9rem}
.legend i{display:inline-block;width:1.3rem;height:.7rem;border-radius:3px;border:2px solid;margin-right:.45rem;
background:color-mix(in srgb,currentColor var(--fill,100%),transparent)}
.legend .lost{border-style:dashed;--fill:20%}.legend .running{--fill:55%}.legend .skipped{--fill:0%}
li em{font-style:normal;font-weight:600;margin-right:.3rem}
table{width:100%;border-collapse:collapse;font-size:.9rem}
th{text-align:left;color:var(--soft);font-weight:600;font-size:.8rem}
th,td{padding:.42rem .9rem .42rem 0;border-bottom:1px solid var(--line);vertical-align:top}tr:last-child td{border:0}
td:last-child,th:last-child{padding-right:0}td{min-width:7rem}td.short{min-width:0}.short{white-space:nowrap}
.n{text-align:right}.step{font-weight:600}
footer{color:var(--soft);font-size:.8rem;margin-top:1.1rem}
@media(max-width:860px){main{padding:1.1rem .75rem}section{padding:.9rem}h1{font-size:1.3rem}dl{gap:.6rem 1.6rem}
.row{grid-template-columns:1fr auto;padding:.15rem 0}.bar{grid-column:1/3;grid-row:2}.took{grid-column:2;grid-row:1}
.d1 .name{padding-left:.5rem}.d2 .name{padding-left:1rem}
table,tbody{display:block}thead{display:none}
tr{display:flex;flex-wrap:wrap;gap:.1rem 1rem;padding:.65rem 0;border-top:1px solid var(--line)}
tr:first-child{border:0;padding-top:0}tr:last-child{padding-bottom:0}td:empty{display:none}
td{border:0;padding:0;min-width:0}
td::before{content:attr(data-is) " ";color:var(--soft);font-size:.8rem;font-weight:400}.step{flex-basis:100%}}
"""


def page(trace: Trace, now: float) -> str:
    """The whole page."""
    steps, (begin, end) = trace.steps, trace.extent(now)
    state, counts, since, until = steps.task_state(now), steps.counts(now), moment(begin), moment(end)
    when = ""
    if since is not None and until is not None:
        same = since.date() == until.date()
        when = f"{since:%Y-%m-%d %H:%M:%S} to {until:{'' if same else '%Y-%m-%d '}%H:%M:%S} UTC"
    notes = "".join(f"<p>{note}</p>" for note in (when, trace.gap) if note)
    facts = {"took" if steps.finished else "so far": span(end - begin), "steps": str(len(steps.runs))}
    facts |= {name: str(counts[name]) for name in _MARKS if counts[name]}
    issues, rows, table = ("".join(found) for found in (_issues(trace, now), _rows(trace, now), _table(trace, now)))
    sections = {
        "": f"<dl>{''.join(f'<div><dt>{name}</dt><dd>{fact}</dd></div>' for name, fact in facts.items())}</dl>",
        "What needs a look": issues and f"<ul>{issues}</ul>",
        "Timeline": rows and _timeline(rows, counts.keys(), end - begin),
        "Steps": steps.runs and f"<table>{table}</tbody></table>",
    }
    shown = (f"<section>{title and f'<h2>{title}</h2>'}{text}</section>" for title, text in sections.items() if text)
    name = _text(f"task {trace.task_id}")
    return f"""<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{name}: {state}</title>
<style>{_STYLE}</style>
<main>
<header><h1>{name}</h1><span class="pill {state}">{state}</span>{notes}</header>
{"".join(shown)}
<footer>{"" if steps.finished else "The task had not ended when this was written. "}Up to event {steps.last_id}.
Written by orch-events {__version__}.</footer>
</main>
</html>
"""


def _text(text: str) -> str:
    return escape(printable(text))


def _issues(trace: Trace, now: float) -> Iterator[str]:
    """What failed, and what is odd."""
    steps, item = trace.steps, '<li><b class="{}">{}</b> <p><em>{}</em> <span>{}</span></p></li>'
    if trace.reason or steps.incident:
        texts = _text(", ".join(text for text in (trace.reason, steps.incident) if text))
        yield item.format(steps.task_state(now), steps.task_state(now), "task", texts)
    for row in trace.rows(now):
        if (run := row.run) is not None and (run.outcome == "failed" or run.incident):
            kind, name = ("failed", "failed") if run.outcome == "failed" else ("warning", "incident")
            cells = trace.cells(row, now)
            texts = " · ".join(text for text in (told(cells), cells["agent"], cells["took"]) if text)
            yield item.format(kind, name, _text(trace.where(run)), _text(texts))
    for odd in trace.anomalies(now):
        texts = f"{odd.name.replace('_', ' ')}: {odd.explanation}"
        yield item.format(odd.severity, odd.severity, _text(odd.where), _text(texts))


def _timeline(rows: str, states: Collection[str], seconds: float) -> str:
    whole = max(seconds, 1e-6)
    tick = next((tick for tick in _TICKS if whole <= 6 * tick), whole / 5)
    times = [number * tick for number in range(6) if number * tick <= 0.93 * whole]  # beyond, there is no room for one
    labels = "".join(f'<text x="{100 * at / whole:.2f}%" y="11">{span(at)}</text>' for at in times)
    legend = "".join(f'<span><i class="{name}"></i>{name}</span>' for name in _MARKS if name in states)
    axis = f'<div class="row axis"><div class="name"></div><div class="bar"><svg>{labels}</svg></div></div>'
    return f'<div style="--tick:{100 * tick / whole:.3f}%">{axis}{rows}</div><p class="legend">{legend}</p>'


def _rows(trace: Trace, now: float) -> Iterator[str]:
    extent = trace.extent(now)
    for row in trace.rows(now):
        first, last = row.place(extent)
        first, width, cells = min(first, 1 - _LEAST), max(_LEAST, last - first), trace.cells(row, now)
        kind, took, more = cells.get("status", "group"), cells["took"], told(cells)
        words = [cells.get("agent"), *([] if not more and kind in ("group", "succeeded", "finished") else [kind, more])]
        more = " · ".join(word for word in words if word)
        mark = f'<i class="{kind}">{_MARKS[kind]}</i> ' if kind in _MARKS else ""
        title = _text(", ".join(text for text in (f"{row.label}: {took}, from {cells['start']} on", more) if text))
        yield (
            f'<div class="row d{len(row.prefix) // 3} {kind}"><div class="name">{mark}<span>{_text(row.label)}</span>'
            f' <small>{_text(more)}</small></div><div class="bar"><svg role="img"><title>{title}</title>'
            f'<rect x="{100 * first:.3f}%" y="2" width="{100 * width:.3f}%" height="10" rx="2"/></svg></div>'
            f'<div class="took">{took}</div></div>\n'
        )


def _table(trace: Trace, now: float) -> Iterator[str]:
    rows = [trace.cells(row, now) for row in trace.rows(now) if row.run is not None]
    shown = [title for title in _COLUMNS if any(cells[title] for cells in rows)]
    titles = "".join(f'<th class="{_COLUMNS[title]}">{title}</th>' for title in shown)
    yield f"<thead><tr>{titles}</tr></thead><tbody>\n"
    for cells in rows:
        yield "<tr>"
        for title in shown:
            kind = _COLUMNS[title] + (f" {cells[title]}" if title == "status" else "")
            yield f'<td class="{kind}" data-is="{title}">{_text(cells[title])}</td>'
        yield "</tr>\n"
