"""Sampling, weights, and the shared trunk, against references on whole models."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from runs import Tensors, block_of, copy, final_adapter, result_of, same
from safetensors.torch import load_file
from torch import nn
from transformers import AutoTokenizer, get_scheduler
from wire_record import Wire

from reference import UnsplitClient, weighted_mean
from splitft import Job
from splitft.data import prepare
from splitft.wire.messages import AdapterUp, Message, TailGradients


def sampled_reference(job: Job, cohorts: Sequence[Sequence[str]]) -> Tensors:
    """FedAvg on whole models where only the members of each round train and count."""
    tokenizer = AutoTokenizer.from_pretrained(job.model_name_or_path)
    clients = {data.name: UnsplitClient(job, data) for data in prepare(job, tokenizer).clients}
    probe = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    total = job.rounds * job.local_steps
    factor = get_scheduler(job.lr_scheduler_type, probe, job.warmup_steps, total).lr_lambdas[0]
    mean = next(iter(clients.values())).adapter()
    for round_, cohort in enumerate(cohorts):
        for client in (clients[name] for name in cohort):
            client.load(mean)
            client.tokens = 0
            for step in range(job.local_steps):
                rate = job.learning_rate * factor(round_ * job.local_steps + step)
                client.optimizer.param_groups[0]["lr"] = rate
                client.local_step()
        members = [clients[name] for name in cohort]
        mean = weighted_mean([c.adapter() for c in members], [c.tokens for c in members])
    return mean


def test_only_members_of_a_round_train_and_each_counts_once(
    gpt2: dict[str, Any], tmp_path: Path, wire: type[Wire]
) -> None:
    settings = gpt2 | {
        "clients": 4, "clients_per_round": 2, "rounds": 4, "local_steps": 2, "cuts": [1, 2, 3, 1],
        "partition": {"method": "length_dirichlet", "alpha": 0.5, "min_rows": 3},
    }  # fmt: skip
    result = result_of(settings, tmp_path / "run")
    cohorts = [record.cohort for record in result.history[1:]]
    assert all(len(set(cohort)) == 2 for cohort in cohorts)
    assert len(set(cohorts)) > 1
    for record in result.history[1:]:
        busy = {n for way, n, m, _ in wire.sent if m.round == record.round and training(m)}
        assert busy == set(record.cohort)
        assert {name for name, client in record.clients.items() if client.loss is not None} == busy
        assert {name for name, client in record.clients.items() if client.train_tokens} == busy
    job = Job(**settings, output_dir=str(tmp_path / "unused"))
    assert same(final_adapter(result), sampled_reference(job, cohorts))


def training(message: Message) -> bool:
    return getattr(message, "train", False) or isinstance(message, AdapterUp | TailGradients)


class SharedTrunk:
    """What `server_adapter: shared` states, on whole models, without any split.

    Each client trains its own front on its own loss. The trunk is trained on the mean of the clients'
    losses, weighted by the tokens of the step. A part clips by the norm of all that its loss trains.
    """

    def __init__(self, job: Job, cuts: Sequence[int]) -> None:
        tokenizer = AutoTokenizer.from_pretrained(job.model_name_or_path)
        self.job, self.clients = job, [UnsplitClient(job, d) for d in prepare(job, tokenizer).clients]
        start = self.clients[0].adapter()
        fronts = [{n: copy(v) for n, v in start.items() if block_of(n) < cut} for cut in cuts]
        trunk = {n: copy(v) for n, v in start.items() if block_of(n) >= min(cuts)}
        self.fronts, self.trunk, self.parts = fronts, trunk, [*fronts, trunk]
        settings = {"lr": job.learning_rate, "weight_decay": job.weight_decay, "fused": True}
        self.optimizers = [torch.optim.AdamW(part.values(), **settings) for part in self.parts]

    def round(self) -> Tensors:
        steps = [self.step() for _ in range(self.job.local_steps)]
        rows = [sum(numbers) for numbers in zip(*steps, strict=True)]
        mean = {}
        for name in self.clients[0].adapter():
            at_server = sum(n for f, n in zip(self.fronts, rows, strict=True) if name not in f)
            weights = zip(self.parts, [*rows, at_server], strict=True)
            given = [(part[name].detach().double(), n) for part, n in weights if name in part and n]
            mean[name] = sum(value * (n / sum(n for _, n in given)) for value, n in given).float()
        with torch.no_grad():
            for part in self.parts:
                for name, parameter in part.items():
                    parameter.copy_(mean[name])
        return mean

    def step(self) -> list[int]:
        batches = [client._batch() for client in self.clients]
        rows = [int(batch.attention_mask.sum()) for batch in batches]
        shares = [n / sum(rows) for n in rows]
        for client, front, batch, share in zip(self.clients, self.fronts, batches, shares, strict=True):
            client.load({n: p.detach() for n, p in {**self.trunk, **front}.items()})
            client.model.zero_grad()
            inputs = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask}
            client.model(**inputs, labels=batch.labels, use_cache=False).loss.backward()
            for name, own in client.model.named_parameters():
                name = name.replace(".default", "")
                if name in front:
                    front[name].grad = own.grad.clone()
                elif name in self.trunk:
                    old = self.trunk[name].grad
                    self.trunk[name].grad = own.grad * share if old is None else old + own.grad * share
        squares, at_server = [square(front) for front in self.fronts], square(self.trunk)
        totals = [s + at_server for s in squares]
        totals.append(at_server + sum(s * share for s, share in zip(squares, shares, strict=True)))
        for part, optimizer, total in zip(self.parts, self.optimizers, totals, strict=True):
            for parameter in part.values():
                parameter.grad.mul_(min(1.0, self.job.max_grad_norm / (math.sqrt(total) + 1e-6)))
            optimizer.step()
            optimizer.zero_grad()
        return rows


def square(values: Mapping[str, nn.Parameter]) -> float:
    return sum(float(p.grad.double().square().sum()) for p in values.values() if p.grad is not None)


def test_a_shared_trunk_trains_on_all_clients_batches(gpt2: dict[str, Any], tmp_path: Path) -> None:
    cuts = [1, 3, 2]
    settings = gpt2 | {
        "clients": 3, "rounds": 2, "local_steps": 3, "cuts": cuts, "max_grad_norm": 0.3,
        "lr_scheduler_type": "constant", "warmup_steps": 0,
        "partition": {"method": "length_dirichlet", "alpha": 0.3, "min_rows": 3},
    }  # fmt: skip
    shared = result_of(settings, tmp_path / "shared", server_adapter="shared")
    own = result_of(settings, tmp_path / "own")
    got = final_adapter(shared)
    start = load_file(Path(gpt2["adapter_name_or_path"], "adapter_model.safetensors"))
    assert not same(got, final_adapter(own))
    reference = SharedTrunk(Job(**settings, output_dir=str(tmp_path / "unused")), cuts)
    for _ in range(2):
        wanted = reference.round()
    assert got.keys() == wanted.keys()
    for name, tensor in wanted.items():
        moved = (tensor - start[name]).abs().max()
        assert moved > 1e-3
        assert (got[name] - tensor).abs().max() < 1e-4 * moved, name
