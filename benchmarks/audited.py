"""The audits behind every privacy figure of this project: runs them, and records them in the package.

SmolLM2 (135M), State of the Union, one client, labels at home: `splitft audit quickstart` at each cut. What a
run prints of its server's view, the agreement of a client's owner and tables of the documentation come from
the record, src/splitft/job/audited.json, and a test holds the pages to it.

    python benchmarks/audited.py [--rows 4] [--cuts 1,2,4,8]     # minutes on one core
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from benchlib.record import machine
from rich.console import Console

from splitft import load_job
from splitft.job.audited import RECORD
from splitft.tools.audit.command import audit_command

PLACE = Path(__file__).parents[1] / "src/splitft/job" / RECORD
KEYS = (
    "clients=1", "devices=null", "cut_policy.method=fixed", "codec=none", "labels=client", "tail_blocks=1",
)  # fmt: skip


def audited(cut: int, rows: int) -> dict[str, Any]:
    """Return the audit of one cut, with the command that prints it, and without any text."""
    keys = [*KEYS[:1], f"cuts={cut}", *KEYS[1:]]
    told = audit_command(load_job("quickstart", keys), rows=rows, console=Console(quiet=True))
    command = f"splitft audit quickstart {' '.join(keys)} --rows {rows}"
    kept = ("model", "codec", "labels", "rows", "seconds", "lines", "checks")
    return {"command": command, "cut": cut} | {key: told[key] for key in kept}


def main() -> None:
    """Run the audits, and write them into the record; what else stands in it stays."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=4)
    parser.add_argument("--cuts", default="1,2,4,8")
    options = parser.parse_args()
    record = json.loads(PLACE.read_text(encoding="utf-8")) if PLACE.exists() else {}
    record |= {"audits": record.get("audits", []), "machine": machine()}
    for cut in map(int, options.cuts.split(",")):
        made = audited(cut, options.rows)
        others = [one for one in record["audits"] if one["cut"] != cut]
        record["audits"] = sorted([*others, made], key=lambda one: one["cut"])
        for line in made["lines"]:
            if line["reading"]:
                own = line["reading"]["tokens"]
                print(f"cut {cut}: {line['attack']:<18} {own['value']:.1%} ({own['floor']:.1%})", flush=True)
        PLACE.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
