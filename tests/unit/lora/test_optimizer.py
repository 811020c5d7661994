"""Promises of the optimizer: transformers' schedules, and torch's AdamW and clipping bit by bit."""

from __future__ import annotations

from typing import Any, get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from transformers import TrainingArguments, get_scheduler

from splitft import Job
from splitft.job.settings import SchedulerType
from splitft.lora.blocks import Adapter, resize
from splitft.lora.optimizer import NO_GRADIENT, TrainedAdapter, global_step, learning_rates, total_norm


def job_of(**changes: Any) -> Job:
    return Job(**{"model_name_or_path": "m", "data_files": "d", "rounds": 4, "local_steps": 6, **changes})


def warmups_of(name: str) -> list[dict[str, Any]]:
    if name == "constant":
        return [{}]
    return [{}, {"warmup_steps": 5}, {"warmup_ratio": 0.3}, {"warmup_steps": 2, "warmup_ratio": 0.5}]


@pytest.mark.parametrize("name", get_args(SchedulerType))
def test_learning_rates_are_transformers_own(name: str) -> None:
    for warmup in warmups_of(name):
        job = job_of(lr_scheduler_type=name, learning_rate=3e-3, **warmup)
        rate = learning_rates(job)
        optimizer = torch.optim.AdamW([nn.Parameter(torch.zeros(1))], lr=job.learning_rate)
        steps = job.warmup_steps or TrainingArguments(warmup_steps=job.warmup_ratio).get_warmup_steps(24)
        schedule = get_scheduler(name, optimizer, steps, 24)
        used = []
        for _ in range(24):
            used.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            schedule.step()
        assert [rate(step) for step in range(24)] == [(used_, used_) for used_ in used]
        assert max(used) == pytest.approx(3e-3)
        assert rate(7)[0] == used[7]  # whatever was asked before


@given(rounds=st.integers(1, 20), steps=st.integers(1, 20))
def test_steps_are_counted_over_all_rounds(rounds: int, steps: int) -> None:
    job = job_of(rounds=rounds, local_steps=steps)
    counted = [global_step(job, r, s) for r in range(1, rounds + 1) for s in range(steps)]
    assert counted == list(range(rounds * steps))


def adapter_of(ranks: dict[int, int], seed: int = 0) -> Adapter:
    generator = torch.Generator().manual_seed(seed)
    return {
        block: {
            "q.lora_A.weight": torch.randn(rank, 7, generator=generator),
            "q.lora_B.weight": torch.randn(5, rank, generator=generator),
        }
        for block, rank in ranks.items()
    }


def gradients_for(trained: TrainedAdapter, seed: int, scale: float = 1.0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [scale * torch.randn(p.shape, generator=generator) for p in trained.parameters()]


def give(parameters: list[nn.Parameter], gradients: list[Tensor]) -> None:
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = gradient.clone()


@settings(deadline=None, max_examples=25)
@given(
    ranks=st.dictionaries(st.integers(0, 9), st.integers(1, 4), min_size=1, max_size=4),
    clip=st.sampled_from([0.0, 0.1, 1.0, 1e6]),
    decay=st.sampled_from([0.0, 0.1]),
    scale=st.sampled_from([1e-6, 1.0, 1e4]),
    betas=st.sampled_from([(0.9, 0.999), (0.0, 0.5)]),
)
def test_training_is_adamw_with_clipping_bit_by_bit(
    ranks: dict[int, int], clip: float, decay: float, scale: float, betas: tuple[float, float]
) -> None:
    job = job_of(
        max_grad_norm=clip, weight_decay=decay, adam_beta1=betas[0], adam_beta2=betas[1],
        adam_epsilon=1e-6, learning_rate=1e-2,
    )  # fmt: skip
    trained = TrainedAdapter(job)
    trained.load(adapter_of(ranks))
    parameters = [nn.Parameter(p.detach().clone()) for p in trained.parameters()]
    optimizer = torch.optim.AdamW(
        parameters, lr=1e-2, betas=betas, eps=1e-6, weight_decay=decay, fused=True
    )  # fmt: skip
    for step, rate in enumerate((1e-2, 5e-3, 2e-2)):
        gradients = gradients_for(trained, step, scale)
        give(parameters, gradients)
        give(trained.parameters(), gradients)
        norm = total_norm([trained.gradient_norms()]) if clip else None
        if clip:
            wanted = torch.nn.utils.clip_grad_norm_(parameters, clip)
            assert torch.equal(norm, wanted)
        optimizer.param_groups[0]["lr"] = rate
        optimizer.step()
        trained.step((rate, rate), norm)
        assert all(torch.equal(a, b) for a, b in zip(trained.parameters(), parameters, strict=True))
        assert all(p.grad is None for p in trained.parameters())


@given(parts=st.lists(st.lists(st.floats(0, 1e6, width=32), max_size=5), min_size=1, max_size=4))
def test_the_norm_of_all_parts_is_the_norm_of_the_whole(parts: list[list[float]]) -> None:
    whole = [x for part in parts for x in part]
    if whole:
        norms = [None, *(torch.tensor(part) for part in parts)]
        assert torch.equal(total_norm(norms), torch.linalg.vector_norm(torch.tensor(whole)))


def stepped(trained: TrainedAdapter, seed: int) -> TrainedAdapter:
    give(trained.parameters(), gradients_for(trained, seed))
    trained.step((1e-2, 1e-2), None)
    return trained


def moments(trained: TrainedAdapter, block: int) -> list[Tensor]:
    state = trained.moments(block)
    return list(state.exp_avg.values()) if state else []


def test_moments_stay_with_their_block_when_values_are_replaced() -> None:
    trained = TrainedAdapter(job_of())
    trained.load(adapter_of({0: 2, 1: 2, 2: 2}))
    stepped(trained, 0)
    before = {block: [m.clone() for m in moments(trained, block)] for block in range(3)}
    parameters = trained.parameters()
    fresh = adapter_of({0: 2, 2: 3}, seed=5)
    given_up = trained.load(fresh)
    assert all(torch.equal(x, y) for x, y in zip(moments(trained, 0), before[0], strict=True))
    assert given_up.keys() == {1}  # a block that is gone gives up its state, for whoever holds it next
    assert all(torch.equal(x, y) for x, y in zip(given_up[1].exp_avg.values(), before[1], strict=True))
    a, b = moments(trained, 2)  # a higher rank: what was there stays
    assert torch.equal(a[:2], before[2][0])
    assert torch.equal(b[:, :2], before[2][1])
    assert all(a is b for a, b in zip(trained.parameters()[:2], parameters[:2], strict=True))
    assert all(
        torch.equal(trained.blocks[block][name], tensor)
        for block, tensors in fresh.items()
        for name, tensor in tensors.items()
    )
    stepped(trained, 1)
    assert all(len(moments(trained, block)) == 2 for block in (0, 2))


def test_the_callers_values_are_neither_trained_nor_aliased() -> None:
    given_ = adapter_of({0: 2})
    kept = {name: tensor.clone() for name, tensor in given_[0].items()}
    trained = TrainedAdapter(job_of())
    trained.load(given_)
    stepped(trained, 0)
    assert all(torch.equal(given_[0][name], kept[name]) for name in kept)
    values = trained.values()
    stepped(trained, 1)
    assert all(not torch.equal(values[0][name], trained.blocks[0][name]) for name in kept)
    assert all(not tensor.requires_grad for tensor in values[0].values())


def test_norms_come_in_the_models_order_and_none_counts_where_nothing_flowed() -> None:
    trained = TrainedAdapter(job_of())
    trained.load(adapter_of({3: 1, 1: 2}))
    assert list(trained.blocks) == [1, 3]
    norms = trained.gradient_norms()
    assert (norms.tolist(), norms.dtype) == ([NO_GRADIENT] * 4, torch.float32)
    assert total_norm([norms, None]) == 0
    gradients = gradients_for(trained, 0)
    give(trained.parameters(), gradients)
    trained.blocks[3]["q.lora_B.weight"].grad = None
    wanted = [g.norm() for g in gradients[:3]] + [torch.tensor(NO_GRADIENT)]
    assert torch.equal(trained.gradient_norms(), torch.stack(wanted))
    assert torch.equal(trained.gradient_norms([3]), torch.stack(wanted[2:]))
    assert trained.gradient_norms([]).shape == (0,)
    assert total_norm([trained.gradient_norms()]) == torch.linalg.vector_norm(torch.stack(wanted[:3]))


def test_a_wider_block_trains_on_from_the_same_function() -> None:
    trained = TrainedAdapter(job_of())
    trained.load(adapter_of({0: 2}))
    stepped(trained, 0)
    own = trained.values()[0]
    trained.load({0: resize(own, 4)})
    wide = trained.values()[0]
    names = ("q.lora_B.weight", "q.lora_A.weight")
    assert wide[names[1]].shape == (4, 7)
    assert torch.allclose(wide[names[0]] @ wide[names[1]], own[names[0]] @ own[names[1]], atol=1e-6)
