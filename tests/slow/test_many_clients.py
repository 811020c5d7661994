"""10,000 registered clients, 60 of them with a connection, 50 a round; clients and the server come and go."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from coming_clients import Clients, registered_job, replayed, serve_clients
from run_files import adapter_of, figures_of
from splitft import Callback, Job
from splitft.engines.network.cohorts import COHORTS, COUNTED, LOST, read_lines
from splitft.errors import JobError
from splitft.history import RoundRecord
from splitft.wire.messages import Activations

REGISTERED, THERE, PER_ROUND, ROUNDS = 10_000, 60, 50, 6


class Comings(Callback):
    """Has four clients of each round leave, two in the middle of their steps, and come in the next."""

    def __init__(self, clients: Clients, come: Sequence[str], ends_in: int) -> None:
        self.clients, self.come, self.ends_in = clients, come, ends_in
        self.left: list[str] = []
        self.cohorts: dict[int, list[str]] = {}

    def on_round_begin(self, job: Job, round_: int, cuts: Mapping[str, int], cohort: Sequence[str]) -> None:
        again = round_ in self.cohorts
        self.cohorts[round_] = list(cohort)
        if not round_ or again:
            return
        back, self.left = self.left, []
        for name in cohort[round_ : round_ + 2]:
            self.clients.leave(name, lambda message: isinstance(message, Activations) and message.train)
            self.left.append(name)
        for name in [name for name in self.come if name not in cohort][:2]:
            self.clients.leave(name)
            self.left.append(name)
        self.clients.come(*[name for name in back if self.clients.over(name)])

    def on_step_end(self, job: Job, round_: int, step: int, client: str, loss: float) -> None:
        if round_ == self.ends_in:
            self.ends_in = 0
            raise RuntimeError("the server ends")

    def on_round_end(self, job: Job, record: RoundRecord) -> None:
        assert record.round == 0 or len(record.cohort) == PER_ROUND


@pytest.mark.slow
def test_thousands_of_registered_clients(tmp_path: Path) -> None:
    network = {"over_selection": 1.1, "rejoin_seconds": 60.0, "min_clients": PER_ROUND + 4}
    own: dict[str, Any] = {"rounds": ROUNDS, "clients_per_round": PER_ROUND, "eval_clients": 10}
    setting, come = registered_job(tmp_path, REGISTERED, THERE, network=network, **own)
    clients = Clients(tmp_path)
    comings = Comings(clients, come, ends_in=4)
    with pytest.raises(JobError, match="failed in on_step_end"):
        serve_clients(setting, tmp_path, clients, come, [comings])
    clients.end()
    drawn = comings.cohorts[4]
    clients = Clients(tmp_path)
    comings = Comings(clients, come, ends_in=0)
    result, said = serve_clients(setting, tmp_path, clients, come[::-1], [comings], resume=True)
    clients.end()

    # The round that was cut off is of those that it was of; nobody was expelled, or lost its state.
    run = result.output_dir
    lines = read_lines(run / COHORTS)
    assert comings.cohorts[4] == drawn and "expelled" not in said
    assert not [line for line in lines if line[0] == LOST]
    counted = {round_: names for event, round_, names in lines if event == COUNTED}
    assert [len(counted[round_]) for round_ in range(1, ROUNDS + 1)] == [PER_ROUND] * ROUNDS
    assert all(line["cohort"] == counted[line["round"]] for line in figures_of(run)[1:])
    assert all(len(line["clients"]) <= PER_ROUND + 10 for line in figures_of(run))
    assert json.loads((run / "summary.json").read_text())["clients"] == REGISTERED
    # The same record gives the same bits in one process, where nothing ever broke.
    assert adapter_of(replayed(setting, tmp_path, come, run / COHORTS)) == adapter_of(run)
