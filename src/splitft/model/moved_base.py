"""Adapters that start as a part of the base weights, which the base then lacks: peft's PiSSA and OLoRA.

Each party takes the part out of the blocks that it holds: on a CPU, under random numbers named by the layer,
so that parties with other blocks or devices take the same one.
"""

from __future__ import annotations

from typing import Any

import torch

from splitft.common.seeds import CPU, derive_seed, seed_torch
from splitft.errors import ModelError
from splitft.lora.blocks import Adapter, module_of
from splitft.model.slots import AdapterSlots, uses_fan_in_fan_out


def move_base(model: Any, slots: AdapterSlots, init: str, seed: int) -> Adapter:
    """Take each layer's part out of its base weight, in place, and return the parts as an adapter.

    init: pissa, pissa_niter_N or olora. Empty where the model is of shapes alone. Raises ModelError where a
    base weight cannot be divided.
    """
    if init == "olora" and uses_fan_in_fan_out(model):
        raise ModelError(
            "init_lora_weights: peft's OLoRA does not take the transposed layers of this model: set pissa"
        )
    start: Adapter = {}
    seen: set[int] = set()
    for block, specs in slots.layout.items():
        start[block] = {}
        for spec_a, spec_b in zip(specs[::2], specs[1::2], strict=True):
            where = f"{slots.path}.{block}.{module_of(spec_a.name)}"
            layer = model.get_submodule(where)
            weight = layer.get_base_layer().weight
            if weight.is_meta:
                return {}
            _check(where, weight, spec_a.shape[0], id(layer) in seen, init)
            seen.add(id(layer))
            device = weight.device
            layer.to("cpu")
            with torch.random.fork_rng(devices=[]):
                seed_torch(derive_seed(seed, init, where), CPU)
                if init == "olora":
                    layer.olora_init("default")
                else:
                    layer.pissa_init("default", init)
            layer.to(device)
            for spec, owner in ((spec_a, layer.lora_A), (spec_b, layer.lora_B)):
                start[block][spec.name] = owner["default"].weight.detach().float().clone().contiguous()
    return start


def _check(where: str, weight: torch.Tensor, rank: int, shared: bool, init: str) -> None:
    problem = ""
    if not weight.is_floating_point():
        problem = "it is quantised: set another init_lora_weights"
    elif weight.dtype != torch.float32:
        kind = str(weight.dtype).removeprefix("torch.")
        problem = f"it is {kind}, and rounding the rest would change the model: set bf16: false"
    elif rank > min(weight.shape):
        problem = f"its rank is at most {min(weight.shape)}: set lora_r to that or less"
    elif shared:
        problem = "several blocks share it: set another init_lora_weights"
    if problem:
        raise ModelError(f"init_lora_weights: {init} takes a part out of {where}, but {problem}")
