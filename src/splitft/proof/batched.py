"""Prove that clients computed together get what each gets alone: logits, and every gradient. (ours)"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from splitft.common.text import one_line
from splitft.lora.blocks import Adapter
from splitft.model.joined import learn_fixed, run_joined
from splitft.model.layout import mask_of
from splitft.model.row_adapters import RowPart, bind_rows, unbind_rows
from splitft.model.split_model import SplitModel
from splitft.model.window import eval_mode, run_blocks
from splitft.proof.compare import kept_random_state

_MOST, _MOST_ROUNDED = 1e-5, 0.1  # difference relative to a tensor's length
_LENGTHS = ((7, 4), (6,), (3, 7))  # tokens of the rows of three clients


@dataclass(frozen=True)
class _Client:
    """A client that the proof makes up: where it enters, with what, and its adapters."""

    cut: int
    ids: Tensor  # (rows, seq)
    hidden: Tensor  # (rows, seq, width)
    mask: Tensor
    adapter: Adapter


@dataclass(frozen=True)
class _Answer:
    """What a client gets: logits of its tokens, and gradients of what entered and of its adapters."""

    logits: Tensor
    gradients: list[Tensor]


def prove_batching(model: SplitModel, cuts: Sequence[int], seed: int = 0) -> str:
    """Return "" where clients at these cuts can be computed together, else what speaks against it.

    Three clients with their own random adapters are computed one by one and together, in the model's dtype.
    No logits and no gradient may differ by more than 1e-5 of their length, a tenth in bfloat16, where the
    order of sums alone makes some hundredths. Leaves the model as it was, but for what is bound.
    """
    with kept_random_state(), eval_mode(model.model):
        torch.manual_seed(seed)
        try:
            clients = _clients(model, sorted(cuts))
            with_ids = model.server_inputs == "input_ids"
            learn_fixed(model.model, clients[0].cut, clients[0].hidden)
            alone = [_answer(c, _alone(model, c, with_ids)) for c in clients]
            together = list(map(_answer, clients, _together(model, clients, with_ids)))
        except Exception as error:  # whatever a foreign model may raise
            return f"{type(error).__name__}: {one_line(error)}"
        finally:
            unbind_rows(model.slots)
    worst = max(map(_difference, alone, together))
    if worst <= (_MOST if clients[0].hidden.dtype == torch.float32 else _MOST_ROUNDED):
        return ""
    return f"what clients get together differs by {worst:.2g} relative from what each gets alone"


def _clients(model: SplitModel, cuts: Sequence[int]) -> list[_Client]:
    """Return clients at the lowest, a middle and the highest cut, with real activations."""
    vocabulary = int(model.model.config.get_text_config(decoder=True).vocab_size)  # type: ignore[union-attr,operator]
    clients = []
    for lengths, cut in zip(_LENGTHS, (cuts[0], cuts[len(cuts) // 2], cuts[-1]), strict=True):
        mask = mask_of(lengths, model.device)
        ids = torch.randint(vocabulary, tuple(mask.shape), device=model.device)
        with torch.no_grad():
            hidden = run_blocks(model.model, 0, cut, input_ids=ids, attention_mask=mask)
        adapter: Adapter = {
            block: {spec.name: nn.Parameter(_random(spec.shape, model.device)) for spec in specs}
            for block, specs in model.slots.layout.items()
            if block >= cut
        }
        clients.append(_Client(cut, ids, hidden.requires_grad_(), mask, adapter))
    return clients


def _random(shape: tuple[int, ...], device: torch.device) -> Tensor:
    return torch.randn(shape, device=device) * 0.3 / math.sqrt(max(shape))


def _alone(model: SplitModel, client: _Client, with_ids: bool) -> Tensor:
    model.bind(client.adapter)
    logits: Tensor = run_blocks(
        model.model,
        client.cut,
        model.num_blocks,
        hidden=client.hidden,
        input_ids=client.ids if with_ids else None,
        attention_mask=client.mask,
    ).logits
    return logits[client.mask.bool()]


def _together(model: SplitModel, clients: Sequence[_Client], with_ids: bool) -> list[Tensor]:
    """Return each client's (tokens, vocab) logits."""
    width = max(client.mask.shape[1] for client in clients)
    counts = [len(client.mask) for client in clients]
    mask = torch.cat([_widened(client.mask, width) for client in clients])
    ids = torch.cat([_widened(client.ids, width) for client in clients]) if with_ids else None
    bind_rows(model.slots, [RowPart(len(c.mask), c.adapter) for c in clients], width)
    arrivals: dict[int, Tensor] = {}
    for client in clients:
        own = _widened(client.hidden, width)
        arrivals[client.cut] = torch.cat([arrivals[client.cut], own]) if client.cut in arrivals else own
    logits = run_joined(model.model, arrivals, model.num_blocks, attention_mask=mask, input_ids=ids).logits
    valid = zip(torch.split(logits, counts), torch.split(mask, counts), strict=True)
    return [own[where.bool()] for own, where in valid]


def _widened(rows: Tensor, width: int) -> Tensor:
    wide = rows.new_zeros(rows.shape[0], width, *rows.shape[2:])
    wide[:, : rows.shape[1]] = rows
    return wide


def _answer(client: _Client, logits: Tensor) -> _Answer:
    parameters = [tensor for block in client.adapter.values() for tensor in block.values()]
    loss = logits.float().log_softmax(-1)[:, 0].sum()
    wanted = [client.hidden, *parameters]
    return _Answer(logits.detach(), list(torch.autograd.grad(loss, wanted, retain_graph=True)))


def _difference(one: _Answer, other: _Answer) -> float:
    """Return the largest difference of a tensor, by its length relative to the tensor's own."""
    pairs = [(one.logits, other.logits), *zip(one.gradients, other.gradients, strict=True)]
    lengths = [(float((a.float() - b.float()).norm()), float(a.float().norm())) for a, b in pairs]
    floor = 1e-6 * max(length for _, length in lengths)
    found = [difference / max(length, floor) for difference, length in lengths]
    return max(found) if all(map(math.isfinite, found)) else math.inf
