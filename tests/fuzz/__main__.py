"""`python -m fuzz TARGET [--inputs N] [--seed S] [--save FOLDER]`: inputs, and every kind of finding."""

from __future__ import annotations

import argparse
import random
import time
import traceback
from pathlib import Path

import torch

from fuzz.inputs import FoundError, Tally, try_one
from fuzz.targets import TARGETS, target
from splitft.common.startup import import_libraries


def main() -> int:
    """Fuzz a target; return 1 where anything was found."""
    parser = argparse.ArgumentParser(prog="python -m fuzz", description=__doc__)
    parser.add_argument("target", choices=sorted(TARGETS))
    parser.add_argument("--inputs", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--save", type=Path, help="folder for the inputs that were found")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    import_libraries()
    fuzzed, rng, tally = target(arguments.target), random.Random(arguments.seed), Tally()
    found: dict[str, int] = {}
    began = time.perf_counter()
    for number in range(arguments.inputs):
        data = fuzzed.generate(rng)
        try:
            try_one(fuzzed, data, tally)
        except FoundError as finding:
            kind = kind_of(finding)
            found[kind] = found.get(kind, 0) + 1
            if found[kind] == 1:
                print(f"--- input {number}: {kind}\n{finding}\n", flush=True)
                if arguments.save is not None:
                    arguments.save.mkdir(parents=True, exist_ok=True)
                    (arguments.save / f"{arguments.target}-{arguments.seed}-{number}").write_bytes(data)
    seconds = time.perf_counter() - began
    print(
        f"{arguments.inputs} inputs in {seconds:.0f} s, the slowest took {tally.slowest:.3f} s of computing"
    )
    print(", ".join(f"{outcome}: {count}" for outcome, count in tally.outcomes.most_common()))
    for kind, count in found.items():
        print(f"FOUND {count} times: {kind}")
    return 1 if found else 0


def kind_of(finding: FoundError) -> str:
    """Return a line by which like findings are known: the error, and where it was raised."""
    error = finding.__cause__
    if error is None:
        return finding.what[:80].replace("\n", " ")
    while error.__cause__ is not None:
        error = error.__cause__
    last = traceback.extract_tb(error.__traceback__)[-1]
    for frame in traceback.extract_tb(error.__traceback__):
        if "splitft" in frame.filename:
            last = frame
    text = str(error).strip().splitlines()
    return f"{type(error).__name__} at {Path(last.filename).name}:{last.lineno}: {(text or [''])[-1][:100]}"


if __name__ == "__main__":
    raise SystemExit(main())
