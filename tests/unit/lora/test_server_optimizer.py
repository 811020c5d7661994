"""Server optimizers against figures worked out by hand, and what becomes of their state."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from adapters import block, equal, layout
from splitft import Job, JobError, register_server_optimizer
from splitft.lora.basis import basis_between, canonical_block
from splitft.lora.blocks import BlockAdapter, rank_of, resize
from splitft.lora.means import average
from splitft.lora.server_optimizer import (
    FedAvgM,
    make_server_optimizer,
    rebase_state,
    resize_state,
)
from splitft.server.global_adapter import GlobalAdapter

A = "attn.q.lora_A.weight"  # of adapters.block


def job(name: str, **changes: Any) -> Job:
    return Job(model_name_or_path="m", dataset_name="d", server_optimizer=name, **changes)


# One tensor, x = (1, 2); two clients of weights 3 and 1.
# Round 1: (1.4, 2.0) and (1.0, 1.6): the average is (1.3, 1.9), the update d = (0.3, -0.1).
# Round 2: x + (0.2, 0.0) and x + (-0.2, 0.4): the update is d = (0.1, 0.1).
BY_HAND = {
    # learning rate 0.5, momentum 0.9
    # v = (0.3, -0.1), then (0.27 + 0.1, -0.09 + 0.1) = (0.37, 0.01)
    "fedavgm": ([1.15, 1.95], [1.335, 1.955]),
    # learning rate 0.1, betas 0.9 and 0.99, tau 0.2, so v starts at 0.04
    # m = (0.03, -0.01), then (0.027 + 0.01, -0.009 + 0.01) = (0.037, 0.001)
    # v = (0.0396 + 0.0009, 0.0396 + 0.0001) = (0.0405, 0.0397),
    #     then (0.040095 + 0.0001, 0.039303 + 0.0001) = (0.040195, 0.039403)
    # x + 0.1 m / (sqrt(v) + 0.2): x + (0.003 / 0.40124612, -0.001 / 0.39924859),
    #     then x + (0.0037 / 0.40048691, 0.0001 / 0.39850189)
    "fedadam": ([1.0074767078, 1.9974952948], [1.0167154618, 1.9977462347]),
    # v = (0.04 + 0.0009, 0.04 - 0.0001), as 0.3² > 0.04 > 0.1²; then (0.0409 - 0.0001, 0.0399 - 0.0001)
    # x + (0.003 / 0.40223748, -0.001 / 0.39974984), then x + (0.0037 / 0.4019901, 0.0001 / 0.39949937)
    "fedyogi": ([1.0074582805, 1.9974984355], [1.0166624873, 1.9977487488]),
}
KEYS = {
    "fedavgm": {"server_learning_rate": 0.5, "server_momentum": 0.9},
    "fedadam": {"server_learning_rate": 0.1, "server_tau": 0.2},
    "fedyogi": {"server_learning_rate": 0.1, "server_tau": 0.2},
}


@pytest.mark.parametrize("name", BY_HAND)
def test_two_rounds_of_two_clients_by_hand(name: str) -> None:
    b = torch.ones(2, 1)
    start = {0: {A: torch.tensor([[1.0, 2.0]]), "attn.q.lora_B.weight": b}}
    adapter = GlobalAdapter(start, layout_of(start[0]), job(name, **KEYS[name]), seed=0)
    for wanted, (first, second) in zip(
        BY_HAND[name], (([0.4, 0.0], [0.0, -0.4]), ([0.2, 0.0], [-0.2, 0.4])), strict=True
    ):
        old = adapter.adapter[0]
        clients = [{**old, A: old[A] + torch.tensor([moved])} for moved in (first, second)]
        adapter.adopt({0: average(clients, [3, 1])})
        assert torch.allclose(adapter.adapter[0][A], torch.tensor([wanted]), rtol=0, atol=2e-7)
        assert torch.equal(adapter.adapter[0]["attn.q.lora_B.weight"], b)  # nobody changed it


def layout_of(adapter: BlockAdapter) -> Any:
    from splitft.lora.blocks import TensorSpec

    return {0: tuple(TensorSpec(name, tuple(t.shape)) for name, t in adapter.items())}


@given(st.integers(0, 99), st.integers(1, 4), st.sampled_from([1e-12, 1.0, 1e12]))
@settings(max_examples=30, deadline=None)
def test_without_momentum_and_at_rate_one_fedavgm_is_fedavg_bit_by_bit(
    seed: int, rank: int, scale: float
) -> None:
    old, state = block(rank, seed), {}
    for round_ in range(3):
        mean = {name: scale * tensor for name, tensor in block(rank, seed + 1 + round_).items()}
        old, state = FedAvgM(1.0, 0.0).step(old, mean, state)
        assert equal(old, mean)


@given(st.integers(0, 99))
@settings(max_examples=20, deadline=None)
def test_momentum_moves_the_product_the_same_way_through_a_change_of_basis(seed: int) -> None:
    old, mean = block(3, seed), block(3, seed + 1)
    _, state = FedAvgM(1.0, 0.9).step(old, mean, {})
    new = canonical_block(old)
    moved = rebase_state(state, basis_between(old, new), ())
    for a in (name for name in old if ".lora_A." in name):
        b = a.replace("lora_A", "lora_B")

        def change(at: BlockAdapter, v: BlockAdapter, a: str = a, b: str = b) -> torch.Tensor:
            return at[b].double() @ v[a].double() + v[b].double() @ at[a].double()

        wanted = change(old, state["v"])
        assert torch.allclose(change(new, moved["v"]), wanted, atol=1e-4 * float(wanted.abs().max()))


def test_new_components_start_without_momentum_and_with_squares_of_ordinary_size() -> None:
    optimizer = make_server_optimizer(job("fedadam"))
    assert optimizer is not None
    _, state = optimizer.step(block(2, 0), block(2, 1), {})
    wider = resize_state(state, 4, optimizer.squares)
    assert not wider["m"][A][2:].any()
    assert torch.allclose(wider["v"][A][2], state["v"][A].mean(0))
    narrow = resize_state(wider, 2, optimizer.squares)
    assert all(equal(narrow[slot], state[slot]) for slot in state)


def test_state_goes_with_its_block_through_ranks_and_a_checkpoint() -> None:
    specs = layout()
    start = {0: block(4, 0)}
    adapter = GlobalAdapter(start, specs, job("fedyogi", lora_r=4), seed=1)
    adapter.adopt({0: block(4, 1)})
    adapter.fit({0: [2, 2]})  # to a lower rank, by a change of basis
    again = GlobalAdapter(start, specs, job("fedyogi", lora_r=4), seed=1)
    again.load_state(adapter.state())
    for one in (adapter, again):
        one.adopt({0: block(2, 2)})
        one.fit({0: [4, 2]})
        one.adopt({0: block(4, 3)})
    assert rank_of(adapter.adapter[0]) == 4
    assert equal(adapter.adapter[0], again.adapter[0])
    fresh = GlobalAdapter({0: block(4, 1)}, specs, job("fedyogi", lora_r=4), seed=1)
    fresh.adopt({0: block(4, 3)})
    assert not equal(adapter.adapter[0], fresh.adapter[0])


def test_components_that_nobody_trained_have_an_update_of_zero() -> None:
    old = block(4, 0)
    adapter = GlobalAdapter({0: old}, layout(), job("fedavgm", lora_r=4, server_momentum=0.0), seed=1)
    adapter.adopt({0: resize(block(4, 1), 2)})
    assert torch.equal(adapter.adapter[0][A][:2], block(4, 1)[A][:2])
    assert torch.equal(adapter.adapter[0][A][2:], old[A][2:])


@pytest.mark.parametrize("name", BY_HAND)
def test_a_frozen_a_stays_and_has_no_state(name: str) -> None:
    frozen = job(name, aggregation="freeze_a", lora_r=4)
    start, trained = block(4, 0), block(4, 1)
    adapter = GlobalAdapter({0: start}, layout(), frozen, seed=1)
    adapter.adopt({0: {n: start[n] if ".lora_A." in n else trained[n] for n in start}})
    for tensor_name, tensor in adapter.adapter[0].items():
        assert torch.equal(tensor, start[tensor_name]) == (".lora_A." in tensor_name)
    for slot in adapter.state()["server_optimizer"]["blocks"][0].values():
        assert not any(".lora_A." in tensor_name for tensor_name in slot)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"aggregation": "exact"}, "factors their products anew"),
        ({"method": "local_only"}, "no average of a round"),
    ],
)
def test_where_it_makes_no_sense_it_is_refused(changes: dict[str, Any], problem: str) -> None:
    with pytest.raises(JobError, match=problem):
        job("fedadam", **changes)


class Own:
    """An optimizer whose step is a function."""

    def __init__(self, step: Callable[..., Any]) -> None:
        self.squares = ()
        self.step = step


WRONG: dict[str, tuple[Callable[..., Any], str]] = {
    "no state": (lambda o, a, s: a, r"must return a pair \(new, state\) of dicts, it returned dict"),
    "a name lacks": (lambda o, a, s: ({A: a[A]}, s), "must return new with the block's names"),
    "another shape": (lambda o, a, s: (a | {A: a[A].T}, s), r"new\['attn.q.lora_A.weight'\] of shape"),
    "not finite": (lambda o, a, s: (a | {A: a[A] / 0}, s), r"new\['attn.q.lora_A.weight'\] finite"),
    "state of another shape": (lambda o, a, s: (a, {"m": a | {A: a[A][0]}}), r"state\['m'\]\["),
    "an error": (lambda o, a, s: {}["x"], "step failed: KeyError: 'x'"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_one_of_ones_own_is_refused_by_name(case: str) -> None:
    step, problem = WRONG[case]
    register_server_optimizer("own", lambda keys: Own(step))
    optimizer = make_server_optimizer(job("own"))
    assert optimizer is not None
    with pytest.raises(JobError, match=f"^server optimizer own: .*{problem}"):
        optimizer.step(block(2, 0), block(2, 1), {})


def test_one_that_cannot_be_made_or_has_no_step_is_refused() -> None:
    register_server_optimizer("own", lambda keys: 3)  # type: ignore[arg-type,return-value]
    with pytest.raises(JobError, match="server optimizer own: it cannot be made: TypeError: int has no"):
        make_server_optimizer(job("own"))
