"""The parts of a split model that a party computes: front, trunk and tail, on one shared frozen base."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from splitft.common.seeds import seed_dropout
from splitft.model.config import count_blocks, text_config
from splitft.model.head import IGNORE, ChunkedHead, HeadForm, shifted, summed, token_losses
from splitft.model.layout import BatchLayout
from splitft.model.metrics import MetricSums, TokenMetric
from splitft.model.slots import AdapterSlots
from splitft.model.window import run_blocks
from splitft.wire.messages import Metrics

ServerInputs = Literal["dummy_ids", "input_ids"]  # what a server's embeddings are fed with
# Takes of a held-out row its client, its place in the client's order, its logits, (tokens, vocabulary), and
# the labels of these tokens, (tokens,), not shifted.
KeepLogits = Callable[[str, int, Tensor, Tensor], None]


@dataclass(frozen=True)
class StepId:
    """Where in a run a forward happens; names the random numbers of its dropout."""

    client: str
    round: int
    step: int
    micro_step: int
    train: bool


class SplitModel:
    """A model (whole, or the blocks that a party holds) with its window and its adapter slots.

    Blocks [start, stop) run with the adapters bound last. Dropout in each block has its own random numbers,
    named by seed, client, step and block, so that they do not depend on where the cut is.
    head: how the loss is computed in chunks of loss_chunk_tokens, as `proof.head.try_head` found; "whole", or
    chunks of 0: the model computes it itself, over the full logits.
    metrics: what is measured on held-out tokens, by name, beside loss and accuracy.
    keep_logits: called with every held-out row.
    """

    has_values = True  # what stands in for a model in a plan has shapes alone

    def __init__(
        self,
        model: nn.Module,
        slots: AdapterSlots,
        *,
        seed: int = 0,
        server_inputs: ServerInputs = "dummy_ids",
        head: HeadForm = "whole",
        loss_chunk_tokens: int = 0,
        metrics: Mapping[str, TokenMetric] | None = None,
        keep_logits: KeepLogits | None = None,
    ) -> None:
        self.model = model
        self.slots = slots
        self.seed = seed
        self._metrics = metrics or {}
        self._keep_logits = keep_logits
        self.server_inputs = server_inputs
        self.num_blocks = count_blocks(model.config)
        chunked = head != "whole" and loss_chunk_tokens > 0
        self._head = ChunkedHead(model, head, loss_chunk_tokens) if chunked else None

    @property
    def width(self) -> int:
        """Width of the hidden states, as the model's configuration says."""
        return int(getattr(text_config(self.model), "hidden_size", 0))

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    def bind(self, adapter: Mapping[int, Mapping[str, Tensor]]) -> None:
        """Compute with these adapters from now on."""
        self.slots.bind(adapter)

    def run(
        self,
        start: int,
        stop: int,
        place: StepId,
        *,
        hidden: Tensor | None = None,
        input_ids: Tensor | None = None,
        **inputs: Any,
    ) -> Any:
        """Run blocks [start, stop) in train or eval mode, see `run_blocks` for inputs and outputs."""
        if self.model.training != place.train:
            self.model.train(place.train)
        names = (self.seed, "dropout", place.client, place.round, place.step, place.micro_step)
        on_block = partial(seed_dropout, self.device, *names) if place.train else None
        return run_blocks(
            self.model, start, stop, hidden=hidden, input_ids=input_ids, on_block=on_block, **inputs
        )

    def loss(self, start: int, place: StepId, *, labels: Tensor, loss_tokens: int, **inputs: Any) -> Tensor:
        """Return the model's loss over blocks [start, end), a scalar.

        loss_tokens: 0 for the mean over this batch; else the tokens of all micro-batches of the step, which
        the sum is divided by.
        """
        if self._head is not None:
            hidden = self._head.hidden(lambda: self.run(start, self.num_blocks, place, **inputs))
            return self._head.loss(hidden, labels, loss_tokens)
        if loss_tokens:
            inputs["num_items_in_batch"] = torch.tensor(loss_tokens, device=labels.device)
        output = self.run(start, self.num_blocks, place, labels=labels, **inputs)
        loss: Tensor = output.loss
        return loss

    def losses(
        self, forward: Callable[[], Any], labels: Tensor, counts: Sequence[int], loss_tokens: Sequence[int]
    ) -> Tensor:
        """Return the loss of each of several clients' rows in one batch, (clients,).

        forward: calls the model without labels. labels: (rows, seq); counts: rows of each client;
        loss_tokens: what the sum of each is divided by.
        """
        if self._head is not None:
            return self._head.losses(self._head.hidden(forward), labels, counts, loss_tokens)
        logits = forward().logits
        each = torch.split(
            token_losses(logits.flatten(0, 1), shifted(labels)).view(labels.shape), list(counts)
        )
        return torch.stack([own.sum() / tokens for own, tokens in zip(each, loss_tokens, strict=True)])

    @torch.no_grad()
    def metrics(
        self,
        start: int,
        place: StepId,
        *,
        layout: BatchLayout,
        lengths: Sequence[int],
        labels: Tensor,
        own: Tensor | None = None,
        **inputs: Any,
    ) -> Metrics:
        """Return sums over the batch: of true (shifted) next-token predictions, and of the paper's.

        layout, lengths: of the batch, and the tokens of each sample.
        labels: (batch, seq), of which each token is to predict the next. own: those of the tokens themselves,
        which the paper counts, where they are others: where samples share a row.
        """
        shape, by_place = labels.shape, labels if own is None else own
        targets, own = shifted(labels), by_place.flatten()
        sums = MetricSums(self._metrics)
        if self._head is not None:
            hidden = self._head.hidden(lambda: self.run(start, self.num_blocks, place, **inputs))
            losses, predicted = self._head.scores(hidden, targets, own, sums)
        else:
            hidden = self.run(start, self.num_blocks, place, **inputs).logits
            logits = hidden.flatten(0, 1)
            losses, predicted = token_losses(logits, targets), logits.argmax(-1)
            sums.add(logits[targets != IGNORE], targets[targets != IGNORE])
        if self._keep_logits is not None:
            rows = (torch.split(layout.rows(part), list(lengths)) for part in (hidden, by_place))
            for number, (row, labels_) in enumerate(zip(*rows, strict=True), place.step):
                self._keep_logits(
                    place.client, number, self._head.logits(row) if self._head else row, labels_
                )
        scored, known = targets != IGNORE, own != IGNORE
        nll = summed(losses, scored).item()
        correct = float((predicted == targets)[scored].sum())
        paper_correct = float((predicted == own)[known].sum())

        def by_row(each: Tensor) -> Tensor:
            rows = torch.split(layout.rows(each.float().view(shape)), list(lengths))
            return torch.stack([row.sum() for row in rows]).cpu()

        return Metrics(
            place.round,
            nll,
            correct,
            int(scored.sum()),
            paper_correct,
            int(known.sum()),
            row_nll=by_row(torch.where(scored, losses, 0.0)),
            row_correct=by_row(scored & (predicted == targets)),
            row_tokens=by_row(scored),
            own_sums=sums.result(),
        )


def loss_token_count(labels: Tensor) -> int:
    """Return how many next-token predictions of (batch, seq) labels count in the loss."""
    return int((labels[:, 1:] != IGNORE).sum())
