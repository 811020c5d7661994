"""A phase: what one part of a round does with messages and with clients that return."""

from __future__ import annotations

from collections.abc import Collection

from splitft.engines.network.control import Control
from splitft.wire.messages import Message


class Phase:
    """The phase between two parts of a round, in which nothing is asked of clients."""

    def awaits(self, name: str) -> bool:
        """Whether messages of a client are read; else they wait, and soon its connection does."""
        return False

    def take(self, name: str, message: Message | Control) -> None:
        """Take in a message that passed the gate. Raises ValueError where it is not the next one."""

    def returned(self, name: str) -> None:
        """A reconnecting client has been resynchronised: ask it again."""

    def answered(self, names: Collection[str]) -> None:
        """The server has answered one message of each of these clients."""
