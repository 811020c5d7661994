"""Memory of the server: what it holds for N clients against one base + adapters + optimizer states.

GPT2-small's shape with random weights, rank 16, cuts 1, 2, 3, ... in turn. Each client sends activations for
three steps of 4 rows of 128 tokens; then everything that lives in the process is counted twice: all tensor
storages (exact), and the growth of the resident set over that of the process after a small warm-up.

    python benchmarks/memory.py [--clients 8]
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from benchlib.memory import live_tensor_bytes, resident_bytes
from benchlib.record import RESULTS, save
from transformers import AutoModelForCausalLM, GPT2Config

from splitft import Job
from splitft.lora.blocks import initial_adapter, resize
from splitft.lora.ranks import effective_ranks
from splitft.model.slots import inject, lora_config
from splitft.model.split_model import SplitModel
from splitft.server.server import Server
from splitft.server.worker import TrunkWorker
from splitft.wire.messages import Activations

BATCH, SEQ, RANK, TARGETS = 4, 128, 16, ["c_attn", "c_proj"]


def serve(server: Server, cuts: dict[str, int], hidden: int, steps: int) -> None:
    server.hand_out(1, cuts)
    specs = server.coordinator.layout
    for step in range(steps):
        for name, cut in cuts.items():
            norms = torch.zeros(sum(len(specs[b]) for b in specs if b < cut)) if step else None
            labels = torch.randint(0, 50257, (BATCH * SEQ,), dtype=torch.int32)
            rows = torch.randn(BATCH * SEQ, hidden)
            server.step({name: Activations(1, step, 0, True, (SEQ,) * BATCH, rows, labels, None, 0, norms)})


def expected_bytes(split: SplitModel, server: Server, cuts: dict[str, int]) -> dict[str, int]:
    """What must be held: the base once, the global adapter, each client's trunk adapter and two moments."""
    base = sum(p.numel() * p.element_size() for n, p in split.model.named_parameters() if ".lora_" not in n)
    base += sum(b.numel() * b.element_size() for b in split.model.buffers())
    adapter = sum(t.numel() * 4 for block in server.adapter.values() for t in block.values())
    trunks = 0
    for cut in cuts.values():
        ranks = effective_ranks(split.num_blocks, cut, RANK, RANK)
        for block, tensors in server.adapter.items():
            if block >= cut:
                trunks += sum(t.numel() * 4 for t in resize(tensors, ranks[block]).values())
    return {"base": base, "global_adapter": adapter, "trunk_adapters": trunks, "moments": 2 * trunks}


def warm_up() -> None:
    """Run a small model once, so that what libraries load on first use is in the baseline."""
    small = AutoModelForCausalLM.from_config(GPT2Config(n_layer=2, n_embd=32, n_head=2, vocab_size=64))
    lora = lora_config(TARGETS, [], r=2, alpha=4, dropout=0.0, fan_in_fan_out=True)
    split = SplitModel(small, inject(small, lora))
    job = Job(model_name_or_path="random", dataset_name="random", clients=1, lora_r=2)
    server = Server(split, job, initial_adapter(split.slots.layout, 2, 0))
    server.hand_out(1, {"client-0": 1})
    rows, labels = torch.randn(4, 32), torch.ones(4, dtype=torch.int32)
    server.step({"client-0": Activations(1, 0, 0, True, (4,), rows, labels)})


def measure(clients: int) -> dict[str, Any]:
    warm_up()
    before = resident_bytes()
    config = GPT2Config()
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config)
    lora = lora_config(TARGETS, [], r=RANK, alpha=32, dropout=0.0, fan_in_fan_out=True)
    split = SplitModel(model, inject(model, lora))
    job = Job(model_name_or_path="random", dataset_name="random", clients=clients, lora_r=RANK)
    server = Server(split, job, initial_adapter(split.slots.layout, RANK, 0))
    cuts = {f"client-{i}": 1 + i % (split.num_blocks - 1) for i in range(clients)}
    serve(server, cuts, config.n_embd, steps=3)  # the third message takes the second optimizer step
    server.step({})
    assert isinstance(server.worker, TrunkWorker)
    for name in cuts:  # take the last step and drop its gradients, as the round's end does
        server.worker.trunks[name].trained.step(0.0, None)
    wanted = expected_bytes(split, server, cuts)
    held = live_tensor_bytes()
    resident = resident_bytes() - before
    return {
        "clients": clients,
        "expected_bytes": wanted,
        "live_tensor_bytes": held,
        "ratio_of_tensors": held / sum(wanted.values()),
        "rss_growth_bytes": resident,
        "ratio_of_rss": resident / sum(wanted.values()),
        "copies_of_the_base_would_hold": wanted["base"] * clients + sum(wanted.values()) - wanted["base"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--out", type=Path, default=RESULTS / "memory.json")
    options = parser.parse_args()
    result = measure(options.clients)
    save(result, options.out)
    wanted = sum(result["expected_bytes"].values())
    print(f"{options.clients} clients: one base + adapters + optimizer states are {wanted / 2**20:.0f} MiB")
    print(
        f"live tensors   {result['live_tensor_bytes'] / 2**20:7.0f} MiB  "
        f"ratio {result['ratio_of_tensors']:.3f}"
    )
    print(f"resident set  +{result['rss_growth_bytes'] / 2**20:7.0f} MiB  ratio {result['ratio_of_rss']:.3f}")
    copies = result["copies_of_the_base_would_hold"]
    print(f"a copy of the base per client would hold {copies / 2**20:.0f} MiB")


if __name__ == "__main__":
    main()
