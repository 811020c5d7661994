"""The way between one client and the server: rows leave an end packed by a codec, and arrive as rows. (ours)

Clients and the server compute on rows and know nothing of codecs; whoever carries messages has a channel.
Where fronts are frozen, the server's end also keeps what each training sample's activations are; with codec
delta both ends do.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TypeVar

import torch
from torch import Tensor

from splitft.common.state import State
from splitft.errors import DivergedError, ModelError
from splitft.job import Job
from splitft.wire.codecs.codec import Codec
from splitft.wire.codecs.registry import What, codecs_of, make_codec
from splitft.wire.codecs.shapes import Shapes
from splitft.wire.memory.delta import LengthMemory, Memory
from splitft.wire.memory.frozen import Index, Kept
from splitft.wire.messages import Activations, Gradients, TailGradients, TrunkOutput

M = TypeVar("M")
_MOST_UNDER_WAY = 256  # batches of a client that may be on their way; of older ones nothing comes any more


class Channel:
    """One end, or both in one process. width: of the hidden states. values: no for a plan, which has none.

    Raises JobError where the job names a codec that nobody has registered.
    """

    def __init__(self, job: Job, width: int, *, values: bool = True) -> None:
        names = codecs_of(job)
        self._job = job
        self._width = width
        self._values = values
        self._activations = self._codec(names["codec"], "activations")
        self._gradients = self._codec(names["gradient_codec"], "gradients")
        self._evaluation = self._codec(names["eval_codec"], "activations")
        self._lengths: tuple[int, ...] = ()  # of the batch that a message is of
        self._sizes: dict[tuple[int, int], tuple[int, ...]] = {}  # the same, by step and micro-step
        self._memories = (self._memory(), self._memory()) if job.sends_differences else None
        self._end = 0  # whose memory was changed last: over a network the other is not used
        self._mark: State | None = None
        self.forget()

    def forget(self) -> None:
        """Start anew with what the server keeps of frozen fronts: both ends do so after a session."""
        self._sent: Index | None = None
        self._came: Index | None = None
        self._kept: dict[int, Kept] = {}

    def missing(self, samples: Sequence[int], lengths: Sequence[int]) -> list[int]:
        """Return the places in a batch of the samples that the server lacks."""
        return (self._sent or self._index()).missing(samples, lengths)

    def move(self, cut: int) -> None:
        """The client has this cut from now on."""
        for memory in self._memories or ():
            memory.move(cut)

    def mark(self) -> None:
        """Remember what this end keeps, as of the start of a round's local steps."""
        self._mark = self.state()

    @property
    def offer(self) -> str:
        """The digest of what was kept at the mark; empty: nothing."""
        return str(self._mark["digest"]) if self._mark else ""

    def rewind(self) -> None:
        """Be as at the mark."""
        self.load_state(self._mark)

    def accept(self, digest: str) -> None:
        """A client takes its steps from the mark, or, with an empty digest, from where nothing is kept.

        Raises ValueError where the digest is neither.
        """
        if digest not in ("", self.offer):
            raise ValueError("memory: the client keeps something else than it was asked for")
        self.rewind()
        if not digest:
            for memory in self._memories or ():
                memory.forget()
            self.mark()

    def agree(self, offer: str) -> str:
        """Return the digest of what a client's end keeps: what the server offers, else nothing."""
        if not self._memories:
            return ""
        if self._memories[0].digest != offer:
            for memory in self._memories:
                memory.forget()
        return self._memories[0].digest

    def state(self) -> State | None:
        """Return what outlasts a round, as a checkpoint holds it; None where nothing does."""
        return self._memories[self._end].state() if self._memories else None

    def load_state(self, state: State | None) -> None:
        """Be as `state` was taken."""
        for memory in self._memories or ():
            if state is not None:
                memory.load_state(state)

    def pack(self, message: M) -> M:
        """Return a message as it is sent.

        Raises DivergedError where a value is not finite, ModelError where hidden states are not rows.
        """
        codec, rows = self._part(message)
        if rows is None:
            return message
        groups = [self._lengths]
        changing = self._changing(message)
        if isinstance(message, Activations) and message.samples and not changing:
            self._sent = self._sent or self._index()
            groups = [(message.lengths[i],) for i in self._sent.admit(message.samples, message.lengths)]
        if codec is None:
            return message
        if groups and (rows.ndim != 2 or rows.shape[1] != self._width):
            raise ModelError(f"hidden states are no rows of {self._width} numbers a token: set codec: none")
        parts: list[Tensor] = []
        try:
            if changing and isinstance(message, Activations):
                self._end = 0
                packed = changing[0].encode(rows, message.samples, message.lengths)
                return _with(message, rows.new_empty(0), packed)
            for some, lengths in zip(_divided(rows, [sum(group) for group in groups]), groups, strict=True):
                parts += codec.encode(some, lengths)
        except ValueError as error:
            raise DivergedError(
                f"what the model computes cannot be sent: {error}; training has diverged: lower learning_rate"
            ) from None
        return _with(message, rows.new_empty(0), tuple(parts))

    def unpack(self, message: M) -> M:
        """Return a message as it was before it was packed, with rows in float32, and with all its samples.

        Raises ValueError where its parts are not those of the job's codec for these lengths.
        """
        codec, rows = self._part(message)
        if rows is None:
            return message
        assert isinstance(message, Activations | TrunkOutput | TailGradients | Gradients)
        if changing := self._changing(message):
            if rows.numel():
                raise ValueError(f"hidden: {tuple(rows.shape)} beside what is packed")
            assert isinstance(message, Activations)
            self._end = 1
            came = changing[1].decode(message.packed, message.samples, message.lengths)
            return _with(message, came, ())
        if isinstance(message, Activations) and (self._keeps(message) or message.samples):
            return self._completed(message, codec)  # type: ignore[return-value]
        if codec is None:
            if message.packed:
                raise ValueError("packed: this job has no codec")
            return message
        return _with(message, self._decoded(codec, message.packed, rows, self._lengths), ())

    def _decoded(self, codec: Codec, parts: Sequence[Tensor], rows: Tensor, lengths: Sequence[int]) -> Tensor:
        wanted = [(part.dtype, part.shape) for part in codec.layout(lengths, self._width)]
        found = [(part.dtype, tuple(part.shape)) for part in parts]
        if rows.numel() or found != wanted:
            raise ValueError(f"packed: {found[:4]}, not {wanted[:4]}")
        return codec.decode(parts, lengths, self._width)

    def _completed(self, message: Activations, codec: Codec | None) -> Activations:
        """Keep what came of new samples, and return the message with the rows of all."""
        if not self._keeps(message) or len(message.samples) != len(message.lengths):
            raise ValueError(f"samples: {len(message.samples)} for {len(message.lengths)} lengths")
        self._came = self._came or self._index()
        sent = self._came.admit(message.samples, message.lengths)
        lengths = [message.lengths[i] for i in sent]
        came = dict(zip(sent, self._samples(message, codec, lengths), strict=True))
        whole = []
        for place, sample in enumerate(message.samples):
            one = came.get(place) or self._kept[sample]
            if sample in self._came:
                self._kept[sample] = one
            whole.append(one)
        return replace(
            message,
            hidden=torch.cat([one.hidden for one in whole]).to(message.hidden.dtype),
            labels=_joined([one.labels for one in whole]),
            input_ids=_joined([one.input_ids for one in whole]),
            packed=(),
        )

    def _samples(self, message: Activations, codec: Codec | None, lengths: list[int]) -> list[Kept]:
        """Return the samples that come with a message, each with what it needs by itself."""
        nothing: list[Tensor | None] = [None] * len(lengths)
        labels, ids = (
            nothing if part is None else _divided(part, lengths)
            for part in (message.labels, message.input_ids)
        )
        hidden: list[Tensor] = []
        if codec is None:
            if message.packed:
                raise ValueError("packed: this job has no codec")
            hidden = _divided(message.hidden, lengths)
        else:
            start = 0
            for length in lengths:
                count = len(codec.layout([length], self._width))
                parts = message.packed[start : start + count]
                decoded = self._decoded(codec, parts, message.hidden, [length])
                hidden.append(decoded.bfloat16())  # half the memory; less than the codec has lost
                start += count
            if start != len(message.packed) or message.hidden.numel():
                raise ValueError(f"packed: {len(message.packed)} parts for {len(lengths)} new samples")
        return [Kept(*parts) for parts in zip(hidden, labels, ids, strict=True)]

    def _keeps(self, message: Activations) -> bool:
        return message.train and self._job.caches_activations

    def _changing(self, message: object) -> tuple[Memory, Memory] | None:
        """Return the memories of both ends, where a message goes as a difference against them."""
        return self._memories if isinstance(message, Activations) and message.train else None

    def _codec(self, name: str, what: What) -> Codec | None:
        codec = make_codec(name, what)
        return codec if codec is None or self._values else Shapes(codec)

    def _memory(self) -> Memory:
        room, bits = int(self._job.activation_cache_gb * 1e9), self._job.delta_bits
        return Memory(room, self._width, bits) if self._values else LengthMemory(room, self._width, bits)

    def _index(self) -> Index:
        """An empty index; a token counts as in float32, with its label."""
        return Index(int(self._job.activation_cache_gb * 1e9 / (4 * self._width + 4)))

    def _part(self, message: object) -> tuple[Codec | None, Tensor | None]:
        """Return the rows of a message, None where it has none, and their codec."""
        if isinstance(message, TrunkOutput | TailGradients | Gradients):
            self._lengths = self._sizes.get((message.step, message.micro_step), ())
        match message:
            case Activations():
                self._lengths = self._sizes[message.step, message.micro_step] = message.lengths
                while len(self._sizes) > _MOST_UNDER_WAY:
                    del self._sizes[next(iter(self._sizes))]
                return self._activations if message.train else self._evaluation, message.hidden
            case TrunkOutput():
                return self._activations if message.train else self._evaluation, message.hidden
            case Gradients() if not self._job.train_front:
                return None, None
            case TailGradients() | Gradients():
                return self._gradients, message.gradient
        return None, None


def _with(message: M, rows: Tensor, packed: tuple[Tensor, ...]) -> M:
    """Return the message with these rows and parts."""
    field = "hidden" if isinstance(message, Activations | TrunkOutput) else "gradient"
    changed: M = replace(message, **{field: rows, "packed": packed})  # type: ignore[type-var]
    return changed


def _divided(rows: Tensor, lengths: list[int]) -> list[Tensor]:
    """Return each sample's part of (tokens, ...) rows."""
    if rows.ndim < 1 or rows.shape[0] != sum(lengths):
        raise ValueError(f"hidden, labels or input_ids: {tuple(rows.shape)} for {sum(lengths)} new tokens")
    return list(torch.split(rows, lengths)) if lengths else []


def _joined(parts: Sequence[Tensor | None]) -> Tensor | None:
    """Return ids of all samples as one tensor; None where they do not come."""
    given = [part for part in parts if part is not None]
    if given and len(given) < len(parts):
        raise ValueError("labels, input_ids: with some samples, and not with others")
    return torch.cat(given) if given else None
