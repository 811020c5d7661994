"""order: turns, against plain loops on whole models."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from runs import (
    THREE_CLIENTS,
    Settings,
    Tensors,
    assert_same_bits,
    assert_same_losses,
    block_of,
    copy,
    final_adapter,
    start_of,
    trained,
    unsplit_data,
)
from transformers import get_scheduler
from wire_record import Wire

from cases import rest_slow
from reference import UnsplitClient, federated_lora, mean_loss, weighted_mean
from splitft import Job
from splitft.wire.messages import Activations, AdapterUp


@pytest.fixture(scope="module")
def llama(llama: Settings) -> Settings:
    return llama | THREE_CLIENTS


@pytest.fixture(scope="module")
def gpt2(gpt2: Settings) -> Settings:
    return THREE_CLIENTS | gpt2


@pytest.mark.parametrize("changes", rest_slow([
    {"lora_r_cut": 2, "cut_policy": {"method": "schedule", "schedule": {"2": [2, 1, 3], "3": 1}}},
    {"gradient_accumulation_steps": 2, "eval_every": 1},
    {},
    {"labels": "client", "tail_blocks": 1, "cuts": [1, 2, 1]},
    {"max_grad_norm": 0.0, "clients_per_round": 2, "aggregation": "freeze_a"},
], 1), ids=lambda changes: ",".join(changes) or "plain")  # fmt: skip
def test_per_client_turns_are_parallel_bit_by_bit(changes: Settings, llama: Settings, tmp_path: Path) -> None:
    """No client touches another's adapters before the average, so it does not matter who goes first."""
    settings = llama | changes | {"devices": "laptop"}
    _, parallel = trained(settings, tmp_path / "parallel")
    _, turns = trained(settings, tmp_path / "turns", order="turns")
    assert_same_bits(final_adapter(turns), final_adapter(parallel))
    for one, other in zip(turns.history, parallel.history, strict=True):
        assert (one.clients.keys(), one.bytes, one.cuts) == (other.clients.keys(), other.bytes, other.cuts)
        assert one.perplexity == other.perplexity
        assert {n: c.loss for n, c in one.clients.items()} == {n: c.loss for n, c in other.clients.items()}
        if one.round:
            times = [
                sum(c.virtual[k] for k in ("compute", "transfer", "server"))
                for c in one.clients.values()
                if c.virtual
            ]
            assert one.virtual_seconds == pytest.approx(sum(times))  # one works, the others wait
            assert one.virtual_seconds > other.virtual_seconds
            assert one.waited_for == one.cohort[-1]


def test_clients_take_their_turns_in_order(llama: Settings, tmp_path: Path, wire: type[Wire]) -> None:
    trained(llama, tmp_path / "run", order="turns", gradient_accumulation_steps=2)
    seen = [
        (message.round, client, getattr(message, "step", None), getattr(message, "micro_step", None))
        for _, client, message, _ in wire.sent
        if (isinstance(message, Activations) and message.train) or isinstance(message, AdapterUp)
    ]
    one_turn = [(0, 0), (0, 1), (1, 0), (1, 1), (None, None)]  # local and micro steps, then its adapter
    assert seen == [
        (round_, f"client-{i}", *place) for round_ in (1, 2, 3) for i in range(3) for place in one_turn
    ]


class SequentialTrunk:
    """One shared trunk that clients train in turn (SFL-V2), on whole peft models, without any split.

    A client's front and the trunk step together on its own loss, as if they were one model; then the next
    client goes on with the trunk as it is. Fronts and trunk are averaged block by block at the round's end.
    """

    def __init__(self, job: Job, cuts: Sequence[int]) -> None:
        self.job, self.cuts = job, cuts
        self.clients = [UnsplitClient(job, data) for data in unsplit_data(job)]
        start = self.clients[0].adapter()
        self.fronts = [{n: copy(v) for n, v in start.items() if block_of(n) < cut} for cut in cuts]
        self.trunk = {n: copy(v) for n, v in start.items() if block_of(n) >= min(cuts)}
        self.optimizers = [self._adamw(part) for part in (*self.fronts, self.trunk)]
        total = job.rounds * job.local_steps
        self.rate = get_scheduler(
            job.lr_scheduler_type, self.optimizers[-1], job.warmup_steps, total
        ).lr_lambdas[0]

    def _adamw(self, part: dict[str, torch.nn.Parameter]) -> torch.optim.AdamW:
        job = self.job
        return torch.optim.AdamW(
            part.values(), lr=job.learning_rate, weight_decay=job.weight_decay, fused=True
        )

    def round(self, number: int) -> tuple[Tensors, dict[str, float]]:
        rows, losses = [0] * len(self.clients), {}
        for i, client in enumerate(self.clients):
            client.losses = []
            for step in range(self.job.local_steps):
                rows[i] += self.turn_step(i, (number - 1) * self.job.local_steps + step)
            losses[client.data.name] = mean_loss(client.losses)
        mean: Tensors = {}
        for name in self.clients[0].adapter():
            held = [(f[name], n) for f, n in zip(self.fronts, rows, strict=True) if name in f]
            at_server = sum(n for f, n in zip(self.fronts, rows, strict=True) if name not in f)
            held += [(self.trunk[name], at_server)] if at_server else []
            mean |= weighted_mean([{name: p.detach()} for p, _ in held], [n for _, n in held])
        with torch.no_grad():
            for part in (*self.fronts, self.trunk):
                for name, parameter in part.items():
                    parameter.copy_(mean[name])
        return mean, losses

    def turn_step(self, i: int, global_step: int) -> int:
        client, front = self.clients[i], self.fronts[i]
        held = {n: front.get(n, self.trunk.get(n)) for n in client.adapter()}
        client.load({n: p.detach() for n, p in held.items()})
        client.model.zero_grad()
        batch = client._batch()
        inputs = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask}
        loss = client.model(**inputs, labels=batch.labels, use_cache=False).loss
        loss.backward()
        client.losses.append((loss.item(), int((batch.labels[:, 1:] != -100).sum())))
        for name, own in client.model.named_parameters():
            if own.requires_grad:
                held[name.replace(".default", "")].grad = own.grad.clone()
        torch.nn.utils.clip_grad_norm_(held.values(), self.job.max_grad_norm)
        for optimizer in (self.optimizers[i], self.optimizers[-1]):
            optimizer.param_groups[0]["lr"] = self.job.learning_rate * self.rate(global_step)
            optimizer.step()
            optimizer.zero_grad()  # to None: trunk blocks that the next client holds itself are skipped
        return int(batch.attention_mask.sum())


@pytest.mark.parametrize("model", rest_slow(["llama", "gpt2"], 1))
def test_a_shared_trunk_in_turns_is_a_sequential_loop(
    model: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    settings = request.getfixturevalue(model) | {"server_adapter": "shared"}
    job, result = trained(settings, tmp_path / "run", order="turns", max_grad_norm=1e9)
    reference = SequentialTrunk(job, settings["cuts"])
    wanted = [reference.round(number) for number in (1, 2, 3)]
    assert_same_losses(result, [losses for _, losses in wanted])
    assert_same_bits(final_adapter(result), wanted[-1][0])
    _, parallel = trained(settings, tmp_path / "parallel", max_grad_norm=1e9)
    start, got, other = start_of(settings), final_adapter(result), final_adapter(parallel)
    assert not any(torch.equal(got[name], start[name]) for name in got)
    assert not all(torch.equal(got[name], other[name]) for name in got)  # another algorithm than all at once


def test_in_turns_a_client_clips_by_the_norm_of_front_and_trunk(llama: Settings, tmp_path: Path) -> None:
    settings = llama | {"server_adapter": "shared", "order": "turns"}
    job, result = trained(settings, tmp_path / "run", max_grad_norm=0.1)
    _, free = trained(settings, tmp_path / "free", max_grad_norm=0)
    reference = SequentialTrunk(job, settings["cuts"])
    wanted = [reference.round(number)[0] for number in (1, 2, 3)][-1]
    got, other = final_adapter(result), final_adapter(free)
    for name, tensor in wanted.items():  # a trunk knows of blocks without a gradient: the sum's last bit
        clipped = (other[name] - tensor).abs().max()
        assert clipped > 1e-4
        assert (got[name] - tensor).abs().max() < 1e-2 * clipped, name


@pytest.mark.parametrize("order", ["turns", "parallel"])
@pytest.mark.parametrize("server_adapter", ["shared", "per_client"])
def test_one_client_is_the_unsplit_model_in_either_order(
    order: str, server_adapter: str, llama: Settings, tmp_path: Path
) -> None:
    settings = llama | {
        "clients": 1,
        "partition": {"method": "iid"},
        "rounds": 4,
        "local_steps": 3,
        "cuts": 2,
    }
    adapter, losses = federated_lora(Job(**settings))
    _, result = trained(settings, tmp_path / "run", order=order, server_adapter=server_adapter)
    assert_same_losses(result, losses)
    assert_same_bits(final_adapter(result), adapter)
