"""Promises of each built-in cut policy: fixed, schedule, resource, accuracy, splitft."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from cohorts import ACCURACIES, cohort, configs, observations
from hypothesis import assume, given
from hypothesis import strategies as st

from splitft.cuts import ClientState, Observation, decide
from splitft.errors import JobError
from splitft.job import CutPolicyConfig


@given(observation=observations(inside=True), config=configs(max_cut=None))
def test_fixed_keeps_every_cut(observation: Observation, config: CutPolicyConfig) -> None:
    assert decide("fixed", config, observation).cuts == {c.name: c.cut for c in observation.clients}


def test_a_schedule_is_followed_to_the_letter() -> None:
    config = CutPolicyConfig(method="schedule", schedule={"3": 9, "5": [1, 12], "10": 4})
    clients = (ClientState("a", 2, 29, 0.5), ClientState("b", 3, 29, None))
    followed = {}
    for round_ in range(1, 12):
        cuts = decide("schedule", config, cohort(*clients, round_=round_)).cuts
        followed[round_] = tuple(cuts.values())
        clients = tuple(replace(client, cut=cuts[client.name]) for client in clients)
    assert followed == {
        **dict.fromkeys((1, 2), (2, 3)),
        **dict.fromkeys((3, 4), (9, 9)),
        **dict.fromkeys(range(5, 10), (1, 12)),
        **dict.fromkeys((10, 11), (4, 4)),
    }
    wrong = CutPolicyConfig(method="schedule", schedule={"1": [1, 2, 3]})
    with pytest.raises(JobError, match=r"3 entries for 2 clients \(a, b\)"):
        decide("schedule", wrong, cohort(*clients))


# resource, accuracy, splitft


@given(observation=observations(), config=configs(max_cut=None))
def test_resource_gives_all_clients_the_time_of_the_median_one(
    observation: Observation, config: CutPolicyConfig
) -> None:
    def seconds(client: ClientState, cut: float) -> float:
        parts = (client.fixed_seconds, client.transfer_seconds, client.block_seconds, client.adapter_seconds)
        fixed, transfer, block, adapter = (part or 0.0 for part in parts)
        return fixed + transfer + (block + adapter) * cut

    middle = float(np.median([seconds(client, client.cut) for client in observation.clients]))
    for client in observation.clients:
        target = decide("resource", config, observation).targets[client.name]
        highest = min(client.max_cut, observation.num_blocks - 1)
        if seconds(client, highest) < middle:
            assert target == highest
        elif seconds(client, 1) > middle:
            assert target == pytest.approx(1)
        else:
            assert seconds(client, target) == pytest.approx(middle)


def test_the_median_stays_that_of_the_starting_cuts() -> None:
    clients = (ClientState("a", 4, 29, 0.1, 1.0), ClientState("b", 4, 29, 0.2, 2.5))
    first = decide("resource", CutPolicyConfig(), cohort(*clients, round_=1))
    assert first.targets == {"a": 7.0, "b": 2.8}  # the median of 4 and 10 seconds; with 7 and 3 blocks 7.25
    moved = tuple(replace(client, cut=first.cuts[client.name]) for client in clients)
    later = decide("resource", CutPolicyConfig(), cohort(*moved, state=first.state))
    assert later.targets == first.targets
    assert later.cuts == first.cuts


def test_accuracy_follows_the_rule_of_the_paper() -> None:
    config = CutPolicyConfig(method="accuracy", gamma=0.5, w_min=0.6)
    clients = (
        ClientState("low", 10, 29, 0.1),
        ClientState("middle", 10, 29, 0.2),
        ClientState("high", 10, 29, 0.3),
        ClientState("none", 10, 29, None),
    )
    z = 0.1 / (np.std([0.1, 0.2, 0.3]) + 1e-6)
    first = decide("accuracy", config, cohort(*clients, round_=1))
    weights = {"low": 0.6, "middle": 1.0, "high": 1 + 0.5 * z, "none": 1.0}
    assert first.state["weights"] == pytest.approx(weights)
    assert first.targets == pytest.approx({name: 10 * weight for name, weight in weights.items()})
    assert first.cuts == {"low": 6, "middle": 10, "high": 16, "none": 10}
    # The weights are kept and multiplied; a client without accuracy keeps its own.
    turned = (replace(clients[0], accuracy=0.3), clients[1], replace(clients[2], accuracy=None), clients[3])
    second = decide("accuracy", config, cohort(*turned, state=first.state))
    weights |= {"low": 0.6 * (1 + 0.5 * 1), "middle": 1.0 * (1 - 0.5 * 1)}
    weights["middle"] = max(weights["middle"], 0.6)
    assert second.state["weights"] == pytest.approx(weights, abs=1e-4)


@given(observation=observations(known=None), config=configs(), rounds=st.integers(1, 6))
def test_weights_stay_in_their_bounds(observation: Observation, config: CutPolicyConfig, rounds: int) -> None:
    for _ in range(rounds):
        state = decide("accuracy", config, observation).state
        assert all(config.w_min <= weight <= config.w_max for weight in state["weights"].values())
        assert all(
            state["weights"][client.name] == 1 for client in observation.clients if client.accuracy is None
        )
        observation = replace(observation, state=state)


@given(observation=observations(), config=configs(gamma=0.0))
def test_with_gamma_0_splitft_is_resource(observation: Observation, config: CutPolicyConfig) -> None:
    one, other = decide("splitft", config, observation), decide("resource", config, observation)
    assert (one.cuts, one.targets) == (other.cuts, other.targets)


@given(observation=observations(known=None), config=configs())
def test_without_resources_splitft_is_accuracy(observation: Observation, config: CutPolicyConfig) -> None:
    assume(any(client.block_seconds is None for client in observation.clients))
    one, other = decide("splitft", config, observation), decide("accuracy", config, observation)
    assert (one.cuts, one.targets, one.state) == (other.cuts, other.targets, other.state)


@given(
    observation=observations(known=False),
    config=configs(max_cut=None),
    cut=st.integers(1, 39),
    seconds=st.tuples(*[st.floats(0.01, 10)] * 3),
)
def test_with_equal_devices_splitft_is_accuracy(
    observation: Observation, config: CutPolicyConfig, cut: int, seconds: tuple[float, ...]
) -> None:
    cut = min(cut, observation.num_blocks - 1)
    equal = tuple(ClientState(c.name, cut, 40, c.accuracy, *seconds) for c in observation.clients)
    observation = replace(observation, clients=equal)
    one, other = decide("splitft", config, observation), decide("accuracy", config, observation)
    assert one.targets == pytest.approx(other.targets)


@given(
    observation=observations(known=False, round_=1, inside=True),
    config=configs(gamma=0.0, max_cut=None),
    data=st.data(),
)
def test_with_gamma_0_and_no_resources_splitft_is_fixed(
    observation: Observation, config: CutPolicyConfig, data: st.DataObject
) -> None:
    start = {client.name: client.cut for client in observation.clients}
    for _ in range(3):
        decision = decide("splitft", config, observation)
        assert decision.cuts == decide("fixed", config, observation).cuts == start
        clients = tuple(replace(client, accuracy=data.draw(ACCURACIES)) for client in observation.clients)
        observation = replace(observation, round=observation.round + 1, clients=clients, state=decision.state)


@pytest.mark.parametrize("policy", ["resource", "makespan"])
def test_unknown_devices_are_told(policy: str) -> None:
    observation = cohort(ClientState("a", 2, 9, 0.1, 1.0), ClientState("b", 2, 9, 0.1))
    with pytest.raises(JobError, match=r"speed of client b is unknown.*set `devices`"):
        decide(policy, CutPolicyConfig(), observation)


def test_a_client_that_lies_about_its_accuracy_does_not_move_the_cuts_of_others() -> None:
    """Round after round, where accuracies are the clients' own figures."""
    honest = {"a": 0.31, "b": 0.30, "c": 0.33, "d": 0.29}
    config = CutPolicyConfig(method="accuracy", gamma=0.5)
    cuts: dict[str, dict[str, int]] = {}
    for case, own in {"without": honest, "with": honest | {"liar": 1.0}}.items():
        state: dict[str, Any] = {}
        for round_ in range(1, 6):
            clients = tuple(ClientState(name, 6, 12, accuracy) for name, accuracy in own.items())
            seen = Observation(round_, 12, clients, state=state, self_reported=True)
            decision = decide("accuracy", config, seen)
            state = decision.state
        cuts[case] = decision.cuts
    assert {name: cuts["with"][name] for name in honest} == cuts["without"]
    assert len(set(cuts["without"].values())) > 1  # the others' accuracies still count


@given(observation=observations(), config=configs())
def test_figures_of_the_server_and_alike_ones_of_clients_give_the_same_cuts(
    observation: Observation, config: CutPolicyConfig
) -> None:
    near = tuple(replace(c, accuracy=0.5 + (c.accuracy or 0.0) / 20) for c in observation.clients)
    own = replace(observation, clients=near)
    assert (
        decide("accuracy", config, own).cuts
        == decide("accuracy", config, replace(own, self_reported=True)).cuts
    )
