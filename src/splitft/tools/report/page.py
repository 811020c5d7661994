"""The report: one HTML page that needs no network and no script; files to save are inside it."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from splitft.common.figures import DASHES, dashes_number, style
from splitft.tools.report.audit_section import audit_part
from splitft.tools.report.bar_sections import cut_section, data_section, time_section, traffic_section
from splitft.tools.report.charts.svg import COLOURS, FONT, paint
from splitft.tools.report.conditions import conditions
from splitft.tools.report.curve_sections import curve_sections
from splitft.tools.report.details import details
from splitft.tools.report.difference_section import difference_section
from splitft.tools.report.downloads import Download, csv_download, latex_download, slug
from splitft.tools.report.groups import Variant, group_runs, unnamed_keys
from splitft.tools.report.runs import RunFolder
from splitft.tools.report.saved import csv_text, latex_text
from splitft.tools.report.sections import Section
from splitft.tools.report.series import has_virtual_time
from splitft.tools.report.table import Column, how_shown, parts_of, remark, verdict_columns, verdict_file
from splitft.tools.report.verdict import report_data, sentences, target_note

# Whatever came into the page, a browser loads and runs nothing.
POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
# Characters that move a cursor or turn the direction of text, for who prints the file or searches in it.
UNSEEN = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
BOOKTABS = "needs \\usepackage{booktabs}"
GENERATOR = "splitft report"  # in the page's <meta>: a page that has it may be written anew


@dataclass(frozen=True)
class VerdictTable:
    """One table of the verdict, and its files."""

    title: str
    note: str
    columns: list[Column]
    downloads: list[Download]


def render_page(
    runs: Sequence[RunFolder],
    title: str | None = None,
    *,
    notes: Sequence[str] = (),
    reference: str | None = None,
    files: bool = True,
    audit_samples: bool = False,
) -> str:
    """Return the page. Names of runs and clients may hold anything: all is escaped.

    title: the heading; by default what is compared. notes: said at the top, e.g. runs that were passed over.
    reference: the label of the variant that others are compared with. files: whether tables and figures can
    be saved from the page; they are most of its bytes. audit_samples: whether text that an audit recovered is
    shown. Raises JobError where no variant is the reference.
    """
    environment = Environment(
        loader=PackageLoader("splitft", "tools/report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    variants = group_runs(runs)
    data = report_data(variants, reference)
    columns = verdict_columns(data)
    with style(FONT):
        page = environment.get_template("page.html.j2").render(
            policy=POLICY,
            title=title or default_title(len(variants), len(runs)),
            colours=COLOURS,
            paint=paint,
            dashes=[[2 * length for length in dashes] for dashes in DASHES],
            dash_of=dashes_number,
            generator=f"{GENERATOR} {version('splitft')}",
            notes=[*notes, *_about_labels(variants), *_self_reported(variants)],
            sentences=sentences(data),
            random_weights=[row["label"] for row in data["variants"] if row["random_weights"]],
            target_note=target_note(data),
            virtual=any(has_virtual_time(run) for variant in variants for run in variant.runs),
            paper=any(row["paper_accuracy"] for row in data["variants"]),
            variants=[
                {"label": row["label"], "remark": remark(row), "number": number, "details": details(variant)}
                for number, (row, variant) in enumerate(zip(data["variants"], variants, strict=True))
            ],
            tables=verdict_views(data),
            bold=any(column.best for column in columns),
            files=files,
            saved_rows=_saved_rows,
            differences=difference_section(data),
            sections=chart_sections(variants),
            audit=audit_part(variants, samples=audit_samples),
            conditions=conditions(variants),
        )
    return UNSEEN.sub("\ufffd", page)


def chart_sections(variants: Sequence[Variant]) -> list[Section]:
    """Return the page's sections of charts, without that of differences."""
    possible = [
        *curve_sections(variants),
        cut_section(variants),
        time_section(variants),
        traffic_section(variants),
        data_section(variants),
    ]
    return [section for section in possible if section]


def verdict_views(data: dict[str, Any]) -> list[VerdictTable]:
    """Return the tables of the verdict, each with what it saves: CSV for programs, LaTeX as it is shown."""
    labels = [row["label"] + remark(row) for row in data["variants"]]
    views = []
    for part, columns in parts_of(verdict_columns(data)).items():
        name, note = slug(part), f"{how_shown(part, data)}."
        headings = ["variant", *(f"{column.heading}\n{column.unit}" for column in columns)]
        rows = [[label, *(c.cells[number] for c in columns)] for number, label in enumerate(labels)]
        bold = {(row, place) for place, column in enumerate(columns, start=1) for row in column.best}
        files = [
            csv_download(name, csv_text(*verdict_file(columns, labels))),
            latex_download(
                name, latex_text(headings, rows, bold=bold, comment=f"{part}: {note}\n{BOOKTABS}")
            ),
        ]
        views.append(VerdictTable(part, note[:1].upper() + note[1:], columns, files))
    return views


def _saved_rows(
    name: str, headings: Sequence[str], rows: Sequence[Sequence[str]], left: Collection[int]
) -> list[Download]:
    """Return the files of a table of texts, of all its rows."""
    text = latex_text(headings, rows, left=left, comment=BOOKTABS)
    return [csv_download(slug(name), csv_text(headings, rows)), latex_download(slug(name), text)]


def default_title(variants: int, runs: int) -> str:
    if variants == 1:
        return "SplitFT: one job" if runs == 1 else f"SplitFT: one job, {runs} runs"
    return f"SplitFT: {variants} variants compared, {runs} runs"


def _self_reported(variants: Sequence[Variant]) -> list[str]:
    """Say whose figures are those of clients that nobody could check."""
    own = [
        variant.label
        for variant in variants
        if any("perplexity" in run.summary.get("self_reported", ()) for run in variant.runs)
    ]
    if not own:
        return []
    return [
        f"Losses, perplexities and accuracies of {', '.join(own)} are self-reported: clients counted them on "
        "labels that never left them, and no server could check them."
    ]


def _about_labels(variants: Sequence[Variant]) -> list[str]:
    keys = unnamed_keys(variants)
    if not keys:
        return []
    return [
        "The names of the variants leave out some of what sets them apart, so differences may have several "
        f"causes. They differ in {', '.join(keys)}, too: see “Variants in detail”."
    ]
