"""The form of messages on the wire."""

from __future__ import annotations

import random

from fuzz.mutations import damaged, mutate, one_of_each
from splitft.engines.network.control import WIRE, packed


class WireTarget:
    """Any bytes are one message, or refused."""

    def __init__(self) -> None:
        self._messages = one_of_each()
        self._seeds = [packed(message) for message in self._messages]

    def generate(self, rng: random.Random) -> bytes:
        if rng.random() < 0.5:
            return mutate(rng, self._seeds)
        return damaged(rng.choice(self._messages), rng, self._messages)

    def run(self, data: bytes) -> str:
        try:
            message = WIRE.decode(data)
        except ValueError:
            return "refused"
        again = packed(message)
        assert packed(WIRE.decode(again)) == again
        return "read"
