"""The losses of steps as observers of a run receive them."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest

from network_threads import QUIET
from reference import make_setting
from splitft import Job
from splitft.round import Observer, StepLosses, run_rounds
from splitft.running.parties import make_parties
from splitft.running.prepare import assemble


class Watcher(Observer):
    """Keeps the losses of each client and round."""

    def __init__(self) -> None:
        self.losses: dict[tuple[int, str], list[float]] = defaultdict(list)

    def on_loss(self, round_: int, step: int, client: str, loss: float) -> None:
        self.losses[round_, client].append(loss)


@pytest.mark.parametrize("changes", [
    {}, {"labels": "client"}, {"micro_batches": 2}, {"method": "fed_lora"}
])  # fmt: skip
def test_a_step_s_loss_is_its_mean_whatever_the_number_of_micro_batches(
    changes: dict[str, Any], tmp_path: Path
) -> None:
    """Not a part of it: the last of a step is the loss of the record, and the first is near it."""
    setting = make_setting(tmp_path, "llama") | {
        "clients": 2,
        "rounds": 1,
        "local_steps": 1,
        "warmup_steps": 0,
    }
    job = Job(**setting | {"gradient_accumulation_steps": 4} | changes)
    parties, watcher = make_parties(assemble(job, QUIET)), Watcher()
    rounds = run_rounds(job, parties.policy, parties.server, parties.cohort, parties.ledger, watcher)
    record = list(rounds)[-1]
    for name, client in record.clients.items():
        first, *_, last = watcher.losses[1, name]
        assert last == pytest.approx(client.loss, rel=1e-5)
        if "micro_batches" not in changes:  # the number of parts is known after a step
            assert first == pytest.approx(client.loss, rel=0.5)


def test_a_step_that_begins_again_is_counted_once() -> None:
    losses = StepLosses(2)
    assert [losses.add("a", *each) for each in ((0, 1.0), (0, 1.5), (1, 2.5), (0, 3.0))] == [2, 3, 4, 6]
