"""SplitFT against the naive loop of naive.py: CPU seconds of a local step of five clients, and server memory.

GPT2-small's shape with random weights and no dropout, rank 16 on c_attn and c_proj, cut 2, batches of 4 rows.
SplitFT: server, clients and channel of a job in one process, with int8 on the wire. Naive: padded to
max_length (--pad batch: to the batch's longest row). `fixed`: rows of 128 tokens; `skewed`: rows in the
lengths of State of the Union paragraphs, dealt by length (Dirichlet 0.1), at most 512 tokens. Every side
takes the same batches, step by step in turn, in one process, on one thread; averaging is left out. `default`
is SplitFT's bfloat16 base against the naive float32; `same dtype` is float32 on both sides.

    python benchmarks/against_naive.py [--rows fixed] [--repeats 4] [--pad batch]   CPU seconds
    python benchmarks/against_naive.py --memory       what the server holds; a process for each side

Results of both kinds of rows, and of memory, go into one file.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch
from benchlib.memory import in_own_process, live_tensor_bytes, resident_bytes
from benchlib.parties import ALPHA, RANK, TARGETS, Federation, gpt2, make_job, random_model, split_model
from benchlib.record import RESULTS, ratio, save, spread, table
from benchlib.rows import fixed_rows, rows_of, skewed_rows
from naive import Naive, NaiveServer, to_bytes

from splitft.data import Rows, train_stream
from splitft.lora.blocks import initial_adapter
from splitft.model.split_model import SplitModel
from splitft.server.server import Server
from splitft.wire.messages import Activations

CLIENTS, BATCH, LORA = 5, 4, (RANK, ALPHA, TARGETS)
LENGTHS = {"fixed": 128, "skewed": 512}
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
SIDES = ("naive fp32", "splitft fp32", "splitft bf16")
STEPS = 3  # of every client, before memory is read


def make_rows(kind: str) -> dict[str, Rows]:
    """Return every client's rows."""
    make = fixed_rows if kind == "fixed" else skewed_rows
    return make(CLIENTS, LENGTHS[kind])


def make_side(side: str, kind: str, pad: str) -> Any:
    """Return a side: what has `step`."""
    length, rows = LENGTHS[kind], make_rows(kind)
    job, dtype = make_job(CLIENTS, BATCH), DTYPES[side.split()[1]]
    if side.startswith("naive"):
        return Naive(job, random_model(gpt2(), dtype), rows, LORA, length if pad == "max_length" else 0)
    return Federation(job, split_model(gpt2(), dtype), rows)


def tokens_of(kind: str, steps: int) -> dict[str, int]:
    """Return the tokens of so many steps of all clients: real ones, and with either padding."""
    found = {"real": 0, "padded to the batch": 0, "padded to max_length": 0}
    rows, job = make_rows(kind), make_job(CLIENTS, BATCH)
    for name, own in rows.items():
        stream = train_stream(job, name, own)
        for _ in range(steps):
            lengths = [int(own.lengths[i]) for i in next(stream)]
            found["real"] += sum(lengths)
            found["padded to the batch"] += max(lengths) * len(lengths)
            found["padded to max_length"] += LENGTHS[kind] * len(lengths)
    return found


def warm_up(side: str) -> None:
    """Run a small model once, so that what libraries load and compile on first use is not measured."""
    small = gpt2(n_layer=4, n_embd=64, n_head=4)
    rows = {"client-0": rows_of([16] * 4, seed=0)}
    job, dtype = make_job(1, BATCH), DTYPES[side.split()[1]]
    if side.startswith("naive"):
        Naive(job, random_model(small, dtype), rows, LORA).step()
    else:
        Federation(job, split_model(small, dtype), rows).step()


def measure_time(kind: str, repeats: int, pad: str) -> dict[str, Any]:
    """Return CPU seconds of one step of all clients on every side, taking turns."""
    for side in SIDES:
        warm_up(side)
    sides = {side: make_side(side, kind, pad) for side in SIDES}
    seconds: dict[str, list[float]] = {side: [] for side in SIDES}
    losses: dict[str, list[float]] = {}
    for number in range(repeats):
        for side, parties in sides.items():
            began = time.process_time()
            losses[side] = parties.step()
            seconds[side].append(time.process_time() - began)
            print(
                f"{number}  {side:<13}{seconds[side][-1]:8.2f} CPU s  loss {losses[side][0]:.3f}", flush=True
            )
    found: dict[str, Any] = {"cpu_seconds": {side: spread(values) for side, values in seconds.items()}}
    for name, ours in (("default", "splitft bf16"), ("same dtype", "splitft fp32")):
        found[name] = ratio(seconds["naive fp32"], seconds[ours])
        found[name]["of_sums"] = sum(seconds["naive fp32"]) / sum(seconds[ours])
    rows = [(s, *(f"{found['cpu_seconds'][s][key]:.2f}" for key in ("median", "min", "max"))) for s in SIDES]
    print(table(("CPU seconds a step of all", "median", "least", "most"), rows))
    for name in ("default", "same dtype"):
        sums, medians = found[name]["of_sums"], found[name]["of_medians"]
        print(f"{name}: the naive loop takes {sums:.2f} times as long, all steps; {medians:.2f}, medians")
    naive = sides["naive fp32"]
    ledger = sides["splitft bf16"].ledger
    sent = {"naive": naive.bytes_up + naive.bytes_down, "splitft": ledger.total("up") + ledger.total("down")}
    tokens = {"these steps": tokens_of(kind, repeats), "100 steps": tokens_of(kind, 100)}
    for name, of in tokens.items():
        real, batch = (of["padded to max_length"] / of[key] for key in ("real", "padded to the batch"))
        print(f"padded to max_length, {name}: {real:.2f} of real tokens, {batch:.2f} of padded to the batch")
    return {**found, "padded to": pad, "repeats": repeats, "bytes": sent, "tokens": tokens}


def measure_memory(side: str) -> dict[str, int]:
    """Return what a server holds after some steps of every client: tensors, and growth of the resident set.

    What clients send is made up; nothing of theirs is in this process.
    """
    warm_up(side)
    before, length = resident_bytes(), LENGTHS["fixed"]
    model = random_model(gpt2(), DTYPES[side.split()[1]])
    names = [f"client-{i}" for i in range(CLIENTS)]
    hidden = torch.randn(BATCH, length, model.config.n_embd)
    labels = torch.randint(0, model.config.vocab_size, (BATCH, length))
    if side.startswith("naive"):
        server = NaiveServer(model, names, 2, LORA)
        del model
        mask = torch.ones(BATCH, length, dtype=torch.long)
        payload = to_bytes({"hidden": hidden, "attention_mask": mask, "labels": labels})
        for name in names * STEPS:
            server.answer(name, payload)
        del payload
    else:
        del model
        serve_split(split_model(gpt2(), DTYPES[side.split()[1]]), names, hidden, labels)
    return {"live_tensor_bytes": live_tensor_bytes(), "rss_growth_bytes": resident_bytes() - before}


HELD: list[Server] = []  # until memory has been read


def serve_split(model: SplitModel, names: list[str], hidden: torch.Tensor, labels: torch.Tensor) -> None:
    """Take steps of every client at a server."""
    server = Server(model, make_job(len(names), BATCH), initial_adapter(model.slots.layout, RANK, 0))
    server.hand_out(1, dict.fromkeys(names, 2))
    HELD.append(server)
    front = torch.zeros(sum(len(model.slots.layout[block]) for block in range(2)))
    lengths = (hidden.shape[1],) * len(hidden)
    for step in range(STEPS):
        for name in names:
            rows, targets = hidden.flatten(0, 1), labels.flatten().int()
            norms = front if step else None
            server.step({name: Activations(1, step, 0, True, lengths, rows, targets, None, 0, norms)})


def compare_memory() -> dict[str, Any]:
    """Return what the servers hold, each measured in a process of its own, and the ratios."""
    found = {side: in_own_process("--memory-of", side) for side in SIDES}
    rows = [(s, *(f"{found[s][key] / 2**20:.0f}" for key in found[s])) for s in SIDES]
    print(table((f"MiB of a server of {CLIENTS}", "live tensors", "resident set"), rows))
    naive: dict[str, int] = found["naive fp32"]
    shares = {
        name: {key: found[ours][key] / naive[key] for key in naive}
        for name, ours in (("default", "splitft bf16"), ("same dtype", "splitft fp32"))
    }
    for name, share in shares.items():
        tensors, resident = share.values()
        print(f"{name}: {tensors:.3f} of the naive server's live tensors, {resident:.3f} of its resident set")
    return {"bytes": found, **shares}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", choices=LENGTHS, action="append", help="default: both")
    parser.add_argument("--repeats", type=int, default=4, help="steps of each side")
    parser.add_argument("--pad", choices=("max_length", "batch"), default="max_length")
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--memory-of", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, default=RESULTS / "against_naive.json")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.memory_of:
        print(json.dumps(measure_memory(options.memory_of)))
        return
    result: dict[str, Any] = json.loads(options.out.read_text()) if options.out.exists() else {}
    if options.memory:
        result["memory"] = compare_memory()
        save(result, options.out)
        return
    for kind in options.rows or LENGTHS:
        name = kind if options.pad == "max_length" else f"{kind}, padded to the batch"
        result[name] = measure_time(kind, options.repeats, options.pad)
        save(result, options.out)


if __name__ == "__main__":
    main()
