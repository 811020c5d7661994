"""Reach: no honest client is ever beyond it, whatever its gradients; what is twice as far is."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cases import rest_slow
from network_threads import QUIET
from reference import make_setting
from splitft import Job, run
from splitft.engines.local import LocalCohort
from splitft.lora.blocks import Adapter
from splitft.lora.moments import mean_moments, resize_moments
from splitft.lora.optimizer import TrainedAdapter, global_step, learning_rates, total_norm
from splitft.lora.reach import Reach, moments_beyond, reach_of_rounds, squares_beyond, step_bound

OPTIMIZERS: list[dict[str, Any]] = [
    {},
    {"adam_beta1": 0.0, "adam_beta2": 0.5},
    {"adam_beta1": 0.95, "adam_beta2": 0.9},  # |m| / √v has no bound but that of the number of steps
    {"loraplus_lr_ratio": 16.0},
    {"weight_decay": 0.3},
    {"objective": "fedprox", "proximal_mu": 1.0},
    {"aggregation": "freeze_a"},
    {"optim": "sgd", "max_grad_norm": 0.5},
    {"optim": "sgd", "optim_args": "momentum=0.9,nesterov=true", "weight_decay": 0.1},
    {"optim": "adagrad", "weight_decay": 0.1},
    {"optim": "rmsprop", "optim_args": "momentum=0.5"},
    {"optim": "adafactor", "weight_decay": 0.1},
]
UNBOUNDED: list[dict[str, Any]] = [
    {"optim": "sgd", "max_grad_norm": 0.0},
    {"optim": "rmsprop", "optim_args": "centered=true"},
    {"optim": "adafactor", "optim_args": "beta1=0.9"},
]
# How large a step's gradients are: steady, then suddenly large, growing, fading, a single spike, all zero.
SIZES: dict[str, Any] = {
    "steady": lambda step: 1.0,
    "sudden": lambda step: 1e-6 if step < 30 else 1e6,
    "growing": lambda step: 1.3**step,
    "fading": lambda step: 0.5**step,
    "one spike": lambda step: 1e5 if step == 12 else 1e-3,
    "none": lambda step: 0.0,
}


def job_of(**changes: Any) -> Job:
    return Job(**{"model_name_or_path": "m", "data_files": "d", "learning_rate": 1e-2, **changes})


def adapter_of(rank: int, seed: int = 0) -> Adapter:
    generator = torch.Generator().manual_seed(seed)
    a, b = torch.randn(rank, 7, generator=generator), torch.randn(5, rank, generator=generator)
    return {0: {"q.lora_A.weight": a, "q.lora_B.weight": b}}


def train(trained: TrainedAdapter, job: Job, round_: int, size: Any, same_way: bool, seed: int) -> None:
    """Take a round's steps with gradients of these sizes, all in one direction or in random ones."""
    generator = torch.Generator().manual_seed(seed)
    rates = learning_rates(job)
    for step in range(job.local_steps):
        number = global_step(job, round_, step)
        for p in trained.parameters():
            p.grad = size(number) * (
                torch.ones_like(p) if same_way else torch.randn(p.shape, generator=generator)
            )
        trained.add_penalty()
        norm = total_norm([trained.gradient_norms()]) if job.max_grad_norm else None
        trained.step(rates(number), norm)


@settings(max_examples=60, deadline=None)
@given(
    changes=st.sampled_from(OPTIMIZERS),
    local_steps=st.sampled_from([1, 3, 40]),
    size=st.sampled_from(list(SIZES)),
    schedule=st.sampled_from(["linear", "constant", "cosine"]),
    same_way=st.booleans(),
    seed=st.integers(0, 99),
)
def test_no_steps_go_beyond_it(
    changes: dict[str, Any], local_steps: int, size: str, schedule: str, same_way: bool, seed: int
) -> None:
    """Over rounds: AdamW's moments grow old, go to another rank, and are averaged with another client's."""
    warmup = {} if schedule == "constant" else {"warmup_steps": 1}
    job = job_of(rounds=4, local_steps=local_steps, lr_scheduler_type=schedule, **warmup, **changes)
    reach_of, trained, other = reach_of_rounds(job), TrainedAdapter(job), TrainedAdapter(job)
    for round_ in range(1, job.rounds + 1):
        rank = 3 if round_ == 3 else 4
        start = adapter_of(rank, seed + round_)
        known = [(own, own.moments(0)) for own in (trained, other) if own.blocks]
        moments = [m for _, m in known if m is not None]
        for own in (trained, other):
            kept = {0: resize_moments(mean_moments(moments), rank)} if moments and round_ == 4 else {}
            own.load(start, moments=kept)
        train(trained, job, round_, SIZES[size], same_way, seed)
        train(other, job, round_, SIZES["steady"], False, seed + 1)
        reach = reach_of(round_)
        assert reach is not None
        assert reach.beyond(start, trained.values()) == ""
        if (state := trained.moments(0)) is not None:
            each = zip(state.exp_avg.values(), state.exp_avg_sq.values(), strict=True)
            assert not any(moments_beyond(job, mean, square, rank) for mean, square in each)
            assert not squares_beyond(job, state.exp_avg_sq.values())


@pytest.mark.parametrize("changes", OPTIMIZERS)
def test_an_update_that_is_well_beyond_is_named(changes: dict[str, Any]) -> None:
    job = job_of(rounds=2, local_steps=5, lr_scheduler_type="constant", **changes)
    reach = reach_of_rounds(job)(1)
    assert reach is not None
    start = {0: {name: torch.zeros_like(t) for name, t in adapter_of(4)[0].items()}}
    most = max(reach.sizes)
    far = {0: {name: torch.full_like(t, 1.01 * most) for name, t in start[0].items()}}
    if not math.isfinite(most):
        return
    assert "times as far" in reach.beyond(start, far)
    near = {0: {name: torch.full_like(t, 0.99 * min(reach.sizes) / 8) for name, t in start[0].items()}}
    assert reach.beyond(start, near) == ""
    assert most < 1e3 * 5 * job.learning_rate  # it bounds something


@pytest.mark.parametrize("changes", UNBOUNDED)
def test_optimizers_without_a_bound_have_none(changes: dict[str, Any]) -> None:
    job = job_of(rounds=1, local_steps=1, **changes)
    assert step_bound(job) is None and reach_of_rounds(job)(1) is None


def test_with_a_learning_rate_of_zero_nothing_moves() -> None:
    reach = reach_of_rounds(job_of(rounds=2, local_steps=1, warmup_steps=1))(1)
    assert reach is not None
    start = adapter_of(4)
    assert reach.beyond(start, start) == ""
    moved = {0: {name: tensor + 1e-3 for name, tensor in start[0].items()}}
    assert reach.beyond(start, moved)


def test_moments_that_no_steps_make_are_told() -> None:
    job = job_of()
    assert moments_beyond(job, torch.tensor([1e-3]), torch.tensor([0.0]), 4)
    assert not moments_beyond(job, torch.tensor([1e-20]), torch.tensor([0.0]), 4)  # squares underflow
    assert squares_beyond(job, [torch.full((4,), 1.1)]) and not squares_beyond(job, [torch.full((4,), 0.9)])
    assert not squares_beyond(job_of(max_grad_norm=0.0), [torch.full((4,), 1e9)])


IN_RUNS: dict[str, dict[str, Any]] = {
    "AdamW": {},
    "moving cuts of two ranks": {
        "lora_r_cut": 2, "cut_policy": {"method": "schedule", "schedule": {"2": [1, 3], "3": [3, 1]}},
    },
    "SGD": {"optim": "sgd", "optim_args": "momentum=0.9", "learning_rate": 0.5},
    "RMSprop": {"optim": "rmsprop"},
    "Adagrad": {"optim": "adagrad"},
    "Adafactor": {"optim": "adafactor"},
    "LoRA+ and FedProx": {"loraplus_lr_ratio": 8.0, "objective": "fedprox", "proximal_mu": 0.1},
    "labels at home": {"labels": "client", "server_adapter": "shared"},
    "staleness": {"max_staleness": 1},
    "server momentum": {"server_optimizer": "fedavgm"},
    "absurd rate": {"learning_rate": 0.5, "max_grad_norm": 0.0},
}  # fmt: skip


@pytest.mark.parametrize("form", rest_slow(IN_RUNS, ["moving cuts of two ranks", "SGD"]))
def test_no_client_of_a_real_run_is_beyond_it(
    form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = Job(**make_setting(tmp_path, "llama") | {
        "clients": 2, "rounds": 4, "local_steps": 6, "output_dir": str(tmp_path / "run"),
    } | IN_RUNS[form])  # fmt: skip
    reach_of, seen = reach_of_rounds(job), []
    receive, finish = LocalCohort.receive, LocalCohort.finish
    handed: dict[str, Any] = {}

    def received(self: LocalCohort, adapters: Any) -> Any:
        back = receive(self, adapters)
        for name in adapters:
            client: Any = self.clients[name]
            handed[name] = client.trained.values()
        return back

    def finished(self: LocalCohort, members: Any, round_: int) -> Any:
        updates = finish(self, members, round_)
        for name in updates:
            client: Any = self.clients[name]
            reach = reach_of(round_)
            assert isinstance(reach, Reach)
            seen.append(reach.beyond(handed[name], client.trained.values()))
        return updates

    monkeypatch.setattr(LocalCohort, "receive", received)
    monkeypatch.setattr(LocalCohort, "finish", finished)
    run(job, console=QUIET)
    assert len(seen) == 8 and not any(seen)
