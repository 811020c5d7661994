"""The way between one client and the server: rows leave an end packed by a codec, and arrive as rows. (ours)

Clients and the server compute on rows and know nothing of codecs; whoever carries messages has a channel.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TypeVar

from torch import Tensor

from splitft.codecs.codec import Codec
from splitft.codecs.registry import codecs_of, make_codec
from splitft.errors import DivergedError, ModelError
from splitft.job import Job
from splitft.messages import Activations, Gradients, TailGradients, TrunkOutput

M = TypeVar("M")


class Channel:
    """One end, or both in one process. width: of the hidden states, where this end unpacks before it packs.

    Raises JobError where the job names a codec that nobody has registered.
    """

    def __init__(self, job: Job, width: int = 0) -> None:
        names = codecs_of(job)
        self._width = width
        self._activations = make_codec(names["codec"], "activations")
        self._gradients = make_codec(names["gradient_codec"], "gradients")
        self._evaluation = make_codec(names["eval_codec"], "activations")
        self._lengths: tuple[int, ...] = ()  # of the batch under way

    def pack(self, message: M) -> M:
        """Return a message as it is sent.

        Raises DivergedError where a value is not finite, ModelError where hidden states are not rows.
        """
        codec, rows = self._part(message)
        if codec is None or rows is None:
            return message
        if rows.ndim != 2:
            raise ModelError("this model's hidden states are not one row a token: set codec: none")
        self._width = rows.shape[1]
        try:
            parts = codec.encode(rows, self._lengths)
        except ValueError as error:
            raise DivergedError(
                f"what the model computes cannot be sent: {error}; training has diverged: lower learning_rate"
            ) from None
        return _with(message, rows.new_empty(0), parts)

    def unpack(self, message: M) -> M:
        """Return a message as it was before it was packed, with rows in float32.

        Raises ValueError where its parts are not those of the job's codec for these lengths.
        """
        codec, rows = self._part(message)
        if rows is None:
            return message
        assert isinstance(message, Activations | TrunkOutput | TailGradients | Gradients)
        if codec is None:
            if message.packed:
                raise ValueError("packed: this job has no codec")
            return message
        wanted = [(part.dtype, part.shape) for part in codec.layout(self._lengths, self._width)]
        found = [(part.dtype, tuple(part.shape)) for part in message.packed]
        if rows.numel() or found != wanted:
            raise ValueError(f"packed: {found[:4]}, not {wanted[:4]}")
        return _with(message, codec.decode(message.packed, self._lengths, self._width), ())

    def _part(self, message: object) -> tuple[Codec | None, Tensor | None]:
        """Return the rows of a message, None where it has none, and their codec."""
        match message:
            case Activations():
                self._lengths = message.lengths
                return self._activations if message.train else self._evaluation, message.hidden
            case TrunkOutput():
                return self._activations if message.train else self._evaluation, message.hidden
            case TailGradients() | Gradients():
                return self._gradients, message.gradient
        return None, None


def _with(message: M, rows: Tensor, packed: tuple[Tensor, ...]) -> M:
    """Return the message with these rows and parts."""
    field = "hidden" if isinstance(message, Activations | TrunkOutput) else "gradient"
    changed: M = replace(message, **{field: rows, "packed": packed})  # type: ignore[type-var]
    return changed
