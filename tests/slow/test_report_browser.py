"""The report in a real browser: nothing overlaps, overflows or is empty; values, what is saved, print."""

from __future__ import annotations

import base64
import csv
import io
import json
import re
import shutil
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from browser import BROWSER, Browser, Page
from report_runs import make_runs
from splitft.tools.report.command import report_command
from splitft.tools.report.page import render_page
from splitft.tools.report.runs import collect_runs

PHONE, DESKTOP = 390, 1400
SMALLEST = 11.0  # pixels of a letter's height
NAMES = ["study", "one", "forty", "names", "devices", "."]

pytestmark = [pytest.mark.slow, pytest.mark.skipif(BROWSER is None, reason="no browser is installed")]

MEASURE = """(() => {
  document.querySelectorAll("details").forEach(d => d.open = true);
  const found = {width: innerWidth, page: document.scrollingElement.scrollWidth, scrolled: [], charts: 0,
                 texts: 0, overlaps: [], outside: [], small: [], wide: [], cut: [], empty: [], tips: 0};
  const within = (a, b) => a.left >= b.left - 1 && a.right <= b.right + 1
                           && a.top >= b.top - 1 && a.bottom <= b.bottom + 1;
  const said = t => t.firstChild ? t.firstChild.textContent : "";
  for (const svg of document.querySelectorAll("svg.chart")) {
    found.charts += 1;
    const box = svg.getBoundingClientRect(), scale = svg.getScreenCTM().a;
    const texts = [...svg.querySelectorAll("text")].filter(t => !t.closest(".tip")).map(t => {
      const own = t.getBoundingClientRect();
      const size = parseFloat(getComputedStyle(t).fontSize) * scale;
      if (size < SMALLEST) found.small.push([said(t), size]);
      if (!within(own, box)) found.outside.push(said(t));
      return {said: said(t), own};
    }).filter(t => t.said);
    found.texts += texts.length;
    texts.forEach((a, i) => texts.slice(i + 1).forEach(b => {
      const across = Math.min(a.own.right, b.own.right) - Math.max(a.own.left, b.own.left);
      const down = Math.min(a.own.bottom, b.own.bottom) - Math.max(a.own.top, b.own.top);
      if (across > 0.5 && down > 3) found.overlaps.push([a.said, b.said]);  // 3: room above and below letters
    }));
    // Marks of data have a colour of a variant, a piece or a class; a chart without any shows nothing.
    const drawn = [...svg.querySelectorAll(":scope > path")].filter(p => {
      const paint = (p.getAttribute("fill") || "") + (p.getAttribute("stroke") || ""), own = p.getBBox();
      return /--[vp]\\d|#[0-9a-f]{6}/.test(paint)
             && (own.width > 0 || own.height > 0 || p.hasAttribute("stroke"));
    });
    if (!drawn.length) found.empty.push(svg.getAttribute("aria-label"));
  }
  // The text of each mark, shown as if a pointer were on it.
  for (const tip of document.querySelectorAll(".tip")) {
    tip.style.display = "inline";
    const [svg, box, ...texts] = [tip.closest("svg"), ...tip.children].map(e => e.getBoundingClientRect());
    if (box.left < svg.left - 1 || box.right > svg.right + 1 || texts.some(text => !within(text, box)))
      found.cut.push(tip.textContent);
    tip.style.display = "";
    found.tips += 1;
  }
  for (const table of document.querySelectorAll(".verdict-table"))
    found.scrolled.push(table.parentElement.scrollWidth - table.parentElement.clientWidth);
  for (const part of document.body.querySelectorAll("*")) {
    if (part.closest("svg, .plain")) continue;  // tables of details scroll
    if (part.closest("thead")?.clientHeight === 1) continue;  // of cards: for who listens to the page
    const own = part.getBoundingClientRect();
    if (own.width && (own.right > innerWidth + 1 || own.left < -1))
      found.wide.push(part.outerHTML.slice(0, 80));
    if (part.closest(".legend") && part.scrollWidth > part.clientWidth + 1 && part.clientWidth)
      found.cut.push(part.textContent);
  }
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const node = walker.currentNode, holder = node.parentElement;
    if (!node.textContent.trim() || holder.closest("svg")) continue;
    const size = parseFloat(getComputedStyle(holder).fontSize);
    if (size < SMALLEST) found.small.push([node.textContent.trim(), size]);
  }
  return found;
})()""".replace("SMALLEST", str(SMALLEST))

# Of a picture alone in a page: texts that are not wholly inside it.
OUTSIDE = """(() => {
  const svg = document.documentElement, box = svg.getBoundingClientRect();
  return [...svg.querySelectorAll("text")].filter(t => {
    const own = t.getBoundingClientRect();
    return own.left < box.left - 1 || own.right > box.right + 1
           || own.top < box.top - 1 || own.bottom > box.bottom + 1;
  }).map(t => t.textContent);
})()"""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_runs(tmp_path_factory.mktemp("report"))


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with Browser(tmp_path_factory.mktemp("browser")) as opened:
        yield opened


@cache
def page_file(folder: Path) -> Path:
    """The report of the runs in a folder."""
    path = folder / "page.html"
    path.write_text(render_page(collect_runs([folder])[0]), encoding="utf-8")
    return path


def shown(browser: Browser, path: Path, width: int = DESKTOP, dark: bool = False) -> Page:
    page = browser.open(path.as_uri(), width, dark=dark)
    page.wait("document.readyState === 'complete' && location.protocol === 'file:'")
    return page


def saved(path: Path) -> dict[str, bytes]:
    """What the links of a page save, by name."""
    links = re.findall(
        r'<a download="([^"]+)" href="data:[^;]+;base64,([^"]+)"', path.read_text(encoding="utf-8")
    )
    return {name: base64.b64decode(content) for name, content in links}


@pytest.mark.parametrize("width", [360, PHONE, 768, 1340, DESKTOP])
@pytest.mark.parametrize("name", NAMES)
def test_nothing_overlaps_and_the_page_fits(made: Path, browser: Browser, name: str, width: int) -> None:
    path = page_file(made / name)
    page = shown(browser, path, width, dark=width == DESKTOP)
    found = page.value(MEASURE)
    assert found["width"] == width
    assert found["charts"] == path.read_text(encoding="utf-8").count('class="chart"') > 0
    assert found["texts"] > 5 * found["charts"] and found["tips"] > 0
    assert found["page"] <= width and found["wide"] == []
    assert set(found["scrolled"]) == {0}, "every table of the verdict is seen as a whole"
    for fault in ("overlaps", "outside", "small", "cut", "empty"):
        assert found[fault] == [], fault
    page.close()


def test_the_measurement_sees_every_fault(browser: Browser, tmp_path: Path) -> None:
    """A page with every fault: a check that finds nothing there would prove nothing."""
    path = tmp_path / "faults.html"
    path.write_text(
        '<!doctype html><meta name="viewport" content="width=device-width"><body>'
        '<p style="font-size:8px">tiny</p>'
        '<p class="legend" style="width:40px;overflow:hidden;white-space:nowrap">a legend that is cut</p>'
        '<svg class="chart" aria-label="nothing" viewBox="0 0 360 50" width="360" style="font-size:13px">'
        '<text x="10" y="20">one</text><text x="14" y="22">two</text><text x="355" y="20">three</text></svg>'
        '<svg class="chart" viewBox="0 0 360 50" width="360"><path d="M0 0h9v9z" fill="var(--v1)"/>'
        '<g class="tip">'
        '<path d="M340 0h10v10h-10z"/><text x="342" y="9">beyond its box</text></g></svg>'
        '<div style="overflow:hidden"><div class="wide" style="width:900px">wide</div></div>',
        encoding="utf-8",
    )
    page = shown(browser, path, PHONE)
    found = page.value(MEASURE)
    assert found["overlaps"] == [["one", "two"]] and found["outside"] == ["three"]
    assert found["small"] == [["tiny", 8]] and found["empty"] == ["nothing"]
    assert set(found["cut"]) == {"a legend that is cut", "beyond its box"}
    assert [part for part in found["wide"] if 'class="wide"' in part]
    page.close()


def test_a_pointer_on_a_point_shows_its_value(made: Path, browser: Browser) -> None:
    page = shown(browser, page_file(made / "study"))
    page.value("document.querySelector('svg.chart .on .hit.dot').scrollIntoView({block: 'center'})")
    at = page.value(
        "(() => { const b = document.querySelector('svg.chart .on .hit.dot').getBoundingClientRect();"
        " return [b.left + b.width / 2, b.top + b.height / 2]; })()"
    )
    visible = (
        "[...document.querySelectorAll('.tip')].filter(t => getComputedStyle(t).display !== 'none').length"
    )
    assert page.value(visible) == 0
    page.call("Input.dispatchMouseEvent", type="mouseMoved", x=at[0], y=at[1])
    page.wait(f"{visible} === 1")
    assert not browser.problems, "its own policy keeps nothing of the page from loading"
    page.close()


@pytest.mark.parametrize("name", NAMES)
def test_every_saved_figure_is_whole(made: Path, browser: Browser, tmp_path: Path, name: str) -> None:
    files = saved(page_file(made / name))
    pictures = [file for file in files if file.endswith(".svg")]
    assert len(pictures) == page_file(made / name).read_text().count('.svg" href=') > 4
    for file in pictures:
        path = tmp_path / file
        path.write_bytes(files[file])
        page = shown(browser, path)
        size = page.value("(b => [b.width, b.height])(document.documentElement.getBoundingClientRect())")
        assert page.value("document.querySelectorAll('text').length") > 3, file
        assert page.value(OUTSIDE) == [], file
        assert "var(--" not in path.read_text(encoding="utf-8"), "it has its own colours"
        page.close()
        # The pixels: as large as the drawing at 144 dots an inch, and not one colour.
        picture = base64.b64encode(files[file.replace(".svg", ".png")]).decode()
        pixels = browser.open("about:blank", DESKTOP)
        measured = pixels.value(
            "new Promise((done, failed) => { const i = new Image(); i.onerror = failed; i.onload = () => {"
            " const c = document.createElement('canvas'); c.width = i.width; c.height = i.height;"
            " const d = c.getContext('2d'); d.drawImage(i, 0, 0);"
            " const p = d.getImageData(0, 0, i.width, i.height).data, seen = new Set();"
            " for (let k = 0; k < p.length; k += 4) seen.add(p[k] << 16 | p[k + 1] << 8 | p[k + 2]);"
            f" done([i.width, i.height, seen.size]); }}; i.src = 'data:image/png;base64,{picture}'; }})"
        )
        assert measured[:2] == [pytest.approx(1.5 * length, abs=2) for length in size], (
            file
        )  # 96 dots in a page
        assert measured[2] > 5, file
        pixels.close()


def test_saved_tables_hold_what_the_page_shows(made: Path, browser: Browser) -> None:
    path = page_file(made / "study")
    files = saved(path)
    page = shown(browser, path)
    tables: list[dict[str, Any]] = page.value(
        "[...document.querySelectorAll('.tables section')].map(s => ({"
        " title: s.querySelector('h2').textContent,"
        " heads: [...s.querySelectorAll('thead th')].map(h => h.firstChild.textContent.trim()),"
        " rows: [...s.querySelectorAll('tbody tr')].map(r => [...r.children].map(c => c.textContent.trim())),"
        " names: [...s.querySelectorAll('a')].map(a => a.download)}))"
    )
    page.close()
    assert [table["title"] for table in tables] == ["Reached", "Paired by seed", "Cost", "All that was sent"]
    for table in tables:
        numbers, text = (files[name].decode("utf-8-sig") for name in table["names"])
        head, *rows = csv.reader(io.StringIO(numbers))
        assert [head[0], *(row[0] for row in rows)] == ["variant", *(row[0] for row in table["rows"])]
        for shown_row, row in zip(table["rows"], rows, strict=True):
            given = iter(row[1:])
            for heading, cell in zip(table["heads"][1:], shown_row[1:], strict=True):
                parts = [next(given) for name in head[1:] if name.startswith(f"{heading} (")]
                told = re.findall(r"[+−-]?[\d,]*\.?\d+", cell.replace("95 %", ""))
                assert len([part for part in parts if part]) == (
                    0 if cell in ("–", "reference") else len(told)
                )
                for part, one in zip(parts, told, strict=False):
                    digits = len(one.partition(".")[2])
                    assert f"{abs(float(part)):,.{digits}f}" == one.lstrip("+−-"), (heading, cell, part)
        lines = [line.removesuffix(r" \\").split(" & ") for line in text.splitlines() if line.endswith(r"\\")]
        plain = [[cell.replace(r"$\pm$", "±").replace("$-$", "−") for cell in line] for line in lines[2:]]
        assert plain == [[cell.replace("–", "--") for cell in row] for row in table["rows"]]


def test_printed_pages_break_between_cards(made: Path, browser: Browser) -> None:
    """On paper the tables are tables, nothing is wider than a page, and no link to save is left."""
    page = shown(browser, page_file(made / "devices"))
    page.call("Emulation.setEmulatedMedia", media="print")
    page.resize(700, 1000)  # A4 less its margins
    found = page.value(
        "({save: [...document.querySelectorAll('.save')].filter(s => s.offsetParent).length,"
        " head: getComputedStyle(document.querySelector('.verdict-table thead')).display,"
        " breaks: [...document.querySelectorAll('.card')].map(c => getComputedStyle(c).breakInside),"
        " wide: document.scrollingElement.scrollWidth})"
    )
    assert found["save"] == 0 and found["head"] == "table-header-group" and found["wide"] <= 700
    assert set(found["breaks"]) == {"avoid"}
    printed = base64.b64decode(page.call("Page.printToPDF", preferCSSPageSize=True)["data"])
    pages = len(re.findall(rb"/Type\s*/Page\b", printed))
    assert printed.startswith(b"%PDF") and 1 < pages < 8
    assert json.dumps(browser.problems) == "[]"
    page.close()


def test_a_folder_for_a_paper_is_whole_and_written_anew(made: Path, browser: Browser, tmp_path: Path) -> None:
    shutil.copytree(made / "study", tmp_path / "study")
    console = Console(record=True, width=200, file=io.StringIO())
    for _ in range(2):
        page = report_command(
            [tmp_path / "study"], title="Two cuts", console=console, reference="cuts 2", paper=True
        )
    folder = page.with_name("report-paper")
    assert str(folder) in console.export_text()
    table = (folder / "table.tex").read_text(encoding="utf-8")
    assert r"\caption{Two cuts. Mean $\pm$ half the 95 \% interval" in table and r"\toprule" in table
    assert "cuts 2 & 2 & " in table and " & reference & " in table
    (head, *rows) = csv.reader((folder / "table.csv").open(encoding="utf-8"))
    assert len(rows) == 2 and len(rows[0]) == len(head)
    text = (folder / "text.txt").read_text(encoding="utf-8")
    assert text.startswith("Two cuts\n") and "Seeds: 1, 2" in text and "lora_r_cut 2" in text
    figures = sorted(path.name for path in (folder / "figures").iterdir())
    assert [name for name in figures if name.endswith(".svg")] == sorted(
        name for name in saved(page) if name.endswith(".svg")
    )
    for name in figures:
        content = (folder / "figures" / name).read_bytes()
        if name.endswith(".pdf"):
            assert content.startswith(b"%PDF") and b"/FontFile2" in content, "its fonts are inside"
        else:
            shown_page = shown(browser, folder / "figures" / name)
            assert shown_page.value(OUTSIDE) == []
            shown_page.close()
