"""The training step of a trunk: from rows at the cut to the loss, or to the tail, and back to the cut."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, Literal

import torch
from torch import Tensor

from splitft.common.seeds import seed_dropout
from splitft.lora.blocks import Adapter
from splitft.lora.ranks import HeldBlocks
from splitft.model.head import IGNORE
from splitft.model.joined import run_joined
from splitft.model.layout import BatchLayout, form_of
from splitft.model.row_adapters import RowPart, bind_rows
from splitft.model.split_model import SplitModel, StepId, loss_token_count
from splitft.wire.messages import Activations, HeldOut, Metrics, TailGradients


@dataclass(frozen=True)
class AtCut:
    """A micro-batch of one client at its cut."""

    place: StepId
    held: HeldBlocks
    message: Activations
    adapter: Mapping[int, Mapping[str, Tensor]]  # the trunk's tensors that compute it, by block
    share: float = 1.0  # weight of its loss in the trunk's gradient


@dataclass(frozen=True)
class LaidOut:
    """Micro-batches of one or several clients, laid out for the trunk.

    hidden: (batch, seq, hidden) at the cut. inputs: what the blocks read besides.
    """

    layout: BatchLayout
    hidden: Tensor
    inputs: dict[str, Tensor]


@dataclass(frozen=True)
class AtTail:
    """A micro-batch of one client that has been through the trunk, with its graph."""

    part: AtCut
    rows: LaidOut
    leaving: Tensor  # (batch, seq, hidden) where the tail begins


@dataclass(frozen=True)
class TrunkStep:
    """The result of a step, for each client, and every trained tensor of the trunks with its gradient."""

    losses: tuple[float, ...]
    loss_tokens: tuple[int, ...]
    at_cut: tuple[Tensor, ...]  # (tokens, hidden) gradients at the cuts, empty where fronts are frozen
    gradients: tuple[tuple[Tensor, Tensor | None], ...]


def trunk_step(
    model: SplitModel, parts: Sequence[AtCut], *, padding_free: bool = False, train_front: bool = True
) -> TrunkStep:
    """Run the trunk to the loss for one or several clients, and back to each cut; labels are at the server.

    The gradients of several clients are those of one after another, but for the order of sums. Their dropout
    has random numbers named by all of them. Raises ValueError where a message does not fit.

    Args:
        parts: In the order of their cuts.
    """
    # Lay out the rows of all clients as one batch, and bind to each row the adapters of its trunk.
    rows = _lay_out(model, parts, padding_free, train_front)
    labels = rows.layout.labels(_ids(parts, "labels"))
    counts = [len(part.message.lengths) for part in parts]
    if len({id(part.adapter) for part in parts}) == 1:
        model.bind(parts[0].adapter)
    else:
        each = [RowPart(count, part.adapter) for part, count in zip(parts, counts, strict=True)]
        bind_rows(model.slots, each, rows.hidden.shape[1])

    # Forward: the model's own loss of one client, or those of several, weighted by their shares.
    targets = torch.split(labels, counts) if len(parts) > 1 else [labels]
    stated = [part.message.loss_tokens for part in parts]
    tokens = [known or loss_token_count(own) for known, own in zip(stated, targets, strict=True)]
    if len(parts) == 1:
        cut, place = parts[0].held.cut, parts[0].place
        inputs = {"hidden": rows.hidden, **rows.inputs}
        loss = model.loss(cut, place, labels=labels, loss_tokens=stated[0], **inputs)
        losses = [loss.item()]
    else:
        several = model.losses(lambda: _forward_joined(model, parts, counts, rows), labels, counts, tokens)
        loss = (several * torch.tensor([part.share for part in parts], device=several.device)).sum()
        losses = several.tolist()

    # Backward, to the trunks' tensors and to each client's cut, there without its share of the trunk's.
    at_cut, gradients = _backward(parts, rows, loss, None)
    own = [at_cut] * len(parts)
    if len(parts) > 1 and train_front:
        own = list(torch.split(at_cut, [sum(part.message.lengths) for part in parts]))
        own = [one if part.share == 1 else one / part.share for part, one in zip(parts, own, strict=True)]
    return TrunkStep(tuple(losses), tuple(tokens), tuple(own), gradients)


def run_to_tail(model: SplitModel, part: AtCut, *, padding_free: bool, train_front: bool) -> AtTail:
    """Run the trunk forward only, to where the client's tail begins."""
    rows = _lay_out(model, [part], padding_free, train_front)
    model.bind(part.adapter)
    held = part.held
    leaving = model.run(held.cut, held.tail_start, part.place, hidden=rows.hidden, **rows.inputs)
    return AtTail(part, rows, leaving)


def step_from_tail(model: SplitModel, waiting: AtTail, message: TailGradients) -> TrunkStep:
    """Go back from the tail to the cut."""
    model.bind(waiting.part.adapter)  # for recomputed blocks
    gradient = waiting.rows.layout.batch(message.gradient).to(waiting.leaving.dtype)
    at_cut, gradients = _backward([waiting.part], waiting.rows, waiting.leaving, gradient)
    return TrunkStep((message.loss,), (message.loss_tokens,), (at_cut,), gradients)


def evaluate(model: SplitModel, part: AtCut, *, padding_free: bool) -> Metrics:
    """Return the sums over held-out rows; labels are at the server."""
    rows = _lay_out(model, [part], padding_free, False)
    model.bind(part.adapter)
    labels = _ids([part], "labels")
    own, targets = rows.layout.batch(labels, fill=IGNORE), rows.layout.labels(labels)
    inputs: dict[str, Any] = {"hidden": rows.hidden, **rows.inputs}
    lengths = part.message.lengths
    place, start = part.place, part.held.cut
    return model.metrics(start, place, layout=rows.layout, lengths=lengths, labels=targets, own=own, **inputs)


def evaluate_whole(
    model: SplitModel, client: str, message: HeldOut, adapter: Adapter, *, padding_free: bool
) -> Metrics:
    """Return the sums over held-out rows whose ids are at the server, on the whole model.

    In float32 these are, bit by bit, those of the same rows through the split.

    Args:
        adapter: The global one, of all blocks.
    """
    layout = form_of(message.lengths, model.device, padding_free)
    ids, labels = message.input_ids.long(), message.labels.long()
    inputs: dict[str, Any] = {"input_ids": layout.batch(ids), **layout.inputs}
    model.bind(adapter)
    return model.metrics(
        0,
        StepId(client, message.round, message.step, 0, train=False),
        layout=layout,
        lengths=message.lengths,
        labels=layout.labels(labels),
        own=layout.batch(labels, fill=IGNORE),
        **inputs,
    )


def _lay_out(model: SplitModel, parts: Sequence[AtCut], padding_free: bool, train_front: bool) -> LaidOut:
    """Lay out rows as the model computes them, with the real ids where later blocks read them."""
    lengths = [length for part in parts for length in part.message.lengths]
    layout = form_of(lengths, model.device, padding_free)
    hidden = layout.batch(_joined([part.message.hidden for part in parts])).requires_grad_(train_front)
    inputs = layout.inputs
    if model.server_inputs != "dummy_ids":
        inputs["input_ids"] = layout.batch(_ids(parts, "input_ids"))
    return LaidOut(layout, hidden, inputs)


def _ids(parts: Sequence[AtCut], name: Literal["labels", "input_ids"]) -> Tensor:
    """Return the (tokens,) ids of all clients. Raises ValueError where one sent none."""
    each = [getattr(part.message, name) for part in parts]
    if any(ids is None for ids in each):
        raise ValueError(f"the server needs {name} in this job, and none came")
    return _joined(each).long()


def _joined(tensors: Sequence[Tensor]) -> Tensor:
    return tensors[0] if len(tensors) == 1 else torch.cat(list(tensors))


def _forward_joined(model: SplitModel, parts: Sequence[AtCut], counts: Sequence[int], rows: LaidOut) -> Any:
    """Call the model on the rows of several clients, each of which join the batch at their cut."""
    ends = dict(zip([part.held.cut for part in parts], accumulate(counts), strict=True))
    starts = [0, *ends.values()]
    place = parts[0].place
    names = [part.place.client for part in parts]
    named: tuple[str | int, ...] = (*names, place.round, place.step, place.micro_step)
    if not model.model.training:
        model.model.train()
    return run_joined(
        model.model,
        {cut: rows.hidden[start:end] for (cut, end), start in zip(ends.items(), starts, strict=False)},
        model.num_blocks,
        on_block=lambda block: seed_dropout(rows.hidden.device, model.seed, "dropout", *named, block),
        **rows.inputs,
    )


def _backward(
    parts: Sequence[AtCut], rows: LaidOut, leaving: Tensor, gradient: Tensor | None
) -> tuple[Tensor, tuple[tuple[Tensor, Tensor | None], ...]]:
    """Return the gradient of the rows at the cut, (tokens, hidden), and each trained tensor with its own.

    The share of one client by itself is not in its loss yet: it scales the gradients of the trunk.
    """
    adapters = {id(part.adapter): part.adapter for part in parts}.values()
    trained = [
        tensor
        for adapter in adapters
        for block in adapter.values()
        for tensor in block.values()
        if tensor.requires_grad
    ]
    wanted = [rows.hidden] if rows.hidden.requires_grad else []
    found: tuple[Tensor | None, ...] = torch.autograd.grad(
        [leaving], [*wanted, *trained], [gradient], allow_unused=True
    )
    at_cut = found[0] if wanted else None
    back = rows.hidden.new_empty(0) if at_cut is None else rows.layout.rows(at_cut)
    share = parts[0].share if len(parts) == 1 else 1.0
    scaled = [
        None if own is None else own.contiguous() if share == 1 else own.contiguous() * share
        for own in found[len(wanted) :]
    ]  # contiguous: fused optimizers go by the parameter's layout
    return back, tuple(zip(trained, scaled, strict=True))
