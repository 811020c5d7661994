"""The clients of a job over a network: their names, their number, and what is drawn among them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from network_threads import QUIET, together
from reference import make_setting, write_rows
from splitft import Job, run
from splitft.errors import JobError
from splitft.history import read_history
from splitft.running.network import client_names

NAMES = ("north", "south", "west")


@pytest.fixture
def setting(tmp_path: Path) -> dict[str, Any]:
    """Three clients with files of their own, each with a cut of its own, two of them drawn for a round."""
    data = {name: str(write_rows(tmp_path / f"{name}.txt", rows=24, seed=i)) for i, name in enumerate(NAMES)}
    return make_setting(tmp_path, "llama", num_hidden_layers=4) | {
        "data_files": data, "labels": "server", "rounds": 3, "local_steps": 1, "cuts": [1, 2, 3],
        "clients_per_round": 2, "warmup_steps": 0, "max_eval_samples": None, "eval_every": 1,
        "partition": {"method": "files"},
    }  # fmt: skip


def test_two_of_three_drawn_for_a_round_train_as_in_one_process(
    setting: dict[str, Any], tmp_path: Path
) -> None:
    alone = run(Job(**setting, output_dir=str(tmp_path / "alone")), console=QUIET)
    rounds = read_history(together(setting, tmp_path))
    assert [tuple(record["cohort"]) for record in rounds] == [record.cohort for record in alone.history]
    assert {len(record["cohort"]) for record in rounds[1:]} == {2}
    assert [record["perplexity"] for record in rounds] == [record.perplexity for record in alone.history]


def test_files_by_name_name_the_clients(setting: dict[str, Any]) -> None:
    assert client_names(Job(**setting)) == list(NAMES)
    others = ["a", "b", "c"]
    assert client_names(Job(**setting | {"clients": 3, "network": {"clients": others}})) == others


def test_names_say_how_many_clients_there_are(tmp_path: Path) -> None:
    setting = make_setting(tmp_path, "llama") | {"network": {"clients": [f"c{i}" for i in range(10)]}}
    job = Job(**setting | {"clients_per_round": 6, "cuts": [1] * 10})
    assert job.clients == len(client_names(job)) == 10
    with pytest.raises(JobError, match="clients_per_round: 11 is more than clients \\(10\\)"):
        Job(**setting | {"clients_per_round": 11})
    with pytest.raises(
        JobError, match=r"network.clients: names 10, and clients is 3: leave clients out, or set 10"
    ):
        Job(**setting | {"clients": 3})
    with pytest.raises(JobError, match="cuts: needs one entry per client: clients is 10, the list has 3"):
        Job(**setting | {"cuts": [1, 2, 3]})
