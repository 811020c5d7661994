"""`torch_compile`: every block compiled by itself, and proven to compute what it did before. (ours)"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from splitft.common.text import one_line
from splitft.errors import JobError, ModelError
from splitft.lora.blocks import initial_adapter
from splitft.model.slots import AdapterSlots
from splitft.model.window import eval_mode, install_window, run_blocks
from splitft.proof.compare import kept_random_state, make_rows

_VARIANTS = 64  # of a block: with and without gradients, with a mask, each rank; torch's own limit is 8
_ADVICE = "set torch_compile: false"


def compile_blocks(model: nn.Module, slots: AdapterSlots, rank: int, *, backend: str = "inductor") -> None:
    """Compile the blocks that are held, in place, with dynamic shapes, and compare a forward and a backward.

    Blocks of one class share what is compiled. They are compared in training mode, with gradient
    checkpointing, unless dropout makes two runs differ. rank: of the adapters. Raises JobError where nothing
    can be compiled here, ModelError where compiled blocks compute something else.
    """
    config: Any = torch._dynamo.config
    config.recompile_limit = max(config.recompile_limit, _VARIANTS)
    blocks = {int(i): b for i, b in install_window(model)._modules.items() if b is not None}
    held = [i for i, block in blocks.items() if next(block.parameters(), None) is not None]
    with kept_random_state(), eval_mode(model):
        model.train()
        wanted = _results(model, slots, rank, held)
        if _difference(wanted, _results(model, slots, rank, held)):
            model.eval()
            wanted = _results(model, slots, rank, held)
        for index in held:
            blocks[index].compile(dynamic=True, backend=backend)
        try:
            difference = _difference(wanted, _results(model, slots, rank, held))
        except Exception as error:  # the compiler's own, of many kinds
            raise JobError(
                f"torch_compile does not work here ({type(error).__name__}: {one_line(error)}): {_ADVICE}"
            ) from error
    if not difference <= 1:  # also NaN
        raise ModelError(f"compiled blocks do not compute what the model's own do: {_ADVICE}")


def _results(model: Any, slots: AdapterSlots, rank: int, held: Sequence[int]) -> list[Tensor]:
    """Run each stretch of blocks that are held forward and back; return outputs and adapter gradients."""
    rows = make_rows(model, "right", 0)
    generator = torch.Generator().manual_seed(0)
    device, dtype = rows.input_ids.device, next(model.parameters()).dtype
    adapter = {
        block: {
            name: nn.Parameter((t + torch.randn(t.shape, generator=generator) / 16).to(device))
            for name, t in tensors.items()
        }
        for block, tensors in initial_adapter(slots.layout, rank, 0).items()
    }
    slots.bind(adapter)
    results: list[Tensor] = []
    for start in (block for block in held if block - 1 not in held):
        stop = next(block for block in range(start, held[-1] + 2) if block not in held)
        hidden = None
        if start:
            shape = (*rows.input_ids.shape, model.config.get_text_config(decoder=True).hidden_size)
            hidden = torch.randn(shape, generator=generator).to(device, dtype).requires_grad_()
        trained = [t for block in range(start, stop) for t in adapter.get(block, {}).values()]
        with torch.enable_grad():
            output = run_blocks(
                model,
                start,
                stop,
                hidden=hidden,
                input_ids=rows.input_ids,
                attention_mask=rows.attention_mask,
            )
            output = output if isinstance(output, Tensor) else output.logits
            loss = output[rows.valid].float().square().mean()
        results.append(output[rows.valid].detach())
        if trained:
            results += torch.autograd.grad(loss, trained)
    slots.bind({b: {n: t.detach() for n, t in tensors.items()} for b, tensors in adapter.items()})
    return results


def _difference(wanted: Sequence[Tensor], found: Sequence[Tensor]) -> float:
    """Return the largest difference in units of what the dtype allows."""
    worst = 0.0
    for one, other in zip(wanted, found, strict=True):
        allowed = 1e-4 if one.dtype is torch.float32 else 16 * torch.finfo(one.dtype).eps
        scale = float(one.float().abs().max()) or 1.0
        worst = max(worst, float((one.float() - other.float()).abs().max()) / scale / allowed)
    return worst
