"""Padded batches, and the endless stream of row numbers that a client trains on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from splitft.common.seeds import numpy_generator
from splitft.common.transfer import to_device
from splitft.data.rows import IGNORE, Indices, Rows
from splitft.errors import DataError
from splitft.job.settings import BatchSettings

POOL = 50  # batches whose rows are sorted together


@dataclass(frozen=True)
class Batch:
    """Rows padded on the right to the longest of them: each part is (batch, seq) int64."""

    input_ids: Tensor
    attention_mask: Tensor  # 0 on padding
    labels: Tensor  # -100 on padding and where there is no loss; not shifted

    @property
    def lengths(self) -> tuple[int, ...]:
        """Tokens of each row."""
        return tuple(self.attention_mask.sum(1).tolist())

    def rows(self, part: Tensor) -> Tensor:
        """Return the values of (batch, seq) without padding, row after row: (tokens,)."""
        return part[self.attention_mask.bool()]

    def row(self, number: int, length: int) -> Batch:
        """Return one row of `length` tokens by itself, without padding."""
        return Batch(*(part[number : number + 1, :length] for part in self._parts()))

    def only(self, places: Sequence[int]) -> Batch:
        """The rows at these places, padded as they are."""
        return Batch(*(part[list(places)] for part in self._parts()))

    def _parts(self) -> tuple[Tensor, Tensor, Tensor]:
        return self.input_ids, self.attention_mask, self.labels

    def to(self, device: torch.device | str) -> Batch:
        """The same batch on a device."""
        return Batch(*(to_device(part, device) for part in self._parts()))


def collate(rows: Rows, indices: Sequence[int] | Indices, pad_token_id: int) -> Batch:
    """Pad the rows with these indices on the right to their own longest row. ValueError without indices."""
    chosen = [int(i) for i in indices]
    if not chosen:
        raise ValueError("a batch needs at least one row")
    shape = (len(chosen), max(len(rows.input_ids[i]) for i in chosen))
    input_ids = np.full(shape, pad_token_id, dtype=np.int64)
    attention_mask = np.zeros(shape, dtype=np.int64)
    labels = np.full(shape, IGNORE, dtype=np.int64)
    for row, i in enumerate(chosen):
        length = len(rows.input_ids[i])
        input_ids[row, :length] = rows.input_ids[i]
        attention_mask[row, :length] = 1
        labels[row, :length] = rows.labels[i]
    return Batch(torch.from_numpy(input_ids), torch.from_numpy(attention_mask), torch.from_numpy(labels))


def split_rows(chosen: Indices, lengths: NDArray[np.int64], parts: int) -> list[Indices]:
    """Return a batch's rows in `parts` parts of nearly equal number, the shortest rows first.

    Rows of like length then share a part, so that less of it is padding. One part: the rows as they are.
    """
    if parts == 1:
        return [chosen]
    return np.array_split(chosen[np.argsort(lengths[chosen], kind="stable")], parts)


@dataclass(eq=False)
class BatchStream:
    """Endless row numbers: a fresh shuffle each epoch, full batches across epoch borders.

    The order depends on the seed, the client's name and the number of rows only. A batch has `batch_size`
    rows, or `num_rows` where that is fewer. lengths: of the rows; then a batch's rows are of like length
    (`group_by_length`), and the order depends on these, too. Raises DataError where there are no rows.
    """

    num_rows: int
    batch_size: int
    seed: int
    client_name: str
    lengths: Sequence[int] | NDArray[np.int64] | None = None

    def __post_init__(self) -> None:
        if self.num_rows < 1:
            raise DataError(f"client {self.client_name!r} has no training rows")
        self.batch_size = min(self.batch_size, self.num_rows)
        self._position = 0
        self._start_epoch(0)

    def __iter__(self) -> BatchStream:
        return self

    def __next__(self) -> Indices:
        """Indices of the next batch's rows, (batch,)."""
        batch = self._order[self._position : self._position + self.batch_size]
        self._position += len(batch)
        if len(batch) < self.batch_size:
            self._start_epoch(self._epoch + 1)
            self._position = self.batch_size - len(batch)
            batch = np.concatenate([batch, self._order[: self._position]])
        return batch

    def state(self) -> dict[str, int]:
        """Where the stream stands; plain integers."""
        return {"epoch": self._epoch, "position": self._position, "num_rows": self.num_rows}

    def load_state(self, state: Mapping[str, int]) -> None:
        """Restore a state returned by `state()`. Raises DataError where it is of another number of rows."""
        epoch, position = int(state["epoch"]), int(state["position"])
        if int(state["num_rows"]) != self.num_rows or epoch < 0 or not 0 <= position <= self.num_rows:
            raise DataError(
                f"client {self.client_name!r} has {self.num_rows} training rows, the saved position is for "
                f"{state['num_rows']}: resume with the data and settings of the run"
            )
        self._start_epoch(epoch)
        self._position = position

    def _start_epoch(self, epoch: int) -> None:
        self._epoch = epoch
        rng = numpy_generator(self.seed, "batches", self.client_name, epoch)
        order: Indices = rng.permutation(self.num_rows).astype(np.int64)
        if self.lengths is not None:
            # Rows that fill up the last epoch's last batch stay first.
            begun = -epoch * self.num_rows % self.batch_size
            grouped = group_by_length(order[begun:], np.asarray(self.lengths), self.batch_size, rng)
            order = np.concatenate([order[:begun], grouped])
        self._order = order


def group_by_length(
    order: Indices, lengths: NDArray[np.int64], batch_size: int, rng: np.random.Generator
) -> Indices:
    """Return shuffled row numbers in another order, in which batches have rows of like length.

    Pools of up to POOL batches are sorted, and the batches shuffled; at least four pools, so that the batches
    of one epoch are not those of the next. Rows beyond the last full batch stay at the end. (after
    transformers)
    """
    pool = batch_size * max(1, min(len(order) // (4 * batch_size), POOL))
    pools = [order[start : start + pool] for start in range(0, len(order), pool)]
    ordered = np.concatenate([rows[np.argsort(-lengths[rows], kind="stable")] for rows in pools] or [order])
    whole = len(order) // batch_size * batch_size
    batches = rng.permutation(ordered[:whole].reshape(-1, batch_size))
    return np.concatenate([batches.ravel(), ordered[whole:]]).astype(np.int64)


def train_stream(settings: BatchSettings, client: str, rows: Rows) -> BatchStream:
    """Return the stream of a client's training rows, as the job says."""
    lengths = rows.lengths if settings.group_by_length else None
    return BatchStream(len(rows), settings.per_device_train_batch_size, settings.seed, client, lengths)


def first_lengths(settings: BatchSettings, client: str, rows: Rows) -> list[NDArray[np.int64]]:
    """Return the lengths of the rows, (batch,), of each micro-batch of a client's first round."""
    stream = train_stream(settings, client, rows)
    lengths = np.asarray(rows.lengths)
    return [lengths[next(stream)] for _ in range(settings.local_steps * settings.gradient_accumulation_steps)]
