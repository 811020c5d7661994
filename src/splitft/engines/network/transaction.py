"""The local steps of clients that share a trunk: a transaction, repeated where a client is lost."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

from splitft.engines.network.control import Control, Started, Train, Worked
from splitft.engines.network.message_order import MessageOrder, training_script
from splitft.engines.network.timing import check_worked
from splitft.job.settings import TrainingSettings
from splitft.wire.messages import AdapterUp, Message

Send = Callable[[str, Control], None]


class TrunkTransaction:
    """The local steps of one client, or of all that share a trunk.

    rewind: rolls their trunk back to the start. micro_batches: parts of each batch of a client.
    """

    def __init__(
        self,
        names: Sequence[str],
        round_: int,
        job: TrainingSettings,
        send: Send,
        rewind: Callable[[Sequence[str]], None],
        micro_batches: Callable[[str], int],
    ) -> None:
        self.names = list(names)
        self.updates: dict[str, AdapterUp] = {}
        self.served = 0  # messages of each client that the server has computed
        self.worked: dict[str, Worked] = {}  # computing seconds that each client states
        self._round = round_
        self._job = job
        self._send = send
        self._rewind = rewind
        self._micro_batches = micro_batches
        self._attempt = 0
        self._orders: dict[str, MessageOrder] = {}  # of clients that have begun this attempt
        self._inbox: dict[str, deque[Message]] = {}
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
            if (message.round, message.attempt) == (self._round, self._attempt):
                self._orders[name] = self._order(name)
        elif name not in self._orders:
            return
        # Its messages: reported seconds, activations and the like for the server, and last its adapters.
        elif isinstance(message, Worked):
            check_worked(message)
            self.worked[name] = message
        elif isinstance(checked := self._orders[name].checked(message), AdapterUp):
            self.updates[name] = checked
        else:
            self._inbox[name].append(checked)

    def answered(self, name: str) -> None:
        """Note that the server has answered a client."""
        if name in self._orders:
            self._orders[name].answered()

    def ready(self) -> dict[str, Message] | None:
        """Return one message of each client that still trains, in their order; None while one has none."""
        if not self.unfinished or not all(self._inbox[name] for name in self.unfinished):
            return None
        self.served += 1
        return {name: self._inbox[name].popleft() for name in self.unfinished}

    def restart(self) -> None:
        """Roll back, and have all clients take the steps again."""
        self._rewind(self.names)
        self._begin()

    def leave_out(self, name: str) -> None:
        """Roll back, and go on without a client."""
        self._rewind(self.names)
        self.names.remove(name)
        if self.names:
            self._begin()

    def _begin(self) -> None:
        self._attempt += 1
        self._orders.clear()
        self.updates.clear()
        self.worked.clear()
        self._inbox = {name: deque() for name in self.names}
        for name in self.names:
            self._send(name, Train(self._round, self._attempt))

    def _order(self, name: str) -> MessageOrder:
        parts = self._micro_batches(name)
        steps = self._job.gradient_accumulation_steps * parts
        lines, ahead = training_script(self._job, steps), parts + self._job.max_staleness * steps
        return MessageOrder(self._job, lines, self._round, train=True, in_flight=ahead)
