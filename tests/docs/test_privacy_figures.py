"""Every figure of privacy in the documentation is one of a recorded audit (src/splitft/job/audited.json)."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from repository import ROOT
from splitft.job.audited import record

sys.path.insert(0, str(ROOT / "benchmarks"))

from audited import recorded

SHARE = re.compile(r"(\d+(?:\.\d+)?) ?%")
FIGURE = re.compile(r"\d+\.\d+")
# Pages, and between which headings their figures stand. docs/audit.md has a test of its own.
SECTIONS = [
    ("README.md", "## Privacy", "## Documentation"),
    ("docs/threat-model.md", "## Exposure to the server", "### With whole models at the clients"),
    ("docs/redaction.md", "## Measured", "## Named entities"),
    ("docs/choosing.md", "## What may the server read?", "## Where do the labels go?"),
]

VERIFY = "verify by forward"


def page(name: str, start: str = "", end: str = "") -> str:
    text = (ROOT / name).read_text(encoding="utf-8")
    assert start in text and end in text
    text = text.partition(start)[2] if start else text
    return text.partition(end)[0] if end else text


def shares(value: Any) -> Iterator[float]:
    """All shares of the record, in percent, to a tenth and whole."""
    for key, one in value.items() if isinstance(value, dict) else enumerate(value):
        if isinstance(one, dict | list):
            yield from shares(one)
        elif isinstance(one, float) and key in ("value", "floor", "read", "redacted"):
            yield from (round(100 * one, 1), round(100 * one))


def percent(value: float) -> str:
    return f"{100 * value:.1f} %"


def cut_rows() -> Iterator[str]:
    """The rows of the threat model's table."""
    for audit in record()["audits"]:
        if audit["codec"] != "none":
            continue
        by = {line["attack"]: line["reading"]["tokens"] for line in audit["lines"] if line["reading"]}
        each = (by[name] for name in ("inverter", VERIFY, "gradients"))
        cells = (f"{percent(one['value'])} ({percent(one['floor'])})" for one in each)
        yield f"| {audit['cut']} | {' | '.join(cells)} |"


def redaction_rows() -> Iterator[str]:
    """The rows of the table of redaction's price."""
    for one in record()["redaction"]["shares"]:
        cells = [percent(one["redacted"]), f"{one['after']:.1f}", f"{one['after_on_whole_rows']:.1f}"]
        ways = "the words before", "the words on both sides"
        guessed = [one["guessed"][way]["tokens"] if "guessed" in one else None for way in ways]
        others = [line for line in one["audit"] if line["attack"] in ("inverter", VERIFY)]
        each = [*guessed, *(line["reading"]["tokens"] for line in others)]
        cells += [f"{percent(of['value'])} ({percent(of['floor'])})" if of else "–" for of in each]
        yield f"| {' | '.join(cells)} |"


def test_the_record_is_what_the_audit_of_the_documentation_recorded() -> None:
    """Each cut of docs/audits/none.json, and nothing else: `python benchmarks/audited.py` writes it."""
    assert record()["audits"] == recorded()
    assert [audit["cut"] for audit in record()["audits"]] == [1, 2, 4, 8]


def test_the_tables_are_the_record() -> None:
    for name, rows in (("docs/threat-model.md", cut_rows()), ("docs/redaction.md", redaction_rows())):
        text = page(name)
        for row in rows:
            assert row in text, f"{name} lacks this row of the record:\n{row}"


@pytest.mark.parametrize(("name", "start", "end"), SECTIONS, ids=[one[0] for one in SECTIONS])
def test_no_other_share_stands_in_a_section_on_privacy(name: str, start: str, end: str) -> None:
    known = {*shares(record()), 95.0}  # a 95 % interval
    foreign = [share for share in SHARE.findall(page(name, start, end)) if float(share) not in known]
    assert not foreign, f"{name}: {', '.join(foreign)} % stand in no recorded audit"


def test_the_verdict_on_defences_has_the_figures_of_its_table_alone() -> None:
    """And the table is the record's: tests/docs/test_audit_page.py."""
    table, _, verdict = page("docs/defences.md", "## Measured").partition("## Verdict")
    known = set(FIGURE.findall(table))
    assert len(known) > 20 and verdict.strip()
    foreign = [figure for figure in FIGURE.findall(verdict) if figure not in known]
    assert not foreign, foreign


def test_a_foreign_figure_would_be_found() -> None:
    known = {*shares(record())}
    assert {round(100 * record()["audits"][0]["lines"][1]["reading"]["tokens"]["value"], 1)} <= known
    assert 12.3 not in known and "12.3" in SHARE.findall("an attack read 12.3 % of it")
