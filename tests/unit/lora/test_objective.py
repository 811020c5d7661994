"""The gradient of a client's penalty, and penalties of a user's own that break their contract."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from splitft import Job, JobError, register_objective
from splitft.lora.optimizer import TrainedAdapter

A, B = "q.lora_A.weight", "q.lora_B.weight"
START = {A: torch.tensor([[1.0, 2.0]]), B: torch.tensor([[0.5], [0.25]])}


def trained(objective: str, mu: float | None = None) -> TrainedAdapter:
    job = Job(model_name_or_path="m", dataset_name="d", lora_r=1, objective=objective, proximal_mu=mu)
    adapter = TrainedAdapter(job)
    adapter.load({0: START})
    with torch.no_grad():
        adapter.blocks[0][A].add_(torch.tensor([[0.5, -1.0]]))
    return adapter


def test_fedprox_adds_mu_times_the_distance_from_the_start_of_the_round() -> None:
    adapter = trained("fedprox", 0.25)
    adapter.blocks[0][A].grad = torch.tensor([[1.0, 1.0]])
    adapter.add_penalty()
    assert adapter.blocks[0][A].grad.tolist() == [[1.0 + 0.25 * 0.5, 1.0 - 0.25 * 1.0]]
    assert adapter.blocks[0][B].grad.tolist() == [[0.0], [0.0]]
    adapter.load(adapter.values())  # the next round starts here
    adapter.blocks[0][A].grad = None
    adapter.add_penalty()
    assert not adapter.blocks[0][A].grad.any()


@pytest.mark.parametrize(("objective", "mu"), [("plain", 0.5), ("fedprox", 0.0)])
def test_without_a_penalty_no_gradient_is_touched(objective: str, mu: float) -> None:
    adapter = trained(objective, mu)
    adapter.add_penalty()
    assert adapter.blocks[0][A].grad is None


def test_one_of_ones_own_is_weighed_by_one() -> None:
    register_objective("sum-of-a", lambda values, start: 3 * values[A].sum())
    adapter = trained("sum-of-a")
    adapter.add_penalty()
    assert adapter.blocks[0][A].grad.tolist() == [[3.0, 3.0]]
    assert adapter.blocks[0][B].grad is None


WRONG: dict[str, tuple[Callable[..., Any], str]] = {
    "a number": (lambda v, s: 1.0, "must return a scalar tensor, it returned float"),
    "a matrix": (lambda v, s: v[A] - s[A], r"a scalar tensor, it returned torch.float32 \(1, 2\)"),
    "of the start alone": (lambda v, s: s[A].sum(), "a scalar that depends on the values"),
    "of something else": (
        lambda v, s: torch.ones((), requires_grad=True) * 2,
        "a scalar that depends on the values",
    ),
    "not finite": (lambda v, s: v[A].sum() / 0, "a finite value"),
    "without a gradient at the start": (lambda v, s: (v[B] - s[B]).norm() / (v[B] - s[B]).norm(), "finite"),
    "an error": (lambda v, s: v["x"].sum(), "failed: KeyError: 'x'"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_one_is_refused_by_name(case: str) -> None:
    function, problem = WRONG[case]
    register_objective("own", function)
    with pytest.raises(JobError, match=f"^objective own:? .*{problem}"):
        trained("own").add_penalty()


def test_fedprox_needs_its_weight_and_a_handed_out_adapter() -> None:
    with pytest.raises(JobError, match=r"objective fedprox needs it, e.g. 0.01"):
        trained("fedprox")
    with pytest.raises(JobError, match="method local_only has none"):
        Job(
            model_name_or_path="m",
            dataset_name="d",
            objective="fedprox",
            proximal_mu=1.0,
            method="local_only",
        )
