"""Promises of every cut policy, and of what makes cuts of targets, as properties over any cohort."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from cohorts import BUILT_IN, cohort, configs, decide_as_told, observations
from hypothesis import given
from hypothesis import strategies as st

from splitft.cuts import ClientState, Decision, Observation, decide, replay
from splitft.job import CutPolicyConfig


@pytest.mark.parametrize("policy", [*BUILT_IN, "counting"])
@given(observation=observations(), config=configs())
def test_cuts_lie_within_what_the_job_the_model_and_the_client_allow(
    policy: str, observation: Observation, config: CutPolicyConfig
) -> None:
    decision = decide(policy, config, observation)
    assert list(decision.cuts) == [client.name for client in observation.clients]
    for client in observation.clients:
        highest = min(client.max_cut, observation.num_blocks - 1, config.max_cut or 99)
        assert config.min_cut <= decision.cuts[client.name] <= highest
        assert math.isfinite(decision.targets[client.name])
        assert decision.reasons[client.name]


@pytest.mark.parametrize("policy", [name for name in [*BUILT_IN, "counting"] if name != "schedule"])
@given(observation=observations(inside=True), config=configs(max_cut=None))
def test_no_cut_moves_further_than_max_step_after_the_first_round(
    policy: str, observation: Observation, config: CutPolicyConfig
) -> None:
    observation = replace(observation, round=observation.round + 1)
    decision = decide(policy, config, observation)
    for client in observation.clients:
        assert abs(decision.cuts[client.name] - client.cut) <= config.max_step


@pytest.mark.parametrize("policy", [*BUILT_IN, "counting"])
@given(observation=observations(), config=configs(), rounds=st.integers(1, 3))
def test_a_recorded_decision_can_be_replayed_exactly(
    policy: str, observation: Observation, config: CutPolicyConfig, rounds: int
) -> None:
    for _ in range(rounds):  # later decisions have a state
        decision = decide(policy, config, observation)
        line = decision.to_json()
        assert "\n" not in line
        read = Decision.from_json(line)
        assert read == decision
        assert read.to_json() == line
        assert replay(read) == decision
        after = tuple(replace(client, cut=decision.cuts[client.name]) for client in observation.clients)
        observation = replace(observation, round=observation.round + 1, clients=after, state=decision.state)


@pytest.mark.parametrize("policy", [*BUILT_IN, "counting"])
@given(observation=observations(), config=configs(), data=st.data())
def test_the_order_of_the_clients_does_not_matter(
    policy: str, observation: Observation, config: CutPolicyConfig, data: st.DataObject
) -> None:
    """But for lists in the job, which are by order."""
    shuffled = replace(observation, clients=tuple(data.draw(st.permutations(observation.clients))))
    one, other = decide(policy, config, observation), decide(policy, config, shuffled)
    assert (one.cuts, one.targets, one.reasons) == (other.cuts, other.targets, other.reasons)


def test_not_even_the_last_bit_hangs_on_the_order_of_the_clients() -> None:
    states = [ClientState(f"c{i}", 4, 9, i / 10, i / 10, i / 7) for i in range(1, 4)]
    for policy in BUILT_IN:
        one = decide(policy, CutPolicyConfig(), cohort(*states))
        other = decide(policy, CutPolicyConfig(), cohort(*reversed(states)))
        assert (one.targets, one.state) == (other.targets, other.state)


# From targets to cuts


@given(observation=observations(inside=True), config=configs(max_cut=None), data=st.data())
def test_a_cut_stays_unless_its_target_is_far_enough(
    observation: Observation, config: CutPolicyConfig, data: st.DataObject
) -> None:
    targets = {client.name: data.draw(st.floats(-50, 50)) for client in observation.clients}
    observation = replace(observation, round=observation.round + 1)
    decision = decide_as_told(targets, config, observation)
    assert decision.targets == targets
    for client in observation.clients:
        new, target = decision.cuts[client.name], targets[client.name]
        if abs(target - client.cut) < 0.5 + config.hysteresis:
            assert new == client.cut
        else:
            bounded = min(max(target, 1), client.max_cut, observation.num_blocks - 1)
            if abs(bounded - client.cut) <= config.max_step:
                assert abs(new - bounded) <= 0.5
            else:
                assert new == client.cut + math.copysign(config.max_step, target - client.cut)


@pytest.mark.parametrize("later", [0, 3])
@given(observation=observations(round_=1), config=configs(max_cut=None), data=st.data())
def test_the_first_decision_goes_straight_to_the_target(
    later: int, observation: Observation, config: CutPolicyConfig, data: st.DataObject
) -> None:
    """Also where it comes late, since nobody was measured before."""
    observation = replace(observation, round=1 + later, first=bool(later))
    targets = {client.name: data.draw(st.floats(-50, 50)) for client in observation.clients}
    cuts = decide_as_told(targets, config, observation).cuts
    for client in observation.clients:
        bounded = min(max(targets[client.name], 1), client.max_cut, observation.num_blocks - 1)
        assert abs(cuts[client.name] - bounded) <= 0.5


@pytest.mark.parametrize(
    ("cut", "max_cut", "target", "round_", "new", "reason"),
    [
        (2, 9, 4.7, 1, 5, "target 4.70: 2 -> 5"),
        (2, 9, 4.7, 2, 4, "target 4.70, moved by at most 2: 2 -> 4"),
        (2, 9, 2.7, 2, 2, "target 2.70, less than 0.75 away: stays at 2"),
        (2, 9, 2.75, 2, 3, "target 2.75: 2 -> 3"),
        (2, 9, 2.5, 1, 3, "target 2.50: 2 -> 3"),
        (2, 9, 2.2, 2, 2, "target 2.20: stays at 2"),
        (8, 9, 40, 2, 9, "target 40, at most 9: 8 -> 9"),
        (2, 9, -3.5, 2, 1, "target -3.50, at least 1: 2 -> 1"),
        (8, 3, 7.9, 2, 3, "target 7.90, at most 3: 8 -> 3"),
        (8, 3, 1, 2, 3, "target 1, at most 3: 8 -> 3"),
        (4, 3, 1, 2, 2, "target 1, moved by at most 2: 4 -> 2"),
    ],
)
def test_a_reason_says_how_the_cut_came_about(
    cut: int, max_cut: int, target: float, round_: int, new: int, reason: str
) -> None:
    observation = cohort(ClientState("a", cut, max_cut, None), round_=round_)
    decision = decide_as_told({"a": target}, CutPolicyConfig(), observation)
    assert (decision.cuts, decision.reasons) == ({"a": new}, {"a": reason})


def test_the_reason_of_the_policy_comes_first() -> None:
    decision = decide("counting", CutPolicyConfig(), cohort(ClientState("a", 2, 9, None)))
    assert decision.reasons == {"a": "seen 1 rounds; target 2.33: stays at 2"}
