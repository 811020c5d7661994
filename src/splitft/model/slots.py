"""Adapter slots: the places of a model's LoRA modules, block by block.

peft injects the modules once; each party then binds its own tensors to them, so that any number of clients
and the server share one frozen base. A block's scaling is lora_alpha / lora_r whatever its effective rank,
or lora_alpha / sqrt(lora_r) with use_rslora.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from splitft.errors import ModelError
from splitft.lora.blocks import (
    MAGNITUDE,
    Adapter,
    Layout,
    TensorSpec,
    has_rank,
    is_a,
    of_experts,
    tensor_name,
)
from splitft.model.config import text_config
from splitft.model.window import block_path, find_blocks, install_window


class AdapterSlots:
    """The places of one model where adapters are bound.

    layout: describes the places; path: names the block list. config: the LoraConfig that was injected.
    targets: names of the modules with LoRA; excluded: modules outside blocks that share such a name.
    parameters: {module of a block: parameter, as peft's patterns name it}, of adapters on fused experts.
    """

    def __init__(self, model: nn.Module, config: Any = None) -> None:
        from peft.tuners.lora.layer import ParamWrapper

        self.config = config
        self.start: Adapter = {}  # the part of the base weights that moved into new adapters
        self.targets = sorted(config.target_modules) if config else []
        self.excluded = sorted(config.exclude_modules or ()) if config else []

        window = install_window(model)
        self.path = block_path(model)
        self.layout: Layout = {}
        self.owners: dict[int, list[tuple[str, nn.Module]]] = {}  # of each block: A, B and magnitudes in turn
        self.parameters: dict[str, str] = {}
        for index, block in enumerate(window._modules.values()):
            assert block is not None
            owners: list[tuple[str, nn.Module]] = []
            specs: list[TensorSpec] = []
            for path, owner in block.named_modules():  # in the order of the model's parameters
                name, _, side = path.removesuffix(".default").rpartition(".lora_")  # peft's default adapter
                if side not in ("A", "B", "magnitude_vector") or not path.endswith(".default"):
                    continue
                if side == "magnitude_vector":  # DoRA
                    owners.append((name + MAGNITUDE, owner))
                    specs.append(TensorSpec(name + MAGNITUDE, tuple(owner.weight.shape)))
                    continue
                layer, experts = block.get_submodule(name), 1
                if isinstance(layer, ParamWrapper):
                    experts = layer.num_experts
                    base = name.replace(".base_layer", "")  # wrappers of two parameters lie in each other
                    self.parameters[name] = f"{base}.{layer.parameter_name}"
                owners.append((tensor_name(name, side, experts), owner))
                specs.append(TensorSpec(owners[-1][0], _shape(owner.weight, side, experts)))
            if owners:
                self.layout[index], self.owners[index] = tuple(specs), owners

    def bind(self, adapter: Mapping[int, Mapping[str, Tensor]]) -> None:
        """Make the model compute with these tensors (parameters, or plain tensors to evaluate)."""
        for index, block in adapter.items():
            for name, owner in self.owners[index]:
                tensor = block[name]
                vars(owner).pop("forward", None)  # in place of what `bind_rows` has left
                if of_experts(name):
                    owner._parameters.pop("weight", None)
                    with torch.enable_grad():
                        owner.weight = as_peft(name, tensor)  # a view, which hands its gradient on
                else:
                    owner.weight = tensor if isinstance(tensor, nn.Parameter) else nn.Parameter(tensor, False)


def peft_tensors(adapter: Mapping[int, Mapping[str, Tensor]], slots: AdapterSlots) -> dict[str, Tensor]:
    """Return an adapter as peft saves it: float32 on the CPU, under full names."""
    return {
        peft_name(slots, block, name): as_peft(name, tensor.detach().float().cpu()).contiguous()
        for block, values in adapter.items()
        for name, tensor in values.items()
    }


def peft_name(slots: AdapterSlots, block: int, name: str) -> str:
    """Return the name of a block's LoRA tensor in peft's files."""
    module, _, rest = name.partition(".lora_")
    own = f"{module}.lora_{rest[0]}.weight" if has_rank(name) else name
    return f"base_model.model.{slots.path}.{block}.{own}"


def as_peft(name: str, tensor: Tensor) -> Tensor:
    """Return a LoRA tensor as peft has it: those of experts with experts and rank on one axis."""
    if not of_experts(name):
        return tensor
    return tensor.flatten(0, 1) if is_a(name) else tensor.flatten(1, 2)


def from_peft(spec: TensorSpec, tensor: Tensor) -> Tensor:
    """Undo `as_peft` at any rank; a tensor that fits no rank is returned as it is."""
    experts = spec.shape[0 if is_a(spec.name) else -1]
    if not of_experts(spec.name) or tensor.ndim != 2:
        return tensor
    axis = 0 if is_a(spec.name) else 1
    if tensor.shape[axis] % experts:
        return tensor
    rows, columns = tensor.shape
    if axis == 0:
        return tensor.reshape(experts, -1, columns)
    return tensor.reshape(rows, -1, experts)


def _shape(weight: Tensor, side: str, experts: int) -> tuple[int, ...]:
    """Return the shape of a LoRA tensor at full rank, that of experts with these on an axis of their own."""
    rows, columns = weight.shape
    if experts == 1:
        return rows, columns
    return (experts, rows // experts, columns) if side == "A" else (rows, columns // experts, experts)


def resolve_targets(model: Any, requested: str | list[str] | None) -> tuple[list[str], list[str]]:
    """Return (target module names, full names to exclude), so that LoRA sits inside blocks only.

    requested: names, "all-linear", or None for peft's choice for the model type (all-linear where it has
    none). Raises ModelError where nothing matches.
    """
    from peft.utils.constants import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING as DEFAULTS
    from transformers.pytorch_utils import Conv1D

    # Linear layers inside blocks, and their names.
    _, _, blocks = find_blocks(model)
    inside = [(n, m) for n, m in blocks.named_modules() if isinstance(m, nn.Linear | Conv1D)]
    names = list(dict.fromkeys(_short(name) for name, _ in inside))
    # The targets: peft's choice, all of them, or those that are asked for.
    config = text_config(model)
    if requested is None:
        default = DEFAULTS.get(config.model_type) or DEFAULTS.get(model.config.model_type)
        usual = default if isinstance(default, list) else []  # a few are patterns over whole paths
        targets = [name for name in usual if name in names] or names
    elif requested == "all-linear":
        targets = names
    else:
        targets = [requested] if isinstance(requested, str) else list(requested)
        missing = [target for target in targets if not any(is_called(n, [target]) for n, _ in inside)]
        if missing:
            raise ModelError(
                f"lora_target_modules: no linear layer of a block is called {', '.join(missing)}; "
                f"this model has {', '.join(names)}"
            )
    if not targets:
        raise ModelError(f"{config.model_type} has no linear layers inside its blocks for LoRA to adapt")
    # Layers outside blocks that peft would take for targets, too.
    held = {id(module) for _, module in inside}
    outside = [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear | Conv1D) and id(module) not in held and is_called(name, targets)
    ]
    return targets, outside


def lora_config(
    targets: list[str],
    excluded: list[str],
    *,
    r: int,
    alpha: float,
    dropout: float,
    fan_in_fan_out: bool = False,
    blocks: Iterable[int] | None = None,
    parameters: Sequence[str] = (),
    use_rslora: bool = False,
    use_dora: bool = False,
) -> Any:
    """Return the peft LoraConfig.

    blocks: those with adapters; None: all.
    parameters: names of the weights of fused experts with LoRA.
    """
    from peft import LoraConfig

    return LoraConfig(
        r=r,
        lora_alpha=alpha,  # type: ignore[arg-type,unused-ignore]
        lora_dropout=dropout,
        target_modules=targets,
        exclude_modules=excluded or None,
        fan_in_fan_out=fan_in_fan_out,
        layers_to_transform=None if blocks is None else list(blocks),
        use_rslora=use_rslora,
        use_dora=use_dora,
        target_parameters=list(parameters) or None,
        task_type="CAUSAL_LM",
    )


def inject(model: Any, config: Any) -> AdapterSlots:
    """Freeze the model, inject LoRA modules of full rank into it, in place, and return its slots."""
    from peft import inject_adapter_in_model

    window, chosen = install_window(model), config.layers_to_transform
    path = block_path(model)
    names = [
        f"{path}.{index}.{name}"
        for index in (range(len(window)) if chosen is None else chosen)
        for name, _ in window._modules[str(index)].named_modules()
    ]
    model.requires_grad_(False)
    if config.target_parameters or any(is_called(name, config.target_modules) for name in names):
        inject_adapter_in_model(config, model)  # which refuses to adapt nothing
    model.requires_grad_(False)
    model.train(model.training)  # new modules start in training mode, also in a model that evaluates
    return AdapterSlots(model, config)


def is_called(name: str, targets: Iterable[str]) -> bool:
    """Whether a module's full name ends in one of these names."""
    return any(name == target or name.endswith(f".{target}") for target in targets)


def _short(name: str) -> str:
    """Return the last part of a module's name, with the one before where the last is a mere number."""
    parts = name.split(".")
    return ".".join(parts[-2:] if parts[-1].isdigit() else parts[-1:])


def expert_parameters(model: nn.Module) -> list[str]:
    """Return the names in a block of the weights of fused experts: of three axes, and no convolution's."""
    _, _, blocks = find_blocks(model)
    names = [
        f"{path}.{name}".replace(".base_layer", "")
        for block in blocks
        for path, module in block.named_modules()
        for name, parameter in module.named_parameters(recurse=False)
        if parameter.ndim == 3 and not type(module).__name__.startswith("Conv")
    ]
    return list(dict.fromkeys(names))


def uses_fan_in_fan_out(model: nn.Module) -> bool:
    """Whether the model's linear layers are GPT-2's transposed Conv1D."""
    from transformers.pytorch_utils import Conv1D

    return any(isinstance(module, Conv1D) for module in model.modules())
