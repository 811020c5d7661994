"""The check of an average that another party made: it passes every true one, and none that cannot be."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from adapters import block, layout
from splitft import Job
from splitft.lora.blocks import Adapter, flatten, is_a, resize, trained_specs
from splitft.lora.ranks import HeldBlocks, held_blocks
from splitft.lora.reach import reach_of_rounds
from splitft.lora.robust import Contribution
from splitft.server.average import UpdatesError, average_round, check_updates
from splitft.server.average_check import checked_average
from splitft.wire.messages import AdapterUp

LAYOUT = layout()
RULES: list[dict[str, Any]] = [
    {},
    {"aggregation": "average"},
    {"aggregation": "exact", "robust_aggregation": "none"},
    {"aggregation": "exact"},
    {"aggregation": "freeze_a"},
    {"robust_aggregation": "median"},
    {"robust_aggregation": "trimmed_mean"},
    {"robust_aggregation": "krum"},
]
OPTIMS: list[dict[str, Any]] = [
    {},
    {"weight_decay": 0.3},
    {"optim": "adafactor"},
    {"optim": "sgd", "max_grad_norm": 0.5},
    {"optim": "sgd", "max_grad_norm": 0.0},  # no bound
]
Answer = tuple[list[int], list[Tensor]]


def job_of(**changes: Any) -> Job:
    least = {"model_name_or_path": "m", "data_files": "d", "learning_rate": 1e-2, "warmup_steps": 0}
    return Job(**{**least, "lora_r": 4, "byzantine_clients": 1, **changes})


class Round:
    """A round of clients, with these cuts, that moved as far as their steps reach, and of their trunks."""

    def __init__(self, job: Job, cuts: list[int], seed: int, share: float = 0.9) -> None:
        self.job, generator = job, torch.Generator().manual_seed(seed)
        self.old: Adapter = {b: block(4, b) for b in LAYOUT}
        self.reach = reach_of_rounds(job)(1)
        self.held = {f"c{i}": held_blocks(job, len(LAYOUT), cut) for i, cut in enumerate(cuts)}
        self.trunks: dict[int, dict[str, Contribution]] = {}
        self.updates: dict[str, AdapterUp] = {}
        for name, held in self.held.items():
            ranks, values = held.ranks(job), []
            start = {b: resize(self.old[b], ranks[b]) for b in held.on_client(LAYOUT)}
            most = self.reach.most(start) if self.reach else {}
            for b, tensors in start.items():
                for tensor, spec in list(zip(tensors.values(), LAYOUT[b], strict=True)):
                    way = 2 * torch.rand(tensor.shape, generator=generator) - 1
                    far = most[b][spec.name].float() if self.reach else torch.tensor(1.0)
                    way = way * far if far.ndim else way * far / way.norm() / len(start) ** 0.5 / 2
                    tensors[spec.name] = tensor + share * way
                wanted = {spec.name for spec in trained_specs(LAYOUT[b], job.freeze_a)}
                values.append(flatten({n: t for n, t in tensors.items() if n in wanted}))
            self.updates[name] = AdapterUp(1, tuple(start), tuple(values))
            for b in held.trunk:
                moved = {n: t + torch.randn(t.shape, generator=generator) for n, t in self.old[b].items()}
                if job.freeze_a:
                    moved |= {n: t for n, t in self.old[b].items() if is_a(n)}
                self.trunks.setdefault(b, {})[name] = resize(moved, ranks[b]), 10.0

    @property
    def rows(self) -> dict[str, int]:
        return {name: 10 * (i + 1) for i, name in enumerate(self.held)}

    def average(self) -> Answer:
        given = self.job, LAYOUT, self.old, self.held, self.rows, self.updates, self.trunks
        averaged = average_round(*given)
        return list(averaged), [flatten(one) for one in averaged.values()]

    def check(self, answer: Answer) -> Adapter:
        held: list[HeldBlocks] = list(self.held.values())
        return checked_average(self.job, LAYOUT, self.old, held, self.trunks, self.reach, *answer)


@settings(max_examples=60, deadline=None)
@given(
    rule=st.sampled_from(RULES), optim=st.sampled_from(OPTIMS), seed=st.integers(0, 1 << 20),
    cuts=st.lists(st.integers(1, 4), min_size=1, max_size=4), low=st.sampled_from([None, 2]),
)  # fmt: skip
def test_every_true_average_passes(
    rule: dict[str, Any], optim: dict[str, Any], seed: int, cuts: list[int], low: int | None
) -> None:
    if rule.get("aggregation") == "freeze_a":
        low = None
    one = Round(job_of(lora_r_cut=low, **rule, **optim), cuts, seed)
    blocks, values = one.average()
    adapter = one.check((blocks, values))
    assert list(adapter) == blocks
    assert all(torch.equal(flatten(adapter[b]), v) for b, v in zip(blocks, values, strict=True))
    check_updates(one.job, LAYOUT, one.old, one.held, one.updates, 1, one.reach)


@pytest.mark.parametrize("rule", RULES, ids=str)
@pytest.mark.parametrize("optim", OPTIMS[:4], ids=str)
def test_an_average_of_updates_further_than_steps_reach_is_refused(
    rule: dict[str, Any], optim: dict[str, Any]
) -> None:
    """Block 0 is held by clients alone."""
    one = Round(job_of(**rule, **optim), [1, 1, 1], 3, share=400.0)
    with pytest.raises(ValueError, match=r"block 0, .*further than any average"):
        one.check(one.average())
    with pytest.raises(UpdatesError) as told:
        check_updates(one.job, LAYOUT, one.old, one.held, one.updates, 1, one.reach)
    assert list(told.value.reasons) == ["c0", "c1", "c2"] and "beyond what" in told.value.reasons["c1"]


def changed(place: int, change: Callable[[Tensor], Tensor]) -> Callable[[Answer], Answer]:
    return lambda answer: (
        answer[0], [change(v) if i == place else v for i, v in enumerate(answer[1])]
    )  # fmt: skip


LIES: dict[str, tuple[Callable[[Answer], Answer], str]] = {
    "a block is missing": (lambda a: (a[0][1:], a[1][1:]), "averages of blocks"),
    "a block more": (lambda a: ([*a[0], 9], [*a[1], a[1][0]]), "averages of blocks"),
    "a block twice": (lambda a: ([a[0][0], *a[0]], [a[1][0], *a[1]]), "averages of blocks"),
    "another order": (lambda a: (a[0][::-1], a[1][::-1]), "averages of blocks"),
    "fewer values than blocks": (lambda a: (a[0], a[1][1:]), "averages of blocks"),
    "NaN": (changed(2, lambda v: v * float("nan")), "block 2: values that are not finite"),
    "one infinity": (changed(2, lambda v: torch.cat([v[:-1], v[:1] / 0])), "block 2: .* not finite"),
    "half precision": (changed(1, torch.Tensor.half), "block 1: values of torch.float16"),
    "a value more": (changed(1, lambda v: torch.cat([v, v[:1]])), "block 1: .* whole rank"),
    "two dimensions": (changed(1, lambda v: v.reshape(1, -1)), "block 1: .* whole rank"),
    "a lower rank": (changed(1, lambda v: v[: v.numel() // 2]), "block 1: rank 2"),
    "moved by nobody's steps": (changed(0, lambda v: v + 0.5), "block 0, .*further"),
    "a trunk's block as it never was": (changed(3, lambda v: v + 50), "block 3, .*further"),
}


@pytest.mark.parametrize("lie", LIES)
def test_what_is_no_average_of_the_round_is_refused(lie: str) -> None:
    change, reason = LIES[lie]
    one = Round(job_of(), [1, 2, 2], 5)
    with pytest.raises(ValueError, match=reason):
        one.check(change(one.average()))


def test_a_frozen_a_does_not_move_by_a_bit() -> None:
    one = Round(job_of(aggregation="freeze_a"), [2, 2], 5)
    blocks, values = one.average()
    values[0][0] = torch.nextafter(values[0][0], torch.tensor(9.0))
    with pytest.raises(ValueError, match="which is frozen"):
        one.check((blocks, values))


def test_updates_that_cannot_be_averaged_name_their_clients() -> None:
    one = Round(job_of(), [1, 2, 2], 5)
    bad = {"c0": AdapterUp(1, (0,), (torch.zeros(3),)), "c2": AdapterUp(7, (), ())}
    with pytest.raises(UpdatesError) as told:
        check_updates(one.job, LAYOUT, one.old, one.held, one.updates | bad, 1, one.reach)
    assert list(told.value.reasons) == ["c0", "c2"]
    assert "values: 3 of block 0" in told.value.reasons["c0"]
    assert told.value.reasons["c2"] == "an update of round 7 in round 1"
