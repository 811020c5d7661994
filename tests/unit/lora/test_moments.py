"""Promises of moving optimizer state: nothing starts anew, whatever moves."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from adapters import SHAPES, block, layout
from splitft import Job
from splitft.lora.basis import basis_between, canonical_block
from splitft.lora.moments import Moments, mean_moments, pack_blocks, rebase, resize_moments, unpack_blocks
from splitft.lora.optimizer import TrainedAdapter


def moments(rank: int, seed: int, steps: int = 3) -> Moments:
    own = block(rank, seed)
    return Moments((steps,) * len(own), own, {name: t.square() for name, t in block(rank, seed + 1).items()})


def loss_gradients(own: dict[str, torch.Tensor], seed: int) -> dict[str, torch.Tensor]:
    """Gradients of a loss that sees the product B·A alone, as every model does."""
    generator = torch.Generator().manual_seed(seed)
    leaves = {name: t.double().requires_grad_() for name, t in own.items()}
    loss = sum(
        (
            (leaves[f"{n}.lora_B.weight"] @ leaves[f"{n}.lora_A.weight"])
            * torch.randn(outputs, inputs, generator=generator, dtype=torch.float64)
        ).sum()
        for n, (inputs, outputs) in SHAPES.items()
    )
    loss.backward()  # type: ignore[union-attr]
    return {name: t.grad.float() for name, t in leaves.items() if t.grad is not None}


@settings(deadline=None)
@given(seed=st.integers(0, 2**31))
def test_first_moments_follow_a_change_of_basis_as_gradients_do(seed: int) -> None:
    old = block(4, seed)
    new = canonical_block(old)
    basis = basis_between(old, new)
    before, after = loss_gradients(old, seed), loss_gradients(new, seed)
    carried = rebase(Moments((1,) * 4, before, {n: g.square() for n, g in before.items()}), basis)
    for name, gradient in after.items():
        scale = float(gradient.norm())
        assert torch.allclose(carried.exp_avg[name], gradient, atol=1e-4 * scale)
        assert (carried.exp_avg_sq[name] >= 0).all()


@settings(deadline=None)
@given(seed=st.integers(0, 2**31), rank=st.integers(1, 4), wider=st.integers(0, 4))
def test_widening_and_narrowing_back_changes_no_moment(seed: int, rank: int, wider: int) -> None:
    own = moments(rank, seed)
    back = resize_moments(resize_moments(own, rank + wider), rank)
    for name in own.exp_avg:
        assert torch.equal(back.exp_avg[name], own.exp_avg[name])
        assert torch.equal(back.exp_avg_sq[name], own.exp_avg_sq[name])
    assert back.steps == own.steps


def test_new_components_have_no_direction_and_a_step_of_ordinary_size() -> None:
    wide = resize_moments(moments(2, 0), 4)
    for name in wide.exp_avg:
        axis = 0 if ".lora_A." in name else 1
        assert not wide.exp_avg[name].narrow(axis, 2, 2).any()
        mean = wide.exp_avg_sq[name].narrow(axis, 0, 2).mean(dim=axis)
        assert torch.allclose(wide.exp_avg_sq[name].select(axis, 3), mean)


@settings(deadline=None)
@given(seed=st.integers(0, 2**31), rank=st.integers(1, 4), freeze=st.booleans())
def test_the_wire_form_is_exact(seed: int, rank: int, freeze: bool) -> None:
    own = {b: moments(rank, seed + b, steps=b + 1) for b in (1, 3)}
    if freeze:
        own = {
            b: Moments(
                m.steps[:2],
                {n: t for n, t in m.exp_avg.items() if ".lora_B." in n},
                {n: t for n, t in m.exp_avg_sq.items() if ".lora_B." in n},
            )
            for b, m in own.items()
        }
    back = unpack_blocks(*pack_blocks(own), layout(), freeze)
    assert back.keys() == own.keys()
    for b, m in own.items():
        assert back[b].steps == m.steps
        assert all(torch.equal(back[b].exp_avg[n], t) for n, t in m.exp_avg.items())
        assert all(torch.equal(back[b].exp_avg_sq[n], t) for n, t in m.exp_avg_sq.items())


@pytest.mark.parametrize("change", ["steps", "values", "block"])
def test_what_does_not_fit_is_refused(change: str) -> None:
    blocks, steps, values = pack_blocks({1: moments(2, 0)})
    if change == "steps":
        steps = (*steps, 1)
    elif change == "values":
        values = (values[0][:-1],)
    else:
        blocks = (9,)
    with pytest.raises(ValueError, match=r"optimizer state|step counts|adapter values"):
        unpack_blocks(blocks, steps, values, layout(), False)


def test_the_mean_of_moments_is_that_of_their_values_with_the_most_steps() -> None:
    one, other = moments(3, 4), moments(3, 5)
    other = Moments(tuple(steps + 2 for steps in one.steps), other.exp_avg, other.exp_avg_sq)
    mean = mean_moments([one, other])
    assert mean.steps == other.steps
    for name, values in mean.exp_avg.items():
        torch.testing.assert_close(values, (one.exp_avg[name] + other.exp_avg[name]) / 2)
    for name, values in mean.exp_avg_sq.items():
        torch.testing.assert_close(values, (one.exp_avg_sq[name] + other.exp_avg_sq[name]) / 2)


def test_a_block_that_moves_from_party_to_party_trains_on_as_if_it_had_stayed() -> None:
    """AdamW over two holders in turn equals AdamW at one: bit by bit, bias correction included."""
    job = Job(model_name_or_path="m", dataset_name="d", weight_decay=0.1, learning_rate=1e-2)

    def step(trained: TrainedAdapter, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        for parameter in trained.parameters():
            parameter.grad = torch.randn(parameter.shape, generator=generator)
        trained.step((1e-2, 1e-2), None)

    stays = TrainedAdapter(job)
    stays.load({0: block(4, 1)})
    here, there = TrainedAdapter(job), TrainedAdapter(job)
    here.load({0: block(4, 1)})
    for round_ in range(4):
        for i in range(3):
            step(stays, 10 * round_ + i)
            step(here, 10 * round_ + i)
        values = here.values()
        there.load(values, moments=here.load({}))
        here, there = there, here
    assert here.blocks.keys() == {0}
    assert all(torch.equal(a, b) for a, b in zip(stays.parameters(), here.parameters(), strict=True))
