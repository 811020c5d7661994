"""The parts of a split model that a party computes: front, trunk and tail, on one shared frozen base."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from splitft.adapters import AdapterSlots
from splitft.messages import Metrics
from splitft.seeds import derive_seed
from splitft.split import num_blocks, run_blocks


@dataclass(frozen=True)
class Place:
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
    """

    has_values = True  # what stands in for a model in a plan has shapes alone

    def __init__(
        self,
        model: nn.Module,
        slots: AdapterSlots,
        *,
        seed: int = 0,
        server_inputs: Literal["dummy_ids", "input_ids"] = "dummy_ids",
    ) -> None:
        self.model = model
        self.slots = slots
        self.seed = seed
        self.server_inputs = server_inputs
        self.num_blocks = num_blocks(model)

    @property
    def width(self) -> int:
        """Of the hidden states, as the model's configuration says."""
        config: Any = self.model.config
        return int(getattr(config.get_text_config(decoder=True), "hidden_size", 0))

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
        place: Place,
        *,
        hidden: Tensor | None = None,
        input_ids: Tensor | None = None,
        **inputs: Any,
    ) -> Any:
        """Run blocks [start, stop) in train or eval mode, see split.run_blocks for inputs and outputs."""
        if self.model.training != place.train:
            self.model.train(place.train)
        seed_block = self._seeder(place) if place.train else None
        return run_blocks(
            self.model, start, stop, hidden=hidden, input_ids=input_ids, on_block=seed_block, **inputs
        )

    def _seeder(self, place: Place) -> Callable[[int], None]:
        names = (self.seed, "dropout", place.client, place.round, place.step, place.micro_step)
        return lambda block: void(torch.manual_seed(derive_seed(*names, block)))

    def loss(self, start: int, place: Place, *, labels: Tensor, loss_tokens: int, **inputs: Any) -> Tensor:
        """Return the model's own loss over blocks [start, end), a scalar.

        loss_tokens: 0 for the mean over this batch; else the tokens of all micro-batches of the step, which
        the sum is divided by.
        """
        if loss_tokens:
            inputs["num_items_in_batch"] = torch.tensor(loss_tokens, device=labels.device)
        output = self.run(start, self.num_blocks, place, labels=labels, **inputs)
        loss: Tensor = output.loss
        return loss

    @torch.no_grad()
    def metrics(self, start: int, place: Place, *, labels: Tensor, **inputs: Any) -> Metrics:
        """Return sums over the batch: of true (shifted) next-token predictions, and of the paper's."""
        logits = self.run(start, self.num_blocks, place, **inputs).logits
        predicted = logits.argmax(-1)
        targets, known = labels[:, 1:], labels != -100
        scored = known[:, 1:]
        chosen = logits[:, :-1][scored].float()
        targets = targets[scored]
        nll = functional.cross_entropy(chosen, targets, reduction="sum").item() if len(targets) else 0.0
        correct = float((predicted[:, :-1][scored] == targets).sum())
        paper_correct = float((predicted[known] == labels[known]).sum())
        return Metrics(place.round, nll, correct, len(targets), paper_correct, int(known.sum()))


def void(_: object) -> None:
    """Drop a value."""


def mask_of(lengths: Sequence[int], device: torch.device) -> Tensor:
    """Return the (batch, seq) attention mask of right-padded samples of these lengths."""
    positions = torch.arange(max(lengths), device=device)
    return (positions < torch.tensor(lengths, device=device)[:, None]).long()


def to_rows(padded: Tensor, mask: Tensor) -> Tensor:
    """Return the valid rows of (batch, seq, …) one after another: (tokens, …)."""
    if padded.shape[:2].numel() == int(mask.sum()):
        return padded.flatten(0, 1)
    return padded[mask.bool()]


def to_batch(rows: Tensor, mask: Tensor, fill: float = 0) -> Tensor:
    """Undo `to_rows`: (tokens, …) to (batch, seq, …), padded with `fill`."""
    padded = rows.new_full((*mask.shape, *rows.shape[1:]), fill)
    padded[mask.bool()] = rows
    return padded


def loss_token_count(labels: Tensor) -> int:
    """Return how many next-token predictions of (batch, seq) labels count in the loss."""
    return int((labels[:, 1:] != -100).sum())
