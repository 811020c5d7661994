"""One attempt at a masked sum as a phase: requests to its clients, and their answers, stage after stage."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from splitft.engines.network.control import Held, Said
from splitft.engines.network.members import Members
from splitft.engines.network.phase import Phase
from splitft.engines.network.sum_messages import (
    KeysAsked,
    KeysStated,
    SharesRevealed,
    SharesSealed,
    SurvivorsSigned,
)
from splitft.engines.network.waiting import WaitingLine
from splitft.wire.messages import AdapterUp, OptimizerState

STAGES = (KeysStated, SharesSealed, AdapterUp, SurvivorsSigned, SharesRevealed)  # answers, in their order

A = TypeVar("A", KeysStated, SharesSealed, AdapterUp, SurvivorsSigned, SharesRevealed)
Missing = Sequence[str]  # clients whose answers have not come


@dataclass(eq=False)
class SumPhase(Phase):
    """One attempt at the sum of a round.

    Attributes:
        attempt: Counts them.
        names: The clients that are asked for keys.
        check: Raises ValueError where an answer cannot be that of an honest client.
    """

    members: Members
    round: int
    attempt: int
    names: Sequence[str]
    check: Callable[[str, Said], None]
    _kind: type[Said] = field(default=KeysStated, init=False)  # of answers in this stage
    _asked: Mapping[str, Said] = field(default_factory=dict, init=False)
    _answers: dict[str, Said] = field(default_factory=dict, init=False)
    _begun: dict[str, str] = field(default_factory=dict, init=False)  # {client: session of its keys}

    def ask(
        self,
        kind: type[A],
        requests: Mapping[str, Said],
        go_on: Callable[[Missing], bool],
        pending: Callable[[str, A], bool] = lambda name, answer: False,
    ) -> dict[str, A]:
        """Send requests, and wait; return {client: answer} of those that answered, in the requests' order.

        Args:
            kind: Of the answers.
            go_on: Whether to go on without answers that have not come; asked again and again.
            pending: Whether an answer that came does not count yet.
        """
        self._kind, self._asked, self._answers = kind, requests, {}
        for name, request in requests.items():
            if not self.restarted(name):
                self.members.send(name, request)
        waiting = WaitingLine(self.members.roster, self.members.notice)
        while (missing := [n for n in requests if not self._counts(n, kind, pending)]) and not go_on(missing):
            waiting.tell(missing)
            self.members.pump()
        came = {name: answer for name in requests if isinstance(answer := self._answers.get(name), kind)}
        return {name: answer for name, answer in came.items() if name not in missing}

    @property
    def asked(self) -> Collection[str]:
        """The clients that are asked in this stage."""
        return self._asked.keys()

    def restarted(self, name: str) -> bool:
        """Whether a client has lost the keys that it stated: its process was started again."""
        return name in self._begun and self.members.roster[name].session != self._begun[name]

    def awaits(self, name: str) -> bool:
        return name in self.names

    def take(self, name: str, message: Said) -> None:
        begins = isinstance(message, KeysStated) and message.attempt == self.attempt
        if not begins and name not in self._begun:
            return  # of a sum that was given up
        kind = type(message)
        if isinstance(message, Held | OptimizerState) and self.restarted(name):
            return  # it is back, and has what it had been handed out for this round
        if kind in STAGES and STAGES.index(kind) < STAGES.index(self._kind) and name not in self._answers:
            return  # it was late, and the sum goes on without this answer
        of = getattr(message, "round", None), getattr(message, "attempt", self.attempt)
        expected = kind is self._kind and of == (self.round, self.attempt)
        if not expected or name not in self._asked or name in self._answers:
            wanted = f"{self._kind.__name__} of round {self.round}"
            raise ValueError(f"{kind.__name__} came where {wanted} is next")
        self.check(name, message)
        self._answers[name] = message
        if begins:
            self._begun[name] = self.members.roster[name].session

    def returned(self, name: str) -> None:
        """Ask a client for its keys again, if it has not stated any yet."""
        if self._kind is KeysStated and name in self._asked and name not in self._answers:
            self.members.send(name, KeysAsked(self.round, self.attempt))

    def _counts(self, name: str, kind: type[A], pending: Callable[[str, A], bool]) -> bool:
        answer = self._answers.get(name)
        return isinstance(answer, kind) and not pending(name, answer)
