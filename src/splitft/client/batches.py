"""Batches of one client: each optimizer step's rows in micro-batches, the held-out rows, and their layout."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from splitft.common.state import State
from splitft.data import Batch, ClientData, collate, split_rows, train_stream
from splitft.data.rows import Indices, Rows
from splitft.data.sample import HeldOutPart, held_out_batches
from splitft.job.settings import BatchSettings
from splitft.model.head import IGNORE
from splitft.model.layout import BatchLayout, PaddedBatch, form_of
from splitft.model.split_model import loss_token_count


@dataclass(frozen=True)
class MicroBatch:
    """Rows of a client that are computed together, as they cross the cut and as the model takes them.

    Attributes:
        samples: Numbers of the rows; empty for held-out rows.
        batch_tokens: Tokens of the batch that it is a part of; 0: it is a whole batch.
        loss_tokens: Tokens with loss of the whole step; 0: it is the step's only micro-batch.
    """

    batch: Batch
    padding_free: bool
    pad_token_id: int
    samples: tuple[int, ...] = ()
    batch_tokens: int = 0
    loss_tokens: int = 0

    @cached_property
    def lengths(self) -> tuple[int, ...]:
        """Tokens of each sample."""
        return self.batch.lengths

    @cached_property
    def layout(self) -> BatchLayout:
        """The layout in which this client computes the batch."""
        if not self.padding_free:
            return PaddedBatch(self.batch.attention_mask)
        return form_of(self.lengths, self.batch.input_ids.device, True)

    @property
    def inputs(self) -> dict[str, Tensor]:
        """Inputs of the model."""
        ids = self.layout.batch(self.batch.rows(self.batch.input_ids), fill=self.pad_token_id)
        return {"input_ids": ids, **self.layout.inputs}

    @property
    def labels(self) -> Tensor:
        """Labels of the loss."""
        return self.layout.labels(self.batch.rows(self.batch.labels))

    @property
    def own_labels(self) -> Tensor:
        """Labels of the tokens themselves, where each token is compared with its own prediction."""
        return self.layout.batch(self.batch.rows(self.batch.labels), fill=IGNORE)

    @property
    def label_rows(self) -> Tensor:
        """(tokens,) int32 labels for the server."""
        return self.batch.rows(self.batch.labels).int()

    @property
    def id_rows(self) -> Tensor:
        """(tokens,) int32 ids for the server."""
        return self.batch.rows(self.batch.input_ids).int()

    @property
    def own_loss_tokens(self) -> int:
        """Tokens with loss of this micro-batch."""
        return loss_token_count(self.batch.labels)

    def alone(self, place: int) -> MicroBatch:
        """Return one sample as a batch of its own, without padding."""
        return replace(self, batch=self.batch.row(place, self.lengths[place]))

    def only(self, places: Sequence[int]) -> MicroBatch:
        """Return the samples at these places."""
        return replace(self, batch=self.batch.only(places))


@dataclass(eq=False)
class StepBatches:
    """The batches of a client, on its device."""

    settings: BatchSettings
    name: str
    data: ClientData
    pad_token_id: int
    device: torch.device

    def __post_init__(self) -> None:
        self._stream = train_stream(self.settings, self.name, self.data.train)
        self._step: list[MicroBatch] = []  # under way

    def micro_batch(self, micro_step: int, parts: int) -> MicroBatch:
        """Return a micro-batch of the step under way; the first one draws the step's rows.

        Args:
            parts: Micro-batches that each batch is divided into.
        """
        if micro_step == 0:
            drawn = (self._draw(parts) for _ in range(self.settings.gradient_accumulation_steps))
            self._step = [part for batch in drawn for part in batch]
            if len(self._step) > 1:
                tokens = sum(part.own_loss_tokens for part in self._step)
                self._step = [replace(part, loss_tokens=tokens) for part in self._step]
        return self._step[micro_step]

    def held_out(self, part: HeldOutPart) -> Iterator[tuple[int, MicroBatch]]:
        """Yield (number, batch) of held-out rows (`data.sample.held_out_batches`)."""
        rows, settings = self.data.eval, self.settings
        size = settings.per_device_eval_batch_size
        for number, chosen in held_out_batches(rows.lengths, part, size, settings.seed, self.name):
            yield number, self._collated(rows, chosen)

    def of(self, numbers: Indices) -> MicroBatch:
        """Return these training rows as one batch."""
        return self._collated(self.data.train, numbers)

    def state(self) -> State:
        """Return the place in the stream of rows, as a checkpoint holds it."""
        return self._stream.state()

    def load_state(self, state: State) -> None:
        """Restore a state returned by `state()`. Raises DataError where it is of other data."""
        self._stream.load_state(state)
        self._step = []

    def _draw(self, parts: int) -> list[MicroBatch]:
        rows, whole = self.data.train, next(self._stream)
        divided: list[Indices] = split_rows(whole, rows.lengths, parts)
        tokens = int(rows.lengths[whole].sum()) if len(divided) > 1 else 0
        return [
            replace(self._collated(rows, part), samples=tuple(part.tolist()), batch_tokens=tokens)
            for part in divided
        ]

    def _collated(self, rows: Rows, numbers: Indices) -> MicroBatch:
        batch = collate(rows, numbers, self.pad_token_id).to(self.device)
        return MicroBatch(batch, self.settings.without_padding, self.pad_token_id)
