"""Memory of `codec: delta`: a training sample's activations cross as the difference from their last time.

The first time a sample is sent whole. Both ends keep the decoded activations, never what the client computed:
the error of one time is part of the next difference, and does not add up. Decoding is sums of whole numbers
and single products, so that both ends keep the same on any two machines.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from splitft.common.state import State
from splitft.wire.codecs.codec import Codec, Part
from splitft.wire.codecs.int8 import Int8
from splitft.wire.codecs.lowbit import activation_bits, difference_bits
from splitft.wire.codecs.rows import RowCodec, check_parts, check_rows, diverged
from splitft.wire.codecs.shapes import Shapes
from splitft.wire.memory.sample_memory import SampleMemory
from splitft.wire.messages import Activations

SAMPLE_BYTES = 1024  # of a sample beside its values


class DeltaMemory(SampleMemory):
    """The last activations of the first samples at one cut, up to a number of bytes; none is ever dropped.

    Args:
        width: Hidden size.
        bits: Bits of a value of a difference.

    Attributes:
        digest: Digest of all batches so far, empty at the start; ends with the same digest keep the same.
    """

    def __init__(self, most_bytes: int, width: int, bits: int) -> None:
        self._most_bytes = most_bytes
        self._width = width
        self._first: Codec = activation_bits(4)
        self._later: Codec = difference_bits(bits)
        self._form = Int8()
        self._cut = 0
        self._mark: State | None = None
        self.digest = ""
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
        parts: list[Tensor] = []
        for codec, places, known in self._groups(samples, lengths):
            own = [lengths[place] for place in places]
            some = _gathered(rows, lengths, places).float()
            parts += codec.encode(some - self._base(samples, places) if known else some, own)
        self.decode(parts, samples, lengths)
        return tuple(parts)

    def decode(self, parts: Sequence[Tensor], samples: Sequence[int], lengths: Sequence[int]) -> Tensor:
        """Return the decoded rows, (tokens, width) float32, and keep them.

        Raises ValueError on parts of another form, or where a sample had another length before.
        """
        groups = self._groups(samples, lengths)
        check_parts(None, parts, self._layout(groups, lengths))
        whole: dict[int, Tensor] = {}
        start = 0
        for codec, places, known in groups:
            own = [lengths[place] for place in places]
            stop = start + len(codec.layout(own, self._width))
            rows = codec.decode(parts[start:stop], own, self._width)
            rows = rows + self._base(samples, places) if known else rows
            whole |= dict(zip(places, torch.split(rows, own), strict=True))
            start = stop
        self._note(whole, samples, lengths)
        self._mix(parts, samples)
        return torch.cat([whole[place] for place in range(len(samples))])

    def state(self) -> State:
        return {"cut": self._cut, "digest": self.digest, "kept": dict(self._kept)}

    def load_state(self, state: State | None) -> None:
        assert state is not None
        self._cut, self.digest, self._kept = state["cut"], state["digest"], dict(state["kept"])
        self._bytes = sum(self._size(len(values)) for values, _ in self._kept.values())

    def _clear(self) -> None:
        """Forget all samples: each one's next time is its first."""
        self.digest, self._bytes, self._kept = "", 0, {}

    def _groups(self, samples: Sequence[int], lengths: Sequence[int]) -> list[tuple[Codec, list[int], bool]]:
        """Return (codec, places in the batch, whether kept) of those sent whole, and of the others."""
        if not samples or len(samples) != len(lengths):
            raise ValueError(f"samples: {len(samples)} for {len(lengths)} lengths")
        whole, known, seen = list[int](), list[int](), dict[int, int]()
        for place, (sample, length) in enumerate(zip(samples, lengths, strict=True)):
            kept = self._kept.get(sample)
            before = seen.setdefault(sample, length if kept is None else len(kept[0]))
            if before != length:
                raise ValueError(f"lengths: sample {sample} has {length} tokens, and had {before}")
            (whole if kept is None else known).append(place)
        groups = [(self._first, whole, False), (self._later, known, True)]
        return [group for group in groups if group[1]]

    def _layout(self, groups: Sequence[tuple[Codec, list[int], bool]], lengths: Sequence[int]) -> list[Part]:
        return [
            part
            for codec, places, _ in groups
            for part in codec.layout([lengths[place] for place in places], self._width)
        ]

    def _base(self, samples: Sequence[int], places: Sequence[int]) -> Tensor:
        """Return what is kept of the samples at these places: (tokens, width) float32."""
        kept = [self._kept[samples[place]] for place in places]
        values, scales = (torch.cat(parts) for parts in zip(*kept, strict=True))
        return self._form.decode((values, scales), [len(values)], self._width)

    def _size(self, length: int) -> int:
        """Return the bytes that a sample of so many tokens takes."""
        return SAMPLE_BYTES + sum(part.nbytes for part in self._form.layout([length], self._width))

    def _note(self, rows: dict[int, Tensor], samples: Sequence[int], lengths: Sequence[int]) -> None:
        """Keep these rows; of a sample that is in the batch twice, the later ones."""
        for place, (sample, length) in enumerate(zip(samples, lengths, strict=True)):
            if sample not in self._kept:
                if self._bytes + self._size(length) > self._most_bytes:
                    continue
                self._bytes += self._size(length)
            self._kept[sample] = self._form_of(rows[place])

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

    def _base(self, samples: Sequence[int], places: Sequence[int]) -> Tensor:
        return torch.zeros(1, 1)

    def _form_of(self, rows: Tensor) -> list[Tensor]:
        return [rows.new_empty(len(rows), 0), rows.new_empty(len(rows), 0)]

    def _mix(self, parts: Sequence[Tensor], samples: Sequence[int]) -> None:
        pass


def _gathered(rows: Tensor, lengths: Sequence[int], places: Sequence[int]) -> Tensor:
    each = torch.split(rows, list(lengths))
    return torch.cat([each[place] for place in places])
