"""Memory of `codec: delta`: a training sample's activations cross as the difference from their last time.

The first time a sample is sent whole. Both ends keep the decoded activations, never what the client computed:
the error of one time is part of the next difference, and does not add up. Decoding is sums of whole numbers
and single products, so that both ends keep the same on any two machines.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from splitft.common.state import State
from splitft.wire.codecs.codec import Codec, Shapes
from splitft.wire.codecs.int8 import Int8
from splitft.wire.codecs.lowbit import OUTLIERS, LowBit
from splitft.wire.codecs.rows import RowCodec, check_parts, check_rows, diverged
from splitft.wire.memory.sample_memory import SampleMemory
from splitft.wire.messages import Activations

SAMPLE_BYTES = 1024  # of a sample beside its values


@dataclass(frozen=True)
class _Group:
    """Samples of a batch that are sent in one form. base: what is kept of them; None: they are sent whole."""

    codec: Codec
    places: list[int]  # in the batch
    lengths: list[int]
    base: Tensor | None = None


class DeltaMemory(SampleMemory):
    """The last activations of the first samples at one cut, up to a number of bytes; none is ever dropped.

    Args:
        width: Hidden size.
        bits: Bits of a value of a difference.
    """

    def __init__(self, most_bytes: int, width: int, bits: int) -> None:
        self._most_bytes = most_bytes
        self._width = width
        self._first: Codec = LowBit(4, outliers=OUTLIERS, apart=True)
        self._later: Codec = LowBit(bits, outliers=OUTLIERS)
        self._form = Int8()
        self._cut = 0
        self._mark: State | None = None
        self.digest = ""  # of all batches so far; ends with the same digest keep the same
        self._bytes = 0
        self._kept: dict[int, list[Tensor]] = {}

    def pack(self, message: Activations, codec: RowCodec) -> Activations:
        check_rows(message.hidden, self._width)
        try:
            parts = self.encode(message.hidden, message.samples, message.lengths)
        except ValueError as error:
            raise diverged(error) from None
        return replace(message, hidden=message.hidden.new_empty(0), packed=parts)

    def unpack(self, message: Activations, codec: RowCodec) -> Activations:
        if message.hidden.numel():
            raise ValueError(f"hidden: {tuple(message.hidden.shape)} beside the packed parts")
        hidden = self.decode(message.packed, message.samples, message.lengths)
        return replace(message, hidden=hidden, packed=())

    def move(self, cut: int) -> None:
        if cut != self._cut:
            self._cut = cut
            self._clear()

    def mark(self) -> None:
        self._mark = self.state()

    def rewind(self) -> None:
        if self._mark is not None:
            self.load_state(self._mark)

    @property
    def offer(self) -> str:
        return str(self._mark["digest"]) if self._mark else ""

    def agree(self, offer: str) -> str:
        if self.digest != offer:
            self._clear()
        return self.digest

    def accept(self, digest: str) -> None:
        if digest not in ("", self.offer):
            raise ValueError("memory: the client keeps other samples than it was asked for")
        self.rewind()
        if not digest:
            self._clear()
            self.mark()

    def encode(self, rows: Tensor, samples: Sequence[int], lengths: Sequence[int]) -> tuple[Tensor, ...]:
        """Return the parts for the (tokens, width) rows of these samples, and keep the decoded rows.

        Raises ValueError where a value is not finite, or a sample had another length before.
        """
        groups, each = self._groups(samples, lengths), torch.split(rows, list(lengths))
        parts: list[Tensor] = []
        for group in groups:
            some = torch.cat([each[place] for place in group.places]).float()
            some = some if group.base is None else some - group.base
            parts += group.codec.encode(some, group.lengths)
        self._keep(groups, parts, samples)
        return tuple(parts)

    def decode(self, parts: Sequence[Tensor], samples: Sequence[int], lengths: Sequence[int]) -> Tensor:
        """Return the decoded rows, (tokens, width) float32, and keep them.

        Raises ValueError on parts of another form, or where a sample had another length before.
        """
        groups = self._groups(samples, lengths)
        layouts = (group.codec.layout(group.lengths, self._width) for group in groups)
        check_parts(None, parts, [part for layout in layouts for part in layout])
        return self._keep(groups, parts, samples)

    def state(self) -> State:
        return {"cut": self._cut, "digest": self.digest, "kept": dict(self._kept)}

    def load_state(self, state: State | None) -> None:
        assert state is not None
        self._cut, self.digest, self._kept = state["cut"], state["digest"], dict(state["kept"])
        self._bytes = sum(self._size(len(values)) for values, _ in self._kept.values())

    def _clear(self) -> None:
        """Forget all samples: each one's next time is its first."""
        self.digest, self._bytes, self._kept = "", 0, {}

    def _groups(self, samples: Sequence[int], lengths: Sequence[int]) -> list[_Group]:
        """Return the samples that are sent whole, and the others."""
        if not samples or len(samples) != len(lengths):
            raise ValueError(f"samples: {len(samples)} for {len(lengths)} lengths")
        whole, known, seen = list[int](), list[int](), dict[int, int]()
        for place, (sample, length) in enumerate(zip(samples, lengths, strict=True)):
            kept = self._kept.get(sample)
            before = seen.setdefault(sample, length if kept is None else len(kept[0]))
            if before != length:
                raise ValueError(f"lengths: sample {sample} has {length} tokens, and had {before}")
            (whole if kept is None else known).append(place)
        groups = []
        if whole:
            groups.append(_Group(self._first, whole, [lengths[place] for place in whole]))
        if known:
            base = self._base([samples[place] for place in known])
            groups.append(_Group(self._later, known, [lengths[place] for place in known], base))
        return groups

    def _base(self, samples: Sequence[int]) -> Tensor:
        """Return what is kept of these samples: (tokens, width) float32."""
        values, scales = (torch.cat(p) for p in zip(*(self._kept[s] for s in samples), strict=True))
        return self._form.decode((values, scales), [len(values)], self._width)

    def _size(self, length: int) -> int:
        """Return the bytes that a sample of so many tokens takes."""
        return SAMPLE_BYTES + sum(part.nbytes for part in self._form.layout([length], self._width))

    def _keep(self, groups: Sequence[_Group], parts: Sequence[Tensor], samples: Sequence[int]) -> Tensor:
        """Decode a batch, keep what there is room for, and return it.

        Of a sample that is in the batch twice, the later rows are kept.
        """
        whole: dict[int, Tensor] = {}
        start = 0
        for group in groups:
            stop = start + len(group.codec.layout(group.lengths, self._width))
            rows = group.codec.decode(parts[start:stop], group.lengths, self._width)
            rows = rows if group.base is None else rows + group.base
            whole |= dict(zip(group.places, torch.split(rows, group.lengths), strict=True))
            start = stop
        decoded = [whole[place] for place in range(len(samples))]
        for sample, own in zip(samples, decoded, strict=True):
            if sample not in self._kept:
                if self._bytes + self._size(len(own)) > self._most_bytes:
                    continue
                self._bytes += self._size(len(own))
            self._kept[sample] = self._form_of(own)
        self._mix(parts, samples)
        return torch.cat(decoded)

    def _form_of(self, rows: Tensor) -> list[Tensor]:
        """Return a sample's rows as they are kept: values and scales."""
        return list(self._form.encode(rows, [len(rows)]))

    def _mix(self, parts: Sequence[Tensor], samples: Sequence[int]) -> None:
        digest = hashlib.blake2b(f"{self.digest} {list(samples)}".encode(), digest_size=16)
        for part in parts:
            digest.update(part.detach().cpu().reshape(-1).view(torch.uint8).numpy().tobytes())
        self.digest = digest.hexdigest()


class LengthMemory(DeltaMemory):
    """The memory of a plan, whose samples have no values: their lengths."""

    def __init__(self, most_bytes: int, width: int, bits: int) -> None:
        super().__init__(most_bytes, width, bits)
        self._first, self._later = Shapes(self._first), Shapes(self._later)

    def _base(self, samples: Sequence[int]) -> Tensor:
        return torch.zeros(1, 1)

    def _form_of(self, rows: Tensor) -> list[Tensor]:
        return [rows.new_empty(len(rows), 0), rows.new_empty(len(rows), 0)]

    def _mix(self, parts: Sequence[Tensor], samples: Sequence[int]) -> None:
        pass
