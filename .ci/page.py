# SPDX-License-Identifier: MIT
"""What a real browser makes of the page that ``trace --html`` writes: drives a headless Chromium through pipes.

    python3 .ci/page.py CHROMIUM PAGE FOLDER [LABEL …]

Each LABEL must be seen in the page's timeline. Leaves its screenshots in FOLDER. Needs nothing but the browser, whose
protocol is JSON with a zero byte after each message: https://chromedevtools.github.io/devtools-protocol
"""

import base64
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

# Without those about background and sync, it looks up hosts of its own; as root it has no sandbox.
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-extensions",
    "--hide-scrollbars",
    "--remote-debugging-pipe",
]
WINDOWS = {"laptop": (1280, 800), "phone": (390, 844), "small-phone": (320, 568)}

FACTS = """(() => {
const all = [...document.querySelectorAll('*')], root = document.documentElement
const inside = e => {
  const box = e.getBoundingClientRect()
  return box.width > 0 && box.height > 0 && box.left >= -0.5 && box.right <= innerWidth + 0.5
}
const seen = e => e.checkVisibility({opacityProperty: true, visibilityProperty: true}) && inside(e)
const rows = what => [...document.querySelectorAll('.row:not(.axis) ' + what)].filter(seen)
// Contrast as https://www.w3.org/TR/WCAG22/#dfn-contrast-ratio has it.
const linear = v => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4
const luminance = colour => {
  const [r, g, b] = colour.match(/[\\d.]+/g).slice(0, 3).map(linear)
  return 0.2126 * r + 0.7152 * g + 0.0722 * b
}
const behind = e => {
  const colour = getComputedStyle(e).backgroundColor
  return colour === 'rgba(0, 0, 0, 0)' ? behind(e.parentElement) : colour
}
const contrast = e => {
  const [more, less] = [getComputedStyle(e).color, behind(e)].map(luminance).sort((x, y) => y - x)
  return (more + 0.05) / (less + 0.05)
}
const texts = all.filter(e => !e.closest('svg, head') && e.checkVisibility()
  && [...e.childNodes].some(n => n.nodeType === Node.TEXT_NODE && n.data.trim()))
return {
  sideways: root.scrollWidth - innerWidth,
  width: innerWidth,
  elements: [...new Set(all.map(e => e.localName))].sort(),
  attributes: [...new Set(all.flatMap(e => e.getAttributeNames()))].filter(name => /^on|href|src/.test(name)),
  labels: rows('.name span').map(e => e.textContent),
  counts: [document.querySelectorAll('.row:not(.axis)').length, rows('rect').length, rows('.took').length,
    rows('svg').filter(e => e.querySelector('title').textContent).length],
  outside: texts.filter(e => !inside(e)).map(e => e.outerHTML),
  broken: [...document.querySelectorAll('th, td.short')].filter(e => {
    const range = new Range()
    range.selectNodeContents(e)
    return e.checkVisibility() && range.getClientRects().length > 1
  }).map(e => e.outerHTML),
  faint: texts.filter(e => contrast(e) < 4.5).map(e => `${contrast(e).toFixed(2)}: ${e.outerHTML}`),
  colours: [getComputedStyle(document.body).backgroundColor, getComputedStyle(document.body).color],
  touched: 'touched' in window,
}})()"""
# What is folded at first is unfolded for all other checks.
UNFOLD = """(() => {
const shown = [...document.querySelectorAll('.row, tr, li')].filter(e => e.checkVisibility()).length
document.querySelectorAll('details').forEach(e => { e.open = true })
return shown
})()"""
AT_FIRST_SIGHT = 250
"""Rows of all kinds that a page may show before anything is unfolded."""
COMPLAINTS = (
    "Log.entryAdded",
    "Runtime.consoleAPICalled",
    "Runtime.exceptionThrown",
    "Audits.issueAdded",
)
ELEMENTS = {
    "b",
    "body",
    "dd",
    "details",
    "div",
    "dl",
    "dt",
    "em",
    "footer",
    "h1",
    "h2",
    "head",
    "header",
    "html",
    "i",
    "li",
    "main",
    "meta",
    "p",
    "rect",
    "section",
    "small",
    "span",
    "style",
    "summary",
    "svg",
    "table",
    "tbody",
    "td",
    "text",
    "th",
    "thead",
    "title",
    "tr",
    "ul",
}


class Browser:
    """Its protocol, and what it told meanwhile."""

    def __init__(self, command: str, profile: str) -> None:
        (theirs, self._ours), (self._read, others) = os.pipe(), os.pipe()

        def place() -> None:  # it reads from descriptor 3 and writes to 4
            os.dup2(theirs, 13), os.dup2(others, 14), os.dup2(13, 3), os.dup2(14, 4)

        self.process = subprocess.Popen(
            [command, *FLAGS, f"--user-data-dir={profile}", "about:blank"],
            close_fds=False,
            preexec_fn=place,
            stderr=subprocess.DEVNULL,
        )
        os.close(theirs), os.close(others)
        self.events: list[dict] = []
        self._rest, self._number, self._session = b"", 0, {}

    def __call__(self, method: str, **parameters: object) -> dict:
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters, **self._session}
        os.write(self._ours, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == self._number:
                assert "error" not in answer, answer
                return answer["result"]
            self.events.append(answer)

    def wait_for(self, method: str) -> None:
        while not any(event.get("method") == method for event in self.events):
            self.events.append(self._next())

    def _next(self) -> dict:
        while b"\0" not in self._rest:
            data = os.read(self._read, 1 << 20)
            assert data, "the browser has gone"
            self._rest += data
        line, _, self._rest = self._rest.partition(b"\0")
        return json.loads(line)

    def close(self) -> None:
        """End it and its helpers, which outlive one that is killed."""
        self._session = {}
        try:
            self("Browser.close")
            self.process.wait(10)
        except (AssertionError, OSError, subprocess.TimeoutExpired):
            self.process.kill()
            self.process.wait()

    def attach(self) -> None:
        """Speak to the one tab from now on."""
        (tab,) = (t for t in self("Target.getTargets")["targetInfos"] if t["type"] == "page")
        session = self("Target.attachToTarget", targetId=tab["targetId"], flatten=True)["sessionId"]
        self._session = {"sessionId": session}
        for domain in ("Page", "Network", "Log", "Runtime", "Audits"):
            self(f"{domain}.enable")


def check(browser: Browser, page: str, folder: Path, wanted: list[str]) -> None:
    colours: dict[str, list[str]] = {}
    for name, (width, height) in WINDOWS.items():
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 800}
        for scheme in ("light", "dark"):
            browser.events.clear()
            browser("Emulation.setDeviceMetricsOverride", **size)
            browser(
                "Emulation.setEmulatedMedia",
                features=[{"name": "prefers-color-scheme", "value": scheme}],
            )
            browser("Page.navigate", url=page)
            browser.wait_for("Page.loadEventFired")
            picture = browser("Page.captureScreenshot", captureBeyondViewport=True)["data"]
            (folder / f"{name}-{scheme}.png").write_bytes(base64.b64decode(picture))
            rows, facts = (
                browser("Runtime.evaluate", expression=expression, returnByValue=True)["result"][
                    "value"
                ]
                for expression in (UNFOLD, FACTS)
            )
            told = [(event["method"], event.get("params")) for event in browser.events]
            faults = {
                "not as wide as the window": facts["width"] != width,
                "scrolls sideways": facts["sideways"] > 0,
                "rows at first sight": rows > AT_FIRST_SIGHT and rows,
                "labels not seen": sorted(set(wanted) - set(facts["labels"])),
                "rows without a label, a bar, a duration, a tooltip": not facts["labels"]
                or {*facts["counts"], len(facts["labels"])} != {len(facts["labels"])},
                "elements it should not have": sorted(set(facts["elements"]) - ELEMENTS),
                "handlers and addresses": facts["attributes"],
                "a script ran": facts["touched"],
                "requests": [
                    what for method, what in told if method == "Network.requestWillBeSent"
                ][1:],
                "complaints": [what for method, what in told if method in COMPLAINTS],
                "cut off": facts["outside"],
                "broken words": facts["broken"],
                "too faint to read": facts["faint"],
                "not the same at each width": colours.setdefault(scheme, facts["colours"])
                != facts["colours"],
            }
            assert not any(faults.values()), (
                name,
                scheme,
                {what: fault for what, fault in faults.items() if fault},
            )
            print(f"{name}, {scheme}: {len(facts['labels'])} rows seen, nothing asked for")
    assert not set(colours["light"]) & set(colours["dark"]), f"dark is as light: {colours}"


command, page, folder, *labels = sys.argv[1:]
with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
    browser = Browser(command, profile)
    try:
        browser.attach()
        check(browser, Path(page).resolve().as_uri(), Path(folder), labels)
    finally:
        browser.close()
