"""A dry run: the real rounds, clients and server over a model without weights. Its bytes are exact."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from splitft.history import RoundRecord
from splitft.round import run_rounds
from splitft.running.parties import Parties, make_parties
from splitft.running.prepare import Assembly
from splitft.tools.plan.shapes import ShapeModel, activation_dtype, shape_mean


@dataclass(frozen=True)
class DryRun:
    """Rounds of a dry run, and the parties with their ledger and machines."""

    records: list[RoundRecord]
    parties: Parties


class _Silent:
    def __init__(self, tell: Callable[[int], None]) -> None:
        self.on_evaluation = tell

    def on_loss(self, round_: int, step: int, client: str, loss: float) -> None:
        pass

    def on_round(self, record: RoundRecord) -> None:
        pass


def dry_run(start: Assembly, tell: Callable[[int], None] = lambda round_: None) -> DryRun:
    """Run a job over shapes.

    Args:
        start: Assembled without weights.
        tell: Called with the round that is evaluated.

    Every message has the size that it has in the run, as long as the cuts are the same. A policy that goes by
    accuracy sees none here: clients keep the weight that they start with.
    """
    parties = make_parties(start, ShapeModel(start, activation_dtype(start)), shape_mean)
    rounds = run_rounds(
        start.job, parties.policy, parties.server, parties.cohort, parties.ledger, _Silent(tell)
    )
    return DryRun(list(rounds), parties)
