"""The local steps of clients that share a trunk: a transaction, repeated where a client is lost."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from splitft.engines.network.control import Control, Started, Train, Worked
from splitft.engines.network.members import Members
from splitft.engines.network.message_order import MessageOrder, training_script
from splitft.job.settings import TrainingSettings
from splitft.wire.messages import AdapterUp, Message

MOST_SECONDS = 1e6  # of computing in a round, as a client states them


@dataclass(eq=False)
class TrunkTransaction:
    """The local steps of one client, or of all that share a trunk."""

    members: Members
    job: TrainingSettings
    names: list[str]
    round: int
    updates: dict[str, AdapterUp] = field(default_factory=dict, init=False)
    worked: dict[str, Worked] = field(default_factory=dict, init=False)  # seconds that each client states
    served: int = field(default=0, init=False)  # messages of each client that the server has computed
    _attempt: int = field(default=0, init=False)
    _orders: dict[str, MessageOrder] = field(default_factory=dict, init=False)  # of clients that have begun
    _inbox: dict[str, deque[Message]] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        self._begin()

    @property
    def unfinished(self) -> list[str]:
        """Clients that have not sent their adapters."""
        return [name for name in self.names if name not in self.updates]

    @property
    def awaited(self) -> list[str]:
        """Clients whose next message has not come; those that share their trunk wait for them."""
        return [name for name in self.unfinished if not self._inbox[name]]

    def take(self, name: str, message: Message | Control) -> None:
        """Take in a message of a client; those of an attempt that was given up are dropped.

        Raises ValueError where it is not the next one.
        """
        # The attempt under way begins; what comes before is of another one.
        if isinstance(message, Started):
            if (message.round, message.attempt) == (self.round, self._attempt):
                self._orders[name] = self._order(name)
        elif name not in self._orders:
            return
        # Its messages: reported seconds, activations and the like for the server, and last its adapters.
        elif isinstance(message, Worked):
            for seconds in (message.front_seconds, message.tail_seconds):
                if not 0 <= seconds <= MOST_SECONDS:
                    raise ValueError(f"Worked: {seconds} seconds")
            self.worked[name] = message
        elif isinstance(checked := self._orders[name].checked(message), AdapterUp):
            self.updates[name] = checked
        else:
            self._inbox[name].append(checked)

    def answered(self, name: str) -> None:
        """Note that the server has answered a client."""
        if name in self._orders:
            self._orders[name].answered()

    def ready(self) -> dict[str, Message]:
        """Return one message of each client that still trains, in their order; none while one has none."""
        unfinished = self.unfinished
        if self.awaited or not unfinished:
            return {}
        self.served += 1
        return {name: self._inbox[name].popleft() for name in unfinished}

    def restart(self) -> None:
        """Roll the trunk back, and have all clients take the steps again."""
        self.members.worker.rewind(self.names)
        self._begin()

    def leave_out(self, name: str) -> None:
        """Roll the trunk back, and go on without a client."""
        self.members.worker.rewind(self.names)
        self.names.remove(name)
        self._begin()

    def _begin(self) -> None:
        self._attempt += 1
        self._orders.clear()
        self.updates.clear()
        self.worked.clear()
        self._inbox = {name: deque() for name in self.names}
        for name in self.names:
            self.members.send(name, Train(self.round, self._attempt))

    def _order(self, name: str) -> MessageOrder:
        parts = self.members.coordinator.holdings[name].micro_batches
        steps = self.job.gradient_accumulation_steps * parts
        lines, ahead = training_script(self.job, steps), parts + self.job.max_staleness * steps
        return MessageOrder(self.job, lines, self.round, train=True, in_flight=ahead)
