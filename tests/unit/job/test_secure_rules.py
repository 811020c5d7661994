"""Promises of the rules of secure aggregation: what contradicts it is told when the job is read."""

from __future__ import annotations

from pathlib import Path

import pytest
from job_files import BASE, only_problem, write

from splitft.errors import PolicyError
from splitft.job import Job, load_job
from splitft.job.site_policy import SitePolicy, check_policy

SUM = "method: fed_lora\nsecure_aggregation: true\nrobust_aggregation: none\n"
BROKEN = [
    ("secure_aggregation: true\nrobust_aggregation: none", "secure_aggregation"),
    ("method: same_split\nsecure_aggregation: true\nrobust_aggregation: none", "secure_aggregation"),
    ("method: fed_lora\nsecure_aggregation: true", "robust_aggregation"),
    (SUM.replace("none", "median"), "robust_aggregation"),
    (SUM + "aggregation: exact", "aggregation"),
    (SUM + "aggregation: one_of_my_own", "aggregation"),
    (SUM + "clients: 2", "clients"),
    (SUM + "clients_per_round: 2", "clients_per_round"),
    (SUM + "network: {min_clients: 2}", "network.min_clients"),
    (SUM + "clients: 8\nsecure_aggregation_threshold: 4", "secure_aggregation_threshold"),
    (SUM + "clients: 4\nsecure_aggregation_threshold: 5", "clients"),
    (SUM + "clients: 6\nsecure_aggregation_threshold: 5\nnetwork: {min_clients: 4}", "network.min_clients"),
    ("secure_aggregation_threshold: 3", "secure_aggregation_threshold"),
]
KEPT = [
    SUM,
    SUM + "clients: 3\nclients_per_round: 3\nnetwork: {min_clients: 3}",
    SUM + "aggregation: freeze_a\nserver_optimizer: fedadam",
    SUM + "clients: 5\nsecure_aggregation_threshold: 3",
    SUM.replace("fed_lora", "registered_later"),
]


@pytest.mark.parametrize(("text", "key"), BROKEN)
def test_a_contradiction_is_told_at_its_key(tmp_path: Path, text: str, key: str) -> None:
    assert only_problem(tmp_path, BASE + text).startswith(f"{key}: ")


@pytest.mark.parametrize("text", KEPT)
def test_the_edge_of_a_rule_is_allowed(tmp_path: Path, text: str) -> None:
    load_job(write(tmp_path, BASE + text))


def test_a_site_asks_for_sums() -> None:
    policy = SitePolicy(min_clients_in_sum=4)
    job = Job(model_name_or_path="m", dataset_name="d", method="fed_lora", robust_aggregation="none")
    with pytest.raises(PolicyError, match="secure_aggregation false, min_clients_in_sum 4"):
        check_policy(policy, job, None, "127.0.0.1:1", job_data=False)
    summed = Job(**{**job.model_dump(exclude_unset=True), "secure_aggregation": True})
    check_policy(policy, summed, None, "127.0.0.1:1", job_data=False)
