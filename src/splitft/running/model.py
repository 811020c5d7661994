"""A party's model: loaded whole, in part or as shapes alone; proven; then given its adapters."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import torch
from transformers import PreTrainedConfig

from splitft.job import Job
from splitft.model.attention import attend_samples_apart, use_fast_backward
from splitft.model.config import count_blocks
from splitft.model.head import HeadForm
from splitft.model.slots import AdapterSlots, inject, lora_config, resolve_targets, uses_fan_in_fan_out
from splitft.model.split_model import ServerInputs, SplitModel
from splitft.model.window import find_blocks, install_window, learn_habits
from splitft.proof.head import whole_loss_notice
from splitft.running.notices import Notices
from splitft.weights.load import base_dtype, load_config, load_model, load_part
from splitft.weights.partial import spread_habits
from splitft.weights.shrink import causal_class, shrink_config, tiny_random_model

Targets = tuple[Sequence[str], Sequence[str]]  # names of the modules with LoRA; full names to leave out


class Proof(Protocol):
    """The findings of a proof that decide how a model computes."""

    @property
    def server_inputs(self) -> ServerInputs: ...
    @property
    def head(self) -> HeadForm: ...
    @property
    def head_reason(self) -> str: ...


@dataclass(frozen=True)
class PartProof:
    """The findings of a party that did not prove the split itself."""

    server_inputs: ServerInputs = "dummy_ids"
    head: HeadForm = "whole"
    head_reason: str = ""


P = TypeVar("P", bound=Proof)


def prepare_model(
    job: Job,
    notices: Notices,
    prove: Callable[[Any], P],
    *,
    weights: bool = True,
    blocks: Collection[int] | None = None,
    head: bool = True,
    targets: Targets | None = None,
) -> tuple[SplitModel, P]:
    """Return a party's model, ready to train, and its proof. Every party's model is made in this order.

    prove: is called with the frozen base; raises ModelError where it may not be trained.
    weights: False for shapes alone, on the meta device.
    blocks: the blocks that the party holds; None: all.
    head: with `blocks`, whether the party holds the output head, too.
    targets: the modules with LoRA, as the server found them; None: as the job says.
    """
    # 1. The frozen base, on its device.
    with notices.console.status(f"loading {_held(blocks)}{job.model_name_or_path}"):
        model = _load(job, blocks, head) if weights else _shapes(job)
    # 2. Its attention, so that the proof covers it.
    if weights and job.attn_implementation is None:
        use_fast_backward(model)
    if weights and job.padding_free:
        attend_samples_apart(model)
    # 3. The proof.
    proof = prove(model)
    chunked = weights and job.loss_chunk_tokens > 0
    if chunked and proof.head_reason:
        notices.add(whole_loss_notice(proof.head_reason))
    # 4. Adapters, and recomputation of the blocks that hold them.
    slots = inject_adapters(job, model, targets)
    split = SplitModel(
        model,
        slots,
        seed=job.seed,
        server_inputs=proof.server_inputs,
        head=proof.head if chunked else "whole",
        loss_chunk_tokens=job.loss_chunk_tokens,
    )
    return split, proof


def inject_adapters(job: Job, model: Any, targets: Targets | None = None) -> AdapterSlots:
    """Inject LoRA into a model, in place, as the job asks; return its slots."""
    names, excluded = targets or resolve_targets(model, job.lora_target_modules)
    config = lora_config(
        list(names),
        list(excluded),
        r=job.lora_r,
        alpha=job.lora_alpha,
        dropout=job.lora_dropout,
        fan_in_fan_out=uses_fan_in_fan_out(model),
        blocks=range(job.frozen_blocks, count_blocks(model.config)) if job.frozen_blocks else None,
    )
    slots = inject(model, config)
    if job.gradient_checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    return slots


def base_config(job: Job) -> PreTrainedConfig:
    """Return the configuration of the base model; no weights are read. Raises ModelError."""
    return causal_class(load_config(job.model_name_or_path, job.model_revision))[1]


def _held(blocks: Collection[int] | None) -> str:
    return "" if blocks is None else f"{len(blocks)} blocks of "


def _load(job: Job, blocks: Collection[int] | None, head: bool) -> Any:
    name, revision = job.model_name_or_path, job.model_revision
    dtype, attention = base_dtype(job), job.attn_implementation
    if blocks is None:
        model = load_model(name, revision=revision, dtype=dtype, attn_implementation=attention)
    else:
        model = load_part(
            name, sorted(blocks), head=head, revision=revision, dtype=dtype, attn_implementation=attention
        )
    accelerator = None if job.use_cpu else torch.accelerator.current_accelerator(check_available=True)
    return model.to(accelerator or torch.device("cpu"))  # type: ignore[arg-type,unused-ignore]


def _shapes(job: Job) -> Any:
    """Return a job's model with shapes and no weights; its blocks answer as those of a small copy do."""
    model_class, config = causal_class(load_config(job.model_name_or_path, job.model_revision))
    with torch.device("meta"):
        model = model_class._from_config(config, dtype=base_dtype(job)).eval()
    small = tiny_random_model(shrink_config(config))
    names = tuple(type(block).__name__ for block in find_blocks(small)[2])
    install_window(model, spread_habits(learn_habits(small), names, model))
    return model
