"""Clients that run ahead of their gradients: by a fixed number of steps, the same wherever they are."""

from __future__ import annotations

import json
import re
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from runs import assert_same_bits, assert_same_losses, final_adapter

from cases import rest_slow
from network_threads import QUIET, Settings, together
from reference import UnsplitClient, federated_lora, make_setting, write_rows
from splitft import Job, run
from splitft.client.client import Client
from splitft.errors import JobError
from splitft.wire.messages import Gradients

NAMES = ["anna", "bert", "carl"]
CUT = 2
MODES: dict[str, Settings] = {
    "one ahead": {"max_staleness": 1},
    "three ahead": {"max_staleness": 3},
    "more than there are steps": {"max_staleness": 9},
    "shared": {"max_staleness": 1, "server_adapter": "shared"},
    "accumulated": {"max_staleness": 1, "gradient_accumulation_steps": 2, "codec": "int8"},
    "in parts": {"max_staleness": 2, "micro_batches": 2},
    "front frozen": {"max_staleness": 2, "train_front": False, "adapter_name_or_path": None},
    "differences": {"max_staleness": 1, "codec": "delta"},
    "recomputed": {"max_staleness": 1, "gradient_checkpointing": True},
}


@pytest.fixture(scope="module")
def setting(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    folder = tmp_path_factory.mktemp("ahead")
    files = {name: str(write_rows(folder / f"{name}.txt", rows=30, seed=i)) for i, name in enumerate(NAMES)}
    return make_setting(folder, "llama", num_hidden_layers=4, hidden_size=64) | {
        "data_files": files, "labels": "server", "rounds": 2, "local_steps": 5, "cuts": [1, 2, 2],
        "lora_r_cut": 4, "max_eval_samples": None, "partition": {"method": "files"},
        "network": {"clients": NAMES}, "warmup_steps": 0, "per_device_train_batch_size": 4,
        "per_device_eval_batch_size": 1,
    }  # fmt: skip


class Behind(UnsplitClient):
    """Stock peft training in which blocks before CUT get each gradient `max_staleness` steps later.

    The others are clipped by their own norm alone, and these by that of all.
    """

    def __init__(self, job: Job, data: Any) -> None:
        super().__init__(job, data)
        block = {name: int(re.search(r"layers\.(\d+)\.", name)[1]) for name, _ in self.named()}  # type: ignore[index]
        self.front = [p for name, p in self.named() if block[name] < CUT]
        self.trunk = [p for name, p in self.named() if block[name] >= CUT]
        self.optimizers = [
            torch.optim.AdamW(part, lr=job.learning_rate, weight_decay=job.weight_decay, fused=True)
            for part in (self.front, self.trunk)
        ]
        self.waiting: list[list[torch.Tensor]] = []
        self.steps = 0

    def named(self) -> list[tuple[str, torch.nn.Parameter]]:
        return [(name, p) for name, p in self.model.named_parameters() if p.requires_grad]

    def local_step(self) -> None:
        if len(self.waiting) > self.job.max_staleness:
            self.catch_up()
        batch = self._batch()
        self.tokens += int(batch.attention_mask.sum())
        loss = self.loss(batch)
        gradients = torch.autograd.grad(loss, [*self.front, *self.trunk])
        norms = [torch.linalg.vector_norm(g) for g in gradients]
        own = torch.linalg.vector_norm(torch.stack(norms[len(self.front) :]))
        self.step(1, self.trunk, gradients[len(self.front) :], own)
        self.waiting.append([*gradients[: len(self.front)], torch.linalg.vector_norm(torch.stack(norms))])
        self.losses.append((loss.item(), int((batch.labels[:, 1:] != -100).sum())))
        self.steps += 1
        while self.waiting and self.steps % self.job.local_steps == 0:
            self.catch_up()

    def catch_up(self) -> None:
        *gradients, norm = self.waiting.pop(0)
        self.step(0, self.front, gradients, norm)

    def step(self, which: int, part: list[Any], gradients: Any, norm: torch.Tensor) -> None:
        for parameter, gradient in zip(part, gradients, strict=True):
            parameter.grad = gradient.clone()
        torch.nn.utils.clip_grads_with_norm_(part, self.job.max_grad_norm, norm)
        self.optimizers[which].step()


@pytest.mark.parametrize("staleness", rest_slow([2, 1, 7], 1))
def test_it_is_training_with_late_gradients_in_the_front(
    staleness: int, setting: Settings, tmp_path: Path
) -> None:
    changes = {"cuts": CUT, "lr_scheduler_type": "constant", "max_staleness": staleness}
    job = Job(**setting | changes, output_dir=str(tmp_path))
    wanted, losses = federated_lora(job, Behind)
    result = run(job, console=QUIET)
    assert_same_losses(result, losses)
    assert_same_bits(final_adapter(result), wanted)


@pytest.mark.parametrize("mode", rest_slow(MODES, ["three ahead"]))
def test_over_connections_as_in_one_process(mode: str, setting: Settings, tmp_path: Path) -> None:
    settings = setting | MODES[mode]
    here = run(Job(**settings, output_dir=str(tmp_path / "here")), console=QUIET)
    there = together(settings, tmp_path / "there")
    adapters = [folder / "adapter" / "adapter_model.safetensors" for folder in (here.output_dir, there)]
    assert adapters[0].read_bytes() == adapters[1].read_bytes()
    summaries = [json.loads((folder / "summary.json").read_text()) for folder in (here.output_dir, there)]
    assert summaries[0]["bytes"] == summaries[1]["bytes"]


@pytest.mark.parametrize(("staleness", "parts"), rest_slow([(0, 1), (2, 1), (1, 2)], 1))
def test_so_many_steps_are_on_their_way_and_no_more(
    staleness: int, parts: int, setting: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client whose gradients are slow sends what it may before it waits for them."""
    lock, ahead, most = threading.Lock(), {}, 0
    forward, answer = Client.forward, Client.answer

    def counted(self: Client, round_: int, step: int, micro_step: int) -> Any:
        nonlocal most
        with lock:
            ahead[self.name] = ahead.get(self.name, 0) + 1
            most = max(most, ahead[self.name])
        return forward(self, round_, step, micro_step)

    def answered(self: Client, message: Any) -> Any:
        with lock:
            ahead[self.name] = ahead.get(self.name, 0) - isinstance(message, Gradients)
        return answer(self, message)

    monkeypatch.setattr(Client, "forward", counted)
    monkeypatch.setattr(Client, "answer", answered)
    together(setting | {"max_staleness": staleness, "micro_batches": parts if parts > 1 else "off"}, tmp_path)
    assert most == (staleness + 1) * parts


def test_frozen_fronts_lose_nothing(setting: Settings, tmp_path: Path) -> None:
    settings = setting | {"train_front": False, "adapter_name_or_path": None}
    plain, ahead = (
        final_adapter(run(Job(**settings, max_staleness=n, output_dir=str(tmp_path / str(n))), console=QUIET))
        for n in (0, 3)
    )
    assert_same_bits(plain, ahead)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"labels": "client", "tail_blocks": 1}, "labels: server"),
        ({"devices": ["laptop"] * 3}, "virtual clock"),
        ({"max_staleness": -1}, "max_staleness"),
    ],
)
def test_what_it_does_not_go_with(changes: Settings, why: str, setting: Settings, tmp_path: Path) -> None:
    with pytest.raises(JobError, match=why):
        Job(**setting | {"max_staleness": 1} | changes, output_dir=str(tmp_path))
