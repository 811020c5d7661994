"""Server optimizers and client objectives: cuts are not seen in them, and they are what they are called."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from runs import Tensors, assert_same_bits, assert_same_losses, final_adapter, result_of, trained
from transformers import AutoTokenizer

from cases import rest_slow
from reference import UnsplitClient, federated_lora, make_setting, mean_loss
from splitft.data import prepare

MOVING = {"method": "schedule", "schedule": {"1": [1, 2, 3], "2": [3, 1, 2], "3": 2}}


@pytest.fixture(scope="module")
def setting(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return make_setting(tmp_path_factory.mktemp("algorithms"), "llama") | {
        "clients": 3, "rounds": 3, "local_steps": 2, "cuts": [1, 2, 3],
        "partition": {"method": "length_dirichlet", "alpha": 0.5, "min_rows": 4},
    }  # fmt: skip


# By their definitions, over all values of an adapter.
class Momentum:
    def __init__(self) -> None:
        self.v: Tensors = {}

    def __call__(self, old: Tensors, mean: Tensors) -> Tensors:
        self.v = {n: 0.9 * self.v.get(n, 0) + (mean[n].double() - old[n].double()) for n in old}
        return {n: (old[n].double() + self.v[n]).float() for n in old}


class Adaptive:
    """Algorithm 2 of Adaptive Federated Optimization."""

    def __init__(self, yogi: bool) -> None:
        self.yogi, self.m, self.v = yogi, dict[str, Any](), dict[str, Any]()

    def __call__(self, old: Tensors, mean: Tensors) -> Tensors:
        new = {}
        for n in old:
            d = mean[n].double() - old[n].double()
            self.m[n] = 0.9 * self.m.get(n, 0.0) + 0.1 * d
            v = self.v.get(n, torch.full_like(d, 1e-6))
            squares = d * d
            self.v[n] = v - 0.01 * squares * (v - squares).sign() if self.yogi else 0.99 * v + 0.01 * squares
            new[n] = (old[n].double() + 0.01 * self.m[n] / (self.v[n].sqrt() + 1e-3)).float()
        return new


FOLLOW = {"fedavgm": Momentum, "fedadam": lambda: Adaptive(False), "fedyogi": lambda: Adaptive(True)}


@pytest.mark.parametrize("name", rest_slow(FOLLOW, 1))
def test_it_is_its_definition_and_no_cut_is_seen(name: str, setting: dict[str, Any], tmp_path: Path) -> None:
    job, moved = trained(setting, tmp_path / "moved", server_optimizer=name, cut_policy=MOVING)
    wanted, _ = federated_lora(job, follow=FOLLOW[name]())
    got = final_adapter(moved)
    for tensor_name, tensor in wanted.items():
        assert torch.allclose(got[tensor_name], tensor, rtol=1e-4, atol=2e-6), tensor_name
    whole = result_of(setting, tmp_path / "whole", server_optimizer=name, method="fed_lora")
    assert_same_bits(got, final_adapter(whole))
    plain = final_adapter(result_of(setting, tmp_path / "plain"))
    assert any(not torch.equal(got[n], plain[n]) for n in got)


def test_fedavgm_without_momentum_at_rate_one_is_fedavg(setting: dict[str, Any], tmp_path: Path) -> None:
    same = {"server_optimizer": "fedavgm", "server_momentum": 0.0, "server_learning_rate": 1.0}
    low = {"lora_r_cut": 2, "cut_policy": MOVING}
    plain = result_of(setting, tmp_path / "plain", **low)
    assert_same_bits(final_adapter(result_of(setting, tmp_path / "run", **low, **same)), final_adapter(plain))


@pytest.mark.parametrize(
    "changes",
    rest_slow(
        [
            {"cut_policy": MOVING, "gradient_accumulation_steps": 2},
            {"labels": "client", "cuts": 2},
            {"method": "fed_lora"},
            {"max_grad_norm": 0.0, "order": "turns"},
        ],
        2,
    ),
    ids=str,
)
def test_fedprox_is_that_of_whole_models_at_any_cut(
    changes: dict[str, Any], setting: dict[str, Any], tmp_path: Path
) -> None:
    settings = {**setting, "objective": "fedprox", "proximal_mu": 5.0, "max_grad_norm": 0.5}
    job, result = trained(settings, tmp_path / "run", **changes)
    reference = job.model_copy(update={"max_grad_norm": job.max_grad_norm or float("inf")})
    adapter, losses = federated_lora(reference)
    assert_same_losses(result, losses)
    assert_same_bits(final_adapter(result), adapter)
    plain, _ = federated_lora(reference.model_copy(update={"objective": "plain"}))
    assert any(not torch.equal(plain[name], adapter[name]) for name in adapter)


@pytest.mark.parametrize("cut", rest_slow([1, 3, 2], 2))
def test_one_client_with_fedprox_is_unsplit_training_with_it(
    cut: int, setting: dict[str, Any], tmp_path: Path
) -> None:
    changes = {"clients": 1, "cuts": cut, "partition": {"method": "iid"}, "rounds": 2, "local_steps": 3}
    job, result = trained({**setting, **changes}, tmp_path / "run", objective="fedprox", proximal_mu=5.0)
    (data,) = prepare(job, AutoTokenizer.from_pretrained(job.model_name_or_path)).clients
    client = UnsplitClient(job, data)
    rounds = []
    for _ in range(job.rounds):
        client.losses = []
        client.load(client.adapter())  # the round's start
        for _ in range(job.local_steps):
            client.local_step()
        rounds.append({data.name: mean_loss(client.losses)})
    assert_same_losses(result, rounds)
    assert_same_bits(final_adapter(result), client.adapter())


@pytest.mark.parametrize(
    "changes",
    [{"optim": "sgd", "cut_policy": MOVING, "learning_rate": 0.1}, {"optim": "rmsprop", "cuts": [1, 2, 3]}],
    ids=lambda changes: changes["optim"],
)
def test_another_optimizer_steps_as_on_whole_models(
    changes: dict[str, Any], setting: dict[str, Any], tmp_path: Path
) -> None:
    """One without state at cuts that move, one with state at cuts that stay."""
    job, result = trained(setting, tmp_path / "run", **changes)
    adapter, losses = federated_lora(job)
    assert_same_losses(result, losses)
    assert_same_bits(final_adapter(result), adapter)


@pytest.mark.parametrize(
    "changes",
    rest_slow(
        [
            {"server_optimizer": "fedadam", "objective": "fedprox"},
            {"server_optimizer": "fedavgm", "robust_aggregation": "median"},
            {"server_optimizer": "fedyogi", "robust_aggregation": "krum"},
            {"server_optimizer": "fedadam", "server_adapter": "shared", "objective": "fedprox"},
        ],
        2,
    ),
    ids=str,
)
def test_they_go_with_ranks_at_the_cut(
    changes: dict[str, Any], setting: dict[str, Any], tmp_path: Path
) -> None:
    low = {"lora_r_cut": 2, "cut_policy": MOVING, "proximal_mu": 0.1, "eval_every": 1}
    result = result_of(setting, tmp_path / "run", **low, **changes)
    first, last = result.history[0].perplexity, result.history[-1].perplexity
    assert first is not None and last is not None and last < first
