"""A party's model: its base loaded whole, in part or as shapes alone; then, proven, given its adapters."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from contextlib import suppress
from typing import Any

import torch
from rich.console import Console
from rich.markup import escape
from transformers import PreTrainedConfig

from splitft.errors import ModelError
from splitft.job import Job
from splitft.job.lora import LoraSettings
from splitft.model.attention import attend_samples_apart, use_fast_backward
from splitft.model.config import count_blocks
from splitft.model.head import HeadForm
from splitft.model.metrics import find_metrics
from splitft.model.moved_base import move_base
from splitft.model.slots import (
    AdapterSlots,
    expert_parameters,
    inject,
    is_called,
    lora_config,
    resolve_targets,
    uses_fan_in_fan_out,
)
from splitft.model.split_model import KeepLogits, ServerInputs, SplitModel
from splitft.model.targets import names_in_blocks, narrowed
from splitft.model.window import install_window, learn_habits
from splitft.proof.attention import with_attention
from splitft.proof.quantized import try_gradients
from splitft.proof.targets import problems_of_targets
from splitft.running.given import check_dtype, frozen_copy
from splitft.weights.held import base_dtype
from splitft.weights.kinds import causal_class, sees_images
from splitft.weights.load import load_config, load_model
from splitft.weights.partial import drop_vision, spread_habits
from splitft.weights.quantized import quantization
from splitft.weights.shrink import NotBuiltError, shrink_config, tiny_random_model

Targets = tuple[Sequence[str], Sequence[str]]  # names of the modules with LoRA; full names to leave out


def load_base(
    job: Job,
    console: Console,
    *,
    weights: bool = True,
    blocks: Collection[int] | None = None,
    head: bool = True,
    outside: bool = True,
    model: Any = None,
) -> Any:
    """Return a party's frozen base on its device, with the attention that a proof has to cover.

    weights: False for shapes alone, on the meta device.
    blocks: the blocks that the party holds; None: all.
    head, outside: with `blocks`, whether the party holds the output head, and what else is beside the blocks.
    model: the base as an object, in the place of the one that the job names; it is left as it is.
    """
    if model is not None:
        stated = base_dtype(job, model.config) if job.dtype or job.bf16 else None
        check_dtype(model, stated)
        own = job.moves_base or quantization(model.config) is not None
        return _ready(job, frozen_copy(model, own_weights=own).to(compute_device(job)))
    held = "" if blocks is None else f"{len(blocks)} blocks of "
    with console.status(escape(f"loading {held}{job.model_name_or_path}")):
        if not weights:
            return _shapes(job)
        loaded: Any = load_model(
            job.model_name_or_path,
            blocks=blocks,
            head=head,
            outside=outside,
            revision=job.model_revision,
            dtype=base_dtype(job, base_config(job)),
            attn_implementation=job.attn_implementation,
        )
        return _ready(job, loaded.to(compute_device(job)))


def _ready(job: Job, model: Any) -> Any:
    """Return a base with the attention that fits the job. Raises ModelError for some quantised ones."""
    if quantization(model.config) is not None:
        _check_quantized(job, model)
    if job.attn_implementation is None:
        with_attention(model, use_fast_backward, job.seed)
    if wants_padding_free(job):
        with_attention(model, attend_samples_apart, job.seed)
    return model


def make_split_model(
    job: Job,
    base: Any,
    slots: AdapterSlots,
    server_inputs: ServerInputs,
    head: HeadForm,
    keep_logits: KeepLogits | None = None,
) -> SplitModel:
    """Return a proven base with its adapters, ready to train.

    server_inputs, head: as a proof found them. keep_logits: of held-out rows.
    """
    if job.moves_base:
        slots.start.update(move_base(base, slots, str(job.init_lora_weights), job.seed))
    return split_model(job, base, slots, server_inputs, head, keep_logits)


def split_model(
    job: Job,
    base: Any,
    slots: AdapterSlots,
    server_inputs: ServerInputs,
    head: HeadForm,
    keep_logits: KeepLogits | None = None,
) -> SplitModel:
    """Return a base with its adapters as the parts of a split model."""
    chunk = job.loss_chunk_tokens
    return SplitModel(
        base,
        slots,
        seed=job.seed,
        server_inputs=server_inputs,
        head=head,
        loss_chunk_tokens=chunk,
        metrics=find_metrics(job.metrics),
        keep_logits=keep_logits,
    )


def add_blocks(
    job: Job, model: SplitModel, console: Console, blocks: Collection[int], targets: Targets, head: HeadForm
) -> SplitModel:
    """Load blocks, and return the model that holds them beside those that it had, which stay as they are."""
    part = load_base(job, console, blocks=blocks, head=False, outside=False)
    own = inject_adapters(job, part, targets)
    start = move_base(part, own, str(job.init_lora_weights), job.seed) if job.moves_base else {}
    part.train(model.model.training)
    window, came = install_window(model.model), install_window(part)
    for block in blocks:
        window._modules[str(block)] = came._modules[str(block)]
    slots = AdapterSlots(model.model, own.config)
    slots.layout.update(model.slots.layout)  # of full rank: blocks at the cut hold tensors of a lower one now
    slots.start.update(model.slots.start | start)
    return split_model(job, model.model, slots, model.server_inputs, head)


def choose_targets(job: Job, model: Any) -> tuple[Targets, dict[str, str]]:
    """Return the modules with LoRA, and the names that are left out, each with the reason.

    Only names that the job does not state itself are left out. Raises ModelError where LoRA cannot adapt one
    that the job states, or none at all.
    """
    names, excluded = resolve_targets(model, names_in_blocks(model, job.lora_target_modules))
    experts = list(job.lora_target_parameters or ())
    known = expert_parameters(model)
    if unknown := [name for name in experts if not any(is_called(each, [name]) for each in known)]:
        has = f"this model has {', '.join(known)}" if known else "this model has none"
        raise ModelError(
            f"lora_target_parameters: no fused experts of a block are called {', '.join(unknown)}; {has}"
        )

    def configure(small: Any, some: Sequence[str]) -> Any:
        return _lora_config(
            job,
            small,
            ([name for name in some if name not in experts], excluded),
            parameters=[name for name in some if name in experts],
        )

    same = json.dumps([job.model_dump(mode="json", include={*LoraSettings.model_fields}), excluded])
    left_out = problems_of_targets(model.config, [*names, *experts], configure, job.seed, same)
    for name in set(experts) & set(left_out):
        raise ModelError(f"lora_target_parameters: LoRA cannot adapt {name}: {left_out[name]}")
    kept = [name for name in names if name not in left_out]
    if left_out and (not kept or job.lora_target_modules not in (None, "all-linear")):
        name, problem = next(iter(left_out.items()))
        others = f"; of these layers it can: {', '.join(kept)}" if kept else ""
        raise ModelError(f"lora_target_modules: LoRA cannot adapt {name}: {problem}{others}")
    return narrowed(model, job, job.frozen_blocks, kept, excluded), left_out


def inject_adapters(job: Job, model: Any, targets: Targets) -> AdapterSlots:
    """Inject LoRA into a model, in place, as the job asks; return its slots."""
    blocks = range(job.frozen_blocks, count_blocks(model.config)) if job.frozen_blocks else None
    slots = inject(model, _lora_config(job, model, targets, blocks, job.lora_target_parameters or ()))
    if job.gradient_checkpointing:
        try:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        except ValueError as error:
            raise ModelError(f"{error} Set gradient_checkpointing: false.") from None
    return slots


def adapter_shapes(job: Job, console: Console, targets: Targets) -> AdapterSlots:
    """Return the places of adapters in the whole model, from shapes alone: no weight is read."""
    return inject_adapters(job, load_base(job, console, weights=False), targets)


def _lora_config(
    job: LoraSettings,
    model: Any,
    targets: Targets,
    blocks: range | None = None,
    parameters: Sequence[str] = (),
) -> Any:
    names, excluded = targets
    there = {name for name, _ in model.named_modules()}  # a party may hold none of those to leave out
    return lora_config(
        list(names),
        [name for name in excluded if name in there],
        r=job.lora_r,
        alpha=job.lora_alpha,
        dropout=job.lora_dropout,
        fan_in_fan_out=uses_fan_in_fan_out(model),
        use_rslora=job.use_rslora,
        use_dora=job.use_dora,
        blocks=blocks,
        parameters=parameters,
    )


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
    uneven = job.per_device_train_batch_size > 1 and not (job.packing or job.group_by_length or job.dp.active)
    return uneven and not job.batches_clients and compute_device(job).type == "cpu"


def base_config(job: Job) -> PreTrainedConfig:
    """Return the configuration of the base model; no weights are read.

    Raises ModelError where it is no next-token model, or one that needs images.
    """
    whole_config = load_config(job.model_name_or_path, job.model_revision)
    if sees_images(whole_config):
        with suppress(NotBuiltError):
            shrink_config(whole_config)
    return causal_class(whole_config)[1]


def _check_quantized(job: Job, model: Any) -> None:
    """Raise ModelError where a job does not train on a base that stays quantised."""
    problem = try_gradients(model)
    if job.use_dora or job.moves_base:
        problem = "use_dora, pissa and olora need its plain weights: leave them out"
    if problem:
        raise ModelError(f"{job.model_name_or_path} is quantised, and this job cannot train on it: {problem}")


def _shapes(job: Job) -> Any:
    """Return a job's model with shapes and no weights; its blocks answer as those of a small copy do."""
    model_class, config = causal_class(load_config(job.model_name_or_path, job.model_revision))
    with torch.device("meta"):
        model = model_class._from_config(config, dtype=base_dtype(job, config)).eval()
    drop_vision(model)
    small = tiny_random_model(shrink_config(config))
    install_window(model, spread_habits(learn_habits(small), small, model))
    return model
