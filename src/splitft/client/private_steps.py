"""Local steps with example-level differential privacy (DP-SGD), for a client that holds the whole model.

Each step draws every row by itself (Poisson sampling), clips the gradient of each row over all tensors that
the client trains, and adds Gaussian noise to the sum, before the optimizer sees it.
Source: Abadi et al., "Deep Learning with Differential Privacy" (CCS 2016), algorithm 1.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from splitft.client.batches import StepBatches
from splitft.common.state import State
from splitft.data.rows import IGNORE, Indices, Rows
from splitft.job.settings import TrainingSettings
from splitft.lora.dp.clipping import add_noise, clipped_sum
from splitft.lora.dp.ledger import PrivacyLedger
from splitft.lora.dp.noise import digest_of, generator
from splitft.lora.dp.plan import plan_of
from splitft.lora.optimizer import TrainedAdapter
from splitft.model.row_gradients import row_gradients
from splitft.model.split_model import SplitModel, StepId

_SAMPLE = 256  # values of each base weight


def _digest_of_rows(rows: Rows) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for ids, labels in zip(rows.input_ids, rows.labels, strict=True):
        digest.update(b"%d " % len(ids) + ids.tobytes() + labels.tobytes())
    return digest.hexdigest()


def _sample_of_weights(model: SplitModel) -> dict[str, Tensor | str]:
    """Return the first values of each base weight, and its shape and dtype: another model has others."""
    found: dict[str, Tensor | str] = {}
    for name, weight in model.model.named_parameters():
        if ".lora_" not in name:
            found[f"{name} shape"] = f"{tuple(weight.shape)} {weight.dtype}"
            if type(weight.data) in (Tensor, torch.nn.Parameter):
                found[name] = weight.detach().reshape(-1)[:_SAMPLE].float().cpu()
    return found


class PrivateSteps:
    """The gradients of one client's steps.

    A batch is computed in micro-batches of `per_device_train_batch_size` rows at most, however many were
    drawn; an empty one is a step with noise alone. Raises JobError where the plan does not fit the rows.
    """

    def __init__(self, batches: StepBatches, settings: TrainingSettings, ledger: PrivacyLedger) -> None:
        self.plan = plan_of(settings, len(batches.data.train))
        self._batches = batches
        self._settings = settings
        self._ledger = ledger
        self._data = _digest_of_rows(batches.data.train)
        self._round = ""  # digest of all that the round's steps follow from
        self._parts: list[Indices] = []  # rows of the step under way, for each micro-step
        self._sums: list[Tensor] = []  # of clipped gradients, for each trained tensor
        self._tokens = self._chunks = 0

    @property
    def lengths(self) -> tuple[int, ...]:
        """What a micro-batch states of its rows: always the same, since its weight must not tell of them."""
        return (1,) * self._settings.per_device_train_batch_size

    @property
    def epsilon(self) -> float:
        """The ε of the steps in the ledger."""
        return self.plan.epsilon(self._ledger.rounds * self._settings.local_steps)

    def compute(self, model: SplitModel, trained: TrainedAdapter, place: StepId) -> float:
        """Compute a part of a step's rows; after the last part the trained tensors have their gradient.

        Return the part's share of the step's mean loss over tokens; it is exact, and no noise is on it.
        Raises PolicyError where a round would exceed the plan.
        """
        if place.micro_step == 0:
            self._start(model, trained, place)
        rows, size, loss = self._parts[place.micro_step], self._settings.per_device_train_batch_size, 0.0
        for start in range(0, len(rows), size):
            batch = self._batches.of(rows[start : start + size])
            chunk = replace(place, micro_step=self._chunks)  # names the random numbers of dropout
            found = row_gradients(model, trained.blocks, chunk, labels=batch.labels, **batch.inputs)
            for total, own in zip(self._sums, clipped_sum(found.gradients, self._bound), strict=True):
                total += own
            loss += float((found.losses.double() * found.tokens).sum())
            self._chunks += 1
        if place.micro_step + 1 == len(self._parts):
            self._finish(trained, place)
        return loss / max(1, self._tokens)

    def state(self) -> State:
        """Return what outlasts a round, as a checkpoint holds it."""
        return self._ledger.state()

    def load_state(self, state: State) -> None:
        """Restore a state returned by `state()`."""
        self._ledger.load_state(state)

    @property
    def _bound(self) -> float:
        return self._settings.max_grad_norm

    def _start(self, model: SplitModel, trained: TrainedAdapter, place: StepId) -> None:
        """Draw the rows of a step; with a round's first step, open it in the ledger.

        The digest covers what gradients follow from, base weights by a sample: other gradients, other noise.
        """
        settings, data = self._settings, self._batches.data.train
        if place.step == 0:
            fixed = settings.model_dump(mode="json", include=set(TrainingSettings.model_fields))
            del fixed["dp"]["noise_seed"]  # names the key, which a generator has by itself
            base = _sample_of_weights(model)
            self._round = digest_of(place.round, self._data, base, fixed, trained.state())
            self._ledger.open(self._round, self.plan, settings.local_steps)
        drawn = self._random(place, "rows").random(len(data)) < self.plan.sample_rate
        numbers = np.flatnonzero(drawn)
        by_length = numbers[np.argsort(data.lengths[numbers], kind="stable")]  # less padding
        self._parts = np.array_split(by_length, settings.gradient_accumulation_steps)
        self._tokens = sum(int((data.labels[number][1:] != IGNORE).sum()) for number in numbers)
        self._sums = [torch.zeros_like(parameter) for parameter in trained.parameters()]
        self._chunks = 0

    def _finish(self, trained: TrainedAdapter, place: StepId) -> None:
        """Give the trained tensors a step's mean: the noisy sum, by the rows that it draws on average."""
        plan, random = self.plan, self._random(place, "noise")
        noisy = add_noise(self._sums, plan.noise_multiplier * self._bound, random)
        for parameter, own in zip(trained.parameters(), noisy, strict=True):
            parameter.grad = own / (plan.sample_rate * plan.rows)
        self._sums = []

    def _random(self, place: StepId, what: str) -> np.random.Generator:
        return generator(self._ledger.key, self._round, place.step, what)
