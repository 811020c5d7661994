"""What a server could read of the clients' text, of runs in whose folder an audit lies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from splitft.errors import OutputError
from splitft.tools.report.charts.shares import Share, share_chart
from splitft.tools.report.groups import Variant
from splitft.tools.report.sections import Panel, Section, make_section

TITLE = "What the server could read"
FILE, FILES = "audit.json", "files: "  # the second: how attacks on what a run left begin
LEFT = FILES, "adapter: "  # and those on its adapter


@dataclass(frozen=True)
class AuditPart:
    """The part of the page.

    Args:
        stored: What was found in the folders of the runs, and told by their adapters, in sentences.
        not_tried: By the audits.
        samples: (variant, true text, recovered text).
    """

    section: Section
    stored: list[str]
    not_tried: list[str]
    samples: list[list[str]]


def audit_part(variants: Sequence[Variant], *, samples: bool = False) -> AuditPart | None:
    """Return the part of the page about audits; None where no run has one.

    Of each variant the first run with an audit. samples: whether recovered text is shown. Raises OutputError
    where an audit is damaged.
    """
    panels, stored, not_tried, shown = [], list[str](), list[str](), list[list[str]]()
    for number, variant in enumerate(variants):
        run = next((run for run in variant.runs if run.audit), None)
        if run is None:
            continue
        try:
            chart = share_chart(bars(run.audit), "tokens that are right (%)", "client (cut)")
            stored += [f"{variant.label}: {one}" for one in left_behind(run.audit)]
            not_tried += [one for one in map(_plain, run.audit["not_tried"]) if one not in not_tried]
            found = [[variant.label, str(s["true"]), str(s["recovered"])] for s in run.audit["samples"]]
        except (KeyError, TypeError, ValueError, AttributeError):
            path = run.path / FILE
            raise OutputError(f"{path} is damaged: audit the job again, or move it away") from None
        panels.append(Panel(chart, f"{variant.label}, seed {run.seed}", number))
        shown += found if samples else []
    note = (
        "The best attack of splitft audit on what each client sends in its first local step; the tick is "
        "what guessing reads of the same rows. Lower bounds: a better attack reads more."
    )
    section = make_section(TITLE, panels, note)
    return AuditPart(section, stored, not_tried, shown) if section else None


def _plain(text: object) -> str:
    """Return a line of Markdown as a page shows it."""
    return str(text).replace("`", "")


def bars(audit: Mapping[str, Any]) -> list[Share]:
    """Return a bar of each client: of the attack on its text that reads most."""
    best: dict[str, Mapping[str, Any]] = {}
    for line in audit["lines"]:
        if line["of"] == "text" and line["reading"] and not line["attack"].startswith(FILES):
            other = best.setdefault(line["client"], line)
            if line["reading"]["tokens"]["value"] > other["reading"]["tokens"]["value"]:
                best[line["client"]] = line
    found = []
    for client, line in best.items():
        tokens, cut = line["reading"]["tokens"], line["cut"]
        value, floor = float(tokens["value"]), float(tokens["floor"])
        label = str(client) if cut is None else f"{client} (cut {int(cut)})"
        rows = f"{line['attack']}, {int(line['reading']['rows'])} rows: {line['verdict']}"
        found.append(Share(label, value, floor, f"{value:.0%} (guess {floor:.0%})", rows))
    return found


def left_behind(audit: Mapping[str, Any]) -> list[str]:
    """Return a sentence of each attack on what the run left on its disk, and on its adapter."""
    return [
        f"{line['attack']}, {line['client']}: {line['verdict']} ({line['note']})."
        for line in audit["lines"]
        if line["attack"].startswith(LEFT)
    ]
