"""Runs of the tests of invariants, what they left, and how it is compared."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import PeftModel
from rich.console import Console
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional
from transformers import AutoTokenizer

from reference import stock_model
from splitft import Job, RunResult, run
from splitft.data import ClientData, prepare

QUIET = Console(quiet=True)
Settings = dict[str, Any]
Tensors = dict[str, torch.Tensor]
THREE_CLIENTS = {
    "clients": 3, "rounds": 3, "local_steps": 2, "cuts": [1, 3, 2], "max_eval_samples": 9,
    "partition": {"method": "length_dirichlet", "alpha": 0.5, "min_rows": 4},
}  # fmt: skip


def trained(settings: Settings, folder: Path, **changes: Any) -> tuple[Job, RunResult]:
    """The job of these settings with these changes, and its run into `folder`."""
    job = Job(**{**settings, **changes, "output_dir": str(folder)})
    return job, run(job, console=QUIET)


def final_adapter(result: RunResult) -> Tensors:
    return load_file(result.adapter_path / "adapter_model.safetensors")


def assert_same_bits(got: Tensors, wanted: Tensors) -> None:
    assert got.keys() == wanted.keys()
    for name, tensor in wanted.items():
        assert torch.equal(got[name], tensor), f"{name}: {(got[name] - tensor).abs().max()}"


def assert_same_losses(result: RunResult, wanted: list[dict[str, float]]) -> None:
    """Losses are float32 values that pass through a weighted mean in float64: equal to its last digits."""
    assert len(result.history) == len(wanted) + 1
    for record, losses in zip(result.history[1:], wanted, strict=True):
        for name, loss in losses.items():
            assert np.float32(record.clients[name].loss) == np.float32(loss)


def result_of(settings: Settings, folder: Path, **changes: Any) -> RunResult:
    return trained(settings, folder, **changes)[1]


def same(first: Tensors, second: Tensors) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def losses(result: RunResult) -> list[dict[str, float | None]]:
    return [{name: client.loss for name, client in r.clients.items()} for r in result.history]


def copy(tensor: torch.Tensor) -> nn.Parameter:
    return nn.Parameter(tensor.clone())


def block_of(name: str) -> int:
    return next(int(part) for part in name.split(".") if part.isdigit())


def base_of(job: Job) -> Any:
    base = stock_model(job.model_name_or_path)
    base.config.use_cache = False  # some types' caches do not take rows of a copy without attention blocks
    return base


def tuned(job: Job, result: RunResult) -> Any:
    return PeftModel.from_pretrained(base_of(job), str(result.adapter_path)).eval()


@torch.no_grad()
def perplexity(model: Any, job: Job) -> float:
    """Of all held-out rows, one by one: no batch, no padding, no split."""
    nll, tokens = 0.0, 0
    for client in prepare(job, AutoTokenizer.from_pretrained(job.model_name_or_path)).clients:
        for ids, labels in zip(client.eval.input_ids, client.eval.labels, strict=True):
            logits = model(input_ids=torch.tensor(ids.astype("int64"))[None]).logits[0, :-1]
            wanted = torch.tensor(labels.astype("int64"))[1:]
            nll += float(functional.cross_entropy(logits.double(), wanted, reduction="sum"))
            tokens += int((wanted != -100).sum())
    return math.exp(nll / tokens)


def start_of(settings: Settings) -> Tensors:
    return load_file(Path(settings["adapter_name_or_path"], "adapter_model.safetensors"))


def unsplit_data(job: Job) -> list[ClientData]:
    return list(prepare(job, AutoTokenizer.from_pretrained(job.model_name_or_path)).clients)


def perplexities(result: RunResult) -> list[float | None]:
    return [record.perplexity for record in result.history]
