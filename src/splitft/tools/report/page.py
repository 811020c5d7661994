"""The report: one HTML page that needs nothing else, no network and no script."""

from __future__ import annotations

import re
from collections.abc import Sequence
from importlib.metadata import version

from jinja2 import Environment, PackageLoader, StrictUndefined

from splitft.common.figures import style
from splitft.tools.report.bar_sections import cut_section, data_section, time_section, traffic_section
from splitft.tools.report.charts.svg import COLOURS, FONT, paint
from splitft.tools.report.conditions import conditions
from splitft.tools.report.curve_sections import curve_sections
from splitft.tools.report.details import details
from splitft.tools.report.groups import Variant, group_runs, unnamed_keys
from splitft.tools.report.runs import RunFolder
from splitft.tools.report.series import has_virtual_time
from splitft.tools.report.table import remark, verdict_columns
from splitft.tools.report.verdict import report_data, sentences, target_note

# Whatever came into the page, a browser loads and runs nothing.
POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
# Characters that move a cursor or turn the direction of text, for who prints the file or searches in it.
UNSEEN = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
GENERATOR = "splitft report"  # in the page's <meta>: a page that has it may be written anew


def render_page(runs: Sequence[RunFolder], title: str | None = None, *, notes: Sequence[str] = ()) -> str:
    """Return the page. Names of runs and clients may hold anything: all is escaped.

    title: the heading; by default what is compared. notes: said at the top, e.g. runs that were passed over.
    """
    environment = Environment(
        loader=PackageLoader("splitft", "tools/report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    variants = group_runs(runs)
    data = report_data(variants)
    with style(FONT):
        possible = [
            *curve_sections(variants),
            cut_section(variants),
            time_section(variants),
            traffic_section(variants),
            data_section(variants),
        ]
    page = environment.get_template("page.html.j2").render(
        policy=POLICY,
        title=title or _default_title(len(variants), len(runs)),
        colours=COLOURS,
        paint=paint,
        generator=f"{GENERATOR} {version('splitft')}",
        notes=list(notes) + _about_labels(variants),
        sentences=sentences(data),
        random_weights=[row["label"] for row in data["variants"] if row["random_weights"]],
        target_note=target_note(data),
        virtual=any(has_virtual_time(run) for variant in variants for run in variant.runs),
        paper=any(row["paper_accuracy"] for row in data["variants"]),
        variants=[
            {"label": row["label"], "remark": remark(row), "number": number, "details": details(variant)}
            for number, (row, variant) in enumerate(zip(data["variants"], variants, strict=True))
        ],
        columns=verdict_columns(data),
        sections=[section for section in possible if section],
        conditions=conditions(variants),
    )
    return UNSEEN.sub("\ufffd", page)


def _default_title(variants: int, runs: int) -> str:
    if variants == 1:
        return "SplitFT: one job" if runs == 1 else f"SplitFT: one job, {runs} runs"
    return f"SplitFT: {variants} variants compared, {runs} runs"


def _about_labels(variants: Sequence[Variant]) -> list[str]:
    keys = unnamed_keys(variants)
    if not keys:
        return []
    return [
        "The names of the variants leave out some of what sets them apart, so differences may have several "
        f"causes. They differ in {', '.join(keys)}, too: see “Variants in detail”."
    ]
