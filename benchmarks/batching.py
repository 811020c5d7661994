"""Server steps of five clients computed together, against one client after another.

GPT2-small's shape with random weights, rank 16 on c_attn and c_proj, no dropout; 32, 128 and 512 tokens a
client, with equal cuts and with cuts 1 to 5. Both sides run alternately in one process on the same
activations: forward, backward and AdamW of every client's own adapter; medians of wall seconds, one thread.
Run it on a quiet machine:

    python benchmarks/batching.py [--repeats 9] [--tokens 32 128 512] [--cap 512] [--bf16]

--cap: most tokens of a batch; `auto` measures it, as a run with `server_batch_tokens: auto` does.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, GPT2Config

from splitft import Job
from splitft.lora.blocks import initial_adapter
from splitft.model.slots import inject, lora_config
from splitft.model.split_model import SplitModel
from splitft.proof.batched import prove_batching
from splitft.running.batching import most_tokens
from splitft.server.server import Server
from splitft.server.worker import TrunkWorker
from splitft.wire.messages import Activations, Gradients, Message

CLIENTS, RANK, TARGETS = 5, 16, ["c_attn", "c_proj"]
CUTS = {"equal cuts": [2] * CLIENTS, "cuts 1 to 5": [1, 2, 3, 4, 5]}


def make_sides(dtype: torch.dtype, cuts: list[int], device: str) -> tuple[SplitModel, Server]:
    torch.manual_seed(0)
    config = GPT2Config(resid_pdrop=0, embd_pdrop=0, attn_pdrop=0)
    model = AutoModelForCausalLM.from_config(config, dtype=dtype).to(device)
    lora = lora_config(TARGETS, [], r=RANK, alpha=32, dropout=0.0, fan_in_fan_out=True)
    split = SplitModel(model, inject(model, lora), head="plain", loss_chunk_tokens=256)
    job = Job(
        model_name_or_path="random", dataset_name="random", clients=CLIENTS, cuts=cuts, lora_r=RANK,
        local_steps=10_000, lr_scheduler_type="constant", labels="server",
    )  # fmt: skip
    adapter = initial_adapter(split.slots.layout, RANK, 0)
    adapter = {b: {n: t.to(device) for n, t in block.items()} for b, block in adapter.items()}
    server = Server(split, job, adapter)
    server.hand_out(1, {f"client-{i}": cut for i, cut in enumerate(cuts)})
    return split, server


def messages(model: SplitModel, tokens: int, step: int, norms: dict[str, Any]) -> dict[str, Message]:
    """Return what five clients send: (tokens, hidden) activations of one row each, and labels."""
    generator = torch.Generator().manual_seed(step)
    made: dict[str, Message] = {}
    for i in range(CLIENTS):
        hidden = torch.randn(tokens, model.width, generator=generator).to(model.device)
        labels = torch.randint(50257, (tokens,), generator=generator, dtype=torch.int32)
        name = f"client-{i}"
        made[name] = Activations(
            1, step, 0, True, (tokens,), hidden, labels.to(model.device), None, 0, norms.get(name)
        )
    return made


def synchronize(model: SplitModel) -> None:
    if model.device.type != "cpu":
        torch.accelerator.synchronize()


def measure(
    model: SplitModel, server: Server, tokens: int, caps: dict[str, int], repeats: int
) -> dict[str, list[float]]:
    """Return {side: seconds of each step of all clients}."""
    seconds: dict[str, list[float]] = {side: [] for side in caps}
    step, norms = 0, {}
    assert isinstance(server.worker, TrunkWorker)
    for repeat in range(repeats + 2):
        for side, cap in caps.items():
            sent = messages(model, tokens, step, norms)
            server.worker.batch_tokens = cap
            synchronize(model)
            started = time.perf_counter()
            replies = server.step(sent)
            synchronize(model)
            if repeat >= 2:  # the first two warm up
                seconds[side].append(time.perf_counter() - started)
            assert all(isinstance(reply, Gradients) for reply in replies.values())
            empty = torch.zeros(0)
            layout, holdings = server.coordinator.layout, server.coordinator.holdings
            norms = {
                name: torch.zeros(sum(len(s) for b, s in layout.items() if b in holdings[name].held.front))
                for name in replies
            }
            norms = {name: torch.cat([own, empty]) for name, own in norms.items()}
            step += 1
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--tokens", type=int, nargs="+", default=[32, 128, 512])
    parser.add_argument("--cap", default="auto")
    parser.add_argument("--bf16", action="store_true")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "batching.json")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    dtype = torch.bfloat16 if options.bf16 else torch.float32
    rows = []
    for name, cuts in CUTS.items():
        model, server = make_sides(dtype, cuts, options.device)
        problem = prove_batching(model, cuts)
        assert not problem, problem
        cap = most_tokens(model, cuts)[0] if options.cap == "auto" else int(options.cap)
        for tokens in options.tokens:
            repeats = max(3, options.repeats * 128 // max(tokens, 128))
            caps = {"alone": 0, "together": cap, "all together": 10**9}
            found = measure(model, server, tokens, caps, repeats)
            medians = {side: statistics.median(values) for side, values in found.items()}
            gain = {side: medians["alone"] / medians[side] for side in ("together", "all together")}
            rows.append(
                {"cuts": name, "tokens": tokens, "cap": cap, "median_seconds": medians, "gain": gain}
                | {"seconds": found}
            )
            print(
                f"{name:<12} {tokens:>4} tokens  alone {medians['alone']:.3f} s, up to {cap} tokens "
                f"{medians['together']:.3f} s: {gain['together']:.2f} x; all together "
                f"{gain['all together']:.2f} x",
                flush=True,
            )
    machine = (
        f"{platform.machine()}, torch {torch.__version__}, {options.device}, {options.threads} thread(s)"
    )
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps({"dtype": str(dtype), "machine": machine, "rows": rows}, indent=1))


if __name__ == "__main__":
    main()
