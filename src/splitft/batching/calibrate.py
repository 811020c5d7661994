"""Up to how many tokens it is faster to compute clients together, measured at the start. (ours)"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from splitft.adapters import Adapter
from splitft.batching.joined import learn_fixed, run_joined
from splitft.batching.rows import RowPart, bind_rows, unbind_rows
from splitft.parts import SplitModel
from splitft.split import dummy_ids, eval_mode, run_blocks

_FEWEST, _MOST = 32, 65536  # tokens of two clients together
_WORTH = 1.03  # times as fast
_REPEATS = 3
_SECONDS = 4.0  # after which no larger batch is tried


@dataclass(frozen=True)
class Found:
    """The largest batch that is worth it, 0 for none, and how many times as fast the best one is."""

    tokens: int
    gain: float


def most_tokens(model: SplitModel, cuts: Sequence[int]) -> Found:
    """Time two clients one after the other and together, forward and backward, with ever more tokens.

    Stops where it gains less than 3 %, or no memory is left. Blocks from the highest cut on are run.
    """
    started, tokens, best = time.perf_counter(), 0, 0.0
    size = _FEWEST
    with eval_mode(model.model):
        while size <= _MOST and time.perf_counter() - started < _SECONDS:
            try:
                gain = _gain(model, max(cuts), size // 2)
            except torch.OutOfMemoryError:
                break
            best = max(best, gain)
            if gain < _WORTH:
                break
            tokens, size = size, 2 * size
    unbind_rows(model.slots)
    return Found(tokens, best)


def _gain(model: SplitModel, cut: int, tokens: int) -> float:
    """How many times as fast two clients of so many tokens each are together."""
    unbind_rows(model.slots)
    with torch.no_grad():
        ids = dummy_ids(model.model, 2, tokens, model.device)
        hidden = run_blocks(model.model, 0, cut, input_ids=ids)
    learn_fixed(model.model, cut, hidden)
    alone, together = [], []
    for _ in range(_REPEATS):
        alone.append(_seconds(model, [hidden[:1]], cut) + _seconds(model, [hidden[1:]], cut))
        together.append(_seconds(model, [hidden[:1], hidden[1:]], cut))
    return min(alone) / min(together)


def _seconds(model: SplitModel, clients: Sequence[Tensor], cut: int) -> float:
    parts = [RowPart(len(own), _adapter(model, cut)) for own in clients]
    rows = torch.cat(list(clients)).requires_grad_()
    mask = torch.ones(rows.shape[:2], dtype=torch.long, device=rows.device)
    synchronize(rows.device)
    started = time.perf_counter()
    bind_rows(model.slots, parts, rows.shape[1])
    logits: Tensor = run_joined(model.model, {cut: rows}, model.num_blocks, attention_mask=mask).logits
    loss = functional.cross_entropy(logits.flatten(0, 1).float(), mask.flatten())
    wanted = [t for part in parts for block in part.adapter.values() for t in block.values()]
    torch.autograd.grad(loss, [rows, *wanted], allow_unused=True)
    synchronize(rows.device)
    return time.perf_counter() - started


def _adapter(model: SplitModel, cut: int) -> Adapter:
    layout = {block: specs for block, specs in model.slots.layout.items() if block >= cut}
    zeros = {
        b: {s.name: torch.zeros(s.shape, device=model.device) for s in specs} for b, specs in layout.items()
    }
    return {b: {name: t.requires_grad_() for name, t in block.items()} for b, block in zeros.items()}


def synchronize(device: torch.device) -> None:
    """Wait for what an accelerator still computes."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
