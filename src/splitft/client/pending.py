"""A client's micro-batches on their way, and its steps whose gradients are not applied yet."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from splitft.client.batches import MicroBatch
from splitft.job.settings import TrainingSettings
from splitft.lora.optimizer import (
    TrainedAdapter,
    Weights,
    copied,
    global_step,
    learning_rates,
    move_gradients,
    total_norm,
)
from splitft.lora.ranks import HeldBlocks
from splitft.model.split_model import StepId
from splitft.wire.messages import Gradients, TrunkOutput


@dataclass(frozen=True)
class InFlight:
    """A micro-batch between its way up and its way down."""

    place: StepId
    batch: MicroBatch
    hidden: Tensor  # activations at the cut, with their graph where the front is trained
    weights: Weights  # the adapters that it is computed with
    tail_done: bool = False


@dataclass(eq=False)
class Pending:
    """Applies each step's gradients in time: at once, or `max_staleness` steps later.

    A step's batches go up with the gradients of all steps but the last `max_staleness`, however early these
    came.
    """

    name: str  # of the client
    settings: TrainingSettings
    trained: TrainedAdapter

    def __post_init__(self) -> None:
        self.steps_ahead = self.settings.max_staleness
        self.weights: Weights = {}  # of the step whose batches go up
        self._learning_rate = learning_rates(self.settings)
        self._batches: dict[tuple[int, int], InFlight] = {}  # by step and micro-step
        self._due: dict[int, tuple[InFlight, Tensor | None]] = {}  # complete steps, and the trunk's norms
        self._norms: Tensor | None = None  # of the last step, for the server

    def clear(self) -> None:
        """Give up all batches and steps under way."""
        self._batches.clear()
        self._due.clear()
        self._norms = None

    def start_step(self, step: int, held: HeldBlocks) -> None:
        """Apply the gradients that a local step's batches go up with."""
        self._apply(step - 1 - self.steps_ahead, held)
        self.weights = copied(self.trained) if self.steps_ahead else self.trained.blocks

    def add(self, batch: InFlight) -> None:
        """Note a batch that goes up."""
        self._batches[batch.place.step, batch.place.micro_step] = batch

    def find(self, message: TrunkOutput | Gradients) -> InFlight:
        """Return the batch that a message answers. Raises ValueError where there is none."""
        place, train = (message.step, message.micro_step), getattr(message, "train", True)
        batch = self._batches.get(place)
        if batch is None or (batch.place.round, batch.place.train) != (message.round, train):
            where = f"step {place} in round {message.round}"
            raise ValueError(f"{self.name} has no batch of {where} under way")
        return batch

    def at_tail(self, message: TrunkOutput) -> InFlight:
        """Return the batch that a message brings to the tail. Raises ValueError where it was there."""
        batch = self.find(message)
        if batch.tail_done:
            raise ValueError(f"step {message.step} has been at the tail before")
        self._batches[message.step, message.micro_step] = replace(batch, tail_done=True)
        return batch

    def take(self, message: TrunkOutput | Gradients) -> InFlight:
        """Return the batch that a message answers to the end."""
        batch = self.find(message)
        del self._batches[message.step, message.micro_step]
        return batch

    def drop_oldest(self) -> None:
        """Note that the first held-out batch is answered. Raises ValueError where there is none."""
        oldest = min(self._batches, default=(0, 0))
        if oldest not in self._batches or self._batches[oldest].place.train:
            raise ValueError(f"{self.name} has no held-out rows under way")
        del self._batches[oldest]

    def complete(self, last: InFlight, trunk_norms: Tensor | None, held: HeldBlocks) -> None:
        """Note that all gradients of a step are there. last: its last micro-batch."""
        self._due[last.place.step] = last, trunk_norms
        if not self.steps_ahead:
            self._apply(last.place.step, held)

    def finish(self, held: HeldBlocks) -> None:
        """Apply the gradients of all local steps."""
        self._apply(self.settings.local_steps, held)

    def take_norms(self) -> Tensor | None:
        """Return the client's gradient norms of the last step, once: the server clips by them, too."""
        norms, self._norms = self._norms, None
        return norms

    def _apply(self, last: int, held: HeldBlocks) -> None:
        """Take the optimizer steps that are due, up to the local step `last`."""
        for number in [step for step in sorted(self._due) if step <= last]:
            # Gradients of copied weights go to the trained ones.
            batch, trunk_norms = self._due.pop(number)
            if batch.weights is not self.trained.blocks:
                move_gradients(batch.weights, self.trained)
            self.trained.add_penalty()
            # The norm over front, trunk and tail. With staleness it comes too late for the server's step.
            norm = None
            if self.settings.max_grad_norm:
                front, tail = (self.trained.gradient_norms(part) for part in (held.front, held.tail))
                norm = total_norm([front, trunk_norms, tail])
                if not self.steps_ahead:
                    self._norms = torch.cat([front, tail])
            step = global_step(self.settings, batch.place.round, number)
            self.trained.step(self._learning_rate(step), norm)
