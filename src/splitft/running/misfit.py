"""Reasons why an adapter made elsewhere is not one that a job can start from, and what to do about each."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from splitft.job.lora import LoraSettings
from splitft.lora.blocks import module_of
from splitft.model.slots import AdapterSlots

_MERGE = "merge it into its model and start from that"
# Settings of peft with which an adapter computes something else than B·A, or changes the base weights.
_OTHER_FUNCTIONS = (
    "use_qalora", "use_bdlora", "alora_invocation_tokens", "arrow_config", "kasa_config",
    "layer_replication", "monteclora_config", "velora_config",
)  # fmt: skip
_PLAIN_STARTS = ("gaussian", "eva", "mica", "orthogonal")


def other_kind(config: Any) -> str:
    """Return why a PEFT configuration is not that of a plain LoRA adapter; empty where it is."""
    kind = str(getattr(config.peft_type, "value", config.peft_type))
    if kind != "LORA":
        advice = "start without it" if config.is_prompt_learning else _MERGE
        return f"is no LoRA adapter but {kind}: {advice}"
    unusual = [name for name in _OTHER_FUNCTIONS if getattr(config, name, None)]
    if unusual:
        return f"is no plain LoRA adapter ({', '.join(unusual)}): {_MERGE}"
    init = config.init_lora_weights
    if isinstance(init, str) and init not in _PLAIN_STARTS:
        return (
            f"belongs to base weights that its start has changed (init_lora_weights {init}): save it in peft "
            f"with path_initial_model_for_weight_conversion, or {_MERGE}"
        )
    return ""


def misfit(
    config: Any, names: Iterable[str], slots: AdapterSlots, lora: LoraSettings, frozen_blocks: int
) -> str:
    """Return why an adapter's tensors are not those of the job's layers; empty where they are.

    Args:
        config: The adapter's LoraConfig.
        names: Of its tensors, as PEFT files have them.
        frozen_blocks: Blocks in which the job has no adapter, from the first on.
    """
    if bool(config.use_dora) != lora.use_dora:
        what = "is a DoRA adapter" if config.use_dora else "is no DoRA adapter"
        return f"{what}: set use_dora: {str(not lora.use_dora).lower()}"
    # Tensors that are no A or B of a layer in a block.
    path = rf"base_model\.model\.{re.escape(slots.path)}\.(\d+)\."
    place = re.compile(rf"{path}(.+)\.lora_(?:[AB]\.weight|magnitude_vector)")
    halves: Counter[tuple[int, str]] = Counter()
    names = list(names)
    if names and not any(place.fullmatch(name) for name in names):
        found_name = names[0].removeprefix("base_model.model.")
        return (
            f"is of another model: it adapts {found_name}, and this model's blocks are {slots.path}.0 and on"
        )
    for name in names:
        if not (found := place.fullmatch(name)):
            return f"{_outside(config, name.removeprefix('base_model.model.'))}: {_MERGE}"
        halves[int(found[1]), found[2]] += 1
    if lacking := [name for (_, name), number in halves.items() if number < 2 + lora.use_dora]:
        return f"is not complete: it lacks a tensor of {lacking[0]}"
    have = set(halves)
    # Blocks, names and single layers that differ.
    want = {(block, module_of(spec.name)) for block, specs in slots.layout.items() for spec in specs}
    if have == want:
        return ""
    own, other = ({block for block, _ in layers} for layers in (have, want))
    if own != other:
        beyond = min(own) < frozen_blocks if own else False
        advice = "train_front: true" if beyond else f"layers_to_transform: {sorted(own)}"
        return f"adapts the blocks {_listed(own)}, and this job {_listed(other)}: set {advice}"
    own_names, job_names = ({name for _, name in layers} for layers in (have, want))
    if own_names != job_names:
        experts = config.target_parameters
        return (
            f"adapts the layers {_listed(own_names)}, and this job {_listed(job_names)}: "
            f"set lora_target_modules: {_targets(config.target_modules)}"
            + (f" and lora_target_parameters: {_targets(experts)}" if experts else "")
        )
    block, name = min(have ^ want)
    which = "adapts" if (block, name) in have else "leaves out"
    advice = f"lora_target_modules: {_targets(config.target_modules)}"
    if config.exclude_modules:
        advice += f" and exclude_modules: {_targets(config.exclude_modules)}"
    return f"{which} {slots.path}.{block}.{name}, other than this job: set {advice}"


def _outside(config: Any, name: str) -> str:
    """Return what a tensor says that an adapter has beside A and B of layers in blocks."""
    module = name.partition(".lora_")[0].partition(".base_layer")[0]
    if name.endswith(".lora_B.bias"):
        return f"has a bias in its layers, such as {module} (lora_bias)"
    if "token" in name.rpartition(".")[2] or ".token_adapter" in name:
        return f"trains new tokens ({name}, trainable_token_indices), and embeddings lie outside the blocks"
    if name.endswith(".bias") and config.bias != "none":
        return f"trains biases of the base model, such as {name} (bias: {config.bias})"
    if module != name:
        return f"adapts {module}, which lies outside the blocks"
    return f"trains {name.rpartition('.')[0]} as a whole (modules_to_save)"


def _targets(names: Any) -> str:
    return str(names if isinstance(names, str) else sorted(names))


def _listed(items: Iterable[Any]) -> str:
    shown: Sequence[str] = [str(item) for item in sorted(items)]
    return ", ".join(shown[:12]) + (f" and {len(shown) - 12} more" if len(shown) > 12 else "")
