"""The local engine: all clients in this process, on the server's frozen base; messages pass by reference.

Bytes are counted as a network would carry them; a virtual clock, if there is one, times them.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from typing import TypeVar, cast

from splitft.client.client import ClientRole
from splitft.common.state import State
from splitft.data.estimates import HeldOutRows
from splitft.devices.clock import VirtualClock
from splitft.devices.simulate import RoundTimes
from splitft.engines.held_out import HeldOutSamples
from splitft.errors import DivergedError
from splitft.job.settings import CostSettings
from splitft.server.seam import ClientError
from splitft.wire.channel import Channel
from splitft.wire.ledger import Direction, Ledger
from splitft.wire.messages import (
    AdapterDown,
    AdapterUp,
    HeldOut,
    LocalLoss,
    Message,
    OptimizerState,
    not_finite,
)

M = TypeVar("M", bound=Message)


def check_finite(name: str, message: M) -> M:
    """Return a message to or from a client. Raises DivergedError where it shows that training diverged."""
    if problem := not_finite(message):
        raise DivergedError.of(f"{name}: {problem}")
    return message


class InProcess:
    """What cohorts in this process have in common."""

    over_selection, open = 1.0, False

    def go_on_without(self, error: ClientError, clients: Collection[str]) -> None:
        """Raise what computing a client's message raised: in one process it is an error of the run."""
        raise error.__cause__ or error


class LocalCohort(InProcess):
    """Carries messages between the server and clients in the same process; one client at a time.

    Args:
        present: Clients whose device is there in a round; None: all.
    """

    def __init__(
        self,
        clients: Sequence[ClientRole],
        job: CostSettings,
        ledger: Ledger,
        clock: VirtualClock | None = None,
        present: Callable[[int], Sequence[str]] | None = None,
    ) -> None:
        self.clients = {client.name: client for client in clients}
        self._job = job
        rows = {client.name: len(client.data.eval) for client in clients}
        self._held_out = HeldOutSamples(job, lambda: rows)
        self._ledger = ledger
        self._clock = clock
        self._present = present
        self._ends: dict[str, tuple[Channel, Channel]] = {}  # a client's, and the server's for it
        for client in clients:
            width, values = client.model.width, client.model.has_values
            near = Channel(job, width, client.memory, values=values)
            self._ends[client.name] = near, Channel(job, width, values=values)

    @property
    def names(self) -> list[str]:
        """All clients, in the order in which the server sums."""
        return list(self.clients)

    def present(self, round_: int) -> Sequence[str]:
        """Return the clients whose device is there in this round."""
        return self._present(round_) if self._present else self.names

    def receive(self, adapters: Mapping[str, AdapterDown]) -> dict[str, OptimizerState]:
        """Give clients their cuts and adapters; return the optimizer state of blocks that leave them."""
        back: dict[str, OptimizerState] = {}
        for name, message in adapters.items():
            self._count(name, "down", message)
            for end in self._ends[name]:
                end.memory.move(message.cut)
            state = self.clients[name].receive(message)
            if state is not None:
                self._count(name, "up", state)
                back[name] = state
        return back

    def reachable(self) -> Sequence[str]:
        """Return all clients: to be evaluated, they need not be on their devices."""
        return self.names

    def train(self, members: Sequence[str], round_: int, *, together: bool) -> Iterator[dict[str, Message]]:
        """Take all local steps; yield the activations of one client after another, or of all `together`.

        Together, too, where the server may compute several clients at once.
        """
        all_at_once = together or self._job.batches_clients
        groups = [list(members)] if all_at_once else [[name] for name in members]
        for step in range(self._job.local_steps if members else 0):
            for micro_step in range(max(self.clients[name].micro_steps for name in members)):
                for group in groups:
                    left = [n for n in group if micro_step < self.clients[n].micro_steps]
                    yield self._sent({n: self.clients[n].forward(round_, step, micro_step) for n in left})

    def evaluate(self, members: Sequence[str], round_: int, *, whole: bool) -> Iterator[dict[str, Message]]:
        """Yield the activations of the members' held-out rows, batch by batch.

        Their ids instead, where the server evaluates by itself: they cross once, and their sums at the end.
        """
        for name in members:
            part, own = self._held_out.part(name, whole=whole), self._held_out
            for message in self.clients[name].evaluate(round_, part):
                if isinstance(message, HeldOut):
                    own.keep(name, cast(HeldOut, self._carried(name, "up", message)))
                else:
                    yield self._sent({name: message})
            for message in own.kept(name, round_, whole=whole):
                yield {name: message}
            if (sums := own.take_sums(name)) is not None:
                self._carried(name, "down", sums)

    @property
    def held_out(self) -> dict[str, HeldOutRows]:
        """Return the numbers of each client's held-out rows."""
        return self._held_out.rows()

    @property
    def train_rows(self) -> dict[str, int]:
        """Return the number of each client's training rows."""
        return {name: len(client.data.train) for name, client in self.clients.items()}

    def answer(self, replies: Mapping[str, Message]) -> dict[str, Message]:
        """Give clients the server's replies and return what they send next in the same exchange."""
        answers: dict[str, Message] = {}
        for name, message in self._held_out.without_sums(replies).items():
            answer = self.clients[name].answer(self._carried(name, "down", message))
            if answer is not None:
                answers[name] = answer
        return self._sent(answers)

    def finish(self, members: Sequence[str], round_: int) -> dict[str, AdapterUp]:
        """Return the adapters that the members trained in this round. Raises DivergedError."""
        updates = {name: check_finite(name, self.clients[name].finish(round_)) for name in members}
        for name, update in updates.items():
            self._count(name, "up", update)
        return updates

    def times(self, members: Sequence[str]) -> RoundTimes | None:
        """Return the time of the round on the clients' devices; None without devices."""
        return self._clock.close_round(members) if self._clock and members else None

    def save(self, rounds_done: int, *, last: bool = False) -> None:
        """The clients' state is part of this cohort's."""

    def state(self) -> State:
        """Return the clients' state, and the clock's, as a checkpoint holds them."""
        return {
            "clients": {name: client.state() for name, client in self.clients.items()},
            "memories": {name: far.memory.state() for name, (_, far) in self._ends.items()},
            "clock": self._clock.state() if self._clock else None,
            "held_out": self._held_out.state(),
        }

    def load_state(self, state: State) -> None:
        """Restore a state returned by `state()`. Raises DataError where it is of other data."""
        for name, client in self.clients.items():
            client.load_state(state["clients"][name])
        for name, ends in self._ends.items():
            for end in ends:
                end.memory.load_state(state["memories"][name])
        if self._clock:
            self._clock.load_state(state["clock"])
        # Ids that had crossed are there again, without crossing.
        self._held_out.load_state(state["held_out"])
        for name, count in state["held_out"]["batches"].items():
            every = replace(self._held_out.part(name, whole=True), have=0)
            for message in islice(self.clients[name].evaluate(0, every), count):
                self._held_out.keep(name, cast(HeldOut, message))

    def _sent(self, messages: dict[str, Message]) -> dict[str, Message]:
        return {name: self._carried(name, "up", message) for name, message in messages.items()}

    def _carried(self, name: str, direction: Direction, message: Message) -> Message:
        """Return a message as it arrives. Raises DivergedError where its loss is not finite."""
        check_finite(name, message)
        near, far = self._ends[name]
        packed = (near if direction == "up" else far).pack(message)
        self._count(name, direction, packed)
        return (far if direction == "up" else near).unpack(packed)

    def _count(self, name: str, direction: Direction, message: Message) -> None:
        if isinstance(message, LocalLoss):  # a note for the record; nothing that a network would carry
            if self._clock:
                self._clock.on_local_step(name, message.lengths)
            return
        self._ledger.count(direction, message, name)
        if self._clock:
            self._clock.on_message(name, direction, message)
