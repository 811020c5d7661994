"""Clipping bounds what a row adds; noise follows from a key; a ledger counts what is new."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from splitft import Job
from splitft.errors import JobError, PolicyError
from splitft.lora.dp.clipping import add_noise, clipped_sum, row_norms
from splitft.lora.dp.ledger import PrivacyLedger
from splitft.lora.dp.noise import digest_of, experiment_key, generator, is_key, new_key
from splitft.lora.dp.plan import PrivacyPlan, Spent, plan_of

PLAN = PrivacyPlan(rows=100, step_rows=10, delta=1e-3, noise_multiplier=1.0, steps=4)


def gradients(rows: int = 5, seed: int = 0) -> list[torch.Tensor]:
    random = torch.Generator().manual_seed(seed)
    return [torch.randn(rows, *shape, generator=random) * 3 for shape in ((4, 6), (7,), (2, 3, 2))]


def flat(tensors: list[torch.Tensor]) -> torch.Tensor:
    return torch.cat([tensor.flatten() for tensor in tensors])


def test_each_row_is_clipped_by_its_whole_gradient() -> None:
    found = gradients()
    wholes = [flat([own[row] for own in found]).double() for row in range(5)]
    assert torch.allclose(row_norms(found), torch.stack([whole.norm() for whole in wholes]), rtol=1e-6)
    bound = float(row_norms(found).median())
    wanted = sum(whole * min(1.0, bound / float(whole.norm())) for whole in wholes)
    assert isinstance(wanted, torch.Tensor)
    assert torch.allclose(flat(clipped_sum(found, bound)).double(), wanted, rtol=1e-5, atol=1e-6)


def test_without_clipping_it_is_the_sum() -> None:
    found = gradients()
    assert torch.allclose(
        flat(clipped_sum(found, 1e9)), flat([own.sum(0) for own in found]), rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e30])
def test_one_row_moves_the_sum_by_its_bound_at_most(value: float) -> None:
    """Also where its gradient is no number: it then counts as zero."""
    found = gradients()
    without = flat(clipped_sum([own[1:] for own in found], 2.0))
    found[0][0, 1, 2] = value
    moved = flat(clipped_sum(found, 2.0)) - without
    assert float(moved.norm()) <= 2.0 * (1 + 1e-5)
    assert (value == 1e30) == bool(moved.any())


def test_noise_has_the_deviation_that_is_asked_for() -> None:
    noisy = add_noise([torch.zeros(200, 300), torch.ones(50_000)], 3.0, np.random.default_rng(0))
    assert noisy[0].std() == pytest.approx(3.0, rel=0.01) and noisy[1].std() == pytest.approx(3.0, rel=0.01)
    assert noisy[0].mean() == pytest.approx(0.0, abs=0.05) and noisy[1].mean() == pytest.approx(1.0, abs=0.06)


def test_generators_follow_from_key_and_names() -> None:
    key, other = new_key(), new_key()
    assert key != other and is_key(key) and not is_key("x" * 64) and not is_key(3)

    def draw(*names: Any) -> list[float]:
        return list(generator(*names).standard_normal(3))

    assert draw(key, "a", 1) == draw(key, "a", 1)
    assert draw(key, "a", 1) != draw(other, "a", 1)
    assert draw(key, "a", 1) != draw(key, "a", 2)
    assert experiment_key(7, "anna") != experiment_key(7, "bert") != experiment_key(8, "bert")
    assert is_key(experiment_key(7, "anna"))


def test_a_digest_sees_every_value() -> None:
    state = {"blocks": {3: {"a": torch.zeros(2)}}, "steps": [1, 2]}
    same = {"blocks": {3: {"a": torch.zeros(2)}}, "steps": (1, 2)}
    assert digest_of(1, state) == digest_of(1, same)
    for changed in (
        {"blocks": {3: {"a": torch.tensor([0.0, 1e-45])}}, "steps": [1, 2]},
        {"blocks": {3: {"a": torch.zeros(2)}}, "steps": [1, 3]},
        {"blocks": {4: {"a": torch.zeros(2)}}, "steps": [1, 2]},
    ):
        assert digest_of(1, changed) != digest_of(1, state)
    assert digest_of(2, state) != digest_of(1, state)


def test_a_ledger_counts_a_round_once_and_refuses_more_than_planned() -> None:
    kept: list[dict[str, Any]] = []
    ledger = PrivacyLedger("anna", keep=kept.append)
    for digest in ("one", "one", "two", "one"):
        ledger.open(digest, PLAN, steps=2)
    assert ledger.rounds == 2 and [entry["trained"] for entry in kept] == [["one"], ["one", "two"]]
    with pytest.raises(PolicyError, match=r"anna.* used up: 4 steps"):
        ledger.open("three", PLAN, steps=2)
    ledger.open("two", PLAN, steps=2)  # again, from the same state
    assert ledger.state() == {}
    ledger.load_state({"key": new_key(), "trained": []})  # what is written down is not taken back
    assert ledger.rounds == 2


def test_a_ledger_without_a_file_is_part_of_the_state() -> None:
    ledger = PrivacyLedger("anna")
    ledger.open("one", PLAN, steps=2)
    other = PrivacyLedger("anna")
    assert other.key != ledger.key
    other.load_state(ledger.state())
    assert (other.key, other.rounds) == (ledger.key, 1)


def job(**dp: Any) -> Job:
    return Job(
        model_name_or_path="m", dataset_name="builtin:sotu", method="fed_lora", rounds=5, local_steps=4,
        per_device_train_batch_size=4, gradient_accumulation_steps=2, dp=dp,
    )  # fmt: skip


def test_a_plan_follows_from_the_job_and_the_rows() -> None:
    plan = plan_of(job(epsilon=8.0), 100)
    assert (plan.sample_rate, plan.steps, plan.delta) == (0.08, 20, 1e-3)
    assert plan.epsilon(20) <= 8.0 < plan.epsilon(21)
    assert plan_of(job(noise_multiplier=0.7, delta=1e-6), 100).noise_multiplier == 0.7
    assert plan_of(job(epsilon=8.0), 5).sample_rate == 1.0  # fewer rows than a step draws
    with pytest.raises(JobError, match="not less than 1 / 100 rows"):
        plan_of(job(epsilon=8.0, delta=0.01), 100)


def test_rounds_are_counted_for_members_alone() -> None:
    spent = Spent(job(noise_multiplier=1.0), {"anna": 4})
    spent.add(["anna", "bert"])
    found = spent.so_far({"anna": 100, "bert": 100, "cleo": 50, "nobody": 0})
    assert {name: steps for name, (steps, _) in found.items()} == {"anna": 8, "bert": 4, "cleo": 0}
    assert found["anna"][1] > found["bert"][1] > found["cleo"][1] == 0
