"""Write the tables of docs/audit.md and docs/defences.md from docs/audits, or record the audits anew.

python docs/make_audit_tables.py             # the tables, from what is recorded
python docs/make_audit_tables.py --record    # runs every audit first: some minutes each
python benchmarks/defences.py                # records the defences: two minutes a run
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from splitft.tools.audit.tables import lines_markdown

PAGE = Path(__file__).with_name("audit.md")
RECORDED = PAGE.with_name("audits")
BEGIN, END = "<!-- tables: docs/make_audit_tables.py -->", "<!-- end of tables -->"
FIXED = "cut_policy.method=fixed devices=null --longest --rows 8"
COMMANDS = {  # by the name of the file
    "default": "splitft audit quickstart",
    "none": "splitft audit quickstart codec=none labels=client tail_blocks=1 clients=4 'cuts=[1,2,4,8]' "
    + FIXED,
}


DEFENCES = PAGE.with_name("defences.md")
HEADINGS = (
    "defence", "perplexity (to none)", "text, verified (guessing)", "place: norms", "place: public tail",
    "place: averaged tail", "begin right", "labels (guessing)",
)  # fmt: skip


def defences_table() -> str:
    """Return the table of docs/defences.md: a row a defence, in each cell the seeds in turn."""
    runs = json.loads((RECORDED / "defences.json").read_text(encoding="utf-8"))["runs"]
    rows = [HEADINGS, ["---"] * len(HEADINGS)]
    rows += [[name, *_defence_cells(seeds, runs["none"])] for name, seeds in runs.items()]
    return "\n".join([BEGIN, "", *(f"| {' | '.join(row)} |" for row in rows), "", END])


def _defence_cells(seeds: dict[str, Any], plain: dict[str, Any]) -> list[str]:
    def cell(tell: Any) -> str:
        return ", ".join(tell(seeds[seed], plain[seed]) for seed in sorted(seeds))

    def price(run: dict[str, Any], other: dict[str, Any]) -> str:
        return f"{run['perplexity']:.1f} ({100 * (run['perplexity'] / other['perplexity'] - 1):+.1f} %)"

    def share(own: dict[str, float]) -> str:
        return f"{100 * own['value']:.1f} % ({100 * own['floor']:.1f} %)"

    found = [cell(price), cell(lambda run, _: share(run["text"]["verify by forward"]))]
    if not all("places" in run for run in seeds.values()):
        return [*found, *["not sent"] * 5]
    for how in ("norms", "public tail", "averaged tail"):
        found.append(cell(lambda run, _, how=how: f"{run['places'][how]['auc']:.2f}"))
    found.append(cell(lambda run, _: f"{100 * run['places']['averaged tail']['exact']:.1f} %"))
    return [*found, cell(lambda run, _: share(run["labels"]["averaged tail"]))]


def tables() -> str:
    """Return the part of the page that is written here."""
    parts = [BEGIN, ""]
    for name, command in COMMANDS.items():
        told = json.loads((RECORDED / f"{name}.json").read_text(encoding="utf-8"))
        others, noise = (check["read"] for check in told["checks"][:2])
        parts += [
            "```",
            command,
            "```",
            "",
            *lines_markdown(told),
            "",
            f"{told['cpu_seconds']:.0f} CPU seconds with one thread. Checks: "
            f"the guess beside other rows read {others:.1%}, noise of the same moments {noise:.1%}.",
            "",
        ]
    return "\n".join([*parts, END])


def page(path: Path = PAGE) -> str:
    """Return a page with its tables."""
    text = path.read_text(encoding="utf-8")
    before, after = text.partition(BEGIN)[0], text.partition(END)[2]
    return before + (tables() if path == PAGE else defences_table()) + after


def record() -> None:
    """Run every audit, and keep its figures without the text that it recovered."""
    for name, command in COMMANDS.items():
        with tempfile.TemporaryDirectory() as folder:
            subprocess.run(["bash", "-euc", f"{command} --out {folder}"], check=True)
            told: dict[str, Any] = json.loads((Path(folder) / "audit.json").read_text(encoding="utf-8"))
        del told["samples"]
        RECORDED.mkdir(exist_ok=True)
        (RECORDED / f"{name}.json").write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    if "--record" in sys.argv[1:]:
        record()
    for path in (PAGE, DEFENCES):
        path.write_text(page(path), encoding="utf-8")
