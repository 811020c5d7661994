"""Promises of the optimizer: transformers' schedules, and torch's AdamW and clipping bit by bit."""

from __future__ import annotations

import json
from typing import Any, get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from transformers import TrainingArguments, get_scheduler
from transformers.optimization import Adafactor

from splitft import Job, JobError, register_optimizer
from splitft.common.state import pack, unpack
from splitft.job.settings import SchedulerType
from splitft.lora.blocks import Adapter, resize
from splitft.lora.client_optimizer import check_optimizer
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


def kept_bits(trained: TrainedAdapter) -> dict[str, Tensor]:
    return {f"{b}.{n}": t for b, block in trained.values().items() for n, t in block.items()}


OPTIMS = {
    "sgd": "momentum=0.9,nesterov=true",
    "adagrad": None,
    "rmsprop": "alpha=0.9, centered=True",
    "adafactor": "clip_threshold=2.0",
    "adamw_torch_fused": None,
}


def stock(name: str, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    """As a person writes it."""
    match name:
        case "sgd":
            return torch.optim.SGD(parameters, 0.01, momentum=0.9, nesterov=True, weight_decay=0.1)
        case "adagrad":
            return torch.optim.Adagrad(parameters, 0.01, weight_decay=0.1)
        case "rmsprop":
            return torch.optim.RMSprop(parameters, 0.01, alpha=0.9, centered=True, weight_decay=0.1)
        case "adafactor":
            return Adafactor(
                parameters, 0.01, clip_threshold=2.0, weight_decay=0.1, scale_parameter=False,
                relative_step=False,
            )  # fmt: skip
    return torch.optim.AdamW(parameters, 0.01, weight_decay=0.1, fused=True)


@pytest.mark.parametrize("name", OPTIMS)
def test_each_is_the_librarys_own_and_goes_on_from_a_checkpoint(name: str) -> None:
    job = job_of(optim=name, optim_args=OPTIMS[name], learning_rate=0.01, weight_decay=0.1, lora_r=4)
    start = adapter_of({0: 3, 2: 2})
    trained, resumed = TrainedAdapter(job), TrainedAdapter(job)
    trained.load(start)
    wanted = {f"{b}.{n}": nn.Parameter(t.clone()) for b, block in start.items() for n, t in block.items()}
    optimizer = stock(name, list(wanted.values()))
    for step in range(4):
        gradients = gradients_for(trained, step)
        give(trained.parameters(), gradients)
        give(list(wanted.values()), gradients)
        trained.step((0.01, 0.01), None)
        optimizer.step()
        if step == 1:  # through what a checkpoint holds
            values, tensors = pack(trained.state())
            resumed.load_state(unpack(json.loads(json.dumps(values)), tensors), torch.device("cpu"))
        elif step > 1:
            give(resumed.parameters(), gradients)
            resumed.step((0.01, 0.01), None)
    got = kept_bits(trained)
    assert all(torch.equal(got[n], p) for n, p in wanted.items())
    assert all(torch.equal(got[n], t) for n, t in kept_bits(resumed).items())


def test_loraplus_goes_with_any_optimizer() -> None:
    job = job_of(optim="sgd", loraplus_lr_ratio=4.0, lora_r=2)
    trained = TrainedAdapter(job)
    trained.load(adapter_of({0: 2}))
    before = trained.values()[0]
    give(trained.parameters(), [torch.ones_like(p) for p in trained.parameters()])
    trained.step((0.25, 1.0), None)
    now = trained.values()[0]
    assert torch.equal(now["q.lora_A.weight"], before["q.lora_A.weight"] - 0.25)
    assert torch.equal(now["q.lora_B.weight"], before["q.lora_B.weight"] - 1.0)


def test_state_other_than_adamws_begins_anew_where_a_block_changes_its_rank() -> None:
    trained = TrainedAdapter(job_of(optim="sgd", optim_args="momentum=0.9", lora_r=4))
    trained.load(adapter_of({0: 2, 1: 2}))
    give(trained.parameters(), gradients_for(trained, 0))
    trained.step((0.1, 0.1), None)
    assert trained.load(adapter_of({0: 3, 1: 2})) == {}
    kept = trained.state()["optimizers"]
    assert not kept[0]
    assert set(kept[1]["q.lora_A.weight"]) == {"momentum_buffer"}


class Signs(torch.optim.Optimizer):
    """Steps of one size."""

    def __init__(self, params: Any, lr: float, scale: float = 1.0) -> None:
        super().__init__(params, {"lr": lr, "scale": scale})

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for p in group["params"]:
                with torch.no_grad():
                    p.sub_(group["lr"] * group["scale"] * p.grad.sign())


def test_one_of_ones_own_takes_its_arguments() -> None:
    register_optimizer("signs", Signs)
    trained = TrainedAdapter(job_of(optim="signs", optim_args="scale=2", lora_r=2))
    trained.load({0: {"q.lora_A.weight": torch.zeros(2, 7), "q.lora_B.weight": torch.zeros(5, 2)}})
    give(trained.parameters(), [torch.full_like(p, 3.0) for p in trained.parameters()])
    trained.step((0.5, 0.5), None)
    assert all(bool((p == -1.0).all()) for p in trained.parameters())


def failing(*args: Any) -> None:
    raise KeyError("x")


WRONG_OPTIMIZERS: dict[str, tuple[Any, str | None, str]] = {
    "no optimizer": (lambda params, lr: 3, None, "optimizer own: must be a torch.optim.Optimizer, not int"),
    "other groups": (
        lambda params, lr: torch.optim.SGD([p for g in params for p in g["params"]], lr),
        None,
        "optimizer own: must keep the parameter groups",
    ),
    "an argument too many": (Signs, "size=2", "optim: own with optim_args size=2: TypeError: .*size"),
    "no pair": (Signs, "scale", "optim_args: write key=value,key=value"),
}


@pytest.mark.parametrize("case", WRONG_OPTIMIZERS)
def test_a_wrong_optimizer_is_refused_by_name(case: str) -> None:
    make, arguments, problem = WRONG_OPTIMIZERS[case]
    register_optimizer("own", make)
    with pytest.raises(JobError, match=f"^{problem}"):
        check_optimizer(job_of(optim="own", optim_args=arguments))


def test_a_step_that_fails_and_a_state_that_no_checkpoint_holds_are_refused_by_name() -> None:
    register_optimizer("own", type("Failing", (Signs,), {"step": failing}))
    trained = TrainedAdapter(job_of(optim="own", lora_r=2))
    trained.load(adapter_of({0: 2}))
    with pytest.raises(JobError, match="optimizer own: step failed: KeyError: 'x'"):
        trained.step((0.1, 0.1), None)
    next(iter(trained._optimizers.values())).state[trained.parameters()[0]] = {"odd": object()}
    with pytest.raises(JobError, match="optimizer own: its state holds object"):
        trained.state()


def test_unknown_names_and_arguments_of_adamw_are_refused() -> None:
    with pytest.raises(JobError, match=r"^optim: no optimizer is called adamw; did you mean"):
        check_optimizer(job_of(optim="adamw"))
    with pytest.raises(JobError, match=r"optim: sgd with optim_args lr=0\.1: TypeError"):
        check_optimizer(job_of(optim="sgd", optim_args="lr=0.1"))
    with pytest.raises(JobError, match="AdamW has keys of its own"):
        job_of(optim_args="betas=0.9")
