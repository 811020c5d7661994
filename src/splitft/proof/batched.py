"""Prove that clients computed together get what each gets alone: logits, and every gradient."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from splitft.common.seeds import seed_torch
from splitft.lora.blocks import Adapter
from splitft.model.joined import learn_fixed, run_joined
from splitft.model.row_adapters import RowPart, bind_rows, unbind_rows
from splitft.model.split_model import SplitModel
from splitft.model.window import eval_mode, run_blocks
from splitft.proof.harness import (
    ProbeRows,
    differences,
    kept_random_state,
    make_rows,
    problem_of,
    random_adapter,
    tolerance,
)

_LENGTHS = ((12, 4), (6,), (3, 7))  # tokens of the rows of three clients: on both sides of a copy's borders


@dataclass(frozen=True)
class _Client:
    """A client of the proof: where its rows enter, with which activations, and its adapters."""

    cut: int
    rows: ProbeRows
    hidden: Tensor  # (rows, seq, width)
    adapter: Adapter


def prove_batching(model: SplitModel, cuts: Sequence[int], seed: int = 0) -> str:
    """Return an empty string where clients at these cuts can be computed together, else the reason why not.

    Three clients with their own random adapters are computed one by one and together, in the model's dtype.
    No logits and no gradient may differ by more than 1e-5 of their length, a tenth in bfloat16, where the
    order of sums alone makes some hundredths. Leaves the model as it was, but for the adapters bound to it.
    """
    with kept_random_state(), eval_mode(model.model):
        seed_torch(seed, model.device)
        try:
            return problem_of(lambda: _compare(model, sorted(cuts), seed))
        finally:
            unbind_rows(model.slots)


def _compare(model: SplitModel, cuts: Sequence[int], seed: int) -> str:
    clients = _clients(model, cuts, seed)
    with_ids = model.server_inputs == "input_ids"
    learn_fixed(model.model, clients[0].cut, clients[0].hidden)
    alone = [_answers(client, _alone(model, client, with_ids)) for client in clients]
    together = map(_answers, clients, _together(model, clients, with_ids))
    worst = max(
        max(differences(list(zip(*answers, strict=True)), order=2))
        for answers in zip(alone, together, strict=True)
    )
    if worst <= tolerance(clients[0].hidden.dtype, 1e-5, 12.8):
        return ""
    return f"what clients get together differs by {worst:.2g} relative from what each gets alone"


def _clients(model: SplitModel, cuts: Sequence[int], seed: int) -> list[_Client]:
    """Return clients at the lowest, a middle and the highest cut, with real activations."""
    clients = []
    places = zip(_LENGTHS, (cuts[0], cuts[len(cuts) // 2], cuts[-1]), strict=True)
    for number, (lengths, cut) in enumerate(places):
        rows = make_rows(model.model, lengths, seed=seed + number)
        with torch.no_grad():
            hidden = run_blocks(model.model, 0, cut, input_ids=rows.input_ids, **rows.inputs)
        held = {block: specs for block, specs in model.slots.layout.items() if block >= cut}
        adapter = random_adapter(held, seed + number, model.device, trained=True)
        clients.append(_Client(cut, rows, hidden.requires_grad_(), adapter))
    return clients


def _alone(model: SplitModel, client: _Client, with_ids: bool) -> Tensor:
    """Return a client's logits, (tokens, vocab)."""
    model.bind(client.adapter)
    ids = client.rows.input_ids if with_ids else None
    logits: Tensor = run_blocks(
        model.model,
        client.cut,
        model.num_blocks,
        hidden=client.hidden,
        input_ids=ids,
        **client.rows.inputs,
    ).logits
    return logits[client.rows.valid]


def _together(model: SplitModel, clients: Sequence[_Client], with_ids: bool) -> list[Tensor]:
    """Return each client's logits, (tokens, vocab), from one pass over the rows of all."""
    # All rows in one batch, as wide as the widest.
    masks = [client.rows.valid.long() for client in clients]
    width, counts = max(mask.shape[1] for mask in masks), [len(mask) for mask in masks]
    mask = torch.cat([_widened(own, width) for own in masks])
    ids = torch.cat([_widened(client.rows.input_ids, width) for client in clients]) if with_ids else None
    parts = [RowPart(count, client.adapter) for count, client in zip(counts, clients, strict=True)]
    bind_rows(model.slots, parts, width)
    # Their activations join at their cuts.
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


def _answers(client: _Client, logits: Tensor) -> list[Tensor]:
    """Return a client's logits, and the gradients of its activations and of its adapters."""
    parameters = [tensor for block in client.adapter.values() for tensor in block.values()]
    loss = logits.float().log_softmax(-1)[:, 0].sum()
    gradients = torch.autograd.grad(loss, [client.hidden, *parameters], retain_graph=True)
    return [logits.detach(), *gradients]
