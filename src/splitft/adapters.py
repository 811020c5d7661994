"""LoRA adapters per block: where they sit in a model, how they start, and how they travel.

peft injects the modules once; each party then binds its own tensors to them, so that any number of clients
and the server share one frozen base. A block's scaling is lora_alpha / lora_r whatever its effective rank.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from splitft.common.seeds import torch_generator
from splitft.errors import ModelError
from splitft.job import Job
from splitft.split import find_blocks, install_window

BlockAdapter = dict[str, Tensor]  # "self_attn.q_proj.lora_A.weight" -> tensor, in the model's order
Adapter = dict[int, BlockAdapter]  # block index -> its adapter


@dataclass(frozen=True)
class TensorSpec:
    """One LoRA tensor of a block: its name and its shape at full rank. Rank is axis 0 of A, axis 1 of B."""

    name: str
    shape: tuple[int, ...]

    @property
    def rank_axis(self) -> int:
        return 0 if ".lora_A." in self.name else 1

    def at_rank(self, rank: int) -> tuple[int, ...]:
        return tuple(rank if axis == self.rank_axis else n for axis, n in enumerate(self.shape))


Layout = dict[int, tuple[TensorSpec, ...]]


class AdapterSlots:
    """Where adapters are bound in one model; `layout` describes the places, `path` names the block list."""

    def __init__(self, model: nn.Module, adapter_name: str = "default") -> None:
        from peft.tuners.lora import LoraLayer

        self.excluded: list[str] = []  # modules outside blocks that share a target's name
        self.fan_in_fan_out = uses_fan_in_fan_out(model)

        window = install_window(model)
        self.path = next(name for name, module in model.named_modules() if module is window)
        self.layout: Layout = {}
        self.owners: dict[int, list[tuple[str, nn.Module]]] = {}  # of each block: A and B in turn
        for index, block in enumerate(window._modules.values()):
            owners: list[tuple[str, nn.Module]] = []
            specs: list[TensorSpec] = []
            assert block is not None
            for name, layer in block.named_modules():
                if not isinstance(layer, LoraLayer) or adapter_name not in layer.lora_A:
                    continue
                for side in ("lora_A", "lora_B"):
                    owner = getattr(layer, side)[adapter_name]
                    tensor_name = f"{name}.{side}.weight"
                    owners.append((tensor_name, owner))
                    specs.append(TensorSpec(tensor_name, tuple(owner.weight.shape)))
            if specs:
                self.layout[index] = tuple(specs)
                self.owners[index] = owners

    def bind(self, adapter: Mapping[int, Mapping[str, Tensor]]) -> None:
        """Make the model compute with these tensors (parameters, or plain tensors to evaluate)."""
        for index, block in adapter.items():
            for name, owner in self.owners[index]:
                tensor = block[name]
                vars(owner).pop("forward", None)  # in place of what `bind_rows` has left
                owner.weight = tensor if isinstance(tensor, nn.Parameter) else nn.Parameter(tensor, False)


def resolve_targets(model: Any, requested: str | list[str] | None) -> tuple[list[str], list[str]]:
    """Return (target module names, full names to exclude) so that LoRA sits inside blocks only.

    requested: names, "all-linear", or None for peft's choice for the model type (all-linear where it has
    none). Raises ModelError where nothing matches.
    """
    from peft.utils.constants import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING as DEFAULTS
    from transformers.pytorch_utils import Conv1D

    _, _, blocks = find_blocks(model)
    inside = [(n, m) for n, m in blocks.named_modules() if isinstance(m, nn.Linear | Conv1D)]
    names = list(dict.fromkeys(name.rpartition(".")[2] for name, _ in inside))
    config = model.config.get_text_config(decoder=True)
    if requested is None:
        default = DEFAULTS.get(config.model_type) or DEFAULTS.get(model.config.model_type)
        usual = default if isinstance(default, list) else []  # a few are patterns over whole paths
        targets = [name for name in usual if name in names] or names
    elif requested == "all-linear":
        targets = names
    else:
        targets = [requested] if isinstance(requested, str) else list(requested)
        missing = [t for t in targets if not any(n == t or n.endswith("." + t) for n, _ in inside)]
        if missing:
            raise ModelError(
                f"lora_target_modules: no linear layer of a block is called {', '.join(missing)}; "
                f"this model has {', '.join(names)}"
            )
    if not targets:
        raise ModelError(f"{config.model_type} has no linear layers inside its blocks for LoRA to adapt")
    held = {id(module) for _, module in inside}
    outside = [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear | Conv1D)
        and id(module) not in held
        and any(name == t or name.endswith("." + t) for t in targets)
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
    block_ranks: Mapping[str, int] | None = None,
    blocks: Iterable[int] | None = None,
) -> Any:
    """Return the peft LoraConfig; `block_ranks` maps module paths to ranks that differ from r.

    blocks: those with adapters; None: all.

    alpha_pattern keeps the scaling alpha / r for them, so that a change of rank never changes the function.
    """
    from peft import LoraConfig

    ranks = {path: rank for path, rank in (block_ranks or {}).items() if rank != r}
    return LoraConfig(
        r=r,
        lora_alpha=alpha,  # type: ignore[arg-type,unused-ignore]
        lora_dropout=dropout,
        target_modules=targets,
        exclude_modules=excluded or None,
        rank_pattern=ranks,
        alpha_pattern={path: alpha * rank / r for path, rank in ranks.items()},
        fan_in_fan_out=fan_in_fan_out,
        layers_to_transform=None if blocks is None else list(blocks),
        task_type="CAUSAL_LM",
    )


def inject(model: Any, config: Any) -> AdapterSlots:
    """Freeze the model, inject LoRA modules of full rank into it, in place, and return its slots."""
    from peft import inject_adapter_in_model

    window = install_window(model)
    model.requires_grad_(False)
    if config.layers_to_transform is None or _has_targets(window, config):
        inject_adapter_in_model(config, model)
    model.requires_grad_(False)
    model.train(model.training)  # new modules start in training mode, also in a model that evaluates
    slots = AdapterSlots(model)
    slots.excluded = sorted(config.exclude_modules or [])
    return slots


def _has_targets(window: nn.ModuleList, config: Any) -> bool:
    """Whether a block that is held here is to have an adapter; peft refuses models without any."""
    return any(
        name == target or name.endswith(f".{target}")
        for index in config.layers_to_transform
        for name, _ in window._modules[str(index)].named_modules()
        for target in config.target_modules
    )


def uses_fan_in_fan_out(model: nn.Module) -> bool:
    """Whether the model's linear layers are GPT-2's transposed Conv1D."""
    from transformers.pytorch_utils import Conv1D

    return any(isinstance(module, Conv1D) for module in model.modules())


def initial_adapter(layout: Layout, rank: int, seed: int) -> Adapter:
    """Return a new adapter: A uniform in ±1/sqrt(inputs) as peft's default, B zero; float32.

    Each tensor comes from its own generator, so that it does not depend on who holds which block.
    """
    adapter: Adapter = {}
    for block, specs in layout.items():
        adapter[block] = {}
        for spec in specs:
            tensor = torch.zeros(spec.at_rank(rank))
            if spec.rank_axis == 0:
                bound = 1 / math.sqrt(math.prod(spec.shape[1:]))
                tensor.uniform_(-bound, bound, generator=torch_generator(seed, "adapter", block, spec.name))
            adapter[block][spec.name] = tensor
    return adapter


def effective_ranks(
    num_blocks: int, cut: int, r: int, r_cut: int | None = None, side: str = "both"
) -> dict[int, int]:
    """Return {block: rank} of one client's model: r_cut at its cut, r elsewhere.

    side: both blocks at the cut (paper), the client's last one alone, or none. r_cut None: r. A cut of all
    blocks is none: the whole model is on the client.
    """
    if cut >= num_blocks:
        return dict.fromkeys(range(num_blocks), r)
    lower = {"both": (cut - 1, cut), "client": (cut - 1,), "none": ()}[side]
    return {block: (r_cut or r) if block in lower else r for block in range(num_blocks)}


def job_ranks(job: Job, num_blocks: int, cut: int) -> dict[int, int]:
    """Return {block: effective rank} of a client of a job at this cut."""
    return effective_ranks(num_blocks, cut, job.lora_r, job.lora_r_cut, job.lora_r_cut_side)


def narrow_a(block: Mapping[str, Tensor]) -> BlockAdapter:
    """Return a block with each A cut to the components that its B has."""
    return {
        name: t[: block[name.replace(".lora_A.", ".lora_B.")].shape[1]] if ".lora_A." in name else t
        for name, t in block.items()
    }


def rank_of(block: Mapping[str, Tensor]) -> int:
    """Return the rank that a block's tensors have."""
    name, tensor = next(iter(block.items()))
    return tensor.shape[0 if ".lora_A." in name else 1]


def resize(block: Mapping[str, Tensor], rank: int) -> BlockAdapter:
    """Return the block with its leading `rank` components, or widened by zero columns and rows."""
    resized: BlockAdapter = {}
    for name, tensor in block.items():
        axis = 0 if ".lora_A." in name else 1
        have = tensor.shape[axis]
        if rank <= have:
            resized[name] = tensor.narrow(axis, 0, rank).contiguous()
        else:
            shape = [rank - have if i == axis else n for i, n in enumerate(tensor.shape)]
            resized[name] = torch.cat([tensor, tensor.new_zeros(shape)], dim=axis)
    return resized


def widen(
    block: Mapping[str, Tensor], rank: int, specs: Iterable[TensorSpec], seed: int, index: int
) -> BlockAdapter:
    """Return the block with new components up to `rank`: rows of A as in a new adapter, columns of B zero.

    The function stays exactly what it was, and the new components can be trained.
    """
    have = rank_of(block)
    fresh = initial_adapter({index: tuple(specs)}, rank, seed)[index]
    widened = resize(block, rank)
    for name, tensor in widened.items():
        if ".lora_A." in name:
            tensor[have:] = fresh[name][have:].to(tensor)
    return widened


def to_device(adapter: Mapping[int, Mapping[str, Tensor]], device: torch.device) -> Adapter:
    """Return the adapter on a device."""
    return {b: {n: t.to(device) for n, t in tensors.items()} for b, tensors in adapter.items()}


def flatten(block: Mapping[str, Tensor]) -> Tensor:
    """Return all values of a block's adapter as one float32 vector, in the model's order."""
    return torch.cat([tensor.detach().reshape(-1).float() for tensor in block.values()])


def unflatten(values: Tensor, specs: Iterable[TensorSpec]) -> BlockAdapter:
    """Undo `flatten` for a block of this layout; the rank follows from the number of values.

    Raises ValueError where that is no whole rank up to the layout's.
    """
    specs = tuple(specs)
    unit = sum(math.prod(spec.at_rank(1)) for spec in specs)
    rank, rest = divmod(values.numel(), unit)
    if values.ndim != 1 or rest or not 1 <= rank <= specs[0].shape[specs[0].rank_axis]:
        raise ValueError(f"{values.numel()} adapter values do not make a whole rank of {unit} values")
    shapes = {spec.name: spec.at_rank(rank) for spec in specs}
    parts = torch.split(values, [math.prod(shape) for shape in shapes.values()])
    return {name: part.reshape(shape) for (name, shape), part in zip(shapes.items(), parts, strict=True)}
