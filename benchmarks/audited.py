"""The record behind every privacy figure of this project, src/splitft/job/audited.json, from docs/audits.

What a run prints of its server's view, the agreement of a client's owner and tables of the documentation come
from the record. Its audits are the four fixed cuts of docs/audits/none.json (SmolLM2-135M, speeches, labels
at home), which `python docs/make_audit_tables.py --record` makes anew. Tests hold the record to that file,
and the pages to the record.

    python benchmarks/audited.py
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from splitft.job.audited import RECORD

ROOT = Path(__file__).parents[1]
PLACE = ROOT / "src/splitft/job" / RECORD
NAME = "none"  # of the audit in docs/audits: no codec
KEPT = ("model", "codec", "labels", "rows", "seconds")


def recorded() -> list[dict[str, Any]]:
    """Return the audit of docs/audits, a part for each cut, with the command that made it."""
    sys.path.insert(0, str(ROOT / "docs"))
    from make_audit_tables import COMMANDS, RECORDED

    told = json.loads((RECORDED / f"{NAME}.json").read_text(encoding="utf-8"))
    parts = []
    for cut in sorted({line["cut"] for line in told["lines"]}):
        lines = [line for line in told["lines"] if line["cut"] == cut]
        kept = {key: told[key] for key in KEPT} | {"codec": told["codec"] or "none"}
        parts.append({"command": COMMANDS[NAME], "cut": cut, **kept, "lines": lines})
        parts[-1]["checks"] = told["checks"]
    return parts


def main() -> None:
    """Write the audits into the record; what else stands in it stays."""
    record = json.loads(PLACE.read_text(encoding="utf-8"))
    record["audits"] = recorded()
    PLACE.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    for part in record["audits"]:
        for line in part["lines"]:
            if line["reading"]:
                own = line["reading"]["tokens"]
                print(f"cut {part['cut']}: {line['attack']:<18} {own['value']:.1%} ({own['floor']:.1%})")


if __name__ == "__main__":
    main()
