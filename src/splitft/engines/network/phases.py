"""Phases of a round beside training: hand-out, evaluation, saving."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Collection, Iterator, Mapping, Sequence

from splitft.engines.network.control import (
    EVALUATION,
    Control,
    Evaluate,
    Evaluated,
    Held,
    Save,
    Saved,
    Started,
)
from splitft.engines.network.members import Members, Phase
from splitft.engines.network.message_order import EVAL_IN_FLIGHT, MessageOrder, evaluation_script
from splitft.job.settings import TrainingSettings
from splitft.wire.messages import AdapterDown, Message, OptimizerState


class HandOut(Phase):
    """Clients get their cuts and adapters, and return the optimizer state of blocks that leave them.

    evaluating: the adapters are to be evaluated.
    """

    def __init__(self, members: Members, adapters: Mapping[str, AdapterDown], evaluating: bool) -> None:
        self._members = members
        self._adapters = adapters
        self._evaluating = evaluating
        self._holding: set[str] = set()  # clients that have answered
        self._states: dict[str, OptimizerState] = {}

    def run(self) -> dict[str, OptimizerState]:
        """Hand out, wait for the answers, and return the optimizer states."""
        roster = self._members.roster
        with self._members.during(self):
            for name, message in self._adapters.items():
                roster[name].hand_out(message, self._evaluating)
                self._members.send(name, message)
            self._members.wait(self._holding.__contains__, list(self._adapters), roster.config.round_seconds)
        return {name: self._states[name] for name in self._adapters if name in self._states}

    def awaits(self, name: str) -> bool:
        return name in self._adapters and name not in self._holding

    def take(self, name: str, message: Message | Control) -> None:
        if isinstance(message, Held | OptimizerState) and message.round == self._adapters[name].round:
            self._holding.add(name)
            if isinstance(message, OptimizerState):
                self._states[name] = message


class Evaluation(Phase):
    """Clients evaluate their held-out rows."""

    def __init__(self, members: Members, job: TrainingSettings, names: Sequence[str], round_: int) -> None:
        self._members = members
        self._job = job
        self._round = round_
        self._left = list(names)  # clients that are not done
        self._orders: dict[str, MessageOrder] = {}  # of clients that have begun
        self._inboxes: dict[str, deque[Message | Evaluated]] = {name: deque() for name in names}

    def run(self) -> Iterator[dict[str, Message]]:
        """Yield what clients send, as it comes."""
        roster, late = self._members.roster, list[str]()
        with self._members.during(self):
            deadline = roster.deadline()
            for name in self._left:
                self._members.send(name, Evaluate(self._round))
            while self._left:
                for name in list(self._left):
                    # Messages for the server, and the end of each client's rows.
                    inbox = self._inboxes[name]
                    while inbox:
                        message = inbox.popleft()
                        if isinstance(message, Evaluated):
                            self._left.remove(name)
                            break
                        yield {name: message}
                    # Clients that are given up, or late where there are enough others.
                    slow = time.monotonic() > deadline and roster.enough([*late, name])
                    if name in self._left and (slow or roster.given_up(name)):
                        self._left.remove(name)
                        late.append(name)
                        roster[name].mute()
                        self._members.worker.forget_metrics(name)
                if self._left:
                    self._members.pump()

    def awaits(self, name: str) -> bool:
        return name in self._left

    def take(self, name: str, message: Message | Control) -> None:
        if name not in self._orders:  # before that, messages are of steps that were given up
            if message == Started(self._round, EVALUATION):
                lines = evaluation_script(self._job, self._members.roster[name].eval_rows)
                self._orders[name] = MessageOrder(
                    self._job, lines, self._round, train=False, in_flight=EVAL_IN_FLIGHT
                )
        else:
            checked = message if isinstance(message, Evaluated) else self._orders[name].checked(message)
            self._inboxes[name].append(checked)

    def returned(self, name: str) -> None:
        """Have a client evaluate its rows again, from the first on."""
        if name in self._left:
            self._members.worker.forget_metrics(name)
            self._orders.pop(name, None)
            self._inboxes[name].clear()
            self._members.send(name, Evaluate(self._round))

    def answered(self, names: Collection[str]) -> None:
        for name in names:
            if name in self._orders:
                self._orders[name].answered()


class Saving(Phase):
    """Clients save their states; from then on the server counts on these.

    A client on its way back is waited for: without its state its optimizer would start from zero.
    """

    def __init__(self, members: Members, rounds_done: int) -> None:
        self._members = members
        self._done = rounds_done

    def run(self) -> None:
        """Have all clients save."""
        roster = self._members.roster
        with self._members.during(self):
            for name in roster.there():
                self._members.send(name, Save(self._done))
            names = list(roster.members)
            self._members.wait(lambda name: not self.awaits(name), names, roster.config.round_seconds)
        for member in roster.members.values():
            if member.done != self._done:
                member.save(member.done, exact=False)

    def awaits(self, name: str) -> bool:
        return self._members.roster[name].done != self._done

    def take(self, name: str, message: Message | Control) -> None:
        if message == Saved(self._done):
            self._members.roster[name].save(self._done, exact=True)

    def returned(self, name: str) -> None:
        self._members.send(name, Save(self._done))
