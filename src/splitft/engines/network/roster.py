"""The clients of a run at the server: what is known of each, and whether there are enough of them."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

from splitft.engines.network import control
from splitft.engines.network.sameness import difference, facts_of
from splitft.engines.network.timing import StepClock
from splitft.engines.network.transport.peers import Event
from splitft.errors import DivergedError, NetworkError
from splitft.job.sections import NetworkConfig
from splitft.wire.memory.sealed import is_key
from splitft.wire.messages import AdapterDown, OptimizerState

MOST_ROWS, MOST_EVAL_ROWS = 1 << 40, 10**7  # as a client states them; batches of the latter are listed
MOST_PASSED = 8  # hand-outs kept for a client that has not trained or saved since
Counted = tuple[bool, bool, AdapterDown | None, list[AdapterDown]]  # exact, finished, trained, passed


@dataclass
class Suspension:
    """Whether the operator has dropped a client: in the round under way, and from the next one on."""

    now: bool = False
    next: bool = False

    def order(self, *, now: bool, next_: bool) -> None:
        """Note the operator's order. next_: from the next round on, where it is not so now."""
        self.now, self.next = now, next_


@dataclass
class Member:
    """One client. Its standing (`membership.py`) follows from `join` to `expel`."""

    name: str
    session: str = ""  # of its last connection; empty before the first
    there: bool = False  # it takes part: its data are read and its state is restored in this session
    connected: bool = False
    now: Callable[[], float] = time.monotonic  # seconds of a clock that never goes back
    since: float = 0.0  # when it was last lost
    expelled: str = ""  # why
    problem: str = ""  # why it cannot take part yet, in its own words
    told: str = ""  # the last of these that it gave
    took_part: bool = False  # it has been there
    suspension: Suspension = field(default_factory=Suspension)
    changed: float = 0.0  # when its standing last changed
    diverged: bool = False  # that is: its figures were not finite
    owes: type | None = None  # the only kind that may come next in a new session; None: any
    overtaken: bool = False  # what comes before that was on its way when it was asked
    rows: int = 0
    eval_rows: int = 0
    done: int = 0  # the last round after which it saved its state
    exact: bool = True  # the server counts on that state
    trained_last: bool = False  # that state is the one in which it sent its adapters: it left before it saved
    finished: bool = False  # it has sent its adapters of the round after `done`
    asked: control.Load | None = None  # the state that it was told to restore, in this session
    ahead: bool = False  # by that it is at the end of its steps, and not where they began
    last: AdapterDown | None = None  # its last hand-out since then
    passed: list[AdapterDown] = field(default_factory=list)  # the ones before it: it leaves out what they had
    evaluating: bool = False  # that one is for evaluation
    trained: AdapterDown | None = None  # the hand-out from which it trained in this round
    before: Counted | None = None  # what was counted on before it finished this round
    facts: Mapping[str, str] = field(default_factory=dict)  # of its software and its part of the model
    answered: int = 0  # hand-outs that it gets again, and has answered before
    muted: bool = False  # a round goes on without it: messages are dropped until it has the next adapters
    clock: StepClock = field(default_factory=StepClock)
    memory_key: str = ""  # seals what is kept of its samples
    unasked: list[Event] = field(default_factory=list)  # messages outside of the phase in force

    def join(self, session: str) -> None:
        """It is connected in a new session, in which Ready and Loaded come first."""
        self.session, self.owes, self.there, self.problem = session, control.Ready, False, ""
        self.overtaken, self.answered = False, 0
        self.connected, self.changed = True, self.now()
        self.unasked.clear()

    def ready(self, message: control.Ready, facts: Mapping[str, str]) -> str:
        """Note that its data are read, and what it holds; return what of that is not the server's.

        Raises ValueError for numbers of rows that no client has, and for a key that is none.
        """
        if message.memory_key and not is_key(message.memory_key):
            raise ValueError("Ready: a memory_key that is none")
        rows, eval_rows = message.rows, message.eval_rows
        if not (0 <= rows <= MOST_ROWS and 0 <= eval_rows <= MOST_EVAL_ROWS):
            raise ValueError(f"Ready: {rows} rows and {eval_rows} held-out rows")
        self.rows, self.eval_rows, self.owes = rows, eval_rows, control.Loaded
        self.facts, self.memory_key = facts_of(message.things, message.values), message.memory_key
        return difference(self.facts, facts)

    def not_ready(self, problem: str) -> bool:
        """Be away, as before the first session, for this reason; return whether that is a new one."""
        new, self.problem, self.told = problem != self.told, problem, problem
        self.session, self.there, self.connected = "", False, False
        self.owes, self.since, self.changed = control.Ready, self.now(), self.now()
        return new

    @property
    def wanted(self) -> control.Load:
        """The state that the server counts on now."""
        if not self.exact:
            return control.Load(0, False)
        if self.finished and self.trained is not None:  # rounds may lie between its saved state and this one
            return control.Load(self.trained.round, True)
        if self.trained_last and not self.finished:
            return control.Load(self.done - 1, True)
        return control.Load(self.done, self.finished)

    @property
    def unsaved(self) -> bool:
        """Whether it was handed out anything since it saved its state."""
        return self.finished or self.last is not None or self.trained is not None

    def take_part(self) -> None:
        """Its state is restored, or lost: it is one of those that train."""
        self.owes, self.there, self.took_part, self.overtaken = None, True, True, False
        self.changed = self.now()

    def connect(self, now: bool) -> None:
        """Its connection is lost, or there again in the same session."""
        self.connected, self.changed = now, self.now()
        if not now:
            self.since = self.now()

    def expel(self, reason: str, diverged: bool) -> None:
        """It takes part no more."""
        self.expelled, self.there, self.diverged, self.changed = reason, False, diverged, self.now()

    def hand_out(self, message: AdapterDown, evaluating: bool, *, anew: bool = False) -> None:
        """Remember a hand-out, for a return in a new session; `anew`: in the place of all before."""
        if anew:
            self.passed = []
        elif self.last is not None:
            self.passed.append(self.last)
        if len(self.passed) > MOST_PASSED:  # it has not trained for so long: it would have to start anew
            self.passed, self.exact = [], False
        self.last, self.evaluating, self.ahead = message, evaluating, False

    def finish(self) -> None:
        """Note that its adapters of this round are here: it need not take the steps again."""
        self.before = self.exact, self.finished, self.trained, self.passed
        self.exact, self.finished, self.trained, self.passed = True, True, self.last, []
        self.last = None

    def take_back(self) -> bool:
        """Take back that it has finished the round's steps; return whether it must load the state before."""
        ahead = self.ahead and self.owes is None
        self.ahead = False
        if self.before is not None:
            self.last = self.trained
            self.exact, self.finished, self.trained, self.passed = self.before
            self.before = None
        if ahead:
            self.owes, self.there, self.since = control.Loaded, False, self.now()
        return ahead

    def mute(self) -> None:
        """Drop its messages until it has the next adapters."""
        self.muted = True

    def save(self, done: int, exact: bool, *, trained_last: bool = False) -> None:
        """Note the state that it can restore."""
        self.done, self.exact, self.finished, self.last, self.trained = done, exact, False, None, None
        self.passed, self.before = [], None
        self.ahead, self.trained_last = False, trained_last

    def admits(self, message: control.Said) -> bool:
        """Whether a message is to be used. Raises ValueError where another kind must come first."""
        kind = type(message).__name__
        if self.owes is not None and not isinstance(message, self.owes | control.Failed):
            if self.overtaken:
                return False
            raise ValueError(f"{kind} came where {self.owes.__name__} is next")
        if isinstance(message, control.Ready | control.Loaded) and not isinstance(message, self.owes or ()):
            raise ValueError(f"{kind} came again")
        if self.answered and isinstance(message, control.Held | OptimizerState):
            self.answered -= 1
            return False
        if (
            isinstance(message, control.Held | OptimizerState)
            and self.last
            and message.round == self.last.round
        ):
            self.muted = False
        return not self.muted or self.owes is not None or isinstance(message, control.Saved | control.Failed)

    @property
    def present(self) -> bool:
        """Whether it takes part, over a connection that is open."""
        return self.there and self.connected

    @property
    def out(self) -> bool:
        """Whether the operator has dropped it, from the round under way or an earlier one on."""
        return self.suspension.now

    @property
    def leaving(self) -> bool:
        """Whether the operator drops it from the next round on."""
        return self.suspension.next

    @property
    def off(self) -> bool:
        """Whether the run goes on without it: it is expelled, or the operator drops it."""
        return bool(self.expelled) or self.out or (self.leaving and not self.present)

    @property
    def away_seconds(self) -> float:
        """How long it has not been there."""
        return 0.0 if self.present else self.now() - self.since


def restoring(member: Member) -> control.Load:
    """Return what tells a client to restore the state that the server counts on."""
    member.asked = member.wanted
    member.ahead = member.exact and member.finished and member.last is None
    return member.asked


def hand_outs_again(member: Member) -> list[AdapterDown]:
    """Return all that a client was handed out since the state that it has restored, oldest first."""
    member.answered = len(member.passed)
    return [*member.passed, *([member.last] if member.last is not None else [])]


def leave_unsaved(member: Member) -> None:
    """Count on what a client saved before this round or, where its steps count, as it sent its adapters."""
    if member.finished and member.trained is not None:
        member.save(member.trained.round + 1, exact=True, trained_last=True)
    else:
        member.save(member.done, member.exact, trained_last=member.trained_last)


def go_back(member: Member, done: int, exact: bool, *, trained_last: bool = False) -> bool:
    """Count on an earlier state of a client; return whether it must load that now, in the same session."""
    member.save(done, exact, trained_last=trained_last)
    before = member.there
    if before:
        member.owes, member.there, member.since, member.overtaken = control.Loaded, False, member.now(), True
    return before


class Roster(dict[str, Member]):
    """All clients of a job, in the order of their names there, which is the order of all sums.

    per_round: the job's `clients_per_round`.
    """

    def __init__(
        self,
        names: Sequence[str],
        config: NetworkConfig,
        now: Callable[[], float] = time.monotonic,
        per_round: int | None = None,
    ) -> None:
        super().__init__({name: Member(name, now=now, since=now()) for name in names})
        self.config, self.now, self.per_round = config, now, per_round

    def there(self) -> list[str]:
        """The clients that take part now."""
        return [name for name, member in self.items() if member.there and not member.off]

    def connected(self) -> list[str]:
        """The clients that take part now, over a connection that is open."""
        return [name for name, member in self.items() if member.present and not member.off]

    def take_unasked(self) -> list[Event]:
        """Return the messages that nobody had asked for, and keep none of them."""
        found = [event for member in self.values() for event in member.unasked]
        for event in found:
            self[event.name].unasked.clear()
        return found

    def check_quorum(self) -> None:
        """Raise where fewer than `min_clients` can ever take part again.

        Raises DivergedError where the figures of all were not finite, else NetworkError.
        """
        out = {name: member.expelled for name, member in self.items() if member.expelled}
        fewest, left = self.config.min_clients or 1, len(self) - len(out)
        if left >= fewest:
            return
        name, reason = list(out.items())[-1]
        if all(member.diverged for member in self.values()):
            raise DivergedError.of(f"no client is left whose figures are finite; {name}: {reason}")
        if not left:
            raise NetworkError(f"every client is expelled; {name}: {reason}")
        told = "; ".join(f"{name} is expelled: {reason}" for name, reason in out.items())
        raise NetworkError(
            f"{left} of {len(self)} clients are left, network.min_clients is {fewest} ({told}): "
            "`splitft server … --resume --admit NAME` lets one in again"
        )

    def enough(self, without: Collection[str] = ()) -> bool:
        """Whether the run may go on without these clients."""
        return len([name for name in self.there() if name not in without]) >= self.fewest

    @property
    def enough_present(self) -> bool:
        """Whether the run may go on with the clients whose connection is open now."""
        return len(self.connected()) >= self.fewest

    @property
    def fewest(self) -> int:
        """The number of clients with which a round goes on."""
        if self.config.samples_connected:
            return self.config.min_clients or self.per_round or 1
        return max(1, self.config.min_clients or sum(not member.off for member in self.values()))

    def given_up(self, name: str) -> bool:
        """Whether the others no longer wait for a client."""
        alone = self.config.samples_connected  # nobody else's being there matters
        return self[name].off or (self.long_away(name) and (alone or self.enough(without=[name])))

    def long_away(self, name: str) -> bool:
        """Whether a client is away for longer than `rejoin_seconds`."""
        return self[name].away_seconds > self.config.rejoin_seconds

    def away(self, names: Sequence[str]) -> str:
        """Return those of these clients that are not there, each with what keeps it from taking part."""
        away = {name: self[name].problem for name in names if self[name].away_seconds}
        return ", ".join(f"{name} (not ready: {why})" if why else name for name, why in away.items())

    def took_part(self) -> list[str]:
        """The clients that have taken part, also before the checkpoint, and were not expelled."""
        return [n for n, member in self.items() if (member.took_part or member.done) and not member.expelled]

    def left_without(self, name: str) -> int:
        """Return the number of clients that stay where the operator drops one."""
        return sum(not (member.off or member.leaving) for other, member in self.items() if other != name)

    def set_deadline(self, seconds: float | None) -> None:
        """Have clients be late after other seconds, from the next phase on."""
        self.config = self.config.model_copy(update={"round_seconds": seconds})

    def deadline(self) -> float:
        """The time from which on clients are late with what they are asked now, by `now`."""
        return self.now() + (self.config.round_seconds or math.inf)
