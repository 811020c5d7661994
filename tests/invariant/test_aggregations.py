"""aggregation: exact and freeze_a, against references on whole models."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
import torch
from runs import (
    THREE_CLIENTS,
    Settings,
    Tensors,
    assert_same_bits,
    assert_same_losses,
    block_of,
    final_adapter,
    perplexities,
    perplexity,
    start_of,
    trained,
    tuned,
    unsplit_data,
)
from torch import Tensor
from transformers import get_scheduler

from reference import UnsplitClient, federated_lora
from splitft import Job
from splitft.data import ClientData


@pytest.fixture(scope="module")
def llama(llama: Settings) -> Settings:
    return llama | THREE_CLIENTS


@pytest.fixture(scope="module")
def gpt2(gpt2: Settings) -> Settings:
    return THREE_CLIENTS | gpt2


def product(tensors: Tensors, name_a: str) -> Tensor:
    return tensors[name_a.replace("lora_A", "lora_B")].double() @ tensors[name_a].double()


def trained_apart(job: Job) -> tuple[list[Tensors], list[int]]:
    """Each client's adapter after one round on a whole model, and the tokens that it saw."""
    clients = [UnsplitClient(job, data) for data in unsplit_data(job)]
    for client in clients:
        for _ in range(job.local_steps):
            client.local_step()
    return [client.adapter() for client in clients], [client.tokens for client in clients]


def test_exact_is_the_best_approximation_of_the_mean_product(llama: Settings, tmp_path: Path) -> None:
    settings = llama | {"rounds": 1, "local_steps": 6, "learning_rate": 0.05}
    job, result = trained(settings, tmp_path / "run", aggregation="exact")
    _, plain = trained(settings, tmp_path / "plain", aggregation="average")
    got, average = final_adapter(result), final_adapter(plain)
    adapters, tokens = trained_apart(job)
    shares = [n / sum(tokens) for n in tokens]
    for name in (name for name in got if "lora_A" in name):
        mean = sum(s * product(a, name) for a, s in zip(adapters, shares, strict=True))
        u, s, vh = torch.linalg.svd(mean)
        best = (u[:, :4] * s[:4]) @ vh[:4]
        assert s[4] > 1e-3 * s[0], "the clients agree: any mean would do"
        assert (product(got, name) - best).norm() < 1e-5 * best.norm()
        assert (product(average, name) - mean).norm() > 1.001 * s[4:].norm()


def test_exact_does_not_see_the_cuts_either(llama: Settings, tmp_path: Path) -> None:
    runs = [
        trained(llama, tmp_path / f"{cuts}", aggregation="exact", cuts=cuts)[1]
        for cuts in ([1, 3, 2], [2, 2, 2], [3, 1, 1])
    ]
    for other in runs[1:]:
        assert_same_bits(final_adapter(other), final_adapter(runs[0]))
    assert perplexities(runs[0])[-1] != perplexities(runs[0])[0]


def test_exact_of_one_client_is_that_client(llama: Settings, tmp_path: Path) -> None:
    settings = llama | {
        "clients": 1,
        "partition": {"method": "iid"},
        "cuts": 2,
        "rounds": 1,
        "local_steps": 4,
    }
    job, result = trained(settings, tmp_path / "run", aggregation="exact")
    (own,), _ = trained_apart(job)
    got = final_adapter(result)
    for name in (name for name in got if "lora_A" in name):
        assert (product(got, name) - product(own, name)).norm() < 1e-6 * product(own, name).norm()


# aggregation: freeze_a


class FrozenA(UnsplitClient):
    """Stock peft training of B alone (FFA-LoRA)."""

    def __init__(self, job: Job, data: ClientData) -> None:
        super().__init__(job, data)
        for name, parameter in self.model.named_parameters():
            parameter.requires_grad_("lora_B" in name)
        self.parameters = [p for p in self.model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(
            self.parameters, lr=job.learning_rate, weight_decay=job.weight_decay, fused=True
        )
        total = job.rounds * job.local_steps
        self.schedule = get_scheduler(job.lr_scheduler_type, self.optimizer, job.warmup_steps, total)


@pytest.mark.parametrize("cuts", [[1, 3, 2], [3, 1, 1]], ids=str)
def test_frozen_a_is_ffa_lora_on_whole_models(cuts: list[int], llama: Settings, tmp_path: Path) -> None:
    job, result = trained(llama, tmp_path / "run", aggregation="freeze_a", cuts=cuts)
    mean, losses = federated_lora(job, FrozenA)
    assert_same_losses(result, losses)
    got, start = final_adapter(result), start_of(llama)
    assert_same_bits(got, {name: mean.get(name, tensor) for name, tensor in start.items()})
    assert all(torch.equal(got[n], t) == ("lora_A" in n) for n, t in start.items())  # A stays, B does not


def test_a_new_frozen_a_is_the_initial_one_whatever_happens(llama: Settings, tmp_path: Path) -> None:
    """Also while cuts move: with r_cut = r nothing but B is ever written."""
    new = llama | {"adapter_name_or_path": None, "aggregation": "freeze_a", "warmup_steps": 0}
    moves = {"cut_policy": {"method": "schedule", "schedule": {"2": [2, 1, 3], "3": [3, 3, 1]}}}
    _, first = trained(new, tmp_path / "first", rounds=1, local_steps=1)
    _, last = trained(new, tmp_path / "last", **moves, server_adapter="shared")
    one, other = final_adapter(first), final_adapter(last)
    assert all(torch.equal(other[name], one[name]) == ("lora_A" in name) for name in one)
    assert all(tensor.any() for tensor in other.values())


def test_stock_peft_computes_what_a_frozen_run_recorded(gpt2: Settings, tmp_path: Path) -> None:
    for name, changes in {"whole": {}, "cut": {"lora_r_cut": 2, "cuts": 2}}.items():
        job, result = trained(gpt2, tmp_path / name, aggregation="freeze_a", **changes)
        assert perplexity(tuned(job, result), job) == pytest.approx(result.history[-1].perplexity, rel=1e-5)
        assert perplexities(result)[-1] != pytest.approx(perplexities(result)[0], rel=1e-4)


def test_only_b_travels_up_and_a_goes_down_once(llama: Settings, tmp_path: Path) -> None:
    _, result = trained(llama, tmp_path / "run", aggregation="freeze_a")
    _, both = trained(llama, tmp_path / "both")
    size: Counter[tuple[int, str]] = Counter()
    for name, tensor in final_adapter(result).items():
        size[block_of(name), "B" if "lora_B" in name else "A"] += 4 * tensor.numel()

    def held(matrix: str) -> int:
        return sum(size[block, matrix] for cut in llama["cuts"] for block in range(cut))

    up, down = (result.summary["bytes"][way]["adapter"] for way in ("up", "down"))
    assert up == 3 * held("B")
    assert both.summary["bytes"]["up"]["adapter"] == 3 * (held("A") + held("B"))
    # Handed out: all to be evaluated before training (also to train on in round 1), then B alone: for rounds
    # 2 and 3, and for the evaluation at the end.
    assert down == held("A") + 4 * held("B")
    assert both.summary["bytes"]["down"]["adapter"] == 4 * (held("A") + held("B"))
