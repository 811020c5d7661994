"""A dry run: the real rounds, clients and server over a model of shapes alone. Its bytes are exact."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from splitft.errors import ModelError
from splitft.history import RoundRecord
from splitft.lora.blocks import BlockAdapter, pairs, rank_of
from splitft.model.config import text_config
from splitft.model.split_model import SplitModel, StepId, loss_token_count
from splitft.model.window import run_blocks
from splitft.round import Observer, run_rounds
from splitft.running.model import inject_adapters
from splitft.running.parties import Parties, make_parties
from splitft.running.prepare import Assembly
from splitft.weights.held import base_dtype
from splitft.weights.shrink import shrink_config, tiny_random_model
from splitft.wire.messages import Metrics


@dataclass(frozen=True)
class DryRun:
    """Rounds of a dry run, and the parties with their ledger and machines."""

    records: list[RoundRecord]
    parties: Parties


class _Silent(Observer):
    def __init__(self, tell: Callable[[int], None]) -> None:
        self._tell = tell

    def on_evaluation(self, round_: int) -> None:
        self._tell(round_)


def dry_run(start: Assembly, tell: Callable[[int], None] = lambda round_: None) -> DryRun:
    """Run a job over shapes, assembled without weights. tell: called with the round that is evaluated.

    Every message has the size that it has in the run, as long as the cuts are the same. A policy that goes by
    accuracy sees none here: clients keep the weight that they start with.
    """
    parties = make_parties(start, ShapeModel(start, activation_dtype(start)), shape_mean)
    rounds = run_rounds(
        start.job, parties.policy, parties.server, parties.cohort, parties.ledger, _Silent(tell)
    )
    return DryRun(list(rounds), parties)


class ShapeModel(SplitModel):
    """Stands in for the model of a run: every block answers with zeros, every gradient is zero.

    Clients, server and aggregator are those of a real run, so that their messages are, too.
    """

    has_values = False

    def __init__(self, start: Assembly, dtype: torch.dtype) -> None:
        job = start.job
        inputs = start.report.server_inputs
        super().__init__(start.model, start.split_model.slots, seed=job.seed, server_inputs=inputs)
        self.dtype = dtype
        self.num_metrics = len(job.metrics)
        self._bound: dict[int, Mapping[str, Tensor]] = {}

    @property
    def device(self) -> torch.device:
        return torch.device("cpu")

    def bind(self, adapter: Mapping[int, Mapping[str, Tensor]]) -> None:
        """Keep the adapters, so that the blocks that run can give them gradients."""
        self._bound.update(adapter)

    def run(self, start: int, stop: int, place: StepId, **inputs: Any) -> Any:
        """Return zeros of the shape that the blocks would return."""
        hidden: Tensor | None = inputs.get("hidden")
        if hidden is None:
            hidden = torch.zeros(*inputs["input_ids"].shape, self.width, dtype=self.dtype)
        # A zero that depends on every trained tensor of these blocks.
        trained = [
            tensor.flatten()[0]
            for block, tensors in self._bound.items()
            if start <= block < stop
            for tensor in tensors.values()
            if tensor.requires_grad
        ]
        nothing = torch.stack(trained).sum() * 0 if trained else torch.zeros(())
        return hidden + nothing.to(hidden.dtype)

    def loss(self, start: int, place: StepId, **inputs: Any) -> Tensor:
        """Return a loss of zero, whose gradients are zeros."""
        output: Tensor = self.run(start, self.num_blocks, place, **inputs)
        return output.flatten()[0].float() * 0

    def metrics(
        self,
        start: int,
        place: StepId,
        *,
        lengths: Sequence[int],
        labels: Tensor,
        own: Any = None,
        **inputs: Any,
    ) -> Metrics:
        """Return the counts of tokens, with a loss of zero."""
        known, nothing = labels if own is None else own, torch.zeros(len(lengths))
        counts = 0.0, loss_token_count(labels), 0.0, int((known != -100).sum())
        own = torch.zeros(self.num_metrics, dtype=torch.float64) if self.num_metrics else None
        return Metrics(place.round, 0.0, *counts, nothing, nothing, nothing, own)


def shape_mean(blocks: Sequence[BlockAdapter], weights: Sequence[float]) -> BlockAdapter:
    """Return a substitute for an average: an adapter of the right rank, its B not zero, as after training."""
    ranks = [rank_of(block) for block in blocks]
    widest = dict(blocks[ranks.index(max(ranks))])
    generator = torch.Generator().manual_seed(0)
    for _, name in pairs(widest):
        widest[name] = torch.randn(widest[name].shape, generator=generator)
    return widest


def activation_dtype(start: Assembly) -> torch.dtype:
    """Return the dtype that crosses the cut, learned on a small copy of the model with LoRA in it.

    Raises ModelError where no such copy can be built, or where hidden states are not (tokens, hidden).
    """
    job, config = start.job, start.model.config
    model = tiny_random_model(shrink_config(config)).to(base_dtype(job, config))
    inject_adapters(job, model, (start.split_model.slots.targets, start.split_model.slots.excluded))
    small = text_config(model).hidden_size
    with torch.no_grad():
        hidden = run_blocks(model, 0, 1, input_ids=torch.zeros(1, 2, dtype=torch.long))
    if tuple(hidden.shape) != (1, 2, small):
        raise ModelError(f"hidden states of {config.model_type} are not one row a token: no plan is possible")
    dtype: torch.dtype = hidden.dtype
    return dtype
