"""What a model's forward keeps for its backward: read off its own forward, run on tensors without values.

PyTorch's fake tensors have shapes and storages, but no data: the forward takes the branches and kernels that
it would take on a CPU, at no cost in memory, also for a model on the meta device.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from splitft.devices.matrices import Matrix
from splitft.model.window import call_model, eval_mode, find_blocks

OUTSIDE, SHARED = -2, -1
ROWS, WIDTHS = 2, (16, 48)  # two widths tell what grows with a row's length from what grows with its square


@dataclass
class Probe:
    """silent: (block, owner) of the matrices whose input carried no gradient; kept: bytes by width and place.

    Places: each block; after them OUTSIDE, what no block keeps; and SHARED, what several blocks keep at once
    (attention masks, rotary tables). traced: the forward ran to its end.
    """

    silent: set[tuple[int, str]] = field(default_factory=set)
    kept: dict[int, list[int]] = field(default_factory=dict)
    traced: bool = True

    def activation_bytes(self, place: int) -> tuple[float, float]:
        """Return (bytes per token, bytes per token and token of the row) of a block, OUTSIDE or SHARED."""
        small, large = (self.kept[width][place] / (ROWS * width) for width in WIDTHS)
        slope = max(0.0, (large - small) / (WIDTHS[1] - WIDTHS[0]))
        return large - slope * WIDTHS[1], slope


def probe_model(model: nn.Module, matrices: list[list[Matrix]]) -> Probe:
    """Trace the training forward of a model with LoRA at both widths; the model is left as it was.

    matrices: those of each block. Where the forward cannot be traced (it branches on values, or lacks a
    kernel), `traced` is false and `kept` is not filled.
    """
    probe = Probe()
    with training_without_checkpoints(model), quiet_tracing():
        for width in WIDTHS:
            try:
                probe.kept[width] = _kept_bytes(model, matrices, width, probe.silent)
            except Exception:  # whatever the model's own code raises on tensors without values
                probe.traced = False
                break
    return probe


def _kept_bytes(
    model: nn.Module, matrices: list[list[Matrix]], width: int, silent: set[tuple[int, str]]
) -> list[int]:
    from torch._subclasses.fake_tensor import FakeTensorMode

    storages: list[dict[int, int]] = [{} for _ in range(len(matrices) + 1)]
    alive: list[Tensor] = []  # so that no two storages share an address
    with FakeTensorMode():
        weights = fake_weights(model)
        known = {tensor.untyped_storage()._cdata for tensor in weights.values()}

        def keep(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            if storage._cdata not in known:
                storages[where[-1]][storage._cdata] = storage.nbytes()
                alive.append(tensor)
            return tensor

        ids = torch.zeros(ROWS, width, dtype=torch.long)
        inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        where = [len(matrices)]  # the block that runs, or the place after the last
        with (
            _watch(model, matrices, where, silent),
            torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
        ):
            torch.func.functional_call(Call(model), weights, (), inputs)
    times = Counter(storage for block in storages[:-1] for storage in block)
    own = [sum(size for key, size in block.items() if times[key] < 2) for block in storages]
    sizes = {key: size for block in storages for key, size in block.items()}
    return [*own, sum(sizes[key] for key, number in times.items() if number > 1)]


@contextmanager
def _watch(
    model: nn.Module, matrices: list[list[Matrix]], where: list[int], silent: set[tuple[int, str]]
) -> Iterator[None]:
    def enter(index: int, *_: object) -> None:
        where.append(index)

    def leave(*_: object) -> None:
        where.pop()

    def note(place: tuple[int, str], _: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        given = [*args, *kwargs.values()]
        if not any(isinstance(value, Tensor) and value.requires_grad for value in given):
            silent.add(place)

    _, _, blocks = find_blocks(model)
    with ExitStack() as hooks:
        for index, (block, own) in enumerate(zip(blocks._modules.values(), matrices, strict=True)):
            assert block is not None
            hooks.callback(block.register_forward_pre_hook(partial(enter, index)).remove)
            hooks.callback(block.register_forward_hook(leave).remove)
            for matrix in own:
                hook = partial(note, (index, matrix.owner))
                hooks.callback(matrix.module.register_forward_pre_hook(hook, with_kwargs=True).remove)
        yield


class Call(nn.Module):
    """The model, called as `call_model` calls it."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, **inputs: Any) -> Any:
        return call_model(self.model, **inputs)


def fake_weights(model: nn.Module) -> dict[str, Tensor]:
    """Fake tensors for all parameters and buffers: adapters in float32 and trained, as a run binds them."""
    named = [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]
    fakes: dict[int, Tensor] = {}  # tied weights stay tied
    weights = {}
    for name, real in named:
        if id(real) not in fakes:
            trained = ".lora_" in name
            dtype = torch.float32 if trained else real.dtype
            fakes[id(real)] = torch.empty(real.shape, dtype=dtype).requires_grad_(trained)
        weights[f"model.{name}"] = fakes[id(real)]
    return weights


@contextmanager
def training_without_checkpoints(model: nn.Module) -> Iterator[None]:
    recomputing: list[Any] = [
        m for m in model.modules() if getattr(m, "gradient_checkpointing", None) is True
    ]
    with eval_mode(model):  # which puts every module back into its own mode
        model.train()
        try:
            for module in recomputing:
                module.gradient_checkpointing = False
            yield
        finally:
            for module in recomputing:
                module.gradient_checkpointing = True


@contextmanager
def quiet_tracing() -> Iterator[None]:
    """torch logs a forward that cannot be traced as an error; here it is an answer."""
    logger = logging.getLogger("torch._subclasses.fake_tensor")
    before, logger.disabled = logger.disabled, True
    try:
        yield
    finally:
        logger.disabled = before
