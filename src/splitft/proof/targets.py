"""Prove that LoRA can adapt modules: peft takes them as plain LoRA, they change the model, and they learn.

Every name is tried by itself on a small copy of the model.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedConfig

from splitft.common.text import error_line
from splitft.model.slots import AdapterSlots, inject, lora_config, uses_fan_in_fan_out
from splitft.model.window import call_model
from splitft.proof.harness import kept_random_state, loss_of, make_rows
from splitft.proof.trial import finite_random_model
from splitft.weights.shrink import NotBuiltError, shrink_config

_RANK = 2
_FUSED = "peft adapts the fused experts with it, and a block's adapter holds no experts"
_TOLD = {  # reasons in place of peft's own long ones
    "because they are fused into": _FUSED,
    "is not supported. Currently": "modules of other kinds have the same name",
    "incompatible with Mamba-based models": "Mamba's own code reads the layer's weight and passes LoRA by",
}


def problems_of_targets(
    config: PreTrainedConfig, names: Iterable[str], excluded: Sequence[str], seed: int = 0
) -> dict[str, str]:
    """Return the problem of each module name that LoRA cannot adapt; empty where all can be.

    config: of the model; where no small copy of it can be built, no problem is found.
    names: of linear layers inside blocks.
    excluded: full names of layers outside blocks that share such a name.
    """
    try:
        return problems_in(shrink_config(config), names, excluded, seed)
    except NotBuiltError:
        return {}


def problems_in(
    small: PreTrainedConfig, names: Iterable[str], excluded: Sequence[str], seed: int = 0
) -> dict[str, str]:
    """Return the same of a small configuration; a new model is made for each name."""
    with kept_random_state():
        found = {name: _problem(finite_random_model(small, seed), name, excluded, seed) for name in names}
    return {name: problem for name, problem in found.items() if problem}


def _problem(model: Any, name: str, excluded: Sequence[str], seed: int) -> str:
    fan_in = uses_fan_in_fan_out(model)
    config = lora_config([name], list(excluded), r=_RANK, alpha=_RANK, dropout=0.0, fan_in_fan_out=fan_in)
    try:
        slots = inject(model, config)
        if other := _other_layers(model):
            return _FUSED if other == ["ParamWrapper"] else f"peft makes it {', '.join(other)}, no plain LoRA"
        return _learns(model, slots, seed) if slots.layout else "peft adapts none of its modules in a block"
    except Exception as error:  # peft and a foreign model may raise anything
        return next((told for sign, told in _TOLD.items() if sign in str(error)), error_line(error))


def _other_layers(model: nn.Module) -> list[str]:
    """Return the kinds of LoRA layers that are not plain ones."""
    from peft.tuners.lora import LoraLayer

    kinds = {type(module).__name__ for module in model.modules() if isinstance(module, LoraLayer)}
    return sorted(kinds - {"Linear"})


def _learns(model: Any, slots: AdapterSlots, seed: int) -> str:
    """Say where the adapters change no logits, or none of them gets a gradient."""
    rows = make_rows(model, seed=seed)
    with torch.no_grad():
        plain = rows.pick(call_model(model, input_ids=rows.input_ids, **rows.inputs).logits)
    generator = torch.Generator().manual_seed(seed)
    adapter = {
        block: {spec.name: nn.Parameter(0.3 * torch.randn(spec.shape, generator=generator)) for spec in specs}
        for block, specs in slots.layout.items()
    }
    slots.bind(adapter)
    with torch.enable_grad():
        out = call_model(model, input_ids=rows.input_ids, labels=rows.labels, **rows.inputs)
        loss = loss_of(out, rows)
    if torch.equal(plain, rows.pick(out.logits)):
        return "the model answers with its adapters what it answers without"
    wanted = [tensor for own in adapter.values() for tensor in own.values()]
    if not loss.requires_grad:
        return "its adapters get no gradient"
    gradients = torch.autograd.grad(loss, wanted, allow_unused=True)
    if not any(gradient is not None and bool(gradient.any()) for gradient in gradients):
        return "its adapters get no gradient"
    return ""
