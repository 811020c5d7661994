"""Phases of a run over a network: what is asked of clients, and which of their messages are read."""

from __future__ import annotations

from collections.abc import Collection

from splitft.engines.network import control


class Phase:
    """The phase between two parts of a round, in which nothing is asked of clients."""

    def awaits(self, name: str) -> bool:
        """Whether messages of a client are read; else they wait, and soon its connection does."""
        return False

    def take(self, name: str, message: control.Said) -> None:
        """Take in a message that passed the gate. Raises ValueError where it is not the next one."""

    def returned(self, name: str) -> None:
        """A reconnecting client has been resynchronised: ask it again."""

    def answered(self, names: Collection[str]) -> None:
        """The server has answered one message of each of these clients."""

    def go_on_without(self, name: str, clients: Collection[str]) -> None:
        """A client is expelled whose message, sent with those of `clients`, could not be computed."""
