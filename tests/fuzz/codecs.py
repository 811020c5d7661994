"""Codecs and memories of samples: what one end of a connection makes of rows that another one packed."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import torch

from fuzz.frames import divided, joined
from fuzz.mutations import damaged, mutate
from splitft.engines.network.control import WIRE, packed
from splitft.job.settings import WireSettings
from splitft.wire.channel import Channel
from splitft.wire.messages import Activations, Message, TailGradients

WIDTH, MOST_ROWS, MOST_LENGTH = 80, 4, 24  # more than one group of 64 values
CODECS = ("none", "bf16", "int8", "int4", "int3", "int2")
MEMORIES = {
    "delta": {"codec": "delta", "activation_cache_gb": 3e-5},  # room for two samples or three
    "frozen": {"codec": "none", "train_front": False, "activation_cache_gb": 3e-5},
    "frozen, int8": {"codec": "int8", "train_front": False, "activation_cache_gb": 3e-5},
}


@cache
def settings(name: str) -> WireSettings:
    return WireSettings(**MEMORIES.get(name, {"codec": name}))


@cache
def exchanged(name: str) -> list[Message]:
    """Return what a client sends in a few steps, packed."""
    torch.manual_seed(0)
    channel, sent = Channel(settings(name), WIDTH), list[Message]()
    for step, samples in enumerate(((1, 2), (2, 3), (1, 1), (4, 5), (5, 4))):
        lengths = tuple(2 + sample % 4 for sample in samples)
        missing = channel.memory.missing(samples, lengths)
        tokens = sum(lengths if missing is None else [lengths[place] for place in missing])
        ids = torch.arange(tokens, dtype=torch.int32)
        rows = torch.randn(tokens, WIDTH)
        sent.append(channel.pack(Activations(1, step, 0, True, lengths, rows, ids, samples=samples)))
        rows = torch.randn(sum(lengths), WIDTH)
        sent.append(channel.pack(Activations(1, step, 0, False, lengths, rows)))
        sent.append(channel.pack(TailGradients(1, step, 0, 0.5, 3, rows)))
    return sent


class CodecTarget:
    """A name of `CODECS`, a line; then messages, each after its length: none is taken after an error."""

    def __init__(self, names: Sequence[str] = CODECS) -> None:
        self._names = names

    def generate(self, rng: random.Random) -> bytes:
        name = rng.choice(self._names)
        sent = exchanged(name)
        place = rng.randrange(len(sent))
        said: list[bytes] = [packed(one) for one in self._before(sent, place, rng)]
        last = sent[place]
        if rng.random() < 0.5 and isinstance(last, Activations):
            last = replace(last, samples=rng.choice((last.samples, (1, 1), (9, 9), (), (1, 2, 3, 4))))
        said.append(mutate(rng, [packed(last)]) if rng.random() < 0.3 else damaged(last, rng, sent))
        return f"{name}\n".encode() + joined(said)

    def run(self, data: bytes) -> str:
        head, _, rest = data.partition(b"\n")
        name = head.decode("latin-1")
        if name not in self._names:
            return "no input"
        channel = Channel(settings(name), WIDTH)
        outcome = "nothing"
        for payload in divided(rest):
            try:
                message: Any = WIRE.decode(payload)
                if isinstance(message, Activations):
                    _check_lengths(message.lengths)
                channel.unpack(message)
                outcome = "unpacked"
                if isinstance(message, Activations) and message.train:
                    self._turn(channel, message)
            except ValueError:
                return "refused"
        return outcome

    def _before(self, sent: Sequence[Message], place: int, rng: random.Random) -> Sequence[Message]:
        return sent[max(0, place - 2) : place] if rng.random() < 0.3 else ()

    def _turn(self, channel: Channel, message: Activations) -> None:
        """Have happen what happens to a memory between two batches."""


class MemoryTarget(CodecTarget):
    """The same with memories: the round of a batch says what happens to them before the next one."""

    def __init__(self) -> None:
        super().__init__(tuple(MEMORIES))

    def _before(self, sent: Sequence[Message], place: int, rng: random.Random) -> Sequence[Message]:
        told = [one for one in sent[:place] if isinstance(one, Activations) and one.train]
        return [replace(one, round=rng.choice((1, 1, 1, 2, 3, 4, 5))) for one in told]

    def _turn(self, channel: Channel, message: Activations) -> None:
        memory = channel.memory
        match message.round:
            case 2:
                memory.mark()
            case 3:
                memory.rewind()
            case 4:
                memory.move(message.step)
            case 5:
                memory.accept(memory.offer)
            case 6:
                memory.load_state(memory.state())


def _check_lengths(lengths: Sequence[int]) -> None:
    """Raise ValueError where they are none of a batch: a gate looks at them first."""
    if not 1 <= len(lengths) <= MOST_ROWS or not all(1 <= length <= MOST_LENGTH for length in lengths):
        raise ValueError("lengths")
