"""The cuts of a run: what a policy sees, its decisions, and their record."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace

from splitft.common.state import State
from splitft.cuts.decide import decide
from splitft.cuts.observe import ClientState, Decision, Observation
from splitft.devices.steps import StateSeconds
from splitft.history import RoundRecord
from splitft.job.settings import FederationSettings

BY_SECONDS = ("resource", "splitft", "makespan")  # policies that need to know what a step takes


class CutPlanner:
    """Decides the cuts of a run before each round; the first time from the evaluation before training.

    Args:
        max_cuts: Most blocks that each client may hold.
        seconds: One optimizer step of each client, from device profiles. None: unknown.
        measured: Seconds are measured during the run (`learn`); policies that need them keep the cuts until
            those of every client are known.
    """

    def __init__(
        self,
        job: FederationSettings,
        cuts: Mapping[str, int],
        max_cuts: Mapping[str, int],
        num_blocks: int,
        seconds: Mapping[str, StateSeconds] | None = None,
        *,
        measured: bool = False,
    ) -> None:
        self.job = job
        self.cuts = dict(cuts)
        self.max_cuts = max_cuts
        self.num_blocks = num_blocks
        self.decisions: list[Decision] = []
        self.fixed = job.method != "splitft" or job.cut_policy.method == "fixed"
        self._seconds = dict(seconds or {})
        self._measured = measured
        self._accuracy: dict[str, float | None] = dict.fromkeys(cuts)

    def decide(self, round_: int, last: RoundRecord | None) -> dict[str, int]:
        """Return the cuts of a round; `last` is the record of the round before."""
        for name, record in last.clients.items() if last else ():
            if record.accuracy is not None:
                self._accuracy[name] = record.accuracy
        policy = self.job.cut_policy
        if self.fixed or round_ == 0 or (round_ - 1) % policy.adapt_every or self._waits_for_seconds():
            return dict(self.cuts)
        decision = decide(policy.method, policy, self.observe(round_))
        self.decisions.append(decision)
        self.cuts = dict(decision.cuts)
        return dict(self.cuts)

    def learn(self, client: str, seconds: StateSeconds) -> None:
        """Update a client's step time: the mean of the old estimate and this measurement."""
        old = self._seconds.get(client, seconds)
        self._seconds[client] = StateSeconds(*((a + b) / 2 for a, b in zip(old, seconds, strict=True)))

    def _waits_for_seconds(self) -> bool:
        by_seconds = self.job.cut_policy.method in BY_SECONDS
        return self._measured and by_seconds and not set(self.cuts) <= set(self._seconds)

    def rehearse(self, evaluated: Collection[str]) -> None:
        """Ask the policy once before the run and drop its answer: one that cannot answer fails at once.

        evaluated: Clients whose accuracy will be known; here it counts as 0. Raises JobError.
        """
        if self.fixed:
            return
        seen, policy = self.observe(1), self.job.cut_policy
        clients = tuple(replace(c, accuracy=0.0) if c.name in evaluated else c for c in seen.clients)
        decide(policy.method, policy, replace(seen, clients=clients))

    def state(self) -> State:
        """Return cuts, accuracies and the last decision, as a checkpoint holds them."""
        last = [decision.to_json() for decision in self.decisions[-1:]]
        seconds = {name: of_one._asdict() for name, of_one in self._seconds.items()}
        return {
            "cuts": self.cuts,
            "accuracy": self._accuracy,
            "last_decision": last,
            "seconds": seconds if self._measured else {},
        }

    def load_state(self, state: State) -> None:
        """Restore a state returned by `state()`; of the decisions the last one."""
        self.cuts, self._accuracy = dict(state["cuts"]), dict(state["accuracy"])
        self.decisions = [Decision.from_json(line) for line in state["last_decision"]]
        self._seconds |= {name: StateSeconds(**of_one) for name, of_one in state["seconds"].items()}

    def observe(self, round_: int) -> Observation:
        """Return what a policy sees before a round."""
        seconds = {name: of_one._asdict() for name, of_one in self._seconds.items()}
        clients = tuple(
            ClientState(name, cut, self.max_cuts[name], self._accuracy[name], **seconds.get(name, {}))
            for name, cut in self.cuts.items()
        )
        return Observation(
            round=round_,
            num_blocks=self.num_blocks,
            clients=clients,
            order=self.job.order,
            server_adapter=self.job.server_adapter,
            state=self.decisions[-1].state if self.decisions else {},
            self_reported=self.job.labels == "client",
            first=not self.decisions,
        )
