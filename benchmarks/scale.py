"""How a run grows with its clients: 1, 2, 4, ..., 64 simulated clients on one server, in one process.

A GPT-2 shape of 6 blocks, 256 wide, with GPT-2's vocabulary and random weights in float32; cut 2, batches of
4 rows of 32 tokens, int8 on the wire. Every size has a process of its own, and sizes take turns in `--passes`
passes. Counted are CPU seconds of a local step of all clients, and what server and clients together hold
after it: live tensors (exact) and the growth of the resident set. There is one base where memory, drawn back
to no clients at all, is one base and one global adapter.

    python benchmarks/scale.py [--sizes 1 2 4 8 16 32 64] [--passes 2] [--plot FILE.svg] [key=value ...]

key=value: keys of the job.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from benchlib.jobs import values_of
from benchlib.memory import in_own_process, live_tensor_bytes, resident_bytes
from benchlib.parties import Federation, gpt2, make_job, split_model
from benchlib.pictures import draw_scale
from benchlib.record import RESULTS, save, spread, table
from benchlib.rows import fixed_rows, rows_of

BATCH, SEQ, STEPS = 4, 32, 3
SHAPE = {"n_layer": 6, "n_embd": 256, "n_head": 4}
SIZES = (1, 2, 4, 8, 16, 32, 64)
MIB = 2**20


def measure(clients: int, settings: dict[str, Any]) -> dict[str, Any]:
    """Return CPU seconds of steps of so many clients, and what they and the server hold."""
    job = make_job(clients, BATCH, **settings)
    small = gpt2(n_layer=4, n_embd=64, n_head=4)
    Federation(job, split_model(small, torch.float32), {"client-0": rows_of([SEQ] * 8, seed=0)}).step()
    before = resident_bytes()
    model = split_model(gpt2(**SHAPE), torch.float32)
    parties = Federation(job, model, fixed_rows(clients, SEQ, number=16))
    parties.step()  # makes the optimizers' state
    seconds = []
    for _ in range(STEPS):
        began = time.process_time()
        parties.step()
        seconds.append(time.process_time() - began)
    held, resident = live_tensor_bytes(), resident_bytes() - before
    weights = [p for n, p in model.model.named_parameters() if ".lora_" not in n]
    base = sum(t.numel() * t.element_size() for t in [*weights, *model.model.buffers()])
    adapter = sum(t.numel() * 4 for block in parties.server.adapter.values() for t in block.values())
    return {
        "cpu_seconds": seconds,
        "live_tensor_bytes": held,
        "rss_growth_bytes": resident,
        "base_bytes": base,
        "adapter_bytes": adapter,
    }


def line(sizes: Sequence[int], values: Sequence[float]) -> tuple[float, float]:
    """Return what there is without clients, and what each adds (least squares)."""
    fit = statistics.linear_regression(sizes, values)
    return fit.intercept, fit.slope


def exponent(sizes: Sequence[int], values: Sequence[float]) -> float:
    """Return k of the growth as sizes**k: 1 is linear."""
    return statistics.linear_regression([math.log(n) for n in sizes], [math.log(v) for v in values]).slope


def growth(found: dict[int, dict[str, Any]]) -> dict[str, Any]:
    """Return what the sizes say together."""
    sizes = sorted(found)
    seconds = [found[n]["cpu_seconds"]["median"] for n in sizes]
    each = [s / n for s, n in zip(seconds, sizes, strict=True)]
    result: dict[str, Any] = {"seconds_of_a_client": dict(zip(sizes, each, strict=True))}
    if len(sizes) < 3:
        return result
    base = found[sizes[0]]["base_bytes"] + found[sizes[0]]["adapter_bytes"]
    result |= {
        "seconds_grow_with_exponent": exponent(sizes, seconds),
        "seconds_of_a_client_last_to_first": each[-1] / each[0],
    }
    for key in ("live_tensor_bytes", "rss_growth_bytes"):
        without, adds = line(sizes, [found[n][key] for n in sizes])
        result[key] = {"without_clients": without, "of_base_and_adapter": without / base, "a_client": adds}
    return result


def show(found: dict[int, dict[str, Any]], grown: dict[str, Any]) -> None:
    rows = [
        (
            n,
            f"{of['cpu_seconds']['median']:.3f}",
            f"{of['cpu_seconds']['median'] / n * 1000:.1f}",
            f"{of['live_tensor_bytes'] / MIB:.1f}",
            f"{of['rss_growth_bytes'] / MIB:.1f}",
        )
        for n, of in sorted(found.items())
    ]
    print(table(("clients", "CPU s a step of all", "ms a client", "MiB live tensors", "MiB resident"), rows))
    if "seconds_grow_with_exponent" not in grown:
        return
    first = next(iter(found.values()))
    print(f"one base {first['base_bytes'] / MIB:.1f} MiB, global adapter {first['adapter_bytes'] / MIB:.1f}")
    for key in ("live_tensor_bytes", "rss_growth_bytes"):
        of = grown[key]
        without, share = of["without_clients"] / MIB, of["of_base_and_adapter"]
        print(f"{key}: {without:.1f} MiB + {of['a_client'] / MIB:.2f} a client; {share:.3f} of one base")
    print(
        f"time grows with the clients to the power of {grown['seconds_grow_with_exponent']:.3f}; a client's "
        f"share at the most clients is {grown['seconds_of_a_client_last_to_first']:.2f} of that of one alone"
    )


def plot(found: dict[int, dict[str, Any]], path: Path) -> None:
    """Write an SVG: time and memory over the number of clients."""
    sizes = sorted(found)
    seconds = [found[n]["cpu_seconds"]["median"] for n in sizes]
    memory = {
        name: [found[n][key] / MIB for n in sizes]
        for key, name in (("live_tensor_bytes", "live tensors"), ("rss_growth_bytes", "resident set"))
    }
    panels = {
        ("CPU time of a step of all", "s"): {
            "measured": seconds,
            "one client's, times as many": [n * seconds[0] / sizes[0] for n in sizes],
        },
        ("memory", "MiB"): {**memory, "one base": [found[sizes[0]]["base_bytes"] / MIB] * len(sizes)},
    }
    draw_scale(sizes, panels, path, "Time and memory over the number of clients")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("settings", nargs="*", metavar="key=value")
    parser.add_argument("--sizes", nargs="+", type=int, default=list(SIZES))
    parser.add_argument("--passes", type=int, default=2)
    parser.add_argument("--size-of", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--plot", type=Path, default=RESULTS / "scale.svg")
    parser.add_argument("--out", type=Path, default=RESULTS / "scale.json")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.size_of:
        print(json.dumps(measure(options.size_of, values_of(options.settings))))
        return
    seconds: dict[int, list[float]] = {n: [] for n in options.sizes}
    found: dict[int, dict[str, Any]] = {}
    for number in range(options.passes):
        for n in options.sizes if number % 2 == 0 else reversed(options.sizes):
            of = in_own_process("--size-of", n, *options.settings)
            seconds[n] += of["cpu_seconds"]
            found[n] = of | {"cpu_seconds": spread(seconds[n])}
            print(f"{n} clients: {spread(of['cpu_seconds'])['median']:.3f} CPU s", flush=True)
    grown = growth(found)
    show(found, grown)
    save({"settings": options.settings, "sizes": found, "growth": grown}, options.out)
    plot(found, options.plot)


if __name__ == "__main__":
    main()
