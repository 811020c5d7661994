"""I2 while cuts move: with r_cut = r no policy is seen in the result; with less nothing starts anew."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from moving import DEVICES, UP_AND_DOWN
from runs import assert_same_bits, assert_same_losses, final_adapter, trained

import splitft
from cases import rest_slow
from reference import federated_lora, make_setting
from splitft import Job
from splitft.common.seeds import numpy_generator
from splitft.cuts import Decision, Observation, replay
from splitft.job import CutPolicyConfig
from splitft.lora.blocks import rank_of
from splitft.running.parties import Parties
from splitft.server.seam import trunk_key


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
    return federated_lora(Job(**setting))


# The tail does not depend on the policy: with labels at home two of them are enough.
@pytest.mark.parametrize(
    ("method", "labels"),
    rest_slow(
        [
            ("schedule", "client"),
            ("splitft", "server"),
            ("makespan", "server"),
            *((method, "server") for method in ("schedule", "test_shuffle", "resource", "accuracy")),
            ("test_shuffle", "client"),
        ],
        1,
    ),
)
def test_no_policy_can_be_seen_in_the_result(
    method: str, labels: str, setting: dict[str, Any], unsplit: Any, tmp_path: Path
) -> None:
    adapter, losses = unsplit
    policy = {"method": method, **POLICIES[method]}
    if labels == "client" and method == "schedule":
        policy["schedule"] = {"1": [1, 2, 3, 4], "2": [4, 1, 4, 2], "3": 3}
    tail = {"labels": "client", "tail_blocks": 1} if labels == "client" else {}
    _, result = trained(setting, tmp_path / "run", cut_policy=policy, **DEVICES, **tail)
    seen = {tuple(record.cuts.values()) for record in result.history if record.cuts}
    assert len(seen) > 1, "the cuts never moved"
    assert_same_losses(result, losses)
    assert_same_bits(final_adapter(result), adapter)


LOW_RANK = {
    "lora_r_cut": 2,
    "cut_policy": {
        "method": "schedule",
        "schedule": {"1": [1, 2, 3, 4], "2": [4, 1, 3, 2], "3": [2, 3, 3, 5]},
    },
}


@pytest.mark.parametrize(
    "changes",
    rest_slow(
        [
            {},
            {"aggregation": "exact"},
            {"labels": "client", "tail_blocks": 1, "cut_policy": UP_AND_DOWN},
            {"server_adapter": "shared"},
            {"server_adapter": "shared", "order": "turns"},
            {"aggregation": "average"},
            {"aggregation": "freeze_a"},
            {"lora_r_cut_side": "client"},
        ],
        1,
    ),
    ids=lambda changes: ",".join(f"{k}={v}" for k, v in changes.items() if k != "cut_policy") or "by_rank",
)
def test_optimizer_state_survives_every_move(
    changes: dict[str, Any], setting: dict[str, Any], watched: list[Parties], tmp_path: Path
) -> None:
    job, result = trained(setting, tmp_path / "run", **{**LOW_RANK, **changes})
    parties = watched[0]
    steps = job.rounds * job.local_steps
    blocks = range(6)
    for name, client in parties.cohort.clients.items():
        trunk = parties.server.worker.trunks[trunk_key(name, job)].trained
        held = {**trunk.blocks, **client.trained.blocks}
        assert set(held) >= set(blocks)
        for block in client.trained.blocks:
            moments = client.trained.moments(block)
            assert moments is not None
            if job.server_adapter == "per_client":
                assert set(moments.steps) == {steps}, f"{name} block {block}"
            assert rank_of(moments.exp_avg) == rank_of(client.trained.blocks[block])
        for block in trunk.blocks:
            moments = trunk.moments(block)
            assert moments is not None
            if job.server_adapter == "per_client":
                assert set(moments.steps) == {steps}, f"{name} block {block}"
    errors = [error for record in result.history for error in record.truncation_error.values()]
    assert errors
    assert all(0 <= error < 1 for error in errors)
    assert max(errors) > 0
    assert result.history[-1].perplexity != result.history[0].perplexity


def test_only_effective_ranks_travel_and_the_bases_are_small(setting: dict[str, Any], tmp_path: Path) -> None:
    """Up: what clients hold at their effective ranks. Down, besides: changes of basis, a rank² a pair."""
    _, result = trained(setting, tmp_path / "run", **LOW_RANK)
    job = Job(**setting)
    layers = result.summary["parameters"]["adapter"] // (6 * job.lora_r)  # values of a block per unit of rank
    cuts = [[1, 2, 3, 4], [4, 1, 3, 2], *[[2, 3, 3, 5]] * 3]
    # The last block of a front is at the cut; blocks before it have the full rank.
    expected = sum(4 * layers * (job.lora_r * (cut - 1) + 2) for round_cuts in cuts for cut in round_cuts)
    assert result.summary["bytes"]["up"]["adapter"] == expected
    moved = result.summary["bytes"]["up"]["optimizer"]
    assert 0 < moved < expected
    assert result.summary["bytes"]["down"]["optimizer"] > 0


def test_decisions_are_on_record_and_replay(setting: dict[str, Any], tmp_path: Path) -> None:
    policy = {"method": "splitft", "gamma": 2.0}
    _, result = trained(setting, tmp_path / "run", cut_policy=policy, **DEVICES)
    lines = (tmp_path / "run" / "decisions.jsonl").read_text(encoding="utf-8").splitlines()
    decisions = [Decision.from_json(line) for line in lines]
    assert [decision.round for decision in decisions] == [1, 2, 3, 4, 5]
    for decision, record in zip(decisions, result.history[1:], strict=True):
        assert decision.cuts == record.cuts
        assert replay(decision) == decision
        assert decision.reasons.keys() == decision.cuts.keys()
    accuracies = {client.name: client.accuracy for client in decisions[1].observation.clients}
    assert accuracies == {name: record.accuracy for name, record in result.history[1].clients.items()}


def test_decisions_wait_for_adapt_every(setting: dict[str, Any], tmp_path: Path) -> None:
    policy = {"method": "test_shuffle", "adapt_every": 2, "max_step": 5, "hysteresis": 0.0}
    _, result = trained(setting, tmp_path / "run", cut_policy=policy)
    cuts = [tuple((record.cuts or {}).values()) for record in result.history]
    assert cuts[1] == cuts[2] != cuts[3] == cuts[4]
