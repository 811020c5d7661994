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
    _bytes_up: int = field(default=0, init=False)  # of all messages
    _bytes_down: int = field(default=0, init=False)
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

    def leave(self) -> None:
        """Tell the server that this client stops for a while, and hang up."""
        self.dialler.send(self._session, control.packed(control.Failed(control.STOPPED, again=True)))
        self.dialler.close()

    def send(self, payload: bytes) -> None:
        """Send a payload as it is."""
        if self._on_send is not None:
            self._on_send(len(payload))
        self._bytes_up += len(payload)
        self.dialler.send(self._session, payload)

    @property
    def moved(self) -> tuple[int, int]:
        """The bytes of all messages so far, up and down."""
        return self._bytes_up, self._bytes_down

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
        self._bytes_down += len(came)
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
