"""A step with differential privacy is clipped rows, one by one, and noise that follows from the key."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console

from reference import make_setting
from splitft import Job
from splitft.client import private_steps
from splitft.client.batches import StepBatches
from splitft.client.private_steps import PrivateSteps
from splitft.data import collate
from splitft.lora.dp.ledger import PrivacyLedger
from splitft.lora.dp.noise import experiment_key, generator
from splitft.lora.optimizer import TrainedAdapter
from splitft.model.split_model import StepId
from splitft.running.prepare import Assembly, assemble

KEY, BOUND, NOISE = experiment_key(1, "anna"), 0.05, 0.5
PLACE = StepId("client-0", 1, 0, 0, train=False)


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Assembly:
    setting = make_setting(tmp_path_factory.mktemp("steps"), "llama") | {
        "method": "fed_lora", "clients": 1, "max_grad_norm": BOUND, "padding_free": "auto",
        "per_device_train_batch_size": 12, "rounds": 2, "local_steps": 2,
        "dp": {"noise_multiplier": NOISE, "noise_seed": 1},
    }  # fmt: skip
    return assemble(Job(**setting), Console(quiet=True))


@pytest.fixture(autouse=True)
def one_round(monkeypatch: pytest.MonkeyPatch) -> None:
    """Jobs that differ in keys draw different rows: here they all draw those of one round."""
    monkeypatch.setattr(private_steps, "digest_of", lambda *parts: "the round")


def gradient_of(start: Assembly, **changes: Any) -> tuple[torch.Tensor, float]:
    """Return the gradient of a step, flat, and the step's loss."""
    job = start.job.model_copy(update=changes)
    trained, data = TrainedAdapter(job), start.clients[0]
    trained.load(start.adapter)
    batches = StepBatches(job, data.name, data, start.pad_token_id, start.device)
    steps = PrivateSteps(batches, job, PrivacyLedger(data.name, KEY))
    losses = [
        steps.compute(start.split_model, trained, StepId(data.name, 1, 0, micro, train=False))
        for micro in range(job.gradient_accumulation_steps)
    ]
    found = [p.grad for p in trained.parameters()]
    assert all(own is not None for own in found)
    return torch.cat([own.flatten() for own in found if own is not None]), sum(losses)


def test_it_is_the_sum_of_rows_clipped_one_by_one_and_noise(start: Assembly) -> None:
    """Everything is worked out again: the draw, each row's gradient by plain autograd, clipping, noise."""
    found, loss = gradient_of(start)
    job, data, model = start.job, start.clients[0], start.split_model
    rate = 12 / len(data.train)
    drawn = np.flatnonzero(generator(KEY, "the round", 0, "rows").random(len(data.train)) < rate)
    assert 3 < len(drawn) < 25
    trained = TrainedAdapter(job)
    trained.load(start.adapter)
    total, losses, tokens, clipped = torch.zeros_like(found), 0.0, 0, 0
    for row in drawn:
        batch = collate(data.train, [int(row)], start.pad_token_id)
        model.bind(trained.blocks)
        inputs = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask}
        own = model.loss(0, PLACE, labels=batch.labels, loss_tokens=0, **inputs)
        gradient = torch.cat([g.flatten() for g in torch.autograd.grad(own, trained.parameters())])
        factor = min(1.0, BOUND / float(gradient.norm()))
        clipped += factor < 1
        total += gradient * factor
        count = int((batch.labels[:, 1:] >= 0).sum())
        losses, tokens = losses + own.item() * count, tokens + count
    assert clipped > len(drawn) / 2, "the bound clips nothing: nothing is shown"
    noise = generator(KEY, "the round", 0, "noise")
    drawn_noise = [
        noise.standard_normal(tuple(p.shape), dtype=np.float32).ravel() for p in trained.parameters()
    ]
    wanted = (total + NOISE * BOUND * torch.from_numpy(np.concatenate(drawn_noise))) / 12
    assert torch.allclose(found, wanted, rtol=1e-4, atol=1e-6 * float(wanted.abs().max()))
    assert loss == pytest.approx(losses / tokens, rel=1e-5)


@pytest.mark.parametrize(("size", "times"), [(6, 2), (2, 6), (1, 12), (4, 3)])
def test_a_batch_is_the_same_in_any_parts(start: Assembly, size: int, times: int) -> None:
    whole, loss = gradient_of(start)
    parts, same = gradient_of(start, per_device_train_batch_size=size, gradient_accumulation_steps=times)
    assert torch.allclose(parts, whole, rtol=1e-4, atol=1e-6 * float(whole.abs().max()))
    assert same == pytest.approx(loss, rel=1e-5)


def test_a_step_that_draws_no_row_is_noise(start: Assembly, monkeypatch: pytest.MonkeyPatch) -> None:
    original = private_steps.generator

    class NoRows:
        def random(self, count: int) -> Any:
            return np.ones(count)

    def rigged(key: str, *names: str | int) -> Any:
        return NoRows() if names[-1] == "rows" else original(key, *names)

    monkeypatch.setattr(private_steps, "generator", rigged)
    found, loss = gradient_of(start)
    assert loss == 0 and float(found.std()) == pytest.approx(NOISE * BOUND / 12, rel=0.05)


def test_a_micro_batch_states_the_same_whatever_it_holds(start: Assembly) -> None:
    data = start.clients[0]
    batches = StepBatches(start.job, data.name, data, start.pad_token_id, start.device)
    steps = PrivateSteps(batches, start.job, PrivacyLedger(data.name, KEY))
    assert steps.lengths == (1,) * 12
