"""Rules about registered and connected clients."""

from __future__ import annotations

from typing import Any

import pytest

from splitft import Job
from splitft.errors import JobError
from splitft.job.sections import AT_SERVER
from splitft.job.told import read_told, told_job

MODEL = {"model_name_or_path": "builtin:smollm2-135m"}
FILE = {"clients_file": "clients.txt"}
OPEN = FILE | {"sampling": "connected"}


@pytest.mark.parametrize(
    ("keys", "problem"),
    [
        ({"network": FILE | {"clients": ["a", "b"]}}, "not both"),
        ({"network": FILE, "data_files": {"a": "a.txt"}}, "data_files: names clients"),
        ({"network": FILE, "cuts": [1, 2]}, "give one value for all"),
        ({"network": FILE, "devices": ["phone", "laptop"]}, "give one value for all"),
        ({"network": FILE | {"aggregator": "host:1"}}, "does not go with network.aggregator"),
        ({"network": OPEN, "cut_policy": {"method": "makespan"}}, "moves blocks of clients"),
        ({"network": OPEN, "codec": "delta"}, "remembers the samples of a session"),
        ({"network": OPEN, "save_every": 2}, "every round has a checkpoint: set 1"),
        ({"network": OPEN, "method": "fed_lora", "dp": {"epsilon": 8}}, "does not go with dp"),
        ({"network": OPEN, "method": "fed_lora", "secure_aggregation": True, "robust_aggregation": "none"},
         "does not go with secure_aggregation"),
        ({"network": FILE | {"over_selection": 1.2}, "clients_per_round": 5}, "needs network.sampling"),
        ({"network": OPEN | {"over_selection": 1.2}}, "needs clients_per_round"),
        ({"network": OPEN | {"over_selection": 1.2}, "clients_per_round": 5, "server_adapter": "shared"},
         "needs server_adapter: per_client"),
        ({"network": OPEN | {"over_selection": 1.2}, "clients_per_round": 5, "order": "turns"},
         "needs order: parallel"),
        ({"network": OPEN | {"over_selection": 0.5}, "clients_per_round": 5}, "over_selection"),
        ({"eval_clients": 2, "cut_policy": {"method": "accuracy"}, "dataset_name": "builtin:sotu"},
         "accuracy of every client"),
    ],
)  # fmt: skip
def test_what_does_not_go_together_is_refused(keys: dict[str, Any], problem: str) -> None:
    with pytest.raises(JobError, match=problem):
        Job(**MODEL | keys)


def test_registered_clients_need_no_number_and_no_data() -> None:
    network = OPEN | {"over_selection": 1.2, "min_clients": 40}
    job = Job(**MODEL, network=network, clients_per_round=50, eval_clients=9)
    assert job.network.samples_connected and job.clients_per_round == 50


def test_clients_are_not_told_where_the_names_are() -> None:
    job = Job(**MODEL, network=OPEN | {"clients_file": "/home/anna/secret.txt"}, clients_per_round=50)
    told, optional = told_job(job.model_copy(update={"network": job.network.told, "clients": 10_000}))
    assert "secret" not in told and "network" in optional
    read, unknown = read_told(told, optional, Job)
    assert not unknown and read.network.clients_file == AT_SERVER and read.clients == 10_000
    plain = Job(**MODEL, network={"clients": ["a", "b"]})
    assert plain.network.told == plain.network


def test_files_by_client_say_how_many_there_are() -> None:
    """A job with a file for each client need not count them before it may draw some."""
    files = {f"site-{number}": f"{number}.txt" for number in range(8)}
    assert Job(**MODEL, data_files=files, clients_per_round=7).clients_per_round == 7
    with pytest.raises(JobError, match=r"9 is more than clients \(8\)"):
        Job(**MODEL, data_files=files, clients_per_round=9)
    named = {"clients": [f"site-{number}" for number in range(9)]}  # over a network a site has its own file
    assert Job(**MODEL, data_files=files, network=named, clients_per_round=9).clients == 9
