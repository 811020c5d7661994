"""Promises of the aggregator: who gets what, at which rank, and what happens to a basis."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from adapters import BLOCKS, SHAPES, block, largest_difference, layout, product
from splitft import Job
from splitft.lora.basis import unstack_bases
from splitft.lora.blocks import flatten, rank_of
from splitft.lora.means import average
from splitft.lora.ranks import HeldBlocks
from splitft.lora.robust import Contribution
from splitft.server.average import average_blocks
from splitft.server.global_adapter import GlobalAdapter
from splitft.wire.messages import AdapterDown


def aggregator(**changes: Any) -> GlobalAdapter:
    job = Job(
        **{"model_name_or_path": "m", "dataset_name": "d", "lora_r": 4, "lora_r_cut": 2, **changes}  # type: ignore[arg-type]
    )
    return GlobalAdapter({index: block(4, index) for index in BLOCKS}, layout(), job, job.seed)


def aggregate(server: GlobalAdapter, given: dict[int, list[Contribution]]) -> None:
    held = {b: {str(i): one for i, one in enumerate(ones)} for b, ones in given.items()}
    server.adopt(average_blocks(server._settings, server.adapter, held, ["0", "1"]))


def hand_out(
    server: GlobalAdapter, cuts: dict[str, int], tail_start: int = 5, rank: int = 4
) -> dict[str, AdapterDown]:
    ranks = dict.fromkeys(BLOCKS, rank)
    return {
        name: server.hand_out(1, name, HeldBlocks(cut, tail_start, 5), ranks) for name, cut in cuts.items()
    }


def test_clients_get_what_they_hold_and_lack_and_nothing_else() -> None:
    server = aggregator()
    cuts = {"a": 1, "b": 3}
    first = hand_out(server, cuts, 4)
    assert {name: down.blocks for name, down in first.items()} == {"a": (0, 4), "b": (0, 1, 2, 4)}
    assert all(
        torch.equal(value, flatten(server.adapter[index]))
        for down in first.values()
        for index, value in zip(down.blocks, down.values, strict=True)
    )
    assert [(d.cut, d.blocks) for d in hand_out(server, cuts, 4).values()] == [(1, ()), (3, ())]

    aggregate(server, {2: [(block(4, 7), 1.0)]})
    assert {n: d.blocks for n, d in hand_out(server, cuts, 4).items()} == {"a": (), "b": (2,)}
    moved = hand_out(server, {"a": 3, "b": 1}, 4)
    assert {n: d.blocks for n, d in moved.items()} == {"a": (1, 2), "b": ()}
    # What a client had to let go, it gets anew.
    assert hand_out(server, {"a": 3, "b": 3}, 5)["b"].blocks == (1, 2)


def test_a_client_gets_its_effective_rank_and_the_whole_only_to_evaluate() -> None:
    server = aggregator()
    train = hand_out(server, {"a": 1}, rank=2)["a"]
    assert train.values[0].numel() == 2 * (6 + 5 + 5 + 9)
    assert hand_out(server, {"a": 1}, rank=2)["a"].blocks == ()
    assert hand_out(server, {"a": 1}, rank=4)["a"].values[0].numel() == 4 * (6 + 5 + 5 + 9)
    assert hand_out(server, {"a": 1}, rank=2)["a"].blocks == ()  # it has more than it needs


def test_with_a_frozen_a_only_b_travels_to_who_has_the_a() -> None:
    server = aggregator(aggregation="freeze_a", lora_r_cut=4)
    assert hand_out(server, {"a": 2})["a"].frozen == ()
    trained = {n: t + 1 if ".lora_B." in n else t for n, t in server.adapter[0].items()}
    aggregate(server, {0: [(trained, 1.0)]})
    down = hand_out(server, {"a": 2, "b": 1})
    assert (down["a"].blocks, down["a"].frozen) == ((0,), (0,))
    assert down["a"].values[0].numel() == 4 * (5 + 9)
    assert (down["b"].blocks, down["b"].frozen) == ((0,), ())


def test_blocks_are_brought_to_the_ranks_at_which_they_are_held() -> None:
    server = aggregator()
    before = dict(server.adapter)
    server.fit({0: [2, 2], 1: [2, 4], 2: [4, 4]})
    assert [rank_of(server.adapter[index]) for index in range(3)] == [2, 4, 4]
    for name in SHAPES:
        for index in (0, 1):
            whole = product(before[index], name)
            optimum = torch.linalg.svdvals(whole)[2:].norm()
            lost = (whole - product(server.adapter[index], name, 2)).norm()
            assert lost == pytest.approx(float(optimum), rel=1e-4)
        assert torch.allclose(product(server.adapter[1], name), product(before[1], name), atol=1e-5)
    assert largest_difference(server.adapter[2], before[2]) == 0
    assert server.truncation_errors.keys() == {0, 1}
    for index, error in server.truncation_errors.items():
        lost_ = sum(
            float((product(before[index], n) - product(server.adapter[index], n, 2)).norm() ** 2)
            for n in SHAPES
        )
        whole_ = sum(float(product(before[index], n).norm() ** 2) for n in SHAPES)
        assert error == pytest.approx((lost_ / whole_) ** 0.5, rel=1e-3)


def test_a_block_that_leaves_the_cut_keeps_its_function_and_can_be_trained_again() -> None:
    server = aggregator()
    server.fit({0: [2, 2]})
    narrow = server.adapter[0]
    server.fit({0: [4, 2]})
    wide = server.adapter[0]
    for name in SHAPES:
        assert torch.equal(product(wide, name), product(narrow, name))
        assert torch.equal(product(wide, name, 2), product(narrow, name))
        assert not wide[f"{name}.lora_B.weight"][:, 2:].any()
        assert (wide[f"{name}.lora_A.weight"][2:].norm(dim=1) > 0).all()


def test_a_change_of_basis_is_told_once_to_each_client_and_is_the_one_that_happened() -> None:
    server = aggregator()
    hand_out(server, {"a": 2, "b": 2})
    aggregate(server, {0: [(block(4, 8), 1.0)], 1: [(block(4, 9), 1.0)]})
    before = server.adapter[1]
    server.fit({1: [4, 2]})
    down = hand_out(server, {"a": 2})["a"]
    assert down.rebased == (1,)
    (basis,) = unstack_bases(down.rebased, down.bases, layout())[1]
    for name, change in basis.items():
        assert torch.allclose(change @ before[name], server.adapter[1][name], atol=1e-5)
    server.fit({1: [4, 2]})  # nothing new: nothing is turned again
    assert hand_out(server, {"a": 2})["a"].rebased == ()
    aggregate(server, {1: [(block(4, 11), 1.0)]})
    server.fit({1: [4, 2]})
    down_both = hand_out(server, {"a": 2, "b": 2})
    assert down_both["a"].rebased == (1,)
    assert down_both["b"].rebased == (1, 1)  # it missed one
    assert not server._bases[1], "changes that everyone has followed are dropped"


def test_the_callers_adapter_is_left_alone() -> None:
    job = Job(model_name_or_path="m", dataset_name="d", lora_r=4, lora_r_cut=2)
    own = {index: block(4, index) for index in BLOCKS}
    kept = {name: tensor.clone() for name, tensor in own[0].items()}
    server = GlobalAdapter(own, layout(), job, job.seed)
    server.fit({0: [2, 4]})
    aggregate(server, {0: [(block(4, 1), 1.0), (block(4, 2), 1.0)]})
    assert all(torch.equal(own[0][name], kept[name]) for name in kept)
    assert largest_difference(server.adapter[0], average([block(4, 1), block(4, 2)], [1.0, 1.0])) == 0


def test_components_that_nobody_trained_stay_as_they_are() -> None:
    server = aggregator()
    old = server.adapter[0]
    aggregate(server, {0: [(block(2, 7), 1.0), (block(2, 8), 3.0)]})
    for name in SHAPES:
        a, b = f"{name}.lora_A.weight", f"{name}.lora_B.weight"
        assert torch.equal(server.adapter[0][a][2:], old[a][2:])
        assert torch.equal(server.adapter[0][b][:, 2:], old[b][:, 2:])
        assert not torch.equal(server.adapter[0][b][:, :2], old[b][:, :2])
