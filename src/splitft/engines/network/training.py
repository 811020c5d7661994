"""The training phase: local steps as one transaction for each trunk."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Sequence

from splitft.engines.network.aggregator_link import AggregatorLink
from splitft.engines.network.control import Control
from splitft.engines.network.members import Members, Phase
from splitft.engines.network.timing import StepTimes
from splitft.engines.network.transaction import TrunkTransaction
from splitft.job.settings import TrainingSettings
from splitft.wire.messages import AdapterUp, Message


class Training(Phase):
    """Local steps of a round. A lost client that returns repeats them, with all that share its trunk.

    groups: clients of each trunk. averaging: where adapters go instead of here. updates: the adapters of
    clients that have trained.
    """

    def __init__(
        self,
        members: Members,
        job: TrainingSettings,
        times: StepTimes,
        averaging: AggregatorLink | None,
        groups: Sequence[Sequence[str]],
        round_: int,
    ) -> None:
        self.updates: dict[str, AdapterUp] = {}
        self._members = members
        self._roster = members.roster
        self._job = job
        self._times = times
        self._averaging = averaging
        self._groups = groups
        self._round = round_
        self._under_way: dict[str, TrunkTransaction] = {}  # of each client that still trains
        self._left_out: list[str] = []
        self._began = 0.0  # of the server's computing

    def run(self) -> Iterator[dict[str, Message]]:
        """Yield what clients send, as it comes, or of all that share a trunk at once."""
        worker, holdings = self._members.worker, self._members.coordinator.holdings
        with self._members.during(self):
            # The point to which lost steps are rolled back.
            names = [name for group in self._groups for name in group]
            worker.mark(names)
            self._members.mark_memories(names)
            for group in self._groups:
                transaction = TrunkTransaction(
                    group, self._round, self._job, self._members.send, worker.rewind,
                    lambda name: holdings[name].micro_batches,
                )  # fmt: skip
                self._under_way |= dict.fromkeys(group, transaction)
            deadline = self._roster.deadline()
            while self._under_way:
                # Steps that the server can compute now.
                while messages := self._ready():
                    self._began = time.perf_counter()
                    yield messages
                # Transactions that are complete, then clients that are lost or late.
                for transaction in self._transactions():
                    if not transaction.unfinished and not self._not_handed_in(transaction):
                        self._close(transaction)
                deadline = self._leave_out(deadline)
                if self._under_way:
                    self._members.pump()

    def awaits(self, name: str) -> bool:
        return name in self._under_way

    def take(self, name: str, message: Message | Control) -> None:
        self._under_way[name].take(name, message)

    def returned(self, name: str) -> None:
        if name in self._under_way:
            self._under_way[name].restart()

    def answered(self, names: Collection[str]) -> None:
        seconds = (time.perf_counter() - self._began) / max(1, len(names))
        for name in names:
            self._roster[name].clock.served(seconds)
            if name in self._under_way:
                self._under_way[name].answered(name)

    def _transactions(self) -> list[TrunkTransaction]:
        return list(dict.fromkeys(self._under_way.values()))

    def _ready(self) -> dict[str, Message]:
        """Return messages of one transaction, or of all where the server may compute clients together."""
        ready: dict[str, Message] = {}
        for transaction in sorted(self._transactions(), key=lambda one: one.served):
            if not ready or self._job.server_batch_tokens:
                ready |= transaction.ready() or {}
        return ready

    def _not_handed_in(self, transaction: TrunkTransaction) -> list[str]:
        """Return the clients that have sent their adapters, but not yet to where they are averaged."""
        if self._averaging is None:
            return []
        self._averaging.take_in()
        waiting = []
        for name, update in transaction.updates.items():
            try:
                if not self._averaging.handed_in(name, self._members.coordinator.holdings[name].held, update):
                    waiting.append(name)
            except ValueError as error:
                self._members.expel(name, str(error))
                waiting.append(name)
        return waiting

    def _close(self, transaction: TrunkTransaction) -> None:
        """Take over the adapters and the measured times of a complete transaction."""
        for name in transaction.names:
            if self._job.splits_model and name in transaction.worked:
                held = self._members.coordinator.holdings[name].held
                self._times.add(
                    name, transaction.worked[name], self._roster[name].clock, cut=held.cut,
                    trunk_blocks=held.tail_start - held.cut, clients=len(self._roster.there()),
                )  # fmt: skip
            self.updates[name] = transaction.updates[name]
            self._roster[name].finish()
            del self._under_way[name]

    def _leave_out(self, deadline: float) -> float:
        """Go on without clients that are given up, or are late where there are enough others.

        Returns the deadline: a new one where others take their steps again.
        """
        late = time.monotonic() > deadline
        for name, transaction in list(self._under_way.items()):
            slow = late and (name in transaction.awaited or name in self._not_handed_in(transaction))
            if self._roster.given_up(name) or (slow and self._roster.enough([*self._left_out, name])):
                transaction.leave_out(name)
                del self._under_way[name]
                self._left_out.append(name)
                self._members.skip(name)
                self._members.notice(f"the round goes on without {name}")
                if transaction.names:
                    deadline, late = self._roster.deadline(), False
        return deadline
