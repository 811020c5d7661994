"""The guard of averages: each is examined before anybody gets it, and whom to blame is tried out.

An average that does harm is made again without one client after another, that with the longest update first.
Where one's absence mends it, that client is to blame, and the others keep their round. Where nobody's does,
the global adapter stays as it was before the round.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median_low

from splitft.errors import DivergedError
from splitft.lora.blocks import Adapter
from splitft.lora.robust import OUTLIER
from splitft.wire.messages import Metrics

# Nats by which the mean held-out loss of a client may grow in one round: 20 times the perplexity. A learning
# rate that is too high by far costs some tenths of a nat a round; below it, cuts, ranks and data matter more.
EXPLODES = 3.0
IN_A_ROW = 3  # rounds that are rolled back with nobody to blame: then it is the training itself

Remake = Callable[[Collection[str]], None]  # makes the average of the round again, without these clients


@dataclass(eq=False)
class Guard:
    """Examines the averages of one run.

    Args:
        examine: Returns what is wrong with a new global adapter, given the one before; empty: nothing.
        blame: Called with each client to blame, and the reason.
        notice: Prints one line.
        tries: Averages can be made again without single clients; no with secure aggregation.
    """

    examine: Callable[[Adapter, Adapter], str]
    blame: Callable[[str, str], None]
    notice: Callable[[str], None]
    tries: bool = True
    _remake: Remake = field(default=lambda without: None, init=False)
    _suspects: dict[str, float] = field(default_factory=dict, init=False)  # of the last round, see `check`
    _without: list[str] = field(default_factory=list, init=False)  # clients to blame for it
    _before: dict[str, float] = field(default_factory=dict, init=False)  # each client's mean held-out loss
    _rolled_back: int = field(default=0, init=False)  # rounds in a row

    def check(
        self, old: Adapter, adapter: Callable[[], Adapter], suspects: Mapping[str, float], remake: Remake
    ) -> Sequence[str]:
        """Examine the average that was just made; return the clients without whom it was made again.

        Args:
            old: The global adapter before the round.
            adapter: Returns the global adapter as it is now.
            suspects: The round's clients, those with the longest updates first (`average.by_length`).
            remake: With all clients: puts back the adapter of the round before.

        Raises DivergedError where round after round is rolled back with nobody to blame.
        """
        self._remake, self._suspects = remake, dict(suspects)
        problem = self.examine(old, adapter())
        if not problem:
            self._rolled_back = 0
            return ()
        # One client alone, then the longest ones together, always less than half.
        names = list(suspects)
        trials = [[name] for name in names] if len(names) > 1 else []
        trials += [names[:count] for count in range(2, (len(names) + 1) // 2)]
        for without in trials if self.tries else ():
            remake(without)
            if not self.examine(old, adapter()):
                self._accuse(without, problem)
                return without
        return self._roll_back(problem)

    @property
    def accused(self) -> list[str]:
        """The clients that are to blame in the round under way."""
        return list(self._without)

    def begin(self) -> None:
        """Begin with a round in which nobody is accused."""
        self._without, self._suspects = [], {}

    def accuse(self, reasons: Mapping[str, str]) -> None:
        """Blame clients, each for its reason."""
        self._without += reasons
        for name, reason in reasons.items():
            self.blame(name, reason)

    def accepts(self, metrics: Mapping[str, Metrics]) -> bool:
        """Whether an evaluation of the round's average stands; else another one was made, to be evaluated.

        Of clients' mean losses the lower median counts: of three, one that lies neither hides nor feigns
        anything. Where it explodes, the client whose update is the longest by far is to blame.
        """
        losses = {name: own.nll / own.tokens for name, own in metrics.items() if own.tokens}
        grown = [loss - self._before[name] for name, loss in losses.items() if name in self._before]
        worse = median_low(grown) if grown else 0.0
        if worse <= EXPLODES or not self._suspects:
            self._before |= losses
            self._suspects = {}
            return True
        problem = f"the held-out loss rose by {worse:.3g} nats a token"
        left = {name: length for name, length in self._suspects.items() if name not in self._without}
        first = next(iter(left), "")
        if len(left) > 1 and left[first] > OUTLIER:
            self._remake([*self._without, first])
            self._accuse([first], problem)
        else:
            self._roll_back(problem)
            self._suspects = {}
        return False

    def _accuse(self, names: Sequence[str], problem: str) -> None:
        self._rolled_back = 0
        self.accuse(dict.fromkeys(names, f"the round's average with its adapter does harm: {problem}"))

    def _roll_back(self, problem: str) -> Sequence[str]:
        everybody = list(self._suspects)
        self._remake(everybody)
        self._rolled_back += 1
        if self._rolled_back >= IN_A_ROW:
            raise DivergedError.of(f"{problem}, in {IN_A_ROW} rounds in a row")
        self.notice(f"the round is rolled back, with nobody to blame: {problem}")
        return everybody
