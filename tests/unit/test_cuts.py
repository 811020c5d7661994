"""Promises of the cut policies and of what makes cuts of their targets, as properties over any cohort."""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

import splitft
from splitft.cuts import (
    ClientState,
    Decision,
    Observation,
    Proposal,
    check_cut_policy,
    decide,
    find_cut_policy,
    policy_names,
    register_cut_policy,
    replay,
)
from splitft.errors import JobError
from splitft.job import CutPolicyConfig, Job

BUILT_IN = ("fixed", "schedule", "resource", "accuracy", "splitft", "makespan")
ACCURACIES = st.floats(0, 1)
SECONDS = st.floats(0, 100)
GIVEN: dict[str, float] = {}  # what the policy "as-told" answers


@register_cut_policy("as-told")
def as_told(observation: Observation, config: CutPolicyConfig) -> dict[str, float]:
    return dict(GIVEN)


@register_cut_policy("counting")
def counting(observation: Observation, config: CutPolicyConfig) -> Proposal:
    """Has a state, and writes into the one that it is shown, which a careless policy may do."""
    seen = observation.state.get("seen", [])
    seen.append(observation.round)
    targets = {client.name: client.cut + len(seen) / 3 for client in observation.clients}
    return Proposal(targets, {name: f"seen {len(seen)} rounds" for name in targets}, {"seen": seen})


@st.composite
def observations(
    draw: st.DrawFn, known: bool | None = True, round_: int | None = None, inside: bool = False
) -> Observation:
    """known: whether the seconds are known; None: of some clients. inside: cuts within what clients hold."""
    num_blocks = draw(st.integers(2, 40))
    clients = []
    for name in draw(st.lists(st.text(min_size=1), min_size=1, max_size=6, unique=True)):
        max_cut = draw(st.integers(1, num_blocks + 1))
        seconds = [
            draw(SECONDS) if known or (known is None and draw(st.booleans())) else None for _ in range(5)
        ]
        cut = draw(st.integers(1, min(max_cut, num_blocks - 1) if inside else num_blocks - 1))
        clients.append(ClientState(name, cut, max_cut, draw(st.none() | ACCURACIES), *seconds))
    return Observation(
        draw(st.integers(1, 50)) if round_ is None else round_,
        num_blocks,
        tuple(clients),
        draw(st.sampled_from(["parallel", "turns"])),
        draw(st.sampled_from(["per_client", "shared"])),
    )


@st.composite
def configs(draw: st.DrawFn, **fixed: Any) -> CutPolicyConfig:
    values: dict[str, Any] = {
        "gamma": draw(st.floats(0, 10)),
        "max_step": draw(st.integers(1, 5)),
        "hysteresis": draw(st.floats(0, 3)),
        "max_cut": draw(st.none() | st.integers(1, 45)),
        "w_min": draw(st.floats(0.01, 1)),
        "w_max": draw(st.floats(1, 10)),
        "schedule": draw(
            st.dictionaries(st.integers(1, 50).map(str), st.integers(1, 45), min_size=1, max_size=4)
        ),
    }
    return CutPolicyConfig(**values | fixed)


def cohort(*clients: ClientState, round_: int = 2, num_blocks: int = 30, **other: Any) -> Observation:
    return Observation(round_, num_blocks, clients, **other)


def decide_as_told(
    targets: Mapping[str, float], config: CutPolicyConfig, observation: Observation
) -> Decision:
    GIVEN.clear()
    GIVEN.update(targets)
    return decide("as-told", config, observation)


# What holds for every policy


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


@given(observation=observations(round_=1), config=configs(max_cut=None), data=st.data())
def test_the_first_decision_goes_straight_to_the_target(
    observation: Observation, config: CutPolicyConfig, data: st.DataObject
) -> None:
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


# fixed and schedule


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
    with pytest.raises(JobError, match=r"3 cuts from round 1 on, but there are 2 clients \(a, b\)"):
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


# Policies of one's own

AB = cohort(ClientState("a", 2, 9, 0.1), ClientState("b", 2, 9, 0.2))
GOOD: dict[str, Any] = {"a": 1.0, "b": 2}


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (None, "returned None, not {client: blocks} or a Proposal"),
        ([1, 2], "returned [1, 2], not {client: blocks} or a Proposal"),
        (Proposal([1, 2]), "not {client: blocks} or a Proposal"),  # type: ignore[arg-type]
        ({}, "returned no target for client a: every client needs one"),
        ({"a": 3}, "returned no target for client b: every client needs one"),
        (GOOD | {"c": 1}, "returned a value for 'c', which is no client of this round"),
        (GOOD | {"b ": 1}, "returned a value for 'b ', which is no client of this round; did you mean b?"),
        (GOOD | {3: 1}, "returned a value for 3, which is no client of this round"),
        (GOOD | {"b": math.nan}, "returned nan for client b: a target is a finite number of blocks"),
        (GOOD | {"b": -math.inf}, "returned -inf for client b: a target is a finite number of blocks"),
        (GOOD | {"b": None}, "returned None for client b: a target is a finite number of blocks"),
        (GOOD | {"b": "3"}, "returned '3' for client b: a target is a finite number of blocks"),
        (GOOD | {"b": True}, "returned True for client b: a target is a finite number of blocks"),
        (GOOD | {"b": 2j}, "returned 2j for client b: a target is a finite number of blocks"),
        (GOOD | {"b": [2]}, "returned [2] for client b: a target is a finite number of blocks"),
        (GOOD | {"b": 10**400}, "for client b: a target is a finite number of blocks"),
        (GOOD | {"b": -(10**5000)}, "for client b: a target is a finite number of blocks"),
        (Proposal(GOOD, {"c": "why"}), "returned a value for 'c', which is no client"),
        (Proposal(GOOD, {"b": 3}), "returned the reason 3 for client b, not a text"),  # type: ignore[dict-item]
        (Proposal(GOOD, ["why"]), "returned reasons ['why'], not"),  # type: ignore[arg-type]
        (Proposal(GOOD, {}, {"w": {1, 2}}), "returned a state that cannot be recorded as JSON"),
        (Proposal(GOOD, {}, {"w": math.nan}), "returned a state that cannot be recorded as JSON"),
        (Proposal(GOOD, {}, {"w": np.ones(2)}), "returned a state that cannot be recorded as JSON"),
        (Proposal(GOOD, {}, [1]), "returned the state [1], not a mapping"),  # type: ignore[arg-type]
    ],
)
def test_nonsense_is_refused_with_policy_client_and_value(answer: Any, told: str) -> None:
    register_cut_policy("mine", lambda observation, config: answer)
    with pytest.raises(JobError) as caught:
        decide("mine", CutPolicyConfig(), AB)
    assert str(caught.value).startswith("cut policy mine returned ")
    assert told in str(caught.value)


@pytest.mark.parametrize("number", [3, 3.0, np.float32(3), np.float64(3), np.int64(3)])
def test_any_real_number_is_a_target(number: Any) -> None:
    register_cut_policy("mine", lambda observation, config: GOOD | {"b": number})
    decision = decide("mine", CutPolicyConfig(), AB)
    assert decision.cuts == {"a": 1, "b": 3}
    assert Decision.from_json(decision.to_json()) == decision


def test_an_error_in_a_policy_names_it_and_keeps_its_cause() -> None:
    register_cut_policy("mine", lambda observation, config: {"a": 1 / 0})
    with pytest.raises(JobError, match="cut policy mine failed: ZeroDivisionError") as caught:
        decide("mine", CutPolicyConfig(), AB)
    assert isinstance(caught.value.__cause__, ZeroDivisionError)

    @register_cut_policy("mine")
    def mine(observation: Observation, config: CutPolicyConfig) -> Proposal:
        raise JobError("give me devices")

    with pytest.raises(JobError, match=r"^give me devices$"):  # meant for people as it stands
        decide("mine", CutPolicyConfig(), AB)


def test_a_policy_may_ask_for_its_cuts_at_once() -> None:
    targets = {"a": 9.0, "b": 2.6}
    register_cut_policy("mine", lambda observation, config: Proposal(targets, at_once=True))
    assert decide("mine", CutPolicyConfig(), AB).cuts == {"a": 9, "b": 3}


def test_a_careless_policy_cannot_change_the_record() -> None:
    observation = replace(AB, state={"seen": [1]})
    decision = decide("counting", CutPolicyConfig(), observation)
    assert decision.observation == observation == replace(AB, state={"seen": [1]})
    assert decision.state == {"seen": [1, 2]}


def test_too_little_memory_is_told() -> None:
    poor = cohort(ClientState("a", 2, 9, 0.1), ClientState("b", 2, 3, 0.1))
    with pytest.raises(JobError, match=r"client b can hold at most 3 blocks.*min_cut is 4: lower"):
        decide("fixed", CutPolicyConfig(min_cut=4), poor)
    poor = cohort(ClientState("a", 2, 0, 0.1))
    with pytest.raises(JobError, match=r"client a can hold at most 0 blocks.*: give it a device with more"):
        decide("fixed", CutPolicyConfig(), poor)


# The registry


def test_policies_are_found_by_name() -> None:
    assert policy_names()[: len(BUILT_IN)] == list(BUILT_IN)
    assert find_cut_policy("as-told") is as_told
    with pytest.raises(
        JobError, match=r"no cut policy is called makspan; did you mean makespan[?] there are"
    ):
        find_cut_policy("makspan")
    with pytest.raises(JobError, match=r"as-told.*register_cut_policy"):
        decide("zzz", CutPolicyConfig(), AB)


def test_registering_works_both_ways_and_again() -> None:
    def mine(observation: Observation, config: CutPolicyConfig) -> dict[str, float]:
        return {}

    assert splitft.register_cut_policy("mine", mine) is mine
    assert find_cut_policy("mine") is mine
    assert register_cut_policy("mine")(as_told) is as_told
    assert find_cut_policy("mine") is as_told


@pytest.mark.parametrize("name", BUILT_IN)
def test_a_built_in_name_is_taken(name: str) -> None:
    with pytest.raises(JobError, match=f"{name} is a built-in cut policy"):
        register_cut_policy(name, as_told)
    with pytest.raises(JobError, match="built-in"):
        register_cut_policy(name)
    assert find_cut_policy(name) is not as_told


@pytest.mark.parametrize(("name", "function"), [("", as_told), (3, as_told), ("mine", 3)])
def test_what_is_no_policy_is_not_registered(name: Any, function: Any) -> None:
    with pytest.raises(JobError):
        register_cut_policy(name, function)


def test_a_job_may_name_a_policy_that_is_registered_later() -> None:
    job = Job(model_name_or_path="m", dataset_name="d", cut_policy=CutPolicyConfig(method="splitfit"))
    with pytest.raises(
        JobError, match=r"^cut_policy\.method: no cut policy is called splitfit; did you mean sp"
    ):
        check_cut_policy(job)
    register_cut_policy("splitfit", as_told)
    check_cut_policy(job)


def test_cut_policies_need_no_torch() -> None:
    code = "import splitft.cuts, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
