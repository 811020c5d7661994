"""A client's messages to and from the server, packed and unpacked, in the session in force."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from splitft.engines.network.control import WIRE, End, Refused, Said, Welcome, packed
from splitft.engines.network.transport.dialler import Dialler
from splitft.errors import LostError, NetworkError
from splitft.wire.channel import Channel


@dataclass(eq=False)
class Conversation:
    """The messages of one client over its dialler."""

    dialler: Dialler
    _session: str = field(default="", init=False)
    _channel: Channel | None = field(default=None, init=False)  # None: the server has not sent the job

    def start(self, session: str) -> None:
        """Go on in a new session."""
        self._session = session
        if self._channel is not None:
            self._channel.memory.forget()

    def open(self, channel: Channel) -> None:
        """Pack and unpack with this channel from now on."""
        self._channel = channel

    def say(self, message: Said) -> None:
        """Send a message; it is dropped where the session is over."""
        message = self._channel.pack(message) if self._channel else message
        self.send(packed(message))

    def send(self, payload: bytes) -> None:
        """Send a payload as it is."""
        self.dialler.send(self._session, payload)

    def take(self) -> Any:
        """Wait for the next message. Raises NetworkError where the server refuses this client or is lost."""
        came = self.dialler.incoming.get()
        if isinstance(came, LostError):
            raise came
        if isinstance(came, Refused):
            raise NetworkError(f"the server refuses this client: {came.reason}")
        if isinstance(came, Welcome | End):
            return came
        try:
            message = WIRE.decode(came)
            return self._channel.unpack(message) if self._channel else message
        except ValueError as error:
            raise NetworkError(f"the server sent what cannot be read: {error}") from None

    def refuse(self, reason: str) -> None:
        """Have `take` raise that this client is refused. To be called in any thread."""
        self.dialler.incoming.put(Refused(reason, False))
