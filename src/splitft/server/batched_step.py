"""Which of the clients that wait are computed together. (ours)"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

from splitft.common.seeds import seed_dropout
from splitft.lora.optimizer import TrainedAdapter
from splitft.model.joined import run_joined
from splitft.model.layout import mask_of, to_batch
from splitft.model.row_adapters import RowPart, bind_rows
from splitft.model.split_model import SplitModel, loss_token_count
from splitft.server.served import Served, add_gradients
from splitft.wire.messages import Activations, Gradients

_MOST_PADDING = 1.1  # times the tokens that the clients' batches take one by one


def plan_batches(lengths: Mapping[str, Sequence[int]], most_tokens: int) -> list[list[str]]:
    """Return the clients in batches of at most `most_tokens` tokens, padding counted.

    lengths: of each client's rows. Clients with rows of like length go together, since a batch is as wide as
    its longest row: no batch pads more than a tenth beyond what its clients pad by themselves. A client that
    is larger than the limit is alone. Ties go in the order given.
    """
    widest_first = sorted(lengths, key=lambda client: -max(lengths[client]))
    batches: list[list[str]] = []
    rows = alone = 0
    for client in widest_first:
        own = len(lengths[client])
        if batches:
            width = max(lengths[batches[-1][0]])
            together = (rows + own) * width
            if together <= min(most_tokens, _MOST_PADDING * (alone + own * max(lengths[client]))):
                batches[-1].append(client)
                rows, alone = rows + own, alone + own * max(lengths[client])
                continue
        batches.append([client])
        rows, alone = own, own * max(lengths[client])
    return batches


@dataclass(frozen=True)
class Waiting:
    """A client's batch, and the adapters that compute it: its own, or those that all clients share."""

    session: Served
    message: Activations
    trunk: TrainedAdapter

    @property
    def count(self) -> int:
        """Rows of the batch."""
        return len(self.message.lengths)


def train_in_batches(model: SplitModel, waiting: Sequence[Waiting], most_tokens: int) -> dict[str, Gradients]:
    """Train those of these clients that go together, in batches of at most so many tokens."""
    by_name = {one.session.client: one for one in waiting}
    batches = plan_batches({name: one.message.lengths for name, one in by_name.items()}, most_tokens)
    replies: dict[str, Gradients] = {}
    for names in batches:
        if len(names) > 1:
            replies |= train_together(model, [by_name[name] for name in names])
    return replies


def train_together(model: SplitModel, waiting: Sequence[Waiting]) -> dict[str, Gradients]:
    """Run the trunk for all these batches and back to each client's cut, with the labels at the server.

    The gradients are those of one client after another, but for the order of sums. Dropout, where a model has
    it, draws from random numbers named by all these clients. Raises ValueError where a message does not fit.
    """
    waiting = sorted(waiting, key=lambda one: one.session.cut)
    mask = mask_of([length for one in waiting for length in one.message.lengths], model.device)
    rows = torch.cat([one.message.hidden for one in waiting])
    rows.requires_grad_(waiting[0].session.job.train_front)
    trunks = list({id(one.trunk): one.trunk for one in waiting}.values())
    if len(trunks) == 1:
        model.bind(trunks[0].blocks)
    else:
        bind_rows(model.slots, [RowPart(one.count, one.trunk.blocks) for one in waiting], mask.shape[1])
    labels = to_batch(torch.cat([one.session.labels_of(one.message) for one in waiting]), mask, fill=-100)
    counts, tokens = [one.count for one in waiting], []
    for one, targets in zip(waiting, torch.split(labels, counts), strict=True):
        tokens.append(one.message.loss_tokens or loss_token_count(targets))
    padded = to_batch(rows, mask)
    losses = model.losses(lambda: _forward(model, waiting, padded, mask), labels, counts, tokens)
    weights = torch.tensor([one.session.share for one in waiting], device=losses.device)
    at_cut = _backward((losses * weights).sum(), rows, trunks)
    replies = {}
    for one, loss, count, gradient in zip(
        waiting, losses.tolist(), tokens, _divided(waiting, at_cut), strict=True
    ):
        message = one.message
        one.session.add_loss(loss, count, message.micro_step)
        place = message.round, message.step, message.micro_step
        replies[one.session.client] = Gradients(*place, loss, gradient)
    return replies


def _forward(model: SplitModel, waiting: Sequence[Waiting], padded: Tensor, mask: Tensor) -> Any:
    """Call the model on (rows, seq, hidden) activations in the order of their cuts."""
    ends = dict(zip([w.session.cut for w in waiting], accumulate(w.count for w in waiting), strict=True))
    starts = [0, *ends.values()]
    ids = [known for one in waiting if (known := one.session.ids_of(one.message)) is not None]
    message = waiting[0].message
    clients = [one.session.client for one in waiting]
    place: list[str | int] = [*clients, message.round, message.step, message.micro_step]
    if not model.model.training:
        model.model.train()
    return run_joined(
        model.model,
        {cut: padded[start:end] for (cut, end), start in zip(ends.items(), starts, strict=False)},
        model.num_blocks,
        attention_mask=mask,
        input_ids=to_batch(torch.cat(ids), mask) if ids else None,
        on_block=lambda block: seed_dropout(padded.device, model.seed, "dropout", *place, block),
    )


def _backward(total: Tensor, rows: Tensor, trunks: Sequence[TrainedAdapter]) -> Tensor | None:
    """Add the gradients of the trunks; return that of the rows at their cuts, None where it is not wanted."""
    wanted = [rows] if rows.requires_grad else []
    parameters = [parameter for trunk in trunks for parameter in trunk.parameters()]
    gradients = torch.autograd.grad(total, [*wanted, *parameters], allow_unused=True)
    add_gradients(parameters, gradients[len(wanted) :])
    return gradients[0] if wanted else None


def _divided(waiting: Sequence[Waiting], at_cut: Tensor | None) -> list[Tensor]:
    """Return each client's own part of the gradient at the cuts, without its weight in the trunk's."""
    if at_cut is None:
        return [torch.empty(0) for _ in waiting]
    parts = torch.split(at_cut, [sum(one.message.lengths) for one in waiting])
    shares = [one.session.share for one in waiting]
    return [part if w == 1 else part / w for part, w in zip(parts, shares, strict=True)]
