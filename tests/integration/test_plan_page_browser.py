"""The plan page in a real browser: errors, keyboard, phone, themes, paper, size.

Chromium is driven through the pipe of its debugging protocol, which needs no further package.
"""

from __future__ import annotations

import base64
import functools
import itertools
import json
import os
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from unit.session_frames import FakeCatalog, frames

from wbpy.config import load_config
from wbpy.costs import Forecast
from wbpy.model import Finding, Frame, HeldBack, Plan
from wbpy.planner import make_plan
from wbpy.reporting.plan_page import plan_page
from wbpy.rules import load_rules
from wbpy.stages import STAGES

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser")

pytestmark = [
    pytest.mark.skipif(BROWSER is None, reason="chromium is not installed (package chromium of the distribution)"),
    pytest.mark.skipif(sys.platform == "win32", reason="the debugging pipe needs POSIX file descriptors"),
]

FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--remote-debugging-pipe",
)
STARTER = """import os, sys
for end, number in zip(sys.argv[1:3], (20, 21)):
    os.dup2(int(end), number)
os.dup2(20, 3), os.dup2(21, 4)
os.execv(sys.argv[3], sys.argv[3:])
"""
"""The browser reads descriptor 3 and writes descriptor 4."""

PATIENCE = 30.0
"""Seconds until an answer of the browser counts as missing; a busy machine is slow to start it."""

PHONE, DESKTOP = (390, 844), (1280, 900)


class Browser:
    """One tab, driven by the debugging protocol: JSON messages that end with a zero byte."""

    def __init__(self, profile: Path) -> None:
        mine, theirs = os.pipe(), os.pipe()
        arguments = [str(BROWSER), *FLAGS, f"--user-data-dir={profile}", "about:blank"]
        self._process = subprocess.Popen(
            [sys.executable, "-c", STARTER, str(mine[0]), str(theirs[1]), *arguments],
            pass_fds=(mine[0], theirs[1]),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(mine[0])
        os.close(theirs[1])
        self._write, self._read = mine[1], theirs[0]
        self._numbers = itertools.count(1)
        self._buffer = b""
        self.events: list[dict[str, Any]] = []
        self._session: str | None = None
        target = self("Target.createTarget", url="about:blank")["targetId"]
        self._session = self("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self(f"{domain}.enable")

    def __call__(self, method: str, **params: Any) -> dict[str, Any]:
        """Return the result of one command; events that arrive meanwhile are kept."""
        number = next(self._numbers)
        message: dict[str, Any] = {"id": number, "method": method, "params": params}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == number:
                assert "error" not in answer, f"{method}: {answer['error']}"
                return answer["result"]
            self.events.append(answer)

    def _next(self) -> dict[str, Any]:
        end = time.monotonic() + PATIENCE
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._read], [], [], max(0.0, end - time.monotonic()))
            assert ready, "the browser does not answer"
            part = os.read(self._read, 1 << 16)
            assert part, "the browser ended"
            self._buffer += part
        message, _, self._buffer = self._buffer.partition(b"\0")
        return json.loads(message)

    def open(self, page: Path, size: tuple[int, int] = DESKTOP, *, media: str = "screen", theme: str = "light") -> None:
        """Show a page and wait until it is complete."""
        self.events.clear()
        self(
            "Emulation.setDeviceMetricsOverride",
            width=size[0],
            height=size[1],
            deviceScaleFactor=1,
            mobile=size == PHONE,
        )
        self("Emulation.setEmulatedMedia", media=media, features=[{"name": "prefers-color-scheme", "value": theme}])
        self("Page.navigate", url=page.as_uri())
        while not any(event.get("method") == "Page.loadEventFired" for event in self.events):
            self.events.append(self._next())

    def run(self, script: str) -> Any:
        """Return the value of a JavaScript expression."""
        answer = self("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def press(self, key: str, *, shift: bool = False) -> None:
        codes = {"Tab": 9, "Enter": 13}
        text = {"text": "\r"} if key == "Enter" else {}
        for kind in ("keyDown", "keyUp"):
            self(
                "Input.dispatchKeyEvent",
                type=kind,
                key=key,
                code=key,
                windowsVirtualKeyCode=codes[key],
                modifiers=8 if shift else 0,
                **(text if kind == "keyDown" else {}),
            )

    def close(self) -> None:
        try:
            self("Browser.close")
            self._process.wait(10)
        except (AssertionError, OSError, subprocess.TimeoutExpired):
            self._process.kill()
            self._process.wait()
        finally:
            os.close(self._write)
            os.close(self._read)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    started = Browser(tmp_path_factory.mktemp("profile"))
    yield started
    started.close()


def page_of(folder: Path, plan: Plan) -> Path:
    forecast = Forecast(
        seconds=754.0,
        phases={"masters": 61.0, "lights": 402.0, "registration": 3.0, "integrations": 288.0},
        runs=3,
        workers=8,
        disk_needed=plan.estimate.bytes_written,
        disk_free=2 * 10**12,
    )
    file = folder / "plan.html"
    file.write_text(plan_page(plan, forecast), encoding="utf-8")
    return file


def planned(taken: list[Frame], held: tuple[HeldBack, ...] = ()) -> Plan:
    rules = load_rules()
    config = load_config(rules, {stage.name: stage.params for stage in STAGES}, sets=["integrate.high=2.5"])
    found = tuple(
        Finding(id=one.finding, severity="warning", subject=one.path, message="This is a preview.", remedy="Nothing.")
        for one in held
    )
    return make_plan(FakeCatalog(tuple(taken), found, held), Path("/out"), rules, config, STAGES)


CAMERA = {"width": 6248, "height": 4176, "size": 52_000_000}


@functools.cache
def rich_plan() -> Plan:
    """Return a plan that has everything: exact, doubtful and missing masters, colour, held-back files."""
    colour = {"camera": "Canon EOS 6D", "gain": None, "offset": None, "iso": 1600.0, "temp_set": None, "temp_ccd": 17.0}
    taken = [
        *frames(12, "light", "ha", filter="Ha", **CAMERA),
        *frames(8, "light", "oiii", filter="OIII", night="2026-02-20", **CAMERA),
        *frames(
            9, "light", "a_light_with_quite_a_long_name", object="California Nebula", cfa="RGGB", filter=None, **colour
        ),
        *frames(9, "dark", gain=None, **CAMERA),
        *frames(3, "dark", "other", exposure=600.0, **CAMERA),
        *frames(12, "flat", "fha", filter="Ha", night="2025-12-30", **CAMERA),
        *frames(15, "bias", **CAMERA),
        *frames(15, "bias", "cbias", cfa="RGGB", **(colour | {"temp_ccd": 14.0})),
    ]
    held = tuple(HeldBack(path=f"/night/preview_{number}.jpg", finding="FIL006") for number in range(14))
    return planned(taken, held)


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return page_of(tmp_path_factory.mktemp("page"), rich_plan())


def test_the_page_opens_without_errors_and_loads_nothing_else(browser: Browser, page: Path):
    browser.open(page)
    browser.run("new Promise(done => requestAnimationFrame(() => setTimeout(done, 50)))")
    complaints = [
        event
        for event in browser.events
        if event["method"] in ("Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Log.entryAdded")
    ]
    assert complaints == []
    asked = {e["params"]["request"]["url"] for e in browser.events if e["method"] == "Network.requestWillBeSent"}
    assert {url for url in asked if not url.startswith("data:")} == {page.as_uri()}
    sections = browser.run("[...document.querySelectorAll('section')].map(one => one.id)")
    assert sections == ["findings", "coverage", "calibration", "integrations", "steps", "unused", "settings"]


FOCUS = """(() => {
  const one = document.activeElement, style = getComputedStyle(one), box = one.getBoundingClientRect();
  const all = [...document.querySelectorAll('a[href], summary')].filter(e => e.checkVisibility());
  return {name: one.tagName, text: one.textContent.trim().slice(0, 40), place: all.indexOf(one), of: all.length,
    ring: style.outlineStyle !== 'none' && parseFloat(style.outlineWidth) >= 2,
    seen: one.contains(document.elementFromPoint(box.left + 5, box.top + box.height / 2))};
})()"""


def test_every_link_and_fold_is_reached_by_keyboard_in_order_and_shows_where_it_is(browser: Browser, page: Path):
    browser.open(page)
    browser.press("Tab")
    first = browser.run(FOCUS)
    assert first["text"] == "Skip to the plan"
    seen = [first]
    for _ in range(first["of"] - 1):
        browser.press("Tab")
        seen.append(browser.run(FOCUS))
    assert [one["place"] for one in seen] == list(range(first["of"]))
    assert all(one["ring"] and one["seen"] for one in seen), [one for one in seen if not (one["ring"] and one["seen"])]
    assert {one["name"] for one in seen} == {"A", "SUMMARY"}
    # On the way back the head of the page, which stays in place, must not cover what has the focus.
    back = []
    for _ in range(first["of"] - 1):
        browser.press("Tab", shift=True)
        back.append(browser.run(FOCUS))
    assert [one["place"] for one in back] == list(range(first["of"] - 1))[::-1]
    assert all(one["seen"] for one in back), [one for one in back if not one["seen"]]


def test_the_skip_link_and_the_folds_answer_to_enter(browser: Browser, page: Path):
    browser.open(page)
    browser.press("Tab")
    browser.press("Enter")
    assert browser.run("document.activeElement.id") == "main"
    browser.run("document.querySelector('.notes > summary').focus()")
    before = browser.run("document.querySelector('.notes').open")
    browser.press("Enter")
    assert browser.run("document.querySelector('.notes').open") is not before


def test_a_row_of_the_coverage_leads_to_its_diagram_below_the_head_that_stays(browser: Browser, page: Path):
    browser.open(page, (1280, 500))
    browser.run("document.querySelector('.coverage a').click()")
    place = browser.run("""(() => {
      const card = document.querySelector(location.hash), head = document.querySelector('nav');
      return card.getBoundingClientRect().top - head.getBoundingClientRect().bottom;
    })()""")
    assert 0 <= place < 200


# Letters of a drawing shrink with it; 10 px is taken as the least that can be read.
PHONE_FAULTS = """(() => {
  const faults = [], wide = document.scrollingElement.clientWidth;
  for (const fold of document.querySelectorAll('details')) fold.open = true;
  if (document.scrollingElement.scrollWidth > wide) faults.push('the page scrolls sideways');
  for (const one of document.querySelectorAll('main *, header *')) {
    if (!one.checkVisibility() || one.closest('.skip, math')) continue;
    const box = one.getBoundingClientRect();
    const shown = one.textContent.slice(0, 30);
    if (box.width && (box.right > wide + 1 || box.left < -1)) faults.push(one.tagName + ' leaves the screen: ' + shown);
    const text = [...one.childNodes].some(node => node.nodeType === 3 && node.textContent.trim());
    if (!text) continue;
    const svg = one.ownerSVGElement;
    const scale = svg ? svg.getBoundingClientRect().width / svg.viewBox.baseVal.width : 1;
    const size = parseFloat(getComputedStyle(one).fontSize) * scale;
    if (size < 10) faults.push(size.toFixed(1) + ' px: ' + shown);
    if (svg) {
      const frame = svg.getBoundingClientRect();
      if (box.right > frame.right + 1) faults.push('cut off: ' + one.textContent);
    }
  }
  return faults;
})()"""


def test_a_phone_shows_everything_without_scrolling_sideways(browser: Browser, page: Path):
    browser.open(page, PHONE)
    assert browser.run("innerWidth") == PHONE[0]
    assert browser.run(PHONE_FAULTS) == []


def test_texts_of_the_diagrams_do_not_touch_each_other(browser: Browser, page: Path):
    browser.open(page)
    touching = browser.run("""(() => {
      const found = [];
      for (const svg of document.querySelectorAll('.flow svg')) {
        const boxes = [...svg.querySelectorAll('text')].map(one => [one.textContent, one.getBoundingClientRect()]);
        for (const [i, [a, p]] of boxes.entries()) for (const [b, q] of boxes.slice(i + 1))
          if (p.left < q.right && q.left < p.right && p.top + 3 < q.bottom && q.top + 3 < p.bottom)
            found.push(a + ' | ' + b);
      }
      return found;
    })()""")
    assert touching == []


# WCAG 2.2: contrast of at least 4.5 between text and what is behind it.
CONTRAST = """(() => {
  const channel = c => (c /= 255) <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
  const numbers = text => text.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => 0.2126 * channel(r) + 0.7152 * channel(g) + 0.0722 * channel(b);
  const behind = one => {
    for (let at = one; at; at = at.parentElement) {
      const colour = numbers(getComputedStyle(at).backgroundColor);
      if (colour.length === 3 || colour[3] === 1) return colour;
    }
    return [255, 255, 255];
  };
  const faults = new Set();
  for (const fold of document.querySelectorAll('details')) fold.open = true;
  for (const one of document.querySelectorAll('body *')) {
    if (!one.checkVisibility() || one.closest('style, math')) continue;
    if (![...one.childNodes].some(node => node.nodeType === 3 && node.textContent.trim())) continue;
    const style = getComputedStyle(one);
    const ink = light(numbers(one.ownerSVGElement ? style.fill : style.color)), ground = light(behind(one));
    const ratio = (Math.max(ink, ground) + 0.05) / (Math.min(ink, ground) + 0.05);
    if (ratio < 4.5) faults.add(ratio.toFixed(2) + ' ' + one.className + ': ' + one.textContent.trim().slice(0, 30));
  }
  return [...faults];
})()"""


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_every_text_stands_out_in_both_themes(browser: Browser, page: Path, theme: str):
    browser.open(page, theme=theme)
    assert browser.run(CONTRAST) == []
    ground = browser.run("getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)")
    assert (sum(ground) > 600) is (theme == "light")


def test_paper_shows_what_is_folded_on_the_screen(browser: Browser, page: Path):
    browser.open(page, media="print")
    hidden = browser.run("""[...document.querySelectorAll('details:not([open]) > :not(summary)')]
        .filter(one => !one.checkVisibility()).map(one => one.textContent.trim().slice(0, 40))""")
    assert hidden == []
    assert browser.run("getComputedStyle(document.querySelector('nav')).display") == "none"
    paper = base64.b64decode(browser("Page.printToPDF", printBackground=False)["data"])
    assert paper.startswith(b"%PDF")


def test_a_plan_of_five_thousand_frames_is_below_5_mb_and_open_in_2_seconds(browser: Browser, tmp_path: Path):
    taken: list[Frame] = []
    for number in range(40):
        night = f"2026-{1 + number // 28:02}-{1 + number % 28:02}"
        for name in ("L", "Ha", "OIII", "SII"):
            exposure = 60.0 if name == "L" else 300.0
            stem = f"{number}{name}"
            taken += frames(27, "light", stem, night=night, filter=name, exposure=exposure, **CAMERA)
            if number % 5 != 3:
                taken += frames(4, "flat", f"f{stem}", night=night, filter=name, **CAMERA)
    taken += frames(30, "dark", **CAMERA) + frames(30, "dark", "d60", exposure=60.0, **CAMERA)
    taken += frames(20, "flat_dark", **CAMERA) + frames(50, "bias", **CAMERA)
    assert len(taken) > 4900
    file = page_of(tmp_path, planned(taken))
    assert file.stat().st_size < 5_000_000
    browser.open(file)
    spent = browser.run(
        "(({loadEventEnd, startTime}) => loadEventEnd - startTime)(performance.getEntriesByType('navigation')[0])"
    )
    assert spent < 2000, f"{spent:.0f} ms"
    browser.open(file, PHONE)
    assert browser.run("document.scrollingElement.scrollWidth") == PHONE[0]
