"""A party's model: its base loaded whole, in part or as shapes alone; then, proven, given its adapters."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import torch
from rich.console import Console
from transformers import PreTrainedConfig

from splitft.errors import ModelError
from splitft.job import Job
from splitft.model.attention import attend_samples_apart, use_fast_backward
from splitft.model.config import count_blocks
from splitft.model.head import HeadForm
from splitft.model.slots import AdapterSlots, inject, lora_config, resolve_targets, uses_fan_in_fan_out
from splitft.model.split_model import ServerInputs, SplitModel
from splitft.model.window import install_window, learn_habits
from splitft.proof.quantized import try_gradients
from splitft.proof.targets import problems_of_targets
from splitft.weights.held import base_dtype
from splitft.weights.load import load_config, load_model
from splitft.weights.partial import spread_habits
from splitft.weights.quantized import quantization
from splitft.weights.shrink import causal_class, shrink_config, tiny_random_model

Targets = tuple[Sequence[str], Sequence[str]]  # names of the modules with LoRA; full names to leave out


def load_base(
    job: Job,
    console: Console,
    *,
    weights: bool = True,
    blocks: Collection[int] | None = None,
    head: bool = True,
) -> Any:
    """Return a party's frozen base on its device, with the attention that a proof has to cover.

    weights: False for shapes alone, on the meta device.
    blocks: the blocks that the party holds; None: all.
    head: with `blocks`, whether the party holds the output head, too.
    """
    held = "" if blocks is None else f"{len(blocks)} blocks of "
    with console.status(f"loading {held}{job.model_name_or_path}"):
        if not weights:
            return _shapes(job)
        model: Any = load_model(
            job.model_name_or_path,
            blocks=blocks,
            head=head,
            revision=job.model_revision,
            dtype=base_dtype(job, base_config(job)),
            attn_implementation=job.attn_implementation,
        )
        model = model.to(compute_device(job))
    if quantization(model.config) is not None and (problem := try_gradients(model)):
        raise ModelError(f"no job trains on {job.model_name_or_path}, which is quantised: {problem}")
    if job.attn_implementation is None:
        use_fast_backward(model)
    if wants_padding_free(job):
        attend_samples_apart(model)
    return model


def with_adapters(
    job: Job, base: Any, server_inputs: ServerInputs, head: HeadForm, targets: Targets
) -> SplitModel:
    """Return a proven base, ready to train: with adapters, and recomputation of the blocks that hold them.

    server_inputs, head: as a proof found them.
    targets: the modules with LoRA, as `choose_targets` or the server found them.
    """
    slots, chunk = inject_adapters(job, base, targets), job.loss_chunk_tokens
    return SplitModel(
        base, slots, seed=job.seed, server_inputs=server_inputs, head=head, loss_chunk_tokens=chunk
    )


def choose_targets(job: Job, model: Any) -> tuple[Targets, dict[str, str]]:
    """Return the modules with LoRA, and the names that are left out, each with the reason.

    Only names that the job does not state itself are left out. Raises ModelError where LoRA cannot adapt one
    that the job states, or none at all.
    """
    names, excluded = resolve_targets(model, job.lora_target_modules)
    left_out = problems_of_targets(model.config, names, excluded, job.seed)
    kept = [name for name in names if name not in left_out]
    if left_out and (not kept or job.lora_target_modules not in (None, "all-linear")):
        name, problem = next(iter(left_out.items()))
        others = f"; of these layers it can: {', '.join(kept)}" if kept else ""
        raise ModelError(f"lora_target_modules: LoRA cannot adapt {name}: {problem}{others}")
    return (kept, excluded), left_out


def inject_adapters(job: Job, model: Any, targets: Targets) -> AdapterSlots:
    """Inject LoRA into a model, in place, as the job asks; return its slots."""
    names, excluded = targets
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


def compute_device(job: Job) -> torch.device:
    """Return the device that a party of this job computes on."""
    accelerator = None if job.use_cpu else torch.accelerator.current_accelerator(check_available=True)
    return accelerator or torch.device("cpu")


def wants_padding_free(job: Job) -> bool:
    """Whether batches are to be computed without padding, if the model is proven for that.

    `auto` goes by settings alone, so that a server decides without the rows of its clients. An accelerator
    computes all pairs of a packed row, which nobody has measured to pay.
    """
    if job.padding_free != "auto":
        return job.padding_free
    uneven = job.per_device_train_batch_size > 1 and not (job.packing or job.group_by_length)
    return uneven and not job.batches_clients and compute_device(job).type == "cpu"


def base_config(job: Job) -> PreTrainedConfig:
    """Return the configuration of the base model; no weights are read. Raises ModelError."""
    return causal_class(load_config(job.model_name_or_path, job.model_revision))[1]


def _shapes(job: Job) -> Any:
    """Return a job's model with shapes and no weights; its blocks answer as those of a small copy do."""
    model_class, config = causal_class(load_config(job.model_name_or_path, job.model_revision))
    with torch.device("meta"):
        model = model_class._from_config(config, dtype=base_dtype(job, config)).eval()
    small = tiny_random_model(shrink_config(config))
    install_window(model, spread_habits(learn_habits(small), small, model))
    return model
