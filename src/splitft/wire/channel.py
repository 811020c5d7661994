"""One end of a client's connection: rows leave it packed by a codec, and arrive as rows.

Client and server compute on rows and know nothing of codecs; a carrier of messages has both ends of each
client's connection (in one process), or one.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import TypeVar

from splitft.job.settings import WireSettings
from splitft.wire.codecs.codec import Shapes
from splitft.wire.codecs.registry import What, codecs_of, make_codec
from splitft.wire.codecs.rows import RowCodec
from splitft.wire.memory.delta import DeltaMemory, LengthMemory
from splitft.wire.memory.frozen import FrozenMemory
from splitft.wire.memory.sample_memory import SampleMemory
from splitft.wire.messages import Activations, Gradients, TailGradients, TrunkOutput

M = TypeVar("M")
_MOST_UNDER_WAY = 256  # batches of a client that may be on their way; older ones have been answered


def sample_memory(settings: WireSettings, width: int, *, values: bool = True) -> SampleMemory:
    """Return one end's memory of samples, as the job says; for the parameters see `Channel`."""
    room = int(settings.activation_cache_gb * 1e9)
    if settings.sends_differences:
        return (DeltaMemory if values else LengthMemory)(room, width, settings.delta_bits)
    return FrozenMemory(room, width) if settings.caches_activations else SampleMemory()


class Channel:
    """One end of a client's connection.

    Args:
        width: Hidden size.
        memory: This end's memory of samples, where others have it, too.
        values: False in a plan, whose tensors have shapes alone.

    Raises:
        JobError: The job names a codec that is not registered.
    """

    def __init__(
        self, settings: WireSettings, width: int, memory: SampleMemory | None = None, *, values: bool = True
    ) -> None:
        def rows(key: str, what: What) -> RowCodec:
            codec = make_codec(names[key], what)
            return RowCodec(codec if codec is None or values else Shapes(codec), width)

        names = codecs_of(settings)
        self.memory = sample_memory(settings, width, values=values) if memory is None else memory
        self._activations = rows("codec", "activations")
        self._evaluation = rows("eval_codec", "activations")
        self._gradients = rows("gradient_codec", "gradients")
        self._at_cut = self._gradients if settings.train_front else RowCodec(None, width)
        self._lengths: dict[tuple[int, int], tuple[int, ...]] = {}  # of batches, by step and micro-step

    def pack(self, message: M) -> M:
        """Return a message as it is sent.

        Raises:
            DivergedError: A value is not finite.
            ModelError: Hidden states are not rows.
        """
        found = self._rows_of(message)
        if found is None:
            return message
        name, codec, lengths = found
        if isinstance(message, Activations) and message.train:
            return self.memory.pack(message, codec)  # type: ignore[return-value]
        rows, parts = codec.pack(getattr(message, name), lengths)
        return replace(message, **{name: rows, "packed": parts})  # type: ignore[type-var]

    def unpack(self, message: M) -> M:
        """Return a message as it was before it was packed: with rows in float32, and with all its samples.

        Raises:
            ValueError: Its parts are not those of the job's codec for these lengths.
        """
        found = self._rows_of(message)
        if found is None:
            return message
        name, codec, lengths = found
        if isinstance(message, Activations):
            if message.train:
                return self.memory.unpack(message, codec)  # type: ignore[return-value]
            if message.samples:
                raise ValueError(f"samples: {len(message.samples)} of held-out rows")
        rows = codec.unpack(getattr(message, name), message.packed, lengths)  # type: ignore[attr-defined]
        return replace(message, **{name: rows, "packed": ()})  # type: ignore[type-var]

    def _rows_of(self, message: object) -> tuple[str, RowCodec, tuple[int, ...]] | None:
        """Return a message's field of rows, their codec, and the lengths of their samples; None: no rows.

        Activations state the lengths for all later messages of their batch.
        """
        match message:
            case Activations() | TrunkOutput():
                name, codec = "hidden", self._activations if message.train else self._evaluation
            case TailGradients():
                name, codec = "gradient", self._gradients
            case Gradients():
                name, codec = "gradient", self._at_cut
            case _:
                return None
        place = message.step, message.micro_step
        if isinstance(message, Activations):
            self._lengths[place] = message.lengths
            while len(self._lengths) > _MOST_UNDER_WAY:
                del self._lengths[next(iter(self._lengths))]
        return name, codec, self._lengths.get(place, ())


class Channels(dict[str, Channel]):
    """The server's ends of clients' connections: of these names now, of others once they are asked for.

    settings, width: as of `Channel`.
    """

    def __init__(self, settings: WireSettings, width: int, names: Iterable[str] = ()) -> None:
        super().__init__({name: Channel(settings, width) for name in names})
        self._settings, self._width = settings, width

    def __missing__(self, name: str) -> Channel:
        made = self[name] = Channel(self._settings, self._width)
        return made
