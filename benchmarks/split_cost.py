"""What splitting costs: CPU seconds of a split training step against the same unsplit peft step.

GPT2-small's shape with random weights and no dropout, rank 16 on c_attn and c_proj, 4 rows of 128 tokens, one
client, no codec, float32 and bfloat16. The unsplit side is stock transformers and peft, with the model's own
loss. All sides take turns in one process, forward, backward and AdamW; medians. Then the memory of head and
loss alone, with the full logits and in chunks, each in a process of its own. Run it on a quiet machine:

    python benchmarks/split_cost.py [--repeats 11] [--cut 2] [--chunk 128] [--dtypes fp32 bf16]
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch
from benchlib.memory import in_own_process, peak_growth
from benchlib.parties import Federation, Unsplit, gpt2, make_job, random_model, split_model
from benchlib.record import RESULTS, ratio, save, spread, table
from benchlib.rows import fixed_rows

from splitft.model.head import ChunkedHead
from splitft.model.window import run_no_block

BATCH, SEQ, WARM_UP = 4, 128, 2
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def measure_steps(options: argparse.Namespace) -> dict[str, Any]:
    """Return CPU seconds of every side's steps, and what they are of each other."""
    rows, sides = fixed_rows(1, SEQ), {}
    job = make_job(1, BATCH, cuts=options.cut, codec="none", loss_chunk_tokens=options.chunk)
    for name in options.dtypes:
        sides[f"unsplit {name}"] = Unsplit(job, gpt2(), DTYPES[name], rows["client-0"])
        model = split_model(gpt2(), DTYPES[name], loss_chunk_tokens=options.chunk)
        sides[f"split {name}"] = Federation(job, model, rows)
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    losses: dict[str, list[float]] = {name: [] for name in sides}
    for repeat in range(options.repeats + WARM_UP):
        for name, side in sides.items():
            began = time.process_time()
            losses[name] += side.step()
            took = time.process_time() - began
            if repeat >= WARM_UP:
                seconds[name].append(took)
            print(f"{repeat:>3}  {name:<13} loss {losses[name][-1]:.4f}  {took:.3f} CPU s", flush=True)
    found: dict[str, Any] = {"seconds": {name: spread(values) for name, values in seconds.items()}}
    found["losses"] = losses
    found["split_to_unsplit"] = {
        d: ratio(seconds[f"split {d}"], seconds[f"unsplit {d}"]) for d in options.dtypes
    }
    if len(options.dtypes) > 1:
        found["bf16_to_fp32"] = {
            s: ratio(seconds[f"{s} bf16"], seconds[f"{s} fp32"]) for s in ("unsplit", "split")
        }
    return found


def head_memory(dtype: str, chunk: int) -> dict[str, Any]:
    """Return how far this process grows while it takes the loss and its gradient; chunk 0: full logits."""
    model = random_model(gpt2(n_layer=1), DTYPES[dtype]).requires_grad_(False)
    hidden = torch.randn(BATCH, SEQ, model.config.n_embd).to(DTYPES[dtype]).requires_grad_()
    labels = torch.randint(0, model.config.vocab_size, (BATCH, SEQ))
    head = ChunkedHead(model, "plain", chunk or 1)

    def step(rows: torch.Tensor, own: torch.Tensor) -> None:
        if chunk:
            head.loss(rows, own).backward()  # type: ignore[no-untyped-call]
        else:
            model.loss_function(model.lm_head(rows), own, model.config.vocab_size).backward()

    run_no_block(model, hidden.device)
    step(hidden[:1, :2], labels[:1, :2])
    return {"bytes": peak_growth(lambda: step(hidden, labels))}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=11)
    parser.add_argument("--cut", type=int, default=2)
    parser.add_argument("--chunk", type=int, default=128, help="loss_chunk_tokens of the split side")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, default=list(DTYPES))
    parser.add_argument("--out", type=Path, default=RESULTS / "split_cost.json")
    parser.add_argument("--head", nargs=2, metavar=("DTYPE", "CHUNK"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.head:
        print(json.dumps(head_memory(options.head[0], int(options.head[1]))))
        return
    settings = {"cut": options.cut, "loss_chunk_tokens": options.chunk, "batch": BATCH, "tokens": BATCH * SEQ}
    result: dict[str, Any] = {"settings": settings} | measure_steps(options)
    result["head_bytes"] = {
        f"{dtype} {chunk or 'whole'}": in_own_process("--head", dtype, chunk)["bytes"]
        for dtype in options.dtypes
        for chunk in (0, options.chunk)
    }
    save(result, options.out)
    show(result)


def show(result: dict[str, Any]) -> None:
    """Print the figures as tables."""
    rows = [
        (n, f"{s['median']:.3f}", f"{s['min']:.3f}", f"{s['max']:.3f}") for n, s in result["seconds"].items()
    ]
    print(table(("CPU s of a step", "median", "least", "most"), rows))
    ratios = {f"split to unsplit, {d}": r for d, r in result["split_to_unsplit"].items()}
    ratios |= {f"bf16 to fp32, {side}": r for side, r in result.get("bf16_to_fp32", {}).items()}
    print(
        table(
            ("ratio", *next(iter(ratios.values()))),
            [(n, *(f"{v:.3f}" for v in r.values())) for n, r in ratios.items()],
        )
    )
    rows = [(name, f"{size / 2**20:.0f}") for name, size in result["head_bytes"].items()]
    print(table(("head and loss, chunk", "peak growth, MiB"), rows))


if __name__ == "__main__":
    main()
