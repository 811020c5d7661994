"""The training phase: local steps as one transaction for each trunk, repeated where a client is lost."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field

from splitft.engines.network.aggregator_link import AggregatorLink
from splitft.engines.network.control import Said, Started, Train, Worked
from splitft.engines.network.member_notices import left_out, too_late
from splitft.engines.network.members import Members
from splitft.engines.network.message_order import MessageOrder, training_script
from splitft.engines.network.phase import Phase
from splitft.engines.network.round_steps import RoundSteps, ShortRoundError
from splitft.engines.network.sum_messages import Trained
from splitft.engines.network.timing import StepTimes
from splitft.engines.network.waiting import WaitingLine
from splitft.job.settings import TrainingSettings
from splitft.wire.messages import AdapterUp, Message

MOST_SECONDS = 1e6  # of computing in a round, as a client states them


@dataclass(eq=False)
class TrunkTransaction:
    """The local steps of one client, or of all that share a trunk."""

    members: Members
    job: TrainingSettings
    names: Sequence[str]
    round: int
    attempt: int = 0  # the last one at these steps, in a training before
    updates: dict[str, AdapterUp] = field(default_factory=dict, init=False)
    worked: dict[str, Worked] = field(default_factory=dict, init=False)  # seconds that each client states
    served: int = field(default=0, init=False)  # messages of each client that the server has computed
    _orders: dict[str, MessageOrder] = field(default_factory=dict, init=False)  # of clients that have begun
    _inbox: dict[str, deque[Message]] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        self._begin()

    @property
    def unfinished(self) -> list[str]:
        """Clients that have not sent their adapters, or have messages that the server has not computed.

        Losses of whole models need no answer: they and the adapters may have come together.
        """
        return [name for name in self.names if name not in self.updates or self._inbox[name]]

    @property
    def awaited(self) -> list[str]:
        """Clients whose next message has not come; those that share their trunk wait for them."""
        return [name for name in self.unfinished if not self._inbox[name]]

    def take(self, name: str, message: Said) -> None:
        """Take in a message of a client; those of an attempt that was given up are dropped.

        Raises ValueError where it is not the next one.
        """
        # The attempt under way begins; what comes before is of another one.
        if isinstance(message, Started):
            if (message.round, message.attempt) == (self.round, self.attempt):
                if name in self._orders:  # its steps would count twice
                    raise ValueError("Started came again")
                self._orders[name] = self._order(name)
        elif name not in self._orders:
            return
        # Its messages: reported seconds, activations and the like for the server, and last its adapters.
        elif isinstance(message, Worked):
            for seconds in (message.front_seconds, message.tail_seconds):
                if not 0 <= seconds <= MOST_SECONDS:
                    raise ValueError(f"Worked: {seconds} seconds")
            self.worked[name] = message
        elif isinstance(message, Trained):  # a sum follows, of updates that stay at their clients
            self._orders[name].stays(message.round)
            self.updates[name] = AdapterUp(message.round, (), ())
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

    def restart(self, without: str | None = None) -> None:
        """Roll the trunk back, and have all clients, or all but one, take the steps again."""
        self.members.worker.rewind(self.names)
        self.names = [name for name in self.names if name != without]
        self._begin()

    def _begin(self) -> None:
        self.attempt += 1
        self._orders.clear()
        self.updates.clear()
        self.worked.clear()
        self._inbox = {name: deque() for name in self.names}
        for name in self.names:
            self.members.send(name, Train(self.round, self.attempt))

    def _order(self, name: str) -> MessageOrder:
        parts = self.members.coordinator.holdings[name].micro_batches
        steps = self.job.gradient_accumulation_steps * parts
        lines, ahead = training_script(self.job, steps), parts + self.job.max_staleness * steps
        return MessageOrder(self.job, lines, self.round, train=True, in_flight=ahead)


@dataclass(eq=False)
class Training(Phase):
    """Local steps of a round. A lost client that returns repeats them, with all that share its trunk."""

    members: Members
    job: TrainingSettings
    times: StepTimes
    averaging: AggregatorLink | None  # where adapters go instead of here
    steps: RoundSteps
    names: Sequence[str]  # clients that take steps now
    together: bool  # they share a trunk
    goes_back: bool  # the round may begin anew, from the last checkpoint
    updates: dict[str, AdapterUp] = field(default_factory=dict, init=False)  # of clients that have trained
    _under_way: dict[str, TrunkTransaction] = field(default_factory=dict, init=False)  # of each other client
    _began: float = field(default=0.0, init=False)  # of the server's computing

    def run(self) -> Iterator[dict[str, Message]]:
        """Yield what clients send, as it comes, or of all that share a trunk at once.

        Raises ShortRoundError where it would wait for clients that are lost, and enough others are there.
        """
        members, roster = self.members, self.members.roster
        with members.during(self):
            # The point to which lost steps are rolled back.
            again = all(name in self.steps.attempts for name in self.names)
            members.worker.mark(self.names, again=again)
            if not again:
                for name in self.names:
                    members.channels[name].memory.mark()
            for group in [self.names] if self.together else [[name] for name in self.names]:
                former = max((self.steps.attempts.get(name, 0) for name in group), default=0)
                transaction = TrunkTransaction(members, self.job, group, self.steps.round, former)
                self._under_way |= dict.fromkeys(group, transaction)
            deadline, waiting = roster.deadline(), WaitingLine(roster, members.notice)
            while self._under_way or self.steps.short(roster):
                # Steps that the server can compute now.
                while messages := self._ready():
                    self._began = time.perf_counter()
                    yield messages
                # Transactions that are complete, then clients that are lost or late.
                for transaction in self._transactions():
                    if self.steps.full(roster):
                        break
                    if not transaction.unfinished and not self._not_handed_in(transaction):
                        self._close(transaction)
                deadline = self._leave_out(deadline)
                if self._under_way or self.steps.short(roster):
                    waiting.tell([*self._under_way] or [*roster])
                    members.pump()

    def awaits(self, name: str) -> bool:
        return name in self._under_way

    def take(self, name: str, message: Said) -> None:
        self._under_way[name].take(name, message)

    def returned(self, name: str) -> None:
        if name in self._under_way:
            self._under_way[name].restart()

    def answered(self, names: Collection[str]) -> None:
        seconds = (time.perf_counter() - self._began) / max(1, len(names))
        for name in names:
            self.members.roster[name].clock.served(seconds)
            if name in self._under_way:
                self._under_way[name].answered(name)

    def go_on_without(self, name: str, clients: Collection[str]) -> None:
        """Roll back the steps under way of these clients, and repeat them without the one of this name."""
        for transaction in dict.fromkeys(self._under_way[c] for c in clients if c in self._under_way):
            transaction.restart(without=name)
        if self._under_way.pop(name, None) is not None:
            self.members.notice(left_out(name))

    def _transactions(self) -> list[TrunkTransaction]:
        return list(dict.fromkeys(self._under_way.values()))

    def _ready(self) -> dict[str, Message]:
        """Return messages of one transaction, or of all where the server may compute clients together."""
        ready: dict[str, Message] = {}
        for transaction in sorted(self._transactions(), key=lambda one: one.served):
            if not ready or self.job.batches_clients:
                ready |= transaction.ready()
        return ready

    def _not_handed_in(self, transaction: TrunkTransaction) -> list[str]:
        """Return the clients that have sent their adapters, but not yet to where they are averaged."""
        if self.averaging is None:
            return []
        self.averaging.take_in()
        waiting = []
        for name, update in transaction.updates.items():
            try:
                if not self.averaging.handed_in(name, self.members.coordinator.holdings[name].held, update):
                    waiting.append(name)
            except ValueError as error:
                self.members.expel(name, str(error))
                waiting.append(name)
        return waiting

    def _close(self, transaction: TrunkTransaction) -> None:
        """Take over the adapters and the measured times of a complete transaction."""
        roster = self.members.roster
        for name in transaction.names:
            if self.job.splits_model and name in transaction.worked:
                clock, held = roster[name].clock, self.members.coordinator.holdings[name].held
                self.times.add(name, transaction.worked[name], clock, held, len(roster.there()))
            self.updates[name] = transaction.updates[name]
            self.steps.attempts[name] = transaction.attempt
            self.steps.trained.add(name)
            roster[name].finish()
            del self._under_way[name]

    def _leave_out(self, deadline: float) -> float:
        """Go on without clients that are given up, or are late where there are enough others.

        Returns the deadline: a new one where others take their steps again.
        """
        roster, steps = self.members.roster, self.steps
        late, lost, full = roster.now() > deadline, list[str](), steps.full(roster)
        if full and self._under_way:
            self.members.notice(too_late([*self._under_way]))
        for name, transaction in list(self._under_way.items()):
            slow = late and (name in transaction.awaited or name in self._not_handed_in(transaction))
            gone = slow or roster.long_away(name)
            if roster[name].off or full or (gone and steps.enough_without(name, roster)):
                steps.left_out.add(name)
                transaction.restart(without=name)
                del self._under_way[name]
                self.members.skip(name)
                if not full:
                    self.members.notice(left_out(name))
                if transaction.names:
                    deadline, late = roster.deadline(), False
            elif gone and not roster[name].present:
                lost.append(name)
        # Too few are left: without a checkpoint the round can only wait.
        if (lost or steps.short(roster)) and roster.enough_present and self.goes_back:
            without = f" without {', '.join(lost)}" if lost else ""
            raise ShortRoundError(f"too few clients of round {steps.round} are left{without}")
        return deadline
