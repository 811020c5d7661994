"""Roster: the clients of a job, and what the server knows of each."""

from __future__ import annotations

import math
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from splitft.engines.network.control import Failed, Held, Loaded, Ready, Said, Saved
from splitft.engines.network.timing import StepClock
from splitft.engines.network.transport.peers import Event
from splitft.job.sections import NetworkConfig
from splitft.wire.messages import AdapterDown, OptimizerState


@dataclass
class Member:
    """One client."""

    name: str
    session: str = ""  # of its last connection; empty before the first
    there: bool = False  # it takes part: its data are read and its state is restored in this session
    connected: bool = False
    since: float = field(default_factory=time.monotonic)  # when it was last lost
    expelled: str = ""  # why
    owes: type | None = None  # the only kind that may come next in a new session; None: any
    rows: int = 0
    eval_rows: int = 0
    done: int = 0  # the last round after which it saved its state
    exact: bool = True  # the server counts on that state
    finished: bool = False  # it has sent its adapters of the round after `done`
    last: AdapterDown | None = None  # its last hand-out since then, for a return in a new session
    evaluating: bool = False  # that one is for evaluation
    muted: bool = False  # a round goes on without it: messages are dropped until it has the next adapters
    clock: StepClock = field(default_factory=StepClock)
    unasked: list[Event] = field(default_factory=list)  # messages outside of the phase in force

    def save(self, done: int, exact: bool) -> None:
        """Note the state that it can restore."""
        self.done, self.exact, self.finished, self.last = done, exact, False, None

    def admits(self, message: Said) -> bool:
        """Whether a message is to be used. Raises ValueError where another kind must come first."""
        kind = type(message).__name__
        if self.owes is not None and not isinstance(message, self.owes | Failed):
            raise ValueError(f"{kind} came where {self.owes.__name__} is next")
        if isinstance(message, Ready | Loaded) and not isinstance(message, self.owes or ()):
            raise ValueError(f"{kind} came again")
        if isinstance(message, Held | OptimizerState) and self.last and message.round == self.last.round:
            self.muted = False
        return not self.muted or self.owes is not None or isinstance(message, Saved | Failed)

    def away_seconds(self) -> float:
        """How long it has not been there."""
        return 0.0 if self.there and self.connected else time.monotonic() - self.since


class Roster(dict[str, Member]):
    """All clients of a job, in the order of their names there, which is the order of all sums."""

    def __init__(self, names: Sequence[str], config: NetworkConfig) -> None:
        super().__init__({name: Member(name) for name in names})
        self.config = config

    def there(self) -> list[str]:
        """The clients that take part now."""
        return [name for name, member in self.items() if member.there and not member.expelled]

    def enough(self, without: Collection[str] = ()) -> bool:
        """Whether the run may go on without these clients."""
        wanted = self.config.min_clients or sum(not member.expelled for member in self.values())
        return len([name for name in self.there() if name not in without]) >= max(1, wanted)

    def given_up(self, name: str) -> bool:
        """Whether the others no longer wait for a client."""
        member = self[name]
        away = member.away_seconds() > self.config.rejoin_seconds
        return bool(member.expelled) or (away and self.enough(without=[name]))

    def taking_part(self) -> list[str]:
        """The clients that have taken part, and are not away for longer than the others wait."""
        return [
            name
            for name, member in self.items()
            if member.session and not member.expelled and member.away_seconds() < self.config.rejoin_seconds
        ]

    def deadline(self) -> float:
        """The time from which on clients are late with what they are asked now, by `time.monotonic`."""
        return time.monotonic() + (self.config.round_seconds or math.inf)
