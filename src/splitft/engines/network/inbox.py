"""What a client has sent and nothing has used yet: it counts against the client until it is used. (ours)"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from splitft.engines.network.control import Control
from splitft.wire.messages import Message

Release = Callable[[], None]  # there is room for more


class Inbox:
    """Messages in the order in which they came. Whoever takes one out makes room for another."""

    def __init__(self) -> None:
        self._entries: deque[tuple[Message | Control, Release]] = deque()

    def __len__(self) -> int:
        return len(self._entries)

    def append(self, message: Message | Control, release: Release) -> None:
        """Keep a message; `release` is called when it is taken out."""
        self._entries.append((message, release))

    def popleft(self) -> Message | Control:
        """Take out the oldest message."""
        message, release = self._entries.popleft()
        release()
        return message

    def take(self, kind: type | tuple[type, ...]) -> list[Message | Control]:
        """Take out all messages of a kind."""
        entries, self._entries = self._entries, deque()
        found = []
        for message, release in entries:
            if isinstance(message, kind):
                found.append(message)
                release()
            else:
                self._entries.append((message, release))
        return found

    def keep(self, kind: type | tuple[type, ...]) -> None:
        """Drop all messages that are not of a kind."""
        entries, self._entries = self._entries, deque()
        for message, release in entries:
            if isinstance(message, kind):
                self._entries.append((message, release))
            else:
                release()

    def clear(self) -> None:
        """Drop all messages."""
        self.keep(())
