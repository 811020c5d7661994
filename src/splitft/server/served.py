"""What the server computes for one client: through its trunk, and back to its cut."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from splitft.job import Job
from splitft.lora.basis import Basis
from splitft.lora.blocks import Adapter
from splitft.lora.optimizer import TrainedAdapter
from splitft.model.head import IGNORE
from splitft.model.layout import BatchLayout, form_of
from splitft.model.split_model import SplitModel, StepId, loss_token_count
from splitft.wire.messages import Activations, Gradients, Message, TailGradients, TrunkOutput


@dataclass(frozen=True)
class _AtTail:
    """A micro-batch that has been through the trunk."""

    entering: Tensor  # (batch, seq, hidden) at the cut
    leaving: Tensor  # (batch, seq, hidden) at the tail, or the loss; with its graph
    form: BatchLayout


@dataclass
class Served:
    """What the server knows of one client, and the batch of it that is under way.

    Raises ValueError where a message does not fit the session.
    """

    client: str
    model: SplitModel
    job: Job
    cut: int = 0
    returning: dict[int, list[Basis]] = field(default_factory=dict)  # blocks that leave the client
    rows: int = 0  # token rows seen in this round: the client's weight in the average
    loss_sum: float = 0.0
    loss_tokens: int = 0
    share: float = 1.0  # of the trunk's gradient in the batch under way
    micro_batches: int = 1  # parts of each of its batches
    at_tail: dict[int, _AtTail] = field(default_factory=dict)  # by micro-step: what waits for a tail gradient

    @property
    def tail_start(self) -> int:
        return self.model.num_blocks - self.job.num_tail_blocks

    def add_loss(self, loss: float, loss_tokens: int, micro_step: int) -> None:
        """Count a micro-batch's part of a step's loss; loss_tokens are those of the whole step."""
        self.loss_sum += loss * loss_tokens
        self.loss_tokens += loss_tokens if micro_step == 0 else 0

    def train(self, message: Activations, trunk: TrainedAdapter) -> Message:
        """Run the trunk forward and back to the cut; with `labels: client` forward only, to the tail."""
        place = StepId(self.client, message.round, message.step, message.micro_step, train=True)
        form, inputs = self._inputs(message)
        entering = form.batch(message.hidden).requires_grad_(self.job.train_front)
        self.model.bind(trunk.blocks)
        if self.job.labels == "client":
            leaving = self.model.run(self.cut, self.tail_start, place, hidden=entering, **inputs)
            self.at_tail[message.micro_step] = _AtTail(entering, leaving, form)
            hidden = form.rows(leaving.detach())
            return TrunkOutput(message.round, message.step, message.micro_step, True, hidden)
        labels = form.labels(self.labels_of(message))
        loss = self.model.loss(
            self.cut, place, labels=labels, loss_tokens=message.loss_tokens, hidden=entering, **inputs
        )
        tokens = message.loss_tokens or loss_token_count(labels)
        return self._backward(trunk, place, _AtTail(entering, loss, form), None, loss.item(), tokens)

    def train_from_tail(self, message: TailGradients, trunk: TrainedAdapter) -> Message:
        """Go back from the tail to the cut."""
        now = self.at_tail.pop(message.micro_step, None)
        if now is None:
            raise ValueError(f"{self.client} sent a tail gradient, but nothing waits for one")
        place = StepId(self.client, message.round, message.step, message.micro_step, train=True)
        self.model.bind(trunk.blocks)  # for recomputed blocks
        gradient = now.form.batch(message.gradient).to(now.leaving.dtype)
        return self._backward(trunk, place, now, gradient, message.loss, message.loss_tokens)

    def _backward(
        self,
        trunk: TrainedAdapter,
        place: StepId,
        now: _AtTail,
        gradient: Tensor | None,
        loss: float,
        loss_tokens: int,
    ) -> Gradients:
        parameters = trunk.parameters()
        wanted = [now.entering] if self.job.train_front else []
        gradients: tuple[Tensor | None, ...] = torch.autograd.grad(
            [now.leaving], [*wanted, *parameters], [gradient], allow_unused=True
        )
        add_gradients(parameters, gradients[len(wanted) :], self.share)
        self.add_loss(loss, loss_tokens, place.micro_step)
        at_cut = gradients[0] if wanted else None
        rows = now.form.rows(at_cut) if at_cut is not None else now.entering.new_empty(0)
        return Gradients(place.round, place.step, place.micro_step, loss, rows)

    def evaluate(self, message: Activations, adapter: Adapter) -> Message:
        """Return the sums over held-out rows, or with `labels: client` where the tail begins."""
        place = StepId(self.client, message.round, message.step, 0, train=False)
        form, inputs = self._inputs(message)
        inputs["hidden"] = form.batch(message.hidden)
        self.model.bind({b: a for b, a in adapter.items() if self.cut <= b < self.tail_start})
        if self.job.labels == "client":
            with torch.no_grad():
                leaving = self.model.run(self.cut, self.tail_start, place, **inputs)
            return TrunkOutput(message.round, message.step, 0, False, form.rows(leaving))
        labels = self.labels_of(message)
        own = form.batch(labels, fill=IGNORE)
        return self.model.metrics(self.cut, place, labels=form.labels(labels), own=own, **inputs)

    def _inputs(self, message: Activations) -> tuple[BatchLayout, dict[str, Tensor]]:
        """Return the batch's form, and with what it tells the real ids where later blocks read them."""
        form = form_of(message.lengths, self.model.device, self.job.padding_free)
        ids = self.ids_of(message)
        return form, form.inputs if ids is None else {**form.inputs, "input_ids": form.batch(ids)}

    def ids_of(self, message: Activations) -> Tensor | None:
        """Return a message's (tokens,) ids where this model needs them at the server."""
        if self.model.server_inputs == "dummy_ids":
            return None
        if message.input_ids is None:
            raise ValueError("this model needs the input ids at the server, and none came")
        return message.input_ids.long()

    def labels_of(self, message: Activations) -> Tensor:
        """Return a message's (tokens,) labels."""
        if message.labels is None:
            raise ValueError("labels stay at the server in this job, and none came")
        return message.labels.long()


def add_gradients(
    parameters: Sequence[Tensor], gradients: Sequence[Tensor | None], share: float = 1.0
) -> None:
    """Add gradients, times `share`, to those that parameters have from earlier micro-batches."""
    for parameter, own in zip(parameters, gradients, strict=True):
        if own is None:
            continue
        own = (
            own.contiguous() if share == 1 else own.contiguous() * share
        )  # fused optimizers go by the parameter's layout
        parameter.grad = own if parameter.grad is None else parameter.grad.add_(own)
