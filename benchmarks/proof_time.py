"""What the proof before a run costs: CPU seconds for SmolLM2-135M at one cut and at four.

On one thread, in float32 and bfloat16, in a process of its own each: the choice of LoRA targets (trials on
small copies), then the proof of a training step on the model itself, with everything that a job with default
settings asks of it (next tokens, loss in chunks, rows without padding). Loading and injecting are not
counted. Run it on a quiet machine:

    python benchmarks/proof_time.py [--repeats 3]
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch
from benchlib.memory import in_own_process
from benchlib.record import RESULTS, save, spread, table
from rich.console import Console

from splitft import Job
from splitft.proof.split import check_split
from splitft.running.model import choose_targets, inject_adapters, load_base, wants_padding_free

CUTS = {"one cut": [2], "four cuts": [2, 4, 6, 8]}


def measure(cuts: list[int], bf16: bool) -> dict[str, float]:
    """Return the CPU seconds of the choice of targets, and of the proof at these cuts."""
    torch.set_num_threads(1)
    job = Job(
        model_name_or_path="builtin:smollm2-135m", dataset_name="builtin:sotu", clients=len(cuts),
        cuts=cuts, bf16=bf16, use_cpu=True,
    )  # fmt: skip
    model = load_base(job, Console(quiet=True))
    began = time.process_time()
    targets, _ = choose_targets(job, model)
    chosen = time.process_time()
    slots = inject_adapters(job, model, targets)
    injected = time.process_time()
    report = check_split(model, cuts, padding_free=wants_padding_free(job), slots=slots)
    if not report.ok or report.padding_free:
        raise SystemExit(f"the proof does not hold: {report.reason} {report.padding_free}")
    return {"targets": chosen - began, "proof": time.process_time() - injected}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, default=RESULTS / "proof_time.json")
    parser.add_argument("--one", nargs=2, metavar=("CUTS", "DTYPE"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(CUTS[options.one[0]], options.one[1] == "bf16")))
        return
    found: dict[str, Any] = {}
    for dtype in ("fp32", "bf16"):
        for name in CUTS:
            taken = [in_own_process("--one", name, dtype) for _ in range(options.repeats)]
            parts = {part: [one[part] for one in taken] for part in ("targets", "proof")}
            parts["both"] = [sum(one.values()) for one in taken]
            found[f"{dtype}, {name}"] = {part: spread(values) for part, values in parts.items()}
    save(found, options.out)
    rows = [(name, *(f"{part['median']:.2f}" for part in parts.values())) for name, parts in found.items()]
    print(table(("CPU s, median", "targets", "proof", "both"), rows))


if __name__ == "__main__":
    main()
