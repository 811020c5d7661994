"""Promises of the clock that listens to a run: what it hears is what the round takes, and no more."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from splitft import Job
from splitft.devices.clock import VirtualClock
from splitft.devices.costs import BlockCosts, ModelCosts
from splitft.devices.device import Device
from splitft.devices.simulate import RoundTimes
from splitft.devices.steps import step_work
from splitft.wire.messages import (
    Activations,
    AdapterDown,
    AdapterUp,
    Gradients,
    Message,
    Metrics,
    OptimizerState,
    TailGradients,
    TrunkOutput,
    wire_size,
)

BLOCK = BlockCosts(1000, 4100, 50, 16, 300, 20, False, 800.0, 4.0)
MODEL = ModelCosts((BLOCK,) * 6, 16, 300, 4, 20_000, 19_300, 19_200, 4800, 32.0, 1.0, 64.0, True)
CLIENT = Device(
    "client", 1e5, 10**9, uplink_bytes_per_second=1e4, downlink_bytes_per_second=2e4, latency_seconds=0.1
)
SERVER = Device("server", 1e6, 10**9, 1e9, 1e9, 0.0)
ADAPTER = AdapterDown(1, 2, (0, 1), (), (torch.ones(100), torch.ones(100)))
UPDATE = AdapterUp(1, (0, 1), (torch.ones(100), torch.ones(100)))
LENGTHS = (5, 3)  # rows of 5 tokens, 2 of them padding
ROWS = torch.zeros(sum(LENGTHS), 16)


def job(**keys: Any) -> Job:
    return Job(model_name_or_path="m", dataset_name="builtin:sotu", clients=2, lora_r=4, **keys)


def up(train: bool = True) -> Activations:
    return Activations(1, 0, 0, train, LENGTHS, ROWS, ROWS[:, 0].int() if train else None)


def clock(**keys: Any) -> VirtualClock:
    return VirtualClock(MODEL, job(**keys), {"a": CLIENT, "b": CLIENT}, SERVER)


def tell(listener: VirtualClock, client: str, *messages: Message) -> None:
    for message in messages:
        way = "down" if isinstance(message, AdapterDown | TrunkOutput | Gradients | Metrics) else "up"
        listener.on_message(client, way, message)


def down_seconds(*messages: Message) -> float:
    return sum(0.1 + sum(wire_size(message)) / 2e4 for message in messages)


def up_seconds(*messages: Message) -> float:
    return sum(0.1 + sum(wire_size(message)) / 1e4 for message in messages)


def test_a_round_takes_what_its_messages_and_its_padded_batches_take() -> None:
    listener = clock()
    tell(listener, "a", ADAPTER, *[up(), Gradients(1, 0, 0, 2.0, ROWS)] * 3, UPDATE)
    times = listener.close_round(["a"])
    step = step_work(MODEL, job(), 2).seconds(2, 5, CLIENT, SERVER)
    assert times.clients["a"].compute == pytest.approx(3 * sum(step.client))
    assert times.clients["a"].server == pytest.approx(3 * sum(step.server))
    transfer = down_seconds(ADAPTER, *[Gradients(1, 0, 0, 2.0, ROWS)] * 3) + up_seconds(*[up()] * 3, UPDATE)
    assert times.clients["a"].transfer == pytest.approx(transfer)
    assert times.seconds == pytest.approx(transfer + 3 * (sum(step.client) + sum(step.server)))


def test_labels_at_home_take_two_round_trips() -> None:
    keys = {"labels": "client", "tail_blocks": 1}
    listener = clock(**keys)
    output, gradient = TrunkOutput(1, 0, 0, True, ROWS), TailGradients(1, 0, 0, 2.0, 6, ROWS)
    tell(listener, "a", ADAPTER, up(), output, gradient, Gradients(1, 0, 0, 2.0, ROWS), UPDATE)
    times = listener.close_round(["a"])
    step = step_work(MODEL, job(**keys), 2).seconds(2, 5, CLIENT, SERVER)
    transfer = down_seconds(ADAPTER, output, Gradients(1, 0, 0, 2.0, ROWS)) + up_seconds(
        up(), gradient, UPDATE
    )
    assert (len(step.client), len(step.server)) == (3, 2)
    assert times.seconds == pytest.approx(transfer + sum(step.client) + sum(step.server))


def trained(listener: VirtualClock, *before: Message, after: tuple[Message, ...] = ()) -> RoundTimes:
    tell(listener, "a", *before, up(), Gradients(1, 0, 0, 2.0, ROWS), UPDATE, *after)
    return listener.close_round(["a"])


def test_evaluation_takes_no_time_but_its_adapters_are_on_their_way_before_the_next_training() -> None:
    quiet, listener = clock(), clock()
    without = trained(quiet, ADAPTER)
    state = OptimizerState(1, (2,), (4,), (torch.ones(50),))
    evaluation = (ADAPTER, state, up(train=False), Metrics(1, 2.0, 3, 4, 0, 0))
    assert trained(listener, ADAPTER, after=evaluation) == without
    later = trained(listener)
    assert later.clients["a"].transfer == pytest.approx(without.clients["a"].transfer + up_seconds(state))
    assert trained(listener).clients["a"].transfer == pytest.approx(
        without.clients["a"].transfer - down_seconds(ADAPTER)
    )


def test_what_a_client_was_sent_while_others_trained_counts_when_it_trains() -> None:
    listener = clock()
    tell(listener, "a", ADAPTER)
    tell(listener, "b", ADAPTER, up(), Gradients(1, 0, 0, 2.0, ROWS), UPDATE)
    assert list(listener.close_round(["b"]).clients) == ["b"]
    assert trained(listener) == trained(clock(), ADAPTER)


def test_a_moved_cut_moves_the_time() -> None:
    listener = clock()
    first = trained(listener, ADAPTER).clients["a"]
    higher = trained(listener, AdapterDown(2, 4, (2,), (), (torch.ones(100),))).clients["a"]
    assert higher.compute > first.compute
    assert higher.server < first.server


def test_a_whole_model_computes_everything_at_home() -> None:
    listener = clock()
    tell(listener, "a", ADAPTER)
    for _ in range(2):
        listener.on_local_step("a", LENGTHS)
    tell(listener, "a", UPDATE)
    times = listener.close_round(["a"])
    whole = step_work(MODEL, job(), 6).seconds(2, 5, CLIENT, SERVER)
    assert times.clients["a"].compute == pytest.approx(2 * sum(whole.client))
    assert times.server_seconds == 0
    assert times.seconds == pytest.approx(2 * sum(whole.client) + down_seconds(ADAPTER) + up_seconds(UPDATE))


@pytest.mark.parametrize(("order", "longer"), [("parallel", False), ("turns", True)])
def test_clients_work_side_by_side_or_in_turns(order: str, longer: bool) -> None:
    listener = clock(order=order)
    for name in ("a", "b"):
        tell(listener, name, ADAPTER, up(), Gradients(1, 0, 0, 2.0, ROWS), UPDATE)
    times, alone = listener.close_round(["a", "b"]), trained(clock(), ADAPTER)
    assert (times.seconds == pytest.approx(2 * alone.seconds)) is longer
    assert times.waited_for == "b"
    assert set(times.queued_behind) == {"b"}
