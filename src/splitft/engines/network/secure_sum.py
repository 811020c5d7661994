"""The server's average with secure aggregation: it passes on keys and shares, and unmasks the sum alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from splitft.common.failpoints import failpoint
from splitft.engines.network.aggregator_link import AggregatorLink
from splitft.engines.network.members import Members
from splitft.engines.network.sum_answers import AnswerCheck
from splitft.engines.network.sum_phase import SumPhase
from splitft.engines.network.sum_stages import BeginAgainError, MaskedSum, SumStages, UnfitSharesError
from splitft.errors import DivergedError, NetworkError
from splitft.job.settings import TrainingSettings
from splitft.lora.blocks import Adapter, Layout, flatten, trained_specs
from splitft.lora.ranks import HeldBlocks, held_blocks
from splitft.lora.reach import reach_of_rounds
from splitft.lora.summed import added, mean_of, share_of
from splitft.server.average import Contributions
from splitft.server.average_check import checked_average
from splitft.wire.secagg.fixed_point import FixedPoint

IN_A_ROW = 3  # sums of a round that cannot be unmasked; rounds that are rolled back

Clients = Mapping[str, tuple[int, int]]  # {client: its cut, its token rows}


@dataclass(eq=False)
class SecureSum:
    """Averages as `RoundAverage.elsewhere` does, from updates of which the server sees the sum alone.

    Attributes:
        layout: Places of adapters in the model.
        link: Way to an aggregator, which gets the masked updates and adds them. None: they come here.
        log: Called for each sum.
        goes_back: A round may begin anew, from the last checkpoint.
        dropped: Clients without which the last sum was made, though they had trained.
    """

    settings: TrainingSettings
    layout: Layout
    link: AggregatorLink | None
    log: Callable[[dict[str, Any]], None]
    goes_back: bool
    dropped: list[str] = field(default_factory=list, init=False)
    _way: list[Members] = field(default_factory=list, init=False)  # the clients, from `open` on
    _begun: tuple[int, int] = field(default=(0, 0), init=False)  # a round, and its attempts
    _beyond: int = field(default=0, init=False)  # rounds in a row that were rolled back

    def __post_init__(self) -> None:
        self._reach = reach_of_rounds(self.settings)

    def open(self, members: Members) -> None:
        """Have the clients whose updates are summed."""
        self._way.append(members)

    def average(self, round_: int, old: Adapter, clients: Clients, trunks: Contributions) -> Adapter:
        """Return the average of clients' updates; empty where no steps of theirs can make it.

        Args:
            old: The global adapter from which all trained.
            clients: {client: its cut, all blocks; its weight}.
            trunks: Of none: clients hold all blocks.

        Raises:
            ShortRoundError: Too few clients of the round are left, and enough others are there.
            NetworkError: No sum can be made.
            DivergedError: Round after round is rolled back.
        """
        members, failed = self._way[-1], 0
        self.dropped = []
        while True:
            try:
                made = self._attempt(members, round_, clients)
                break
            except BeginAgainError as again:
                failed += isinstance(again, UnfitSharesError)
                if failed == IN_A_ROW:
                    raise NetworkError(
                        f"{IN_A_ROW} sums of round {round_} cannot be unmasked: {again}"
                    ) from None
                members.notice(f"the sum of round {round_} begins again: {again}")
        held = held_blocks(self.settings, members.coordinator.num_blocks, next(iter(clients.values()))[0])
        failpoint("sum.revealed")
        mean = self._unmasked(made, round_, old, {name: clients[name] for name in made.updates}, held)
        return self._within_reach(round_, old, mean, held, len(made.updates))

    def _attempt(self, members: Members, round_: int, clients: Clients) -> MaskedSum:
        """Make one attempt at a sum; raises as `SumStages.run` does."""
        self._begun = round_, self._begun[1] + 1 if self._begun[0] == round_ else 1
        names = [name for name in clients if name not in self.dropped]
        check = AnswerCheck({name: rows for name, (_, rows) in clients.items()}, members.roster)
        phase = SumPhase(members, *self._begun, names, check)
        threshold = self.settings.secure_aggregation_threshold
        stages = SumStages(members, phase, [*clients], self.dropped, threshold, self.link, self.goes_back)
        with members.during(phase):
            return stages.run()

    def _unmasked(
        self, made: MaskedSum, round_: int, old: Adapter, clients: Clients, held: HeldBlocks
    ) -> Adapter:
        """Return the mean of the clients in a sum."""
        ranks, freeze_a, unmasking = held.ranks(self.settings), self.settings.freeze_a, made.unmasking
        blocks = held.on_client(self.layout)
        sizes = [
            sum(math.prod(spec.at_rank(ranks[b])) for spec in trained_specs(self.layout[b], freeze_a))
            for b in blocks
        ]
        # Add the masked updates, or have the aggregator add them; then take the masks away from the sum.
        if self.link is not None:
            total = self.link.added(round_, clients, sizes)
        else:
            total = added([update.values for update in made.updates.values()])
        flat = torch.cat(total)
        unmasking.remove(flat.numpy().view(np.uint32), made.secrets)
        self.log(
            {
                "event": "sum",
                "round": round_,
                "attempt": self._begun[1],
                "clients": list(unmasking.roll),
                "summed": sorted(clients),
                "threshold": unmasking.threshold,
            }
        )
        weights = {name: keys.weight for name, keys in unmasking.roll.items()}
        return mean_of(
            torch.split(flat, sizes),
            blocks,
            old,
            ranks,
            self.layout,
            freeze_a=freeze_a,
            points=FixedPoint(self.settings.secure_aggregation_range, len(weights)),
            shares=share_of(weights, clients),
        )

    def _within_reach(
        self, round_: int, old: Adapter, mean: Adapter, held: HeldBlocks, count: int
    ) -> Adapter:
        """Return a mean, empty where it is none of what steps can make.

        Raises DivergedError where that is so round after round: whose update it was cannot be seen.
        """
        flat = [flatten(block).cpu() for block in mean.values()]
        trunks: Contributions = {}
        given = self.settings, self.layout, old, [held] * count, trunks, self._reach(round_)
        try:
            checked_average(*given, [*mean], flat)
        except ValueError as error:
            self._beyond += 1
            if self._beyond == IN_A_ROW:
                raise DivergedError.of(f"the sum of {IN_A_ROW} rounds in a row is none: {error}") from None
            self._way[-1].notice(f"round {round_} is rolled back, with nobody to blame: its sum, {error}")
            return {}
        self._beyond = 0
        return mean
