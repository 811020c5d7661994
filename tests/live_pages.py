"""The live page in a browser: served from folders, and looked at in all sizes."""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from browser import Browser, Page
from splitft.tools.watch.address import PageAddress
from splitft.tools.watch.feed import Runs
from splitft.tools.watch.server import PageServer

PHONE, DESKTOP = 390, 1400
SMALLEST = 11.0  # pixels of a letter's height
ARRIVED = "Number(document.body?.dataset.drawn || 0) > 0"
# What a person would call broken: wider than the window, text that is cut off, tiny letters, empty pictures.
FAULTS = f"""(() => {{
  const seen = [...document.querySelectorAll("main *, header *")].filter(e => e.offsetParent !== null);
  const own = e => [...e.childNodes].some(n => n.nodeType === 3 && n.textContent.trim());
  const blank = c => {{
    const data = c.getContext("2d").getImageData(0, 0, c.width, c.height).data, found = new Set();
    for (let i = 0; i < data.length; i += 4) found.add(data[i] << 16 | data[i + 1] << 8 | data[i + 2]);
    return found.size < 3;
  }};
  return {{
    wide: Math.max(0, document.scrollingElement.scrollWidth - innerWidth),
    outside: seen
      .filter(e => !e.closest(".scroll, #tabs, canvas, .u-wrap"))
      .filter(e => e.getBoundingClientRect().right > innerWidth + 1)
      .map(e => e.tagName + "#" + e.id + "." + e.className),
    cut: seen
      .filter(e => own(e) && !e.closest(".u-wrap, [role=tab], select"))
      .filter(e => e.clientWidth && e.scrollWidth > e.clientWidth + 1)
      .map(e => e.textContent.slice(0, 60)),
    small: seen.filter(e => own(e) && parseFloat(getComputedStyle(e).fontSize) < {SMALLEST})
      .map(e => e.textContent),
    blank: seen.filter(e => e.tagName === "CANVAS" && blank(e)).map(e => e.id || e.parentElement.className),
    unnamed: seen.filter(e => (e.getAttribute("role") === "img" && !e.getAttribute("aria-label"))
      || (["INPUT", "SELECT"].includes(e.tagName) && !e.labels.length)).map(e => e.id),
    empty: seen.filter(e => e.tagName === "SECTION" && e.innerText.trim().split("\\n").length < 2)
      .map(e => e.innerText),
  }};
}})()"""
SOUND: dict[str, Any] = {
    "wide": 0,
    **{key: [] for key in ("outside", "cut", "small", "blank", "unnamed", "empty")},
}


@contextmanager
def served(folders: Sequence[Path]) -> Iterator[str]:
    """Serve the page of runs in a thread; yield its address."""
    address = PageAddress("127.0.0.1:0")
    server = PageServer(Runs(folders), address.hosts, address.token)
    thread = threading.Thread(target=server.run, args=([address.socket],), daemon=True)
    thread.start()
    try:
        yield address.url
    finally:
        server.end()
        thread.join()


def check_all_sizes(browser: Browser, url: str, name: str, runs: Sequence[str] = ()) -> None:
    """Look at a page on a desktop, on a phone and in the dark: nothing may be broken."""
    folder = os.environ.get("KEEP_PICTURES")
    for width, dark in ((DESKTOP, False), (PHONE, False), (DESKTOP, True), (PHONE, True)):
        page = browser.open(url, width, dark=dark)
        page.wait(ARRIVED)
        backs = set()
        for run_name in runs or [""]:
            if run_name:
                choose(page, run_name)
            settle(page)
            if folder:
                shown = f"{name}{'-' if run_name else ''}{run_name}-{width}{'-dark' if dark else ''}.png"
                Path(folder).mkdir(parents=True, exist_ok=True)
                page.picture(Path(folder) / shown)
            assert page.value(FAULTS) == SOUND, (name, run_name, width, dark)
            backs.add(page.value("getComputedStyle(document.body).backgroundColor"))
        assert len(backs) == 1 and (sum(map(int, re.findall(r"\d+", backs.pop()))) < 150) == dark
        page.close()


def choose(page: Page, name: str) -> None:
    page.value(
        f"[...document.querySelectorAll('#tabs button')].find(e => e.textContent === {name!r}).click()"
    )


def settle(page: Page) -> None:
    """Wait until what is new has been drawn."""
    page.value("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
