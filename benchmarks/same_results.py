"""Twelve jobs run by two versions of the project, and their results compared byte for byte, timings aside.

    python benchmarks/same_results.py BEFORE [AFTER] [--jobs NAME ...] [--keep FOLDER]

BEFORE and AFTER are git revisions, each of which is checked out for the time being, or folders with the
project in them; AFTER is the present working tree by default. Both versions run the same jobs in turn, as
real processes through their own command lines, one thread each. Compared are, for each run of a job:

- the history: every field of every record of history.jsonl but `round_seconds` and `evaluation_seconds`;
- the ledger: bytes by direction and kind in every one of these records;
- decisions.jsonl, where the run has one, less measured seconds in runs over a network;
- the adapter: the bits of every tensor, with `local_only` of every client's; and adapter_config.json.

benchlib/same_jobs.py has the jobs. They cover the modes of tests/invariant: adapters per client and shared,
turns, labels at home, moving cuts with a lower rank at the cut, all kinds of aggregation, codecs, frozen
fronts, batches in parts, stale gradients, rows without padding, clients computed together, accumulation,
dropout, virtual devices, the baselines, a run that is killed and resumed, runs over a network with mTLS (the
second one with an aggregator), and two rounds of the recipe study-smollm2. A job that fails is a difference,
shown with the last lines of its logs. The exit code is 1 where anything differs. Settings that a version
writes otherwise are translated by `settings_for` in benchlib/checkouts.py.

How the comparison itself was checked: a version against itself is the same in all jobs; and `--break` makes
AFTER wrong on purpose. `--break seed` runs AFTER with another seed: all twelve jobs differ, from the first
record on. `--break adapter`, `config`, `history`, `ledger` and `decisions` change one number of AFTER's files
when a run is over: the last bit of one value of the adapter, the last bit of `lora_alpha`, the last bit of
the last round's loss, one byte of one kind in the last round, or the last bit of one target of the last
decision. In each run of the eleven tiny jobs the comparison reported each of them, in this part and in no
other: `local_only` and `centralized` have no bytes to count, and only jobs with moving cuts have decisions. A
version without the encoder of int8 failed in the jobs with this codec, and in no other that was tried.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchlib.checkouts import Checkout, CommandError, open_checkouts
from benchlib.damage import DAMAGES
from benchlib.same_jobs import STATED, SameJob, run_job, same_jobs
from benchlib.same_outputs import OutputsMissingError, counts, differences
from benchlib.tiny_inputs import write_inputs


def run_sides(
    sides: tuple[Checkout, Checkout], name: str, job: SameJob, changes: Mapping[str, Any]
) -> tuple[dict[str, float], dict[str, str]]:
    """Run a job with both versions; return {side: seconds} and {side: reason of its failure}.

    changes: settings of AFTER alone.
    """
    seconds, failed = dict[str, float](), dict[str, str]()
    for checkout in sides:
        own = changes if checkout.side == "after" else {}
        try:
            seconds[checkout.side] = run_job(checkout, job, checkout.scratch / name, own)
        except CommandError as error:
            failed[checkout.side] = str(error)
    return seconds, failed


def compare(sides: tuple[Checkout, Checkout], name: str, job: SameJob) -> tuple[bool, str]:
    """Return whether a job's results are the same, and the first difference or a count of things compared."""
    found: list[tuple[str, str]] = []  # the run and the part, and the place
    compared = Counter({"runs": len(job.runs)} if len(job.runs) > 1 else {})
    for run in job.runs:
        before, after = (checkout.scratch / name / run / "run" for checkout in sides)
        where = f"{run}: " if len(job.runs) > 1 else ""
        try:
            parts = differences(before, after, network=job.network)
            compared += counts(before)
        except OutputsMissingError as error:
            parts = [("files", str(error))]
        found += [(where + part, place) for part, place in parts]
    if not found:
        return True, ", ".join(f"{count} {what}" for what, count in compared.items())
    (part, place), *others = found
    also = f" (also {', '.join(part for part, _ in others)})" if others else ""
    return False, f"{part}: {place}{also}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("before", metavar="BEFORE", help="a git revision or a folder")
    parser.add_argument("after", metavar="AFTER", nargs="?", help="the same; default: this working tree")
    parser.add_argument("--jobs", nargs="+", metavar="NAME", choices=sorted(same_jobs(Path())))
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="keep all runs in a new folder")
    parser.add_argument("--break", dest="broken", choices=["seed", *DAMAGES], help=argparse.SUPPRESS)
    options = parser.parse_args()
    with open_checkouts(options.before, options.after, options.keep) as (before, after, shared):
        print(f"before: {before.name}, after: {after.name}", flush=True)
        if options.broken:
            print(f"on purpose, the {options.broken} of after is another one")
        jobs = same_jobs(write_inputs(shared))
        wanted = [name for name in jobs if name in (options.jobs or jobs)]
        different = [name for name in wanted if not judge((before, after), name, jobs[name], options.broken)]
    same = len(wanted) - len(different)
    print(
        f"{same} of {len(wanted)} jobs same" + (f"; different: {', '.join(different)}" if different else "")
    )
    sys.exit(1 if different else 0)


def judge(sides: tuple[Checkout, Checkout], name: str, job: SameJob, broken: str | None) -> bool:
    """Run a job with both versions, print its line, and return whether all is the same."""
    seconds, failed = run_sides(sides, name, job, {"seed": STATED["seed"] + 1} if broken == "seed" else {})
    took = "".join(f"{seconds[s.side]:7.1f} s" if s.side in seconds else f"{'-':>9}" for s in sides)
    if failed:
        print(f"{name:<15}{took}  FAILED {' and '.join(failed)}")
        for side, why in failed.items():
            print("\n".join(f"    {side}: {line}" for line in why.splitlines()), flush=True)
        return False
    if broken and broken != "seed":
        for run in job.runs:
            DAMAGES[broken](sides[1].scratch / name / run / "run")
    same, told = compare(sides, name, job)
    print(f"{name:<15}{took}  " + (f"same ({told})" if same else f"DIFFERENT {told}"), flush=True)
    return same


if __name__ == "__main__":
    main()
