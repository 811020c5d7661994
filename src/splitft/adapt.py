"""Cuts during a run: gathers what a policy may see, has it decide, and keeps every decision."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from splitft.history import RoundRecord
from splitft.job import Job

if TYPE_CHECKING:
    from splitft.cuts import Decision, Observation
    from splitft.devices.steps import StateSeconds


class CutPlanner:
    """Decides the cuts of a run before each round; the first time from the evaluation before training.

    seconds: what one optimizer step takes each client, from device profiles or measured; None: unknown.
    max_cuts: most blocks that each client may hold.
    """

    def __init__(
        self,
        job: Job,
        cuts: Mapping[str, int],
        max_cuts: Mapping[str, int],
        num_blocks: int,
        seconds: Mapping[str, StateSeconds] | None = None,
    ) -> None:
        self.job = job
        self.cuts = dict(cuts)
        self.max_cuts = max_cuts
        self.num_blocks = num_blocks
        self.decisions: list[Decision] = []
        self.fixed = job.method != "splitft" or job.cut_policy.method == "fixed"
        self._seconds = seconds or {}
        self._accuracy: dict[str, float | None] = dict.fromkeys(cuts)

    def decide(self, round_: int, last: RoundRecord | None) -> dict[str, int]:
        """Return the cuts of a round; `last` is the record of the round before."""
        for name, record in last.clients.items() if last else ():
            if record.accuracy is not None:
                self._accuracy[name] = record.accuracy
        policy = self.job.cut_policy
        if self.fixed or round_ == 0 or (round_ - 1) % policy.adapt_every:
            return dict(self.cuts)
        from splitft.cuts import decide

        decision = decide(policy.method, policy, self.observe(round_))
        self.decisions.append(decision)
        self.cuts = dict(decision.cuts)
        return dict(self.cuts)

    def rehearse(self, evaluated: Collection[str]) -> None:
        """Ask the policy once before the run, so that one that cannot answer is told before anything heavy.

        evaluated: clients whose accuracy will be known; here it counts as 0. The answer is dropped. Raises
        JobError.
        """
        if self.fixed:
            return
        from splitft.cuts import decide

        seen, policy = self.observe(1), self.job.cut_policy
        clients = tuple(replace(c, accuracy=0.0) if c.name in evaluated else c for c in seen.clients)
        decide(policy.method, policy, replace(seen, clients=clients))

    def observe(self, round_: int) -> Observation:
        """Return what a policy sees before a round."""
        from splitft.cuts import ClientState, Observation

        seconds = self._seconds
        clients = tuple(
            ClientState(name, cut, self.max_cuts[name], self._accuracy[name], **seconds[name])
            if name in seconds
            else ClientState(name, cut, self.max_cuts[name], self._accuracy[name])
            for name, cut in self.cuts.items()
        )
        return Observation(
            round=round_,
            num_blocks=self.num_blocks,
            clients=clients,
            order=self.job.order,
            server_adapter=self.job.server_adapter,
            state=self.decisions[-1].state if self.decisions else {},
        )
