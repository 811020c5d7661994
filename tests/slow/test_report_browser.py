"""The report in a real browser: no text on text in a chart, none wider than its window, no tiny letters."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from report_runs import make_runs
from splitft.tools.report.page import render_page
from splitft.tools.report.runs import collect_runs

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
BROWSER = next((found for name in BROWSERS if (found := shutil.which(name))), None)
PHONE, DESKTOP = 390, 1400
SMALLEST = 11.0  # pixels of a letter's height

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(BROWSER is None, reason=f"no browser: none of {', '.join(BROWSERS)} is installed"),
]

# The page lies in a frame of exactly the wanted width: browsers refuse windows as narrow as phones.
WRAPPER = """<!doctype html><body style="margin:0">
<iframe id="page" srcdoc="{page}" style="width:{width}px;height:2000px;border:0"></iframe>
<pre id="result"></pre>
<script>
window.addEventListener("load", () => {{
  const frame = document.getElementById("page"), doc = frame.contentDocument, view = frame.contentWindow;
  doc.querySelectorAll("details").forEach(d => d.open = true);
  const found = {{width: view.innerWidth, page: doc.scrollingElement.scrollWidth, scrolled: 0,
                  charts: 0, texts: 0, overlaps: [], outside: [], small: []}};
  for (const svg of doc.querySelectorAll("svg.chart")) {{
    found.charts += 1;
    const box = svg.getBoundingClientRect(), scale = svg.getScreenCTM().a;
    const texts = [...svg.querySelectorAll("text")].map(t => {{
      const own = t.getBoundingClientRect(), said = t.firstChild ? t.firstChild.textContent : "";
      const size = parseFloat(view.getComputedStyle(t).fontSize) * scale;
      if (size < {smallest}) found.small.push([said, size]);
      if (own.left < box.left - 1 || own.right > box.right + 1 || own.bottom > box.bottom + 1)
        found.outside.push(said);
      return {{said, own}};
    }}).filter(t => t.said);
    found.texts += texts.length;
    texts.forEach((a, i) => texts.slice(i + 1).forEach(b => {{
      const across = Math.min(a.own.right, b.own.right) - Math.max(a.own.left, b.own.left);
      const down = Math.min(a.own.bottom, b.own.bottom) - Math.max(a.own.top, b.own.top);
      if (across > 0.5 && down > 3) found.overlaps.push([a.said, b.said]);  // 3: room above and below letters
    }}));
  }}
  const table = doc.querySelector(".verdict-table");
  if (table) found.scrolled = table.parentElement.scrollWidth - table.parentElement.clientWidth;
  const walker = doc.createTreeWalker(doc.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {{
    const node = walker.currentNode, holder = node.parentElement;
    if (!node.textContent.trim() || holder.closest("svg")) continue;
    const size = parseFloat(view.getComputedStyle(holder).fontSize);
    if (size < {smallest}) found.small.push([node.textContent.trim(), size]);
  }}
  document.getElementById("result").textContent = JSON.stringify(found);
}});
</script>"""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_runs(tmp_path_factory.mktemp("browser"))


def measure(page: str, width: int, folder: Path) -> dict[str, Any]:
    """Return what the browser finds in a page that is `width` pixels wide."""
    wrapper = folder / "wrapper.html"
    text = WRAPPER.format(page=html.escape(page), width=width, smallest=SMALLEST)
    wrapper.write_text(text, encoding="utf-8")
    command = [
        str(BROWSER), "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={folder / 'profile'}",
        f"--window-size={max(width, 800)},2000", "--dump-dom", wrapper.as_uri(),
    ]  # fmt: skip
    output = subprocess.run(command, capture_output=True, timeout=120, check=True).stdout.decode()
    result = re.search(r'<pre id="result">(.*?)</pre>', output, re.DOTALL)
    assert result and result.group(1), output[-500:]
    found: dict[str, Any] = json.loads(html.unescape(result.group(1)))
    return found


@pytest.mark.parametrize("width", [360, PHONE, 768, 1340, DESKTOP])
@pytest.mark.parametrize("name", ["study", "one", "forty", "names", "devices", "."])
def test_nothing_overlaps_and_the_page_fits(made: Path, tmp_path: Path, name: str, width: int) -> None:
    page = render_page(collect_runs([made / name])[0])
    found = measure(page, width, tmp_path)
    assert found["width"] == width
    assert found["charts"] == page.count('class="chart"') > 0
    assert found["texts"] > 5 * found["charts"]
    assert found["overlaps"] == []
    assert found["outside"] == []
    assert found["small"] == []
    assert found["page"] <= width
    assert found["scrolled"] == 0, "the verdict is seen as a whole"


def test_the_measurement_sees_overlap_width_and_small_letters(tmp_path: Path) -> None:
    """A page with every fault: a check that finds nothing there would prove nothing."""
    page = (
        '<body><div style="width:900px">wide</div><p style="font-size:8px">tiny</p>'
        '<svg class="chart" viewBox="0 0 360 50" width="360" style="font-size:13px">'
        '<text x="10" y="20">one</text><text x="14" y="22">two</text><text x="355" y="20">three</text></svg>'
    )
    found = measure(page, PHONE, tmp_path)
    assert found["page"] > PHONE and found["overlaps"] == [["one", "two"]]
    assert found["outside"] == ["three"] and found["small"] == [["tiny", 8]]
