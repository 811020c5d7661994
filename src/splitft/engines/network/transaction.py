"""The local steps of clients that share a trunk: a transaction, taken again where one is lost. (ours)"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

from splitft.engines.network.control import Control, Started, Train, Worked
from splitft.engines.network.message_order import MessageOrder, training_script
from splitft.engines.network.timing import check_worked
from splitft.job import Job
from splitft.wire.messages import KINDS, AdapterUp, Message

Send = Callable[[str, Control], None]


class TrunkTransaction:
    """One client, or all that share a trunk. rewind: takes their trunk back to where the turn began."""

    def __init__(
        self,
        names: Sequence[str],
        round_: int,
        job: Job,
        send: Send,
        rewind: Callable[[Sequence[str]], None],
        micro_batches: Callable[[str], int],
    ) -> None:
        self.names = list(names)
        self.updates: dict[str, AdapterUp] = {}
        self.served = 0  # times that it was ready
        self.worked: dict[str, Worked] = {}  # what each says of its computing
        self._round = round_
        self._job = job
        self._send = send
        self._rewind = rewind
        self._micro_batches = micro_batches
        self._attempt = 0
        self._scripts: dict[str, MessageOrder] = {}  # of those that have begun this attempt
        self._inbox: dict[str, deque[Message]] = {}
        self._begin()

    @property
    def unfinished(self) -> list[str]:
        """Those that have not sent their adapters."""
        return [name for name in self.names if name not in self.updates]

    @property
    def awaited(self) -> list[str]:
        """Those whose next message has not come; where they share a trunk, the others wait for them."""
        return [name for name in self.unfinished if not self._inbox[name]]

    def take(self, name: str, message: Message | Control) -> None:
        """Take in what a client sends. What is of an attempt that was given up is dropped.

        Raises ValueError on what is not the next thing to send.
        """
        if isinstance(message, Started):
            if (message.round, message.attempt) == (self._round, self._attempt):
                parts = self._micro_batches(name)
                steps = self._job.gradient_accumulation_steps * parts
                lines = training_script(self._job, steps)
                ahead = parts + self._job.max_staleness * steps
                self._scripts[name] = MessageOrder(self._job, lines, self._round, train=True, in_flight=ahead)
        elif name in self._scripts:
            if isinstance(message, Worked):
                check_worked(message)
                self.worked[name] = message
                return
            if not isinstance(message, KINDS):
                raise ValueError(f"{type(message).__name__} came in the middle of a round")
            self._scripts[name].check(message)
            if isinstance(message, AdapterUp):
                self.updates[name] = message
            else:
                self._inbox[name].append(message)

    def answered(self, name: str) -> None:
        """The server has answered a client."""
        if name in self._scripts:
            self._scripts[name].answered()

    def ready(self) -> dict[str, Message] | None:
        """Return one message of each client that trains on, in their order; None while one has none."""
        if not self.unfinished or not all(self._inbox[name] for name in self.unfinished):
            return None
        self.served += 1
        return {name: self._inbox[name].popleft() for name in self.unfinished}

    def restart(self) -> None:
        """A client came anew: all of the turn again."""
        self._rewind(self.names)
        self._begin()

    def leave_out(self, name: str) -> None:
        """Go on as if a client had not been a member."""
        self._rewind(self.names)
        self.names.remove(name)
        if self.names:
            self._begin()

    def _begin(self) -> None:
        self._attempt += 1
        self._scripts.clear()
        self.updates.clear()
        self.worked.clear()
        self._inbox = {name: deque() for name in self.names}
        for name in self.names:
            self._send(name, Train(self._round, self._attempt))
