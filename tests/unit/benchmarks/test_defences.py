"""The experiment on defences of answers: it trains as a run does; its attack reads what is there alone."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from reference import make_setting, write_rows
from repository import ROOT
from splitft import Job, run
from splitft.lora.blocks import Adapter
from splitft.model.split_model import StepId
from splitft.running.export import load_adapter
from splitft.running.prepare import Assembly, assemble
from splitft.tools.audit.public import public_rows, public_text

sys.path.insert(0, str(ROOT / "benchmarks"))

from defencelib.attacks import SHARE, answer_places, attack, span
from defencelib.measures import Defence, likeness, noisy_rows, row_norms, through_bottleneck
from defencelib.training import DefendedTraining, Trained
from defences import prepared
from rich.console import Console

CUT, LEAST, ROWS = 1, 12, 12
VALID = torch.tensor([[True, True, True], [True, True, False]])


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("defences")
    made = make_setting(folder, "llama", num_hidden_layers=4, hidden_size=64)
    return made | {
        "data_files": str(write_rows(folder / "rows.txt", rows=90)), "clients": 1, "cuts": CUT,
        "rounds": 1, "local_steps": 3, "labels": "client", "warmup_steps": 0, "max_length": 32,
        "per_device_train_batch_size": 4, "lr_scheduler_type": "constant",
        "output_dir": str(folder / "run"), "cut_policy": {"method": "fixed"},
    }  # fmt: skip


@pytest.fixture(scope="module")
def start(settings: dict[str, Any]) -> Assembly:
    return prepared(Job(**settings), LEAST)


def trained_with(defence: Defence, start: Assembly) -> Trained:
    made = DefendedTraining(start, defence, CUT, torch.full((64,), 0.5)).run(1, 3)
    made.seen = made.seen[:ROWS]
    return made


def read_of(start: Assembly, trained: Trained) -> dict[str, Any]:
    public = public_rows(start.tokenizer, public_text(None))[:120]
    return attack(start, trained, public, CUT, returned=True)["places"]


def test_a_training_without_defence_is_that_of_a_run(settings: dict[str, Any]) -> None:
    result = run(settings, console=Console(quiet=True))
    start = assemble(Job(**settings), Console(quiet=True))
    training = DefendedTraining(start, Defence(), CUT, torch.ones(64))
    training.run(1, 3)
    own = training.parties[0].trained.values()
    wanted = load_adapter(Path(result.output_dir) / "adapter", start.split_model.slots, start.job)
    assert all(
        torch.equal(own[block][name], wanted[block][name]) for block in wanted for name in wanted[block]
    )


def test_answers_are_a_third_of_a_row_and_any_place_is_as_likely() -> None:
    draw = torch.Generator().manual_seed(0)
    drawn = torch.stack([answer_places(13, draw) for _ in range(3000)])
    assert set(drawn.sum(1).tolist()) == {12 // SHARE}
    assert (drawn.float().mean(0) - 1 / SHARE).abs().max() < 0.05
    assert span(6, 5).tolist() == [True, False, False, False, False, True]


def test_the_labels_of_rows_are_the_answers(start: Assembly) -> None:
    for client in start.clients:
        for ids, labels in zip(client.train.input_ids, client.train.labels, strict=True):
            chosen = labels >= 0
            assert not chosen[0] and chosen.sum() == max(1, (len(ids) - 1) // SHARE)
            assert np.array_equal(labels[chosen], ids[chosen])


def test_the_place_is_read_where_nothing_is_done(start: Assembly) -> None:
    places = read_of(start, trained_with(Defence(), start))
    assert places["averaged tail"]["auc"] >= 0.95
    assert places["averaged tail"]["exact"] >= 0.5


def test_nothing_is_read_of_noise_alone(start: Assembly) -> None:
    trained = trained_with(Defence(), start)
    draw = torch.Generator().manual_seed(1)
    for number, row in enumerate(trained.seen):
        noise = torch.randn(row.gradient.shape, generator=draw)
        trained.seen[number] = replace(row, gradient=noise, noise=1.0)
    for own in read_of(start, trained).values():
        assert own["low"] <= 0.5 + 0.1 and own["high"] >= 0.5 - 0.1, own


def test_more_noise_is_never_read_better(start: Assembly) -> None:
    found = [
        read_of(start, trained_with(Defence(noise=noise), start))["averaged tail"]["auc"]
        for noise in (0.0, 0.3, 30.0)
    ]
    assert found[0] >= found[1] - 0.05 and found[1] >= found[2] - 0.05 and found[0] > found[2] + 0.2, found


def test_rows_are_clipped_to_the_bound_and_padding_gets_no_noise() -> None:
    gradient = torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(0)) * VALID[..., None]
    sent, factors = noisy_rows(gradient, VALID, 0.5, 0.0, torch.Generator())
    assert (row_norms(sent) <= 0.5 + 1e-6).all() and (factors <= 1).all()
    assert torch.allclose(sent / factors[:, None, None], gradient, atol=1e-6)
    small, ones = noisy_rows(gradient, VALID, 100.0, 0.0, torch.Generator())
    assert torch.equal(small, gradient) and (ones == 1).all()
    noisy, _ = noisy_rows(gradient, VALID, 0.5, 1.0, torch.Generator().manual_seed(2))
    assert bool((noisy[~VALID] == 0).all()) and bool((noisy[VALID] != sent[VALID]).all())


def test_the_nats_of_a_bottleneck_are_those_of_a_gaussian_channel() -> None:
    hidden = torch.randn(400, 10, 3, generator=torch.Generator().manual_seed(0)) * torch.tensor([1.0, 2, 4])
    valid = torch.ones(400, 10, dtype=torch.bool)
    noisy, nats = through_bottleneck(hidden, torch.ones(3), valid, torch.Generator().manual_seed(1))
    wanted = 0.5 * torch.log1p(torch.tensor([1.0, 4, 16])).sum()
    assert float(nats) == pytest.approx(float(wanted), rel=0.05)
    assert (noisy - hidden).std(dim=(0, 1)).tolist() == pytest.approx([1, 1, 1], rel=0.05)


def test_a_higher_price_leaves_fewer_nats(start: Assembly) -> None:
    nats = [trained_with(Defence(information=price), start).nats for price in (0.0, 1.0)]
    assert nats[1] is not None and nats[0] is not None and nats[1] < nats[0]


def alike(start: Assembly, adapter: Adapter) -> float:
    """How alike the tail of an adapter and the public one are, on rows of the first client."""
    training = DefendedTraining(start, Defence(), CUT, torch.ones(64))
    batch, place = training.parties[0].batches.of(np.arange(4)), StepId("", 0, 0, 0, train=False)
    with torch.no_grad():
        start.split_model.bind(start.adapter)
        hidden = start.split_model.run(0, training.tail, place, **batch.inputs)
        public = training._tail(hidden, batch, place)
        start.split_model.bind(adapter)
        own = training._tail(hidden, batch, place)
    return float(likeness(own, public, batch.batch.attention_mask.bool()))


def test_a_push_makes_the_tail_unlike_the_public_one(start: Assembly) -> None:
    same = torch.randn(2, 3, 8)
    assert float(likeness(same, same, VALID)) == pytest.approx(0.5)
    assert float(likeness(same, -same, VALID)) == 0.0
    without, pushed = (
        alike(start, trained_with(Defence(warmup=4, push=push), start).handed_out) for push in (0.0, 50.0)
    )
    assert pushed < without - 0.01, (pushed, without)
