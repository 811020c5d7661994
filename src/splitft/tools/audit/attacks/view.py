"""What a server is given by one client, and what it answers: messages, and nothing of the client."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from splitft.wire.messages import Activations, Message, TailGradients, TrunkOutput


@dataclass(frozen=True)
class ClientView:
    """What the server is given by one client, and what it answers.

    up: messages as `Server.step` is given them. down: what the server sends to the client's tail.
    """

    name: str
    cut: int
    up: list[Message] = field(default_factory=list)
    down: list[TrunkOutput] = field(default_factory=list)

    @property
    def activations(self) -> list[Activations]:
        """The messages with activations, in the order of the micro-batches."""
        return [message for message in self.up if isinstance(message, Activations)]

    @property
    def tail_gradients(self) -> list[TailGradients]:
        """The messages with the gradients of a tail, in the order of the micro-batches."""
        return [message for message in self.up if isinstance(message, TailGradients)]

    @property
    def lengths(self) -> list[int]:
        """The tokens of every sample, which the messages state."""
        return [length for message in self.activations for length in message.lengths]

    @property
    def rows(self) -> list[Tensor]:
        """The (tokens, hidden) activations of every sample, float32."""
        return [
            own.float().cpu()
            for message in self.activations
            for own in torch.split(message.hidden.flatten(1), list(message.lengths))
        ]

    def samples(self, places: Sequence[int], most: int | None = None) -> list[Tensor]:
        """Return `rows` at these places. most: tokens of each; None: all."""
        rows = self.rows
        return [rows[place][:most] for place in places]
