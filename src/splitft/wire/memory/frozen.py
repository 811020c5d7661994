"""Memory of activations where fronts are frozen: a sample's never change, and cross once.

Both ends count the same samples, so that a client knows which ones the server has without asking.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from splitft.wire.codecs.rows import RowCodec
from splitft.wire.memory.sample_memory import SampleMemory
from splitft.wire.messages import Activations

SAMPLE_BYTES = 1536  # of a sample beside its values: its tensors as Python holds them

# A sample: its (tokens, width) activations, and its (tokens,) labels and ids where they are sent.
_Kept = tuple[Tensor, Tensor | None, Tensor | None]


class FrozenMemory(SampleMemory):
    """The first samples, up to a number of bytes; none is dropped for another.

    The client's end knows their lengths alone; the server's end keeps their activations.
    """

    def __init__(self, most_bytes: int, width: int) -> None:
        self._most_bytes, self._width = most_bytes, width
        self.forget()

    def forget(self) -> None:
        self._bytes = 0
        self._lengths: dict[int, int] = {}
        self._kept: dict[int, _Kept] = {}

    def missing(self, samples: Sequence[int], lengths: Sequence[int]) -> list[int]:
        return self._walk(samples, lengths)[0]

    def pack(self, message: Activations, codec: RowCodec) -> Activations:
        sent = self._admit(message)
        if codec.codec is None:
            return message
        lengths = [message.lengths[place] for place in sent]
        parts: list[Tensor] = []
        for rows, length in zip(_divided(message.hidden, lengths), lengths, strict=True):
            parts += codec.pack(rows, [length])[1]
        return replace(message, hidden=message.hidden.new_empty(0), packed=tuple(parts))

    def unpack(self, message: Activations, codec: RowCodec) -> Activations:
        if len(message.samples) != len(message.lengths):
            raise ValueError(f"samples: {len(message.samples)} for {len(message.lengths)} lengths")
        sent = self._admit(message)
        came = dict(zip(sent, _samples(message, codec, [message.lengths[i] for i in sent]), strict=True))
        whole = []
        for place, sample in enumerate(message.samples):
            one = came.get(place) or self._kept[sample]
            if sample in self._lengths:
                self._kept[sample] = _alone(one)
            whole.append(one)
        rows, labels, ids = zip(*whole, strict=True)
        hidden = torch.cat(rows).to(message.hidden.dtype)
        return replace(message, hidden=hidden, labels=_joined(labels), input_ids=_joined(ids), packed=())

    def _admit(self, message: Activations) -> list[int]:
        """Remember a batch's samples; return the places of those that are sent with it.

        Raises ValueError where a sample has another length than before.
        """
        sent, new = self._walk(message.samples, message.lengths)
        self._lengths |= new
        self._bytes += sum(self._size(length) for length in new.values())
        return sent

    def _walk(self, samples: Sequence[int], lengths: Sequence[int]) -> tuple[list[int], dict[int, int]]:
        """Return the places of the samples to send, and {sample: length} of those of them to remember."""
        sent: list[int] = []
        new: dict[int, int] = {}
        room = self._most_bytes - self._bytes
        for place, (sample, length) in enumerate(zip(samples, lengths, strict=True)):
            known = self._lengths.get(sample) or new.get(sample)
            if known not in (None, length):
                raise ValueError(f"lengths: sample {sample} has {length} tokens, and had {known}")
            if known is None:
                sent.append(place)
                if (size := self._size(length)) <= room:
                    new[sample] = length
                    room -= size
        return sent, new

    def _size(self, length: int) -> int:
        """Return the bytes that a sample takes: a token counts as in float32, with its label."""
        return SAMPLE_BYTES + length * (4 * self._width + 4)


def _samples(message: Activations, codec: RowCodec, lengths: list[int]) -> list[_Kept]:
    """Return the samples that come with a message, each by itself."""
    nothing: list[Tensor | None] = [None] * len(lengths)
    labels, ids = (
        nothing if part is None else _divided(_vector(part), lengths)
        for part in (message.labels, message.input_ids)
    )
    hidden: list[Tensor] = []
    if codec.codec is None:
        rows = codec.unpack(message.hidden, message.packed, lengths)
        if lengths and (rows.ndim != 2 or rows.shape[1] != codec.width or not rows.is_floating_point()):
            raise ValueError(f"hidden: {rows.dtype} {tuple(rows.shape)}, not rows of {codec.width} numbers")
        hidden = _divided(rows, lengths)
    else:
        start = 0
        for length in lengths:
            stop = start + len(codec.codec.layout([length], codec.width))
            rows = codec.unpack(message.hidden, message.packed[start:stop], [length])
            hidden.append(rows.bfloat16())  # half the memory; less than the codec has lost
            start = stop
        if start != len(message.packed) or message.hidden.numel():
            raise ValueError(f"packed: {len(message.packed)} parts for {len(lengths)} new samples")
    return list(zip(hidden, labels, ids, strict=True))


def _alone(sample: _Kept) -> _Kept:
    """Return a sample in memory of its own: a part of a batch would keep all of the batch."""
    hidden, labels, ids = (
        part if part is None or part.untyped_storage().nbytes() == part.nbytes else part.clone()
        for part in sample
    )
    assert hidden is not None
    return hidden, labels, ids


def _vector(ids: Tensor) -> Tensor:
    """Return labels or ids. Raises ValueError where they are no vector of int32."""
    if ids.ndim != 1 or ids.dtype is not torch.int32:
        raise ValueError(f"labels or input_ids: {ids.dtype} {tuple(ids.shape)}, no vector of int32")
    return ids


def _divided(rows: Tensor, lengths: list[int]) -> list[Tensor]:
    """Return each sample's part of (tokens, ...) rows."""
    if rows.ndim < 1 or rows.shape[0] != sum(lengths):
        raise ValueError(f"hidden, labels or input_ids: {tuple(rows.shape)} for {sum(lengths)} new tokens")
    return list(torch.split(rows, lengths)) if lengths else []


def _joined(parts: Sequence[Tensor | None]) -> Tensor | None:
    """Return the ids of all samples as one tensor; None where they are not sent."""
    given = [part for part in parts if part is not None]
    if given and len(given) < len(parts):
        raise ValueError("labels, input_ids: with some samples, and not with others")
    return torch.cat(given) if given else None
