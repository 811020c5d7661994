"""On a machine with CUDA: split steps against unsplit ones, tokens a second, and what batching clients gains.

GPT-2's shape and a Llama of 1.2 billion parameters, both with random weights, rank 16 on attention, cut 2.

- step: one client, 8 rows of 512 tokens: SplitFT's server and client in one process (no codec) against the
  stock peft step on the whole model, in float32 and bfloat16; both sides take turns.
- batching: five clients of 32, 128 and 512 tokens on one server, bfloat16: a step of all, one client after
  another, against the same step with the job settings in BATCHED.

    python benchmarks/gpu.py [--shapes gpt2 llama-1b] [--repeats 10]
    python benchmarks/gpu.py --smoke       tiny shapes on the CPU: shows that the command works, nothing more
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import torch
from benchlib.parties import TARGETS, Federation, Unsplit, gpt2, make_job, split_model
from benchlib.record import RESULTS, ratio, save, spread, table
from benchlib.rows import fixed_rows
from transformers import LlamaConfig, PreTrainedConfig

# What switches on that the server runs several clients' trunks at once; empty: this version has no such key.
BATCHED: dict[str, Any] = {}

LLAMA_TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj"]
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
WARM_UP = 3  # steps of a side that are not measured


def shape(name: str, smoke: bool) -> tuple[PreTrainedConfig, list[str]]:
    """Return a configuration and its target modules."""
    if name == "gpt2":
        small = {"n_layer": 4, "n_embd": 64, "n_head": 4, "vocab_size": 512, "n_positions": 64}
        ends = {"bos_token_id": 0, "eos_token_id": 0}
        return gpt2(**(small | ends if smoke else {})), TARGETS
    sizes = {
        "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16, "num_attention_heads": 32,
        "num_key_value_heads": 8, "head_dim": 64, "vocab_size": 128256, "max_position_embeddings": 2048,
        "rope_theta": 500000.0, "tie_word_embeddings": True,
    }  # fmt: skip
    small = {
        "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 4, "num_attention_heads": 4,
        "num_key_value_heads": 2, "head_dim": 16, "vocab_size": 512,
    }  # fmt: skip
    return LlamaConfig(**(sizes | small if smoke else sizes)), LLAMA_TARGETS


def seconds_of(sides: dict[str, Any], repeats: int, device: str) -> dict[str, list[float]]:
    """Return the wall seconds of every side's steps, taking turns."""
    found: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(WARM_UP + repeats):
        for name, side in sides.items():
            settle(device)
            began = time.perf_counter()
            side.step()
            settle(device)
            if number >= WARM_UP:
                found[name].append(time.perf_counter() - began)
    return found


def settle(device: str) -> None:
    """Wait for what the device still does."""
    if device == "cuda":
        torch.cuda.synchronize()


def measure_step(name: str, dtype: str, options: argparse.Namespace, device: str) -> dict[str, Any]:
    """Return seconds and tokens a second of split and unsplit steps."""
    config, targets = shape(name, options.smoke)
    batch, seq = (2, 16) if options.smoke else (8, 512)
    job = make_job(1, batch, codec="none")
    rows = fixed_rows(1, seq, number=4 * batch, vocabulary=config.vocab_size)
    sides = {
        "unsplit": Unsplit(job, config, DTYPES[dtype], rows["client-0"], targets, device),
        "split": Federation(job, split_model(config, DTYPES[dtype], targets, device), rows),
    }
    seconds = seconds_of(sides, options.repeats, device)
    medians = {side: spread(values) for side, values in seconds.items()}
    return {
        "tokens": batch * seq,
        "seconds": medians,
        "tokens_a_second": {side: batch * seq / of["median"] for side, of in medians.items()},
        "split_to_unsplit": ratio(seconds["split"], seconds["unsplit"]),
    }


def measure_batching(name: str, tokens: int, options: argparse.Namespace, device: str) -> dict[str, Any]:
    """Return seconds of a step of five clients, one by one and batched."""
    config, targets = shape(name, options.smoke)
    rows = fixed_rows(5, tokens, number=8, vocabulary=config.vocab_size)
    sides = {}
    for side, settings in (("one by one", {}), ("batched", BATCHED)):
        if side == "one by one" or settings:
            model = split_model(config, torch.bfloat16, targets, device)
            sides[side] = Federation(make_job(5, 1, codec="none", **settings), model, rows)
    seconds = seconds_of(sides, options.repeats, device)
    found: dict[str, Any] = {side: spread(values) for side, values in seconds.items()}
    found["tokens_a_second"] = {side: 5 * tokens / found[side]["median"] for side in sides}
    if BATCHED:
        found["gain"] = ratio(seconds["one by one"], seconds["batched"])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shapes", nargs="+", choices=("gpt2", "llama-1b"), default=["gpt2", "llama-1b"])
    parser.add_argument("--tokens", nargs="+", type=int, help="of a client when batching: 32 128 512")
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--smoke", action="store_true")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    if not torch.cuda.is_available() and not options.smoke:
        raise SystemExit(
            "this machine has no GPU that torch can use through CUDA: run this on one that has, or add "
            "--smoke to see on the CPU, with tiny shapes, that the command works"
        )
    device = "cpu" if options.smoke else "cuda"
    out = options.out or RESULTS / ("gpu-smoke.json" if options.smoke else "gpu.json")
    result: dict[str, Any] = {"smoke": options.smoke, "step": {}, "batching": {}, "batched": BATCHED}
    for name in options.shapes:
        for dtype in DTYPES:
            result["step"][f"{name} {dtype}"] = measure_step(name, dtype, options, device)
            save(result, out)
        for tokens in options.tokens or ((8, 16) if options.smoke else (32, 128, 512)):
            result["batching"][f"{name} {tokens}"] = measure_batching(name, tokens, options, device)
            save(result, out)
    show(result)


def show(result: dict[str, Any]) -> None:
    if result["smoke"]:
        print("tiny shapes on the CPU: these figures mean nothing")
    rows = []
    for name, of in result["step"].items():
        speed = (f"{of['tokens_a_second'][side]:.0f}" for side in ("unsplit", "split"))
        rows.append((name, *speed, f"{of['split_to_unsplit']['of_medians']:.3f}"))
    print(table(("tokens a second of one client", "unsplit", "split", "time, split to unsplit"), rows))
    rows = []
    for name, of in result["batching"].items():
        speed = of["tokens_a_second"]
        gain = f"{of['gain']['of_medians']:.2f}" if "gain" in of else ""
        rows.append((
            f"{name} tokens",
            *(f"{speed[s]:.0f}" if s in speed else "" for s in ("one by one", "batched")),
            gain,
        ))  # fmt: skip
    print(table(("tokens a second of five clients", "one by one", "batched", "gain"), rows))
    if not result["batched"]:
        print("batched: not measured; this version has no setting for it")


if __name__ == "__main__":
    main()
