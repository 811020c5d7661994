"""A step with padded rows against one with `padding_free: true`: CPU seconds of both sides of the cut.

GPT2-small's shape with random weights and no dropout, rank 16 on c_attn and c_proj, cut 2, one client with 4
rows a step and its server in one process, int8 on the wire, one thread. `skewed`: rows in the lengths of
State of the Union paragraphs, drawn at random, at most 512 tokens; `equal`: rows of 128. All sides take the
same batches, step by step in turn; a first one is not counted.

    python benchmarks/padding.py [--rows skewed] [--repeats 5]
"""

from __future__ import annotations

import argparse
import json
import time
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from benchlib.parties import Federation, gpt2, make_job, split_model
from benchlib.record import RESULTS, ratio, save, spread, table
from benchlib.rows import rows_of, skewed_rows

from splitft.data import Rows, train_stream
from splitft.model.attention import attend_samples_apart

BATCH, LONGEST, EQUAL = 4, 512, 128
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
SIDES = [f"{form} {dtype}" for dtype, form in product(DTYPES, ("padded", "padding_free"))]


def make_rows(kind: str, count: int) -> Rows:
    """Return a client's rows."""
    if kind == "equal":
        return rows_of([EQUAL] * count, seed=0)
    lengths = skewed_rows(1, LONGEST)["client-0"].lengths
    chosen = np.random.default_rng(0).choice(lengths, count, replace=False)
    return rows_of(chosen.tolist(), seed=0)


def make_side(side: str, rows: Rows) -> Federation:
    """Return a server and a client."""
    form, dtype = side.split()
    model = split_model(gpt2(), DTYPES[dtype])
    if form == "padding_free":
        attend_samples_apart(model.model)
    return Federation(make_job(1, BATCH, padding_free=form == "padding_free"), model, {"client-0": rows})


def measure(kind: str, repeats: int) -> dict[str, Any]:
    """Return CPU seconds of steps of every side, taking turns, after one that is not measured."""
    rows = make_rows(kind, BATCH * (repeats + 1))
    stream = train_stream(make_job(1, BATCH), "client-0", rows)
    batches = [[int(rows.lengths[i]) for i in next(stream)] for _ in range(repeats + 1)][1:]
    tokens = {
        "real": sum(map(sum, batches)), "padded": sum(max(batch) * len(batch) for batch in batches)
    }  # fmt: skip
    sides = {side: make_side(side, rows) for side in SIDES}
    seconds: dict[str, list[float]] = {side: [] for side in SIDES}
    for number in range(repeats + 1):
        for side, parties in sides.items():
            began = time.process_time()
            (loss,) = parties.step()
            taken = time.process_time() - began
            if number:
                seconds[side].append(taken)
            print(f"{number}  {side:<18}{taken:8.2f} CPU s  loss {loss:.5f}", flush=True)
    found: dict[str, Any] = {"cpu_seconds": {side: spread(values) for side, values in seconds.items()}}
    found["sums"] = {side: sum(values) for side, values in seconds.items()}
    lines = [(s, *(f"{found['cpu_seconds'][s][key]:.2f}" for key in ("median", "min", "max"))) for s in SIDES]
    print(table((f"CPU seconds a step, {kind} rows", "median", "least", "most"), lines))
    for dtype in DTYPES:
        padded, free = f"padded {dtype}", f"padding_free {dtype}"
        found[dtype] = ratio(seconds[padded], seconds[free]) | {
            "of_sums": found["sums"][padded] / found["sums"][free]
        }
        print(f"{dtype}: padded rows take {found[dtype]['of_sums']:.2f} times as long over all steps")
    share = tokens["padded"] / tokens["real"]
    print(f"{tokens['real']} tokens, padded to the batch {share:.2f} times as many")
    return found | {"tokens": tokens, "repeats": repeats}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", choices=("skewed", "equal"), action="append", help="default: both")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path, default=RESULTS / "padding.json")
    options = parser.parse_args()
    torch.set_num_threads(1)
    result: dict[str, Any] = json.loads(options.out.read_text()) if options.out.exists() else {}
    for kind in options.rows or ("skewed", "equal"):
        result[kind] = measure(kind, options.repeats)
        save(result, options.out)


if __name__ == "__main__":
    main()
