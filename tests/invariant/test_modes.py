"""The run's modes against plain references: turns, means of adapters, ranks at the cut, optimizer steps."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file
from test_export import perplexity, tuned
from test_run import Wire, block_of, copy, record_messages
from test_unsplit import assert_same_bits, assert_same_losses, final_adapter, trained
from torch import Tensor
from transformers import AutoTokenizer, get_scheduler

from reference import UnsplitClient, federated_lora, make_setting, mean_loss, weighted_mean
from splitft import Job, RunResult
from splitft.data import ClientData, prepare
from splitft.history import RoundRecord
from splitft.round import run_rounds
from splitft.running.parties import Parties, make_parties
from splitft.running.prepare import assemble
from splitft.wire.messages import Activations, AdapterUp

Settings = dict[str, Any]
Tensors = dict[str, Tensor]


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    return make_setting(tmp_path_factory.mktemp("llama"), "llama") | {
        "clients": 3, "rounds": 3, "local_steps": 2, "cuts": [1, 3, 2], "max_eval_samples": 9,
        "partition": {"method": "length_dirichlet", "alpha": 0.5, "min_rows": 4},
    }  # fmt: skip


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory: pytest.TempPathFactory, llama: Settings) -> Settings:
    return llama | make_setting(tmp_path_factory.mktemp("gpt2"), "gpt2")


@pytest.fixture
def wire(monkeypatch: pytest.MonkeyPatch) -> type[Wire]:
    return record_messages(monkeypatch)


def start_of(settings: Settings) -> Tensors:
    return load_file(Path(settings["adapter_name_or_path"], "adapter_model.safetensors"))


def unsplit_data(job: Job) -> list[ClientData]:
    return list(prepare(job, AutoTokenizer.from_pretrained(job.model_name_or_path)).clients)


# order: turns


@pytest.mark.parametrize("changes", [
    {},
    {"gradient_accumulation_steps": 2, "eval_every": 1},
    {"labels": "client", "tail_blocks": 1, "cuts": [1, 2, 1]},
    {"lora_r_cut": 2, "cut_policy": {"method": "schedule", "schedule": {"2": [2, 1, 3], "3": 1}}},
    {"max_grad_norm": 0.0, "clients_per_round": 2, "aggregation": "freeze_a"},
], ids=lambda changes: ",".join(changes) or "plain")  # fmt: skip
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


@pytest.mark.parametrize("model", ["llama", "gpt2"])
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


# Who stepped when: what no file shows


class Silent:
    def on_loss(self, round_: int, step: int, client: str, loss: float) -> None:
        pass

    def on_evaluation(self, round_: int) -> None:
        pass

    def on_round(self, record: RoundRecord) -> None:
        pass


def rounds_of(settings: Settings, **changes: Any) -> Iterator[tuple[RoundRecord, Parties]]:
    job = Job(**{**settings, **changes})
    parties = make_parties(assemble(job, Console(quiet=True)))
    for record in run_rounds(job, parties.policy, parties.server, parties.cohort, parties.ledger, Silent()):
        yield record, parties


def optimizer_steps(parties: Parties) -> dict[int, dict[str, int]]:
    """{block: {holder: optimizer steps}} of whoever holds a block; a trunk is called ''."""
    found: dict[int, dict[str, int]] = {}
    holders = {name: client.trained for name, client in parties.cohort.clients.items()}
    holders |= {key: trunk.trained for key, trunk in parties.server.worker.trunks._trunks.items()}
    for name, held in holders.items():
        for block in held.blocks:
            moments = held.moments(block)
            steps = set(moments.steps) if moments else {0}
            assert len(steps) == 1, f"tensors of block {block} at {name!r} disagree: {steps}"
            found.setdefault(block, {})[name] = steps.pop()
    return found


@pytest.mark.parametrize("order", ["turns", "parallel"])
def test_a_shared_trunk_steps_for_each_client_in_turns_and_once_for_all_in_parallel(
    order: str, llama: Settings
) -> None:
    cuts = {"client-0": 1, "client-1": 3, "client-2": 2}
    for record, parties in rounds_of(llama, order=order, server_adapter="shared"):
        for block, steps in optimizer_steps(parties).items():
            below = sum(cut <= block for cut in cuts.values())  # clients whose batches reach it in the trunk
            each = 2 * record.round
            wanted = {name: each for name, cut in cuts.items() if block < cut}
            if below:
                wanted[""] = each * (below if order == "turns" else 1)
            assert steps == wanted, f"block {block} in round {record.round}"


MOVES = {
    "method": "schedule",
    "schedule": {"1": [1, 3, 2], "2": [3, 3, 3], "3": [1, 2, 1], "4": [2, 1, 3], "5": [1, 1, 1]},
}


@pytest.mark.parametrize("changes", [
    {},
    {"lora_r_cut": 2},
    {"lora_r_cut": 2, "lora_r_cut_side": "client", "aggregation": "exact"},
    {"lora_r_cut": 2, "aggregation": "freeze_a"},
    {"clients_per_round": 2},
], ids=lambda changes: ",".join(changes) or "plain")  # fmt: skip
@pytest.mark.parametrize("order", ["turns", "parallel"])
def test_nobody_starts_anew_when_blocks_move_to_and_from_a_shared_trunk(
    order: str, changes: Settings, llama: Settings
) -> None:
    """Whoever holds a block goes on from a holder of the round before: nobody counts from nothing."""
    before: dict[int, dict[str, int]] = {}
    settings = llama | {"rounds": 6, "cut_policy": MOVES, "server_adapter": "shared", "order": order}
    moved = 0
    for record, parties in rounds_of(settings, **changes):
        now = optimizer_steps(parties)
        for block, holders in now.items():
            for holder, steps in holders.items():
                known = before.get(block, {})
                moved += bool(known) and holder not in known
                reach = [name for name in record.cohort if (record.cuts or {})[name] <= block]
                own = len(reach) if order == "turns" else min(len(reach), 1)
                own = 2 * (own if holder == "" else holder in record.cohort)
                least = min((n for name, n in known.items() if name != holder), default=0)
                floor = known.get(holder, least) + own
                assert steps >= floor, f"block {block} at {holder!r} in round {record.round}"
        before = now
    assert moved > 4
    assert before[3].keys() == {""}  # nobody's front in the last round
    if "clients_per_round" not in changes:  # else a client that was not drawn lags behind
        assert min(min(holders.values()) for holders in before.values()) >= 6 * 2


# aggregation: exact


def product(tensors: Tensors, name_a: str) -> Tensor:
    return tensors[name_a.replace("lora_A", "lora_B")].double() @ tensors[name_a].double()


def trained_apart(job: Job) -> tuple[list[Tensors], list[int]]:
    """Each client's adapter after one round on a whole model, and the tokens that it saw."""
    clients = [UnsplitClient(job, data) for data in unsplit_data(job)]
    for client in clients:
        for _ in range(job.local_steps):
            client.local_step()
    return [client.adapter() for client in clients], [client.tokens for client in clients]


def test_exact_is_the_best_approximation_of_the_mean_product(llama: Settings, tmp_path: Path) -> None:
    settings = llama | {"rounds": 1, "local_steps": 6, "learning_rate": 0.05}
    job, result = trained(settings, tmp_path / "run", aggregation="exact")
    _, plain = trained(settings, tmp_path / "plain", aggregation="average")
    got, average = final_adapter(result), final_adapter(plain)
    adapters, tokens = trained_apart(job)
    shares = [n / sum(tokens) for n in tokens]
    for name in (name for name in got if "lora_A" in name):
        mean = sum(s * product(a, name) for a, s in zip(adapters, shares, strict=True))
        u, s, vh = torch.linalg.svd(mean)
        best = (u[:, :4] * s[:4]) @ vh[:4]
        assert s[4] > 1e-3 * s[0], "the clients agree: any mean would do"
        assert (product(got, name) - best).norm() < 1e-5 * best.norm()
        assert (product(average, name) - mean).norm() > 1.001 * s[4:].norm()


def test_exact_does_not_see_the_cuts_either(llama: Settings, tmp_path: Path) -> None:
    runs = [
        trained(llama, tmp_path / f"{cuts}", aggregation="exact", cuts=cuts)[1]
        for cuts in ([1, 3, 2], [2, 2, 2], [3, 1, 1])
    ]
    for other in runs[1:]:
        assert_same_bits(final_adapter(other), final_adapter(runs[0]))
    assert perplexities(runs[0])[-1] != perplexities(runs[0])[0]


def test_exact_of_one_client_is_that_client(llama: Settings, tmp_path: Path) -> None:
    settings = llama | {
        "clients": 1,
        "partition": {"method": "iid"},
        "cuts": 2,
        "rounds": 1,
        "local_steps": 4,
    }
    job, result = trained(settings, tmp_path / "run", aggregation="exact")
    (own,), _ = trained_apart(job)
    got = final_adapter(result)
    for name in (name for name in got if "lora_A" in name):
        assert (product(got, name) - product(own, name)).norm() < 1e-6 * product(own, name).norm()


def perplexities(result: RunResult) -> list[float | None]:
    return [record.perplexity for record in result.history]


# aggregation: freeze_a


class FrozenA(UnsplitClient):
    """Stock peft training of B alone (FFA-LoRA)."""

    def __init__(self, job: Job, data: ClientData) -> None:
        super().__init__(job, data)
        for name, parameter in self.model.named_parameters():
            parameter.requires_grad_("lora_B" in name)
        self.parameters = [p for p in self.model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(
            self.parameters, lr=job.learning_rate, weight_decay=job.weight_decay, fused=True
        )
        total = job.rounds * job.local_steps
        self.schedule = get_scheduler(job.lr_scheduler_type, self.optimizer, job.warmup_steps, total)


@pytest.mark.parametrize("cuts", [[1, 3, 2], [3, 1, 1]], ids=str)
def test_frozen_a_is_ffa_lora_on_whole_models(cuts: list[int], llama: Settings, tmp_path: Path) -> None:
    job, result = trained(llama, tmp_path / "run", aggregation="freeze_a", cuts=cuts)
    mean, losses = federated_lora(job, FrozenA)
    assert_same_losses(result, losses)
    got, start = final_adapter(result), start_of(llama)
    assert_same_bits(got, {name: mean.get(name, tensor) for name, tensor in start.items()})
    assert all(torch.equal(got[n], t) == ("lora_A" in n) for n, t in start.items())  # A stays, B does not


def test_a_new_frozen_a_is_the_initial_one_whatever_happens(llama: Settings, tmp_path: Path) -> None:
    """Also while cuts move: with r_cut = r nothing but B is ever written."""
    new = llama | {"adapter_name_or_path": None, "aggregation": "freeze_a", "warmup_steps": 0}
    moves = {"cut_policy": {"method": "schedule", "schedule": {"2": [2, 1, 3], "3": [3, 3, 1]}}}
    _, first = trained(new, tmp_path / "first", rounds=1, local_steps=1)
    _, last = trained(new, tmp_path / "last", **moves, server_adapter="shared")
    one, other = final_adapter(first), final_adapter(last)
    assert all(torch.equal(other[name], one[name]) == ("lora_A" in name) for name in one)
    assert all(tensor.any() for tensor in other.values())


def test_stock_peft_computes_what_a_frozen_run_recorded(gpt2: Settings, tmp_path: Path) -> None:
    for name, changes in {"whole": {}, "cut": {"lora_r_cut": 2, "cuts": 2}}.items():
        job, result = trained(gpt2, tmp_path / name, aggregation="freeze_a", **changes)
        assert perplexity(tuned(job, result), job) == pytest.approx(result.history[-1].perplexity, rel=1e-5)
        assert perplexities(result)[-1] != pytest.approx(perplexities(result)[0], rel=1e-4)


def test_only_b_travels_up_and_a_goes_down_once(llama: Settings, tmp_path: Path) -> None:
    _, result = trained(llama, tmp_path / "run", aggregation="freeze_a")
    _, both = trained(llama, tmp_path / "both")
    size: Counter[tuple[int, str]] = Counter()
    for name, tensor in final_adapter(result).items():
        size[block_of(name), "B" if "lora_B" in name else "A"] += 4 * tensor.numel()

    def held(matrix: str) -> int:
        return sum(size[block, matrix] for cut in llama["cuts"] for block in range(cut))

    up, down = (result.summary["bytes"][way]["adapter"] for way in ("up", "down"))
    assert up == 3 * held("B")
    assert both.summary["bytes"]["up"]["adapter"] == 3 * (held("A") + held("B"))
    # Handed out: all to be evaluated before training (also to train on in round 1), then B alone: for rounds
    # 2 and 3, and for the evaluation at the end.
    assert down == held("A") + 4 * held("B")
    assert both.summary["bytes"]["down"]["adapter"] == 4 * (held("A") + held("B"))


# lora_r_cut_side


def low_blocks(cut: int, side: str) -> set[int]:
    """The definition: the client's last block, and on both sides the server's first."""
    return {"both": {cut - 1, cut}, "client": {cut - 1}, "none": set()}[side]


@pytest.mark.parametrize("side", ["both", "client", "none"])
@pytest.mark.parametrize(("cuts", "changes"), [
    ([2, 2, 2], {}),
    ([1, 2, 2], {}),
    ([1, 3, 1], {}),
    ([3, 3, 3], {"server_adapter": "shared"}),
    ([2, 2, 2], {"labels": "client", "tail_blocks": 1}),
    ([2, 2, 2], {"cut_policy": {"method": "schedule", "schedule": {"1": 1, "3": 3}}}),
    ([2, 2, 2], {"aggregation": "exact"}),
    ([2, 2, 2], {"method": "fed_lora"}),
], ids=str)  # fmt: skip
def test_the_exported_ranks_are_those_of_the_definition(
    side: str, cuts: list[int], changes: Settings, llama: Settings, tmp_path: Path
) -> None:
    """A block has the highest rank at which a party holds it; the scaling is the same everywhere."""
    _, result = trained(llama, tmp_path / "run", lora_r_cut=1, lora_r_cut_side=side, cuts=cuts, **changes)
    last = list((result.history[-1].cuts or {}).values())
    assert last == ([3, 3, 3] if "cut_policy" in changes else [] if "method" in changes else cuts)
    low = set.intersection(*(low_blocks(cut, side) for cut in last)) if last else set()
    config = json.loads((result.adapter_path / "adapter_config.json").read_text(encoding="utf-8"))
    targets = config["target_modules"]
    modules = {name.rpartition(".")[2] for name in config["rank_pattern"]}
    stated = {int(name.split(".")[2]) for name in config["rank_pattern"]}
    assert stated == low
    assert modules == (set(targets) if low else set())
    assert len(config["rank_pattern"]) == len(low) * len(targets)
    assert set(config["rank_pattern"].values()) <= {1}
    assert set(config["alpha_pattern"].values()) <= {2.0}  # 8 · 1 / 4
    ranks = {
        (block_of(name), tensor.shape["lora_B" in name]) for name, tensor in final_adapter(result).items()
    }
    assert ranks == {(block, 1 if block in low else 4) for block in range(4)}


@pytest.mark.parametrize("side", ["both", "client", "none"])
def test_only_the_ranks_of_the_definition_travel(side: str, llama: Settings, tmp_path: Path) -> None:
    _, result = trained(llama, tmp_path / "run", lora_r_cut=1, lora_r_cut_side=side)
    per_rank = result.summary["parameters"]["adapter"] // (4 * 4)  # values of a block per unit of rank
    ranks = [1 if block in low_blocks(cut, side) else 4 for cut in llama["cuts"] for block in range(cut)]
    assert result.summary["bytes"]["up"]["adapter"] == 3 * 4 * per_rank * sum(ranks)
