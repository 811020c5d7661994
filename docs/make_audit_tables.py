"""Write the tables of docs/audit.md from recorded audits in docs/audits, or record these anew.

python docs/make_audit_tables.py             # the tables, from what is recorded
python docs/make_audit_tables.py --record    # runs every audit first: some minutes each
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


def page() -> str:
    """Return the page with its tables."""
    text = PAGE.read_text(encoding="utf-8")
    before, after = text.partition(BEGIN)[0], text.partition(END)[2]
    return before + tables() + after


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
    PAGE.write_text(page(), encoding="utf-8")
