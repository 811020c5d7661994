"""What splitting costs: CPU seconds of a split training step against the same unsplit peft step.

GPT2-small's shape with random weights, rank 16 on c_attn and c_proj, 4 rows of 128 tokens, one client.
Both sides run alternately in one process, forward, backward and AdamW; medians. Run it on a quiet machine:

    python benchmarks/split_cost.py [--repeats 11] [--cut 2] [--bf16]
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, GPT2Config

from splitft import Job
from splitft.adapters import initial_adapter, inject, lora_config
from splitft.client import Client
from splitft.data import BatchStream, ClientData, Rows, collate
from splitft.parts import SplitModel
from splitft.server import Server

BATCH, SEQ, RANK, TARGETS = 4, 128, 16, ["c_attn", "c_proj"]


def make_model(dtype: torch.dtype) -> Any:
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(GPT2Config(), dtype=dtype)


def make_rows(number: int) -> Rows:
    rng = np.random.default_rng(0)
    ids = [rng.integers(0, 50257, SEQ).astype(np.int32) for _ in range(number)]
    zeros = np.zeros(number, dtype=np.int64)
    return Rows(ids, [row.copy() for row in ids], zeros, zeros, np.full(number, SEQ), {})


class Unsplit:
    """The stock peft step."""

    def __init__(self, job: Job, rows: Rows, dtype: torch.dtype) -> None:
        config = LoraConfig(r=RANK, lora_alpha=32, target_modules=TARGETS, fan_in_fan_out=True)
        self.model = get_peft_model(make_model(dtype), config).train()
        self.parameters = [p for p in self.model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(
            self.parameters, lr=job.learning_rate, weight_decay=0.0, fused=True
        )
        self.rows, self.stream = rows, BatchStream(len(rows), BATCH, job.seed, "client-0")

    def step(self) -> float:
        batch = collate(self.rows, next(self.stream), 0)
        loss = self.model(
            input_ids=batch.input_ids,
            attention_mask=batch.attention_mask,
            labels=batch.labels,
            use_cache=False,
        ).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return float(loss)


class Split:
    """The same step through the client and the server of a run."""

    def __init__(self, job: Job, rows: Rows, dtype: torch.dtype, cut: int) -> None:
        model = make_model(dtype)
        config = lora_config(TARGETS, [], r=RANK, alpha=32, dropout=0.0, fan_in_fan_out=True)
        split = SplitModel(model, inject(model, config))
        self.server = Server(split, job, initial_adapter(split.slots.layout, RANK, job.seed))
        self.client = Client("client-0", ClientData("client-0", rows, rows), split, job, 0)
        self.client.receive(self.server.hand_out(1, {"client-0": cut})["client-0"])
        self.steps = 0

    def step(self) -> float:
        message = self.client.forward(1, self.steps, 0)
        reply: Any = self.server.step({"client-0": message})["client-0"]
        self.client.answer(reply)
        self.steps += 1
        return float(reply.loss)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=11)
    parser.add_argument("--cut", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--bf16", action="store_true")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "split_cost.json")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    dtype = torch.bfloat16 if options.bf16 else torch.float32
    job = Job(
        model_name_or_path="random", dataset_name="random", clients=1, cuts=options.cut, local_steps=10_000,
        lora_r=RANK, lr_scheduler_type="constant", per_device_train_batch_size=BATCH,
    )  # fmt: skip
    rows = make_rows(64)
    sides = {"unsplit": Unsplit(job, rows, dtype), "split": Split(job, rows, dtype, options.cut)}
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for repeat in range(options.repeats + 2):
        for name, side in sides.items():
            started = time.process_time()
            loss = side.step()
            if repeat >= 2:  # the first two warm up
                seconds[name].append(time.process_time() - started)
            print(f"{repeat:>3}  {name:<8} loss {loss:.4f}  {time.process_time() - started:.3f} CPU s")
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    ratios = [s / u for s, u in zip(seconds["split"], seconds["unsplit"], strict=True)]
    result = {
        "dtype": str(dtype).removeprefix("torch."),
        "cut": options.cut,
        "threads": options.threads,
        "cpu_seconds": {name: {"median": medians[name], "all": values} for name, values in seconds.items()},
        "ratio_of_medians": medians["split"] / medians["unsplit"],
        "pairwise_ratio": {"median": statistics.median(ratios), "min": min(ratios), "max": max(ratios)},
        "machine": f"{platform.machine()}, torch {torch.__version__}",
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(result, indent=1))
    print(
        f"unsplit {medians['unsplit']:.3f}  split {medians['split']:.3f} CPU s per step (median of "
        f"{options.repeats}), ratio {result['ratio_of_medians']:.3f}; pairwise "
        f"{min(ratios):.3f} to {max(ratios):.3f}"
    )


if __name__ == "__main__":
    main()
