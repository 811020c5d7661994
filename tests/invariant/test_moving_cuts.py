"""I2 while cuts move: with r_cut = r no policy is seen in the result; with less nothing starts anew."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from reference import federated_lora, make_setting
from test_unsplit import assert_same_bits, assert_same_losses, final_adapter, trained

import splitft
from splitft import Job
from splitft.cuts import Observation
from splitft.job import CutPolicyConfig
from splitft.seeds import numpy_generator

DEVICES = {
    "devices": ["slowest", "slow", "fast", "fastest"],
    "server_device": "fast",  # a server as slow as a client: the makespan then depends on all cuts
    "device_profiles": {
        name: {"preset": "laptop", "flops": 1e6 * speed, "availability": 1.0}
        for name, speed in {"slowest": 1, "slow": 2, "fast": 4, "fastest": 8}.items()
    },
}


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@splitft.register_cut_policy("test_shuffle")
def shuffle(observation: Observation, config: CutPolicyConfig) -> dict[str, float]:
    """Other cuts every round, anywhere the model allows."""
    draw = numpy_generator("shuffle", observation.round)
    return {c.name: float(draw.integers(1, observation.num_blocks)) for c in observation.clients}


POLICIES: dict[str, dict[str, Any]] = {
    "schedule": {"schedule": {"1": [1, 2, 3, 4], "2": [5, 1, 4, 2], "3": 3, "4": [2, 5, 1, 5]}},
    "test_shuffle": {"max_step": 5, "hysteresis": 0.0},
    "resource": {"max_step": 1},
    "accuracy": {"gamma": 20.0, "w_min": 0.1, "w_max": 5.0, "hysteresis": 0.0, "max_step": 5},
    "splitft": {"gamma": 20.0, "w_min": 0.1, "w_max": 5.0, "hysteresis": 0.0, "max_step": 5},
    "makespan": {"min_cut": 2},
}


@pytest.fixture(scope="module")
def setting(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("moving")
    return make_setting(folder, "llama", num_hidden_layers=6) | {
        "clients": 4, "rounds": 5, "local_steps": 2, "cuts": [2, 3, 3, 4], "max_eval_samples": 12,
        "eval_every": 1, "partition": {"method": "length_dirichlet", "alpha": 0.5, "min_rows": 4},
    }  # fmt: skip


@pytest.fixture(scope="module")
def unsplit(setting: dict[str, Any]) -> Any:
    torch.set_num_threads(1)
    return federated_lora(Job(**setting))


@pytest.mark.parametrize("labels", ["server", "client"])
@pytest.mark.parametrize("method", POLICIES)
def test_no_policy_can_be_seen_in_the_result(
    method: str, labels: str, setting: dict[str, Any], unsplit: Any, tmp_path: Path
) -> None:
    adapter, losses = unsplit
    policy = {"method": method, **POLICIES[method]}
    if labels == "client":
        if method == "schedule":
            policy["schedule"] = {"1": [1, 2, 3, 4], "2": [4, 1, 4, 2], "3": 3}
        elif method != "test_shuffle":
            pytest.skip("the tail does not depend on the policy: two are enough")
    tail = {"labels": "client", "tail_blocks": 1} if labels == "client" else {}
    _, result = trained(setting, tmp_path / "run", cut_policy=policy, **DEVICES, **tail)
    seen = {tuple(record.cuts.values()) for record in result.history if record.cuts}
    assert len(seen) > 1, "the cuts never moved"
    assert_same_losses(result, losses)
    assert_same_bits(final_adapter(result), adapter)
