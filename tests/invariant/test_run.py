"""What a whole run promises: dropout, seeds, sampling, weights, bytes, and what a message may carry."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file
from torch import nn
from transformers import AutoTokenizer, get_scheduler

from reference import (
    UnsplitClient,
    federated_lora,
    make_hybrid_setting,
    make_setting,
    weighted_mean,
)
from splitft import Job, RunResult, run
from splitft.data import prepare
from splitft.engines.local import LocalCohort
from splitft.wire.messages import (
    Activations,
    AdapterDown,
    AdapterUp,
    Message,
    Metrics,
    OptimizerState,
    TailGradients,
    TrunkOutput,
    decode,
    encode,
)

QUIET = Console(quiet=True)
Tensors = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return make_setting(tmp_path_factory.mktemp("gpt2"), "gpt2")


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return make_setting(tmp_path_factory.mktemp("llama"), "llama")


def trained(settings: dict[str, Any], folder: Path, **changes: Any) -> RunResult:
    return run(Job(**{**settings, **changes, "output_dir": str(folder)}), console=QUIET)


def final_adapter(result: RunResult) -> Tensors:
    return load_file(result.adapter_path / "adapter_model.safetensors")


def same(first: Tensors, second: Tensors) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def losses(result: RunResult) -> list[dict[str, float | None]]:
    return [{name: client.loss for name, client in r.clients.items()} for r in result.history]


class Wire(LocalCohort):
    """The local cohort with every message turned into bytes and back, counted and kept."""

    sent: list[tuple[str, str, Message, int]]  # direction, client, message, bytes

    def carry(self, direction: str, messages: Mapping[str, Any]) -> dict[str, Any]:
        carried = {}
        for name, message in messages.items():
            raw = b"".join(encode(message))
            self.sent.append((direction, name, message, len(raw)))
            carried[name] = decode(raw)
        return carried

    def receive(self, adapters: Mapping[str, AdapterDown]) -> dict[str, OptimizerState]:
        return self.carry("up", super().receive(self.carry("down", adapters)))

    def train(self, members: Sequence[str], *args: Any, **kwargs: Any) -> Iterator[dict[str, Message]]:
        for messages in super().train(members, *args, **kwargs):
            yield self.carry("up", messages)

    def evaluate(self, members: Sequence[str], round_: int) -> Iterator[dict[str, Message]]:
        for messages in super().evaluate(members, round_):
            yield self.carry("up", messages)

    def answer(self, replies: Mapping[str, Message]) -> dict[str, Message]:
        return self.carry("up", super().answer(self.carry("down", replies)))

    def finish(self, members: Sequence[str], round_: int) -> dict[str, AdapterUp]:
        return self.carry("up", super().finish(members, round_))


def record_messages(monkeypatch: pytest.MonkeyPatch) -> type[Wire]:
    """Have runs keep their messages in a list of this test's own."""

    class Recording(Wire):
        sent: list[tuple[str, str, Message, int]] = []  # noqa: RUF012 - one list a test

    monkeypatch.setattr("splitft.running.parties.LocalCohort", Recording)
    return Recording


@pytest.fixture
def wire(monkeypatch: pytest.MonkeyPatch) -> type[Wire]:
    return record_messages(monkeypatch)


# Dropout and seeds


def test_dropout_does_not_know_where_the_cut_is(tmp_path: Path) -> None:
    rates = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.1)
    settings = make_setting(tmp_path, "gpt2", **rates) | {
        "clients": 2, "rounds": 2, "local_steps": 2, "lora_dropout": 0.1, "cuts": [1, 3],
    }  # fmt: skip
    first = trained(settings, tmp_path / "first")
    for number, changes in enumerate((
        {"cuts": [2, 1]},
        {"cuts": [2, 1], "gradient_checkpointing": True},
        {"cuts": [1, 2], "labels": "client", "tail_blocks": 1},
        {"cuts": 1, "labels": "client", "tail_blocks": 2, "gradient_checkpointing": True},
    )):  # fmt: skip
        other = trained(settings, tmp_path / str(number), **changes)
        assert losses(other) == losses(first)
        assert same(final_adapter(other), final_adapter(first))
    without = trained(settings, tmp_path / "without", lora_dropout=0.0)
    assert losses(without)[1] != losses(first)[1]
    assert first.history[0].perplexity == without.history[0].perplexity  # evaluation drops nothing


def test_base_dropout_is_active_in_training(gpt2: dict[str, Any], tmp_path: Path) -> None:
    rates = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.3)
    dropping = make_setting(tmp_path, "gpt2", **rates)
    short = {"clients": 2, "rounds": 1, "local_steps": 1, "cuts": 2, "warmup_steps": 0}
    with_, without = trained(dropping | short, tmp_path / "with"), trained(gpt2 | short, tmp_path / "without")
    assert with_.history[0].perplexity == without.history[0].perplexity  # the same model
    assert losses(with_)[1] != losses(without)[1]


def test_the_same_job_gives_the_same_bits_and_another_seed_does_not(
    llama: dict[str, Any], tmp_path: Path
) -> None:
    settings = llama | {
        "clients": 3, "clients_per_round": 2, "rounds": 2, "local_steps": 2, "cuts": [1, 2, 3],
        "lora_dropout": 0.1, "lora_r_cut": 2, "adapter_name_or_path": None,
    }  # fmt: skip
    first, again = trained(settings, tmp_path / "1"), trained(settings, tmp_path / "2")
    assert losses(first) == losses(again)
    assert same(final_adapter(first), final_adapter(again))
    clocks = ("round_seconds", "evaluation_seconds")
    for one, two in zip(first.history, again.history, strict=True):
        left, right = json.loads(one.to_json()), json.loads(two.to_json())
        assert [left.pop(clock) >= 0 for clock in clocks] == [right.pop(clock) >= 0 for clock in clocks]
        assert left == right
    other = trained(settings, tmp_path / "3", seed=7)
    assert not same(final_adapter(first), final_adapter(other))
    assert losses(first) != losses(other)


# Sampling, weights, and the shared trunk


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
    result = trained(settings, tmp_path / "run")
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


def copy(tensor: torch.Tensor) -> nn.Parameter:
    return nn.Parameter(tensor.clone())


def block_of(name: str) -> int:
    return next(int(part) for part in name.split(".") if part.isdigit())


def square(values: Mapping[str, nn.Parameter]) -> float:
    return sum(float(p.grad.double().square().sum()) for p in values.values() if p.grad is not None)


def test_a_shared_trunk_trains_on_all_clients_batches(gpt2: dict[str, Any], tmp_path: Path) -> None:
    cuts = [1, 3, 2]
    settings = gpt2 | {
        "clients": 3, "rounds": 2, "local_steps": 3, "cuts": cuts, "max_grad_norm": 0.3,
        "lr_scheduler_type": "constant", "warmup_steps": 0,
        "partition": {"method": "length_dirichlet", "alpha": 0.3, "min_rows": 3},
    }  # fmt: skip
    shared = trained(settings, tmp_path / "shared", server_adapter="shared")
    own = trained(settings, tmp_path / "own")
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


# What travels


@pytest.mark.parametrize("changes", [
    {"cuts": [1, 3]},
    {"cuts": [1, 3], "server_adapter": "shared", "gradient_accumulation_steps": 2, "lora_r_cut": 2},
    {"cuts": [1, 2], "labels": "client", "tail_blocks": 1},
], ids=["per_client", "shared", "labels at home"])  # fmt: skip
def test_bytes_are_those_of_the_encoded_messages_which_carry_the_whole_run(
    changes: dict[str, Any], llama: dict[str, Any], tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    settings = llama | {"clients": 2, "rounds": 2, "local_steps": 2, "eval_every": 1, **changes}
    by_reference = trained(settings, tmp_path / "reference")
    wire = request.getfixturevalue("wire")
    result = trained(settings, tmp_path / "wire")
    assert losses(result) == losses(by_reference)
    assert same(final_adapter(result), final_adapter(by_reference))

    for record in result.history:
        bytes_, adapters = Counter[str](), Counter[str]()
        for way, _, message, size in wire.sent:
            if message.round == record.round:
                bytes_[way] += size
                if isinstance(message, AdapterDown | AdapterUp):
                    adapters[way] += sum(4 * values.numel() for values in message.values)
        assert (record.bytes_up, record.bytes_down) == (bytes_["up"], bytes_["down"])
        assert (record.bytes_adapter_up, record.bytes_adapter_down) == (adapters["up"], adapters["down"])
        assert {way: sum(kinds.values()) for way, kinds in record.bytes.items()} == bytes_
    assert result.summary["bytes_up"] == sum(size for way, _, _, size in wire.sent if way == "up")


def test_no_label_leaves_home(llama: dict[str, Any], tmp_path: Path, wire: type[Wire]) -> None:
    settings = llama | {
        "clients": 2, "rounds": 1, "local_steps": 1, "warmup_steps": 0, "cuts": [1, 2], "eval_every": 1,
    }  # fmt: skip
    trained(settings, tmp_path / "home", labels="client", tail_blocks=1)
    at_home = Counter(type(message) for _, _, message, _ in wire.sent)
    assert at_home[TrunkOutput] > at_home[TailGradients] == 2
    assert at_home[Metrics]  # only sums come back of an evaluation
    for _, _, message, _ in wire.sent:
        if isinstance(message, Activations):
            assert message.labels is None
            assert message.input_ids is None
        ids = [v for v in vars(message).values() if isinstance(v, torch.Tensor) and not v.is_floating_point()]
        assert ids == []
    wire.sent.clear()
    trained(settings, tmp_path / "server")
    assert all(m.labels is not None for _, _, m, _ in wire.sent if isinstance(m, Activations))


HISTORY_KEYS = {
    "round", "cohort", "cuts", "loss", "perplexity", "accuracy", "clients", "bytes_up", "bytes_down",
    "bytes_adapter_up", "bytes_adapter_down", "bytes", "round_seconds", "evaluation_seconds",
    "paper_accuracy", "virtual_seconds", "waited_for", "train_tokens", "queued_behind", "truncation_error",
}  # fmt: skip
CLIENT_KEYS = {
    "cut", "loss", "perplexity", "accuracy", "paper_accuracy", "train_tokens", "eval_tokens", "virtual",
}  # fmt: skip


def test_history_has_one_documented_line_a_round(gpt2: dict[str, Any], tmp_path: Path) -> None:
    settings = gpt2 | {"clients": 2, "rounds": 3, "local_steps": 2, "cuts": [1, 2], "eval_every": 2}
    result = trained(settings, tmp_path / "run")
    lines = [json.loads(line) for line in (tmp_path / "run/history.jsonl").read_text().splitlines()]
    assert lines == [json.loads(record.to_json()) for record in result.history]
    assert [line["round"] for line in lines] == [0, 1, 2, 3]
    assert all(line.keys() == HISTORY_KEYS for line in lines)
    assert all(client.keys() == CLIENT_KEYS for line in lines for client in line["clients"].values())
    assert [line["loss"] is None for line in lines] == [True, False, False, False]
    assert [line["perplexity"] is None for line in lines] == [False, True, False, False]
    assert all(line["cuts"] == {"client-0": 1, "client-1": 2} for line in lines)
    first = lines[0]
    assert first["cohort"] == []
    assert first["bytes_adapter_up"] == 0 < first["bytes_adapter_down"]
    for line in lines[1:]:
        tokens = [client["train_tokens"] for client in line["clients"].values()]
        per_client = [client["loss"] for client in line["clients"].values()]
        mean = sum(loss * n for loss, n in zip(per_client, tokens, strict=True)) / sum(tokens)
        assert line["loss"] == pytest.approx(mean)
    for line in (first, lines[2], lines[3]):
        clients = line["clients"].values()
        total = sum(client["eval_tokens"] for client in clients)
        nll = sum(math.log(client["perplexity"]) * client["eval_tokens"] for client in clients)
        right = sum(client["accuracy"] * client["eval_tokens"] for client in clients)
        assert line["perplexity"] == pytest.approx(math.exp(nll / total))
        assert line["accuracy"] == pytest.approx(right / total)
    summary = json.loads((tmp_path / "run/summary.json").read_text())
    assert summary == json.loads(json.dumps(result.summary))
    assert summary["perplexity"] == lines[3]["perplexity"]
    assert summary["bytes_up"] == sum(line["bytes_up"] for line in lines)


# Precision, other forms of rows, other kinds of blocks


def test_a_bf16_base_keeps_float32_adapters_and_learns_one_batch(
    llama: dict[str, Any], tmp_path: Path, wire: type[Wire]
) -> None:
    settings = llama | {
        "bf16": True, "clients": 1, "rounds": 6, "local_steps": 5, "cuts": 2, "max_train_samples": 4,
        "per_device_train_batch_size": 4, "learning_rate": 0.02, "adapter_name_or_path": None,
    }  # fmt: skip
    result = trained(settings, tmp_path / "run")
    means = [record.loss for record in result.history[1:]]
    assert means[-1] < means[0] - 1
    adapter = final_adapter(result)
    assert {tensor.dtype for tensor in adapter.values()} == {torch.float32}
    assert any(not torch.equal(t, t.bfloat16().float()) for t in adapter.values())
    hidden = {m.hidden.dtype for _, _, m, _ in wire.sent if isinstance(m, Activations)}
    assert hidden == {torch.bfloat16}
    assert {v.dtype for _, _, m, _ in wire.sent if isinstance(m, AdapterUp) for v in m.values} == {
        torch.float32
    }
    short = {"rounds": 2, "local_steps": 2}
    at_two, at_one = (trained(settings | short, tmp_path / str(cut), cuts=cut) for cut in (2, 1))
    assert losses(at_two) == losses(at_one)
    assert same(final_adapter(at_two), final_adapter(at_one))


def write_prompts(folder: Path) -> dict[str, Any]:
    path = folder / "rows.jsonl"
    rows = [
        {"prompt": f"the people of state {i}", "completion": " made a law " * (1 + i % 5)} for i in range(40)
    ]
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return {"data_files": str(path)}


@pytest.mark.parametrize("rows", [
    lambda folder: {"packing": True, "max_length": 16},
    write_prompts,
    lambda folder: write_prompts(folder) | {"completion_only_loss": False},
    lambda folder: write_prompts(folder) | {"packing": True, "max_length": 16},
], ids=["packed", "completions", "prompts too", "packed completions"])  # fmt: skip
def test_other_forms_of_rows_train_as_on_whole_models(
    rows: Callable[[Path], dict[str, Any]], gpt2: dict[str, Any], tmp_path: Path
) -> None:
    settings = gpt2 | {"clients": 2, "rounds": 2, "local_steps": 2, "cuts": [1, 3], **rows(tmp_path)}
    wanted, history = federated_lora(Job(**settings))
    result = trained(settings, tmp_path / "run")
    assert same(final_adapter(result), wanted)
    assert [record.loss is not None for record in result.history] == [False, True, True]
    for record, wanted_losses in zip(result.history[1:], history, strict=True):
        assert {n: c.loss for n, c in record.clients.items()} == pytest.approx(wanted_losses, rel=1e-6)


def test_blocks_without_a_target_module_may_lie_anywhere(tmp_path: Path) -> None:
    """In a hybrid model only some blocks have the layers that are adapted; a front may have none."""
    settings = make_hybrid_setting(tmp_path, rounds=2, max_grad_norm=1e-3, learning_rate=0.01)
    whole = trained(settings, tmp_path / "whole", cuts=3)
    assert len(final_adapter(whole)) == 2 * 2
    assert all(tensor.any() for tensor in final_adapter(whole).values())
    for number, changes in enumerate((
        {"cuts": [1, 2]},
        {"cuts": 1, "gradient_checkpointing": True},
        {"cuts": [1, 2], "labels": "client", "tail_blocks": 1},
    )):  # fmt: skip
        other = trained(settings, tmp_path / str(number), **changes)
        assert losses(other) == losses(whole)
        assert same(final_adapter(other), final_adapter(whole))
    trained(settings, tmp_path / "shared", cuts=[1, 2], server_adapter="shared", lora_r_cut=2)


def test_a_run_that_diverges_ends_and_says_so(gpt2: dict[str, Any], tmp_path: Path) -> None:
    settings = gpt2 | {
        "clients": 2, "rounds": 2, "local_steps": 2, "cuts": [1, 2], "lora_r_cut": 2, "learning_rate": 1e30,
        "lr_scheduler_type": "constant", "warmup_steps": 0,
    }  # fmt: skip
    result = trained(settings, tmp_path / "run")
    assert not math.isfinite(result.history[-1].loss or 0)
    texts = (tmp_path / "run/history.jsonl").read_text(encoding="utf-8").splitlines()
    texts.append((tmp_path / "run/summary.json").read_text(encoding="utf-8"))
    first, *_, last, summary = (json.loads(text, parse_constant=pytest.fail) for text in texts)
    assert (last["loss"], last["perplexity"], summary["perplexity"]) == (None, None, None)
    assert last["clients"]["client-0"]["train_tokens"] > 0
    assert first["perplexity"] == summary["perplexity_before"] > 1
