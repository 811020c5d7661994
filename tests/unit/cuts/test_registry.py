"""Promises to policies of a user's own: what they may answer, and how they are registered."""

from __future__ import annotations

import math
import sys
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from cohorts import BUILT_IN, as_told, cohort

import splitft
from commands import run_process
from splitft.cuts import (
    ClientState,
    Decision,
    Observation,
    Proposal,
    decide,
)
from splitft.cuts.registry import CUT_POLICIES, register_cut_policy
from splitft.errors import JobError
from splitft.job import CutPolicyConfig, Job

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
    assert CUT_POLICIES.names()[: len(BUILT_IN)] == list(BUILT_IN)
    assert CUT_POLICIES.find("as-told") is as_told
    with pytest.raises(
        JobError, match=r"no cut policy is called makspan; did you mean makespan[?] there are"
    ):
        CUT_POLICIES.find("makspan")
    with pytest.raises(JobError, match=r"as-told.*register_cut_policy"):
        decide("zzz", CutPolicyConfig(), AB)


def test_registering_works_both_ways_and_again() -> None:
    def mine(observation: Observation, config: CutPolicyConfig) -> dict[str, float]:
        return {}

    assert splitft.register_cut_policy("mine", mine) is mine
    assert CUT_POLICIES.find("mine") is mine
    assert register_cut_policy("mine")(as_told) is as_told
    assert CUT_POLICIES.find("mine") is as_told


@pytest.mark.parametrize("name", BUILT_IN)
def test_a_built_in_name_is_taken(name: str) -> None:
    with pytest.raises(JobError, match=f"{name} is a built-in cut policy"):
        register_cut_policy(name, as_told)
    with pytest.raises(JobError, match="built-in"):
        register_cut_policy(name)
    assert CUT_POLICIES.find(name) is not as_told


@pytest.mark.parametrize(("name", "function"), [("", as_told), (3, as_told), ("mine", 3)])
def test_what_is_no_policy_is_not_registered(name: Any, function: Any) -> None:
    with pytest.raises(JobError):
        register_cut_policy(name, function)


def test_a_job_may_name_a_policy_that_is_registered_later() -> None:
    job = Job(model_name_or_path="m", dataset_name="d", cut_policy=CutPolicyConfig(method="splitfit"))
    with pytest.raises(
        JobError, match=r"^cut_policy\.method: no cut policy is called splitfit; did you mean sp"
    ):
        CUT_POLICIES.check("cut_policy.method", job.cut_policy.method)
    register_cut_policy("splitfit", as_told)
    CUT_POLICIES.check("cut_policy.method", job.cut_policy.method)


def test_cut_policies_need_no_torch() -> None:
    code = "import splitft.cuts, sys; sys.exit('torch' in sys.modules)"
    assert run_process([sys.executable, "-c", code]).returncode == 0
