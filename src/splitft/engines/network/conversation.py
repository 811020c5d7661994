"""The messages of one client: packed by its channel, sent and received over its dialler."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from splitft.common.waits import next_of
from splitft.engines.network import control
from splitft.engines.network.transport.dialler import Dialler
from splitft.errors import NetworkError, SplitFTError
from splitft.wire.channel import Channel


@dataclass(eq=False)
class Conversation:
    """The messages of one client over its dialler."""

    dialler: Dialler
    _session: str = field(default="", init=False)
    channel: Channel | None = field(default=None, init=False)  # packs; None: the server has not sent the job
    _on_send: Callable[[int], None] | None = field(default=None, init=False)

    def start(self, session: str) -> None:
        """Go on in a new session."""
        self._session = session
        if self.channel is not None:
            self.channel.memory.forget()

    def watch(self, on_send: Callable[[int], None]) -> None:
        """Have a function told the bytes of each message that goes up."""
        self._on_send = on_send

    def say(self, message: control.Said) -> None:
        """Send a message; it is dropped where the session is over."""
        message = self.channel.pack(message) if self.channel else message
        self.send(control.packed(message))

    def send(self, payload: bytes) -> None:
        """Send a payload as it is."""
        if self._on_send is not None:
            self._on_send(len(payload))
        self.dialler.send(self._session, payload)

    @property
    def came(self) -> bool:
        """Whether `take` has a message without waiting."""
        return not self.dialler.incoming.empty()

    def take(self) -> Any:
        """Wait for the next message. Raises NetworkError where the server refuses this client or is lost."""
        came = next_of(self.dialler.incoming)
        if isinstance(came, SplitFTError):
            raise came
        came = control.in_plain_words(came)
        if isinstance(came, control.Refused):
            raise NetworkError(f"the server refuses this client: {came.reason}")
        if isinstance(came, control.Welcome | control.End):
            return came
        try:
            message = control.in_plain_words(control.WIRE.decode(came))
            if not isinstance(message, control.FROM_SERVER):
                raise ValueError(f"{type(message).__name__} is nothing that a server sends in a session")
            return self.channel.unpack(message) if self.channel else message
        except ValueError as error:
            raise NetworkError(f"the server sent what cannot be read: {error}") from None

    def fail(self, error: SplitFTError) -> None:
        """Have `take` raise an error. To be called in any thread."""
        self.dialler.incoming.put(error)
