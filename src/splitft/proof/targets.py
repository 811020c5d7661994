"""Prove that LoRA can adapt modules: peft takes them as plain LoRA, they learn, and stock peft loads them.

All names are tried at once on a small copy of the model; where that fails, each by itself.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig

from splitft.common.text import error_line
from splitft.lora.blocks import Adapter, module_of
from splitft.model.slots import inject, is_called, peft_tensors
from splitft.model.window import call_model
from splitft.proof.harness import ProbeRows, difference, kept_random_state, loss_of, make_rows, random_adapter
from splitft.proof.trial import finite_random_model
from splitft.weights.shrink import NotBuiltError, shrink_config

Configure = Callable[[Any, Sequence[str]], Any]  # the LoraConfig of a model and names of its modules

_MOST_KEPT = 64  # outcomes
_found: dict[tuple[object, ...], dict[str, str]] = {}

_FUSED = "the name is that of fused experts, whose weights lora_target_parameters names"
_TOLD = {  # reasons in place of peft's own long ones
    "because they are fused into": _FUSED,
    "is not supported. Currently": "modules of other kinds have the same name",
    "incompatible with Mamba-based models": "Mamba's own code reads the layer's weight and passes LoRA by",
}


def problems_of_targets(
    config: PreTrainedConfig, names: Iterable[str], configure: Configure, seed: int = 0, same: str = ""
) -> dict[str, str]:
    """Return the problem of each module name that LoRA cannot adapt; empty where all can be.

    config: of the model; where no small copy of it can be built, no problem is found.
    names: of linear layers inside blocks, and of weights of fused experts.
    configure: returns the job's LoraConfig for some of the names.
    same: all that `configure` depends on, as text: what was found is then kept in this process, and not
        tried again for an equal model, names and seed. Empty: nothing is kept.
    """
    names = tuple(names)
    try:
        small = shrink_config(config)
    except NotBuiltError:
        return {}
    asked = type(small), small.to_json_string(use_diff=False), names, seed, same
    if same and asked in _found:
        return dict(_found[asked])
    problems = problems_in(small, names, configure, seed)
    if same:
        if len(_found) >= _MOST_KEPT:
            _found.pop(next(iter(_found)))
        _found[asked] = dict(problems)
    return problems


def by_reason(problems: Mapping[str, str]) -> dict[str, str]:
    """Return {problem: the names that have it, with commas}."""
    names: dict[str, list[str]] = {}
    for name, problem in problems.items():
        names.setdefault(problem, []).append(name)
    return {problem: ", ".join(some) for problem, some in names.items()}


def problems_in(
    small: PreTrainedConfig, names: Iterable[str], configure: Configure, seed: int = 0
) -> dict[str, str]:
    """Return the same of a small configuration; a new model is made for each trial."""
    names = list(names)
    with kept_random_state(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # peft's, of what is compared here
        problem = _problem(small, names, configure, seed) if names else ""
        if not problem:
            return {}
        found = {name: _problem(small, [name], configure, seed) for name in names}
        kept = [name for name in names if not found[name]]
        if kept != names:
            problem = _problem(small, kept, configure, seed) if len(kept) > 1 else ""
        found |= dict.fromkeys(kept, problem)
    return {name: problem for name, problem in found.items() if problem}


def _problem(small: PreTrainedConfig, names: Sequence[str], configure: Configure, seed: int) -> str:
    model = finite_random_model(small, seed)
    try:
        slots = inject(model, configure(model, names))
        stated = configure(model, names).target_parameters or ()  # peft adds those that it makes of names
        asked = all(is_called(parameter, stated) for parameter in slots.parameters.values())
        if other := _other_layers(model) - ({"ParamWrapper"} if asked else set()):
            return _FUSED if other == {"ParamWrapper"} else f"peft makes it {', '.join(other)}, no plain LoRA"
        if not slots.layout:
            return "peft adapts none of its modules in a block"
        rows, adapter = make_rows(model, seed=seed), random_adapter(slots.layout, seed, trained=True)
        slots.bind(adapter)
        logits, problem = _learn(model, rows, adapter, names, slots.parameters)
        return problem or _load(small, rows, configure, names, peft_tensors(adapter, slots), logits, seed)
    except Exception as error:  # peft and a foreign model may raise anything
        return next((told for sign, told in _TOLD.items() if sign in str(error)), error_line(error))


def _other_layers(model: nn.Module) -> set[str]:
    """Return the kinds of LoRA layers that are not plain ones."""
    from peft.tuners.lora import LoraLayer

    kinds = {type(module).__name__ for module in model.modules() if isinstance(module, LoraLayer)}
    return kinds - {"Linear"}


def _learn(
    model: Any, rows: ProbeRows, adapter: Adapter, names: Sequence[str], parameters: Mapping[str, str]
) -> tuple[Tensor, str]:
    """Return the logits, and the problem where the adapters of a name get no gradient."""
    with torch.enable_grad():
        out = call_model(model, input_ids=rows.input_ids, labels=rows.labels, **rows.inputs)
        loss = loss_of(out, rows)
    tensors = [(module_of(name), tensor) for block in adapter.values() for name, tensor in block.items()]
    learning: set[str] = set()
    if loss.requires_grad:
        gradients = torch.autograd.grad(loss, [tensor for _, tensor in tensors], allow_unused=True)
        moved = zip(tensors, gradients, strict=True)
        learning = {module for (module, _), gradient in moved if gradient is not None and gradient.any()}
        learning = {parameters.get(module, module) for module in learning}
    if all(any(is_called(module, [name]) for module in learning) for name in names):
        return rows.pick(out.logits), ""
    return rows.pick(out.logits), "its adapters get no gradient"


def _load(
    small: PreTrainedConfig,
    rows: ProbeRows,
    configure: Configure,
    names: Sequence[str],
    exported: dict[str, Tensor],
    wanted: Tensor,
    seed: int,
) -> str:
    """Load the exported tensors as stock peft does, and compare the logits."""
    from peft import get_peft_model, set_peft_model_state_dict

    base = finite_random_model(small, seed)
    tuned: Any = get_peft_model(base, configure(base, names)).eval()
    set_peft_model_state_dict(tuned, exported)
    with torch.no_grad():
        logits = rows.pick(call_model(tuned.base_model.model, input_ids=rows.input_ids, **rows.inputs).logits)
    if difference(wanted, logits) > 1e-5:
        return "stock peft does not load its adapters back as they were saved"
    return ""
