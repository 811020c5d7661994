"""Promises of the prediction and of makespan: no cuts are faster, and none as fast move fewer blocks."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from splitft.cuts import ClientState, Observation, decide, predict_step_seconds
from splitft.cuts.predict import step_costs
from splitft.cuts.search import fastest_cuts
from splitft.job import CutPolicyConfig

KINDS = [("parallel", "per_client"), ("parallel", "shared"), ("turns", "per_client"), ("turns", "shared")]
SECONDS = st.one_of(st.integers(0, 6).map(float), st.floats(0, 10), st.just(0.1))
SLACK = 1.02


@st.composite
def observations(draw: st.DrawFn) -> Observation:
    num_blocks = draw(st.integers(2, 7))
    clients = tuple(
        ClientState(
            f"client-{i}",
            draw(st.integers(1, num_blocks - 1)),
            draw(st.integers(2, 7)),
            None,
            *(draw(SECONDS) for _ in range(5)),
        )
        for i in range(draw(st.integers(1, 4)))
    )
    return Observation(1, num_blocks, clients, *draw(st.sampled_from(KINDS)))


def client(name: str, cut: int = 2, **seconds: float) -> ClientState:
    return ClientState(name, cut, 99, None, **{f"{key}_seconds": value for key, value in seconds.items()})


def every_cut(observation: Observation, min_cut: int) -> list[dict[str, int]]:
    ranges = [
        range(min_cut, min(client.max_cut, observation.num_blocks - 1) + 1) for client in observation.clients
    ]
    names = [client.name for client in observation.clients]
    return [dict(zip(names, cuts, strict=True)) for cuts in itertools.product(*ranges)]


@given(observations(), st.integers(1, 2))
@example(Observation(1, 7, (client("a", 5, block=0.1), client("b", 6, block=3.0)), "parallel", "shared"), 1)
def test_no_cuts_are_faster_and_none_as_fast_move_fewer_blocks(
    observation: Observation, min_cut: int
) -> None:
    min_cut = min(min_cut, observation.num_blocks - 1)
    choices = every_cut(observation, min_cut)
    seconds = np.array([predict_step_seconds(observation, cuts) for cuts in choices])
    moves = np.array(
        [sum(abs(cuts[client.name] - client.cut) for client in observation.clients) for cuts in choices]
    )
    chosen = decide("makespan", CutPolicyConfig(min_cut=min_cut), observation).cuts
    assert predict_step_seconds(observation, chosen) <= seconds.min() * SLACK * (1 + 1e-9)
    fewest = moves[seconds <= seconds.min() * SLACK * (1 - 1e-9)].min(initial=10**9)
    assert sum(abs(chosen[client.name] - client.cut) for client in observation.clients) <= fewest


@given(observations())
def test_cuts_that_are_fast_enough_stay(observation: Observation) -> None:
    first = decide("makespan", CutPolicyConfig(), observation).cuts
    settled = tuple(replace(client, cut=first[client.name]) for client in observation.clients)
    for round_ in (1, 2):
        again = replace(observation, clients=settled, round=round_)
        assert decide("makespan", CutPolicyConfig(), again).cuts == first


@given(observations())
@example(Observation(1, 3, (client("a", block=0.0, server_block=0.0),)))
def test_the_search_itself_is_exact(observation: Observation) -> None:
    """Not only within 2 %: the fastest cuts, before any are preferred for moving less."""
    low = np.ones(len(observation.clients), dtype=np.int64)
    high = np.array([min(client.max_cut, observation.num_blocks - 1) for client in observation.clients])
    found = fastest_cuts(step_costs(observation), low, high)
    assert (found >= low).all() and (found <= high).all()
    cuts = dict(zip([client.name for client in observation.clients], found.tolist(), strict=True))
    least = min(predict_step_seconds(observation, choice) for choice in every_cut(observation, 1))
    assert predict_step_seconds(observation, cuts) == pytest.approx(least, rel=1e-12)


@pytest.mark.parametrize(
    ("kind", "seconds"),
    [
        # Clients take 1 + 2 + 3·2 = 9 and 1 + 1·4 = 5; the server 0.5 + 8·0.25 = 2.5 and 0.5 + 6·0.25 = 2.
        (("parallel", "per_client"), 9 + 2.5),
        (("parallel", "shared"), 9 + 2.5 + 2),
        (("turns", "per_client"), 9 + 2.5 + 5 + 2),
        (("turns", "shared"), 9 + 2.5 + 5 + 2),
    ],
)
def test_the_prediction_adds_up(kind: tuple[Any, Any], seconds: float) -> None:
    slow = client("slow", block=3, fixed=1, transfer=2, server_block=0.25, server_fixed=0.5)
    fast = client("fast", block=1, fixed=1, transfer=0, server_block=0.25, server_fixed=0.5)
    observation = Observation(1, 10, (slow, fast), *kind)
    assert predict_step_seconds(observation, {"fast": 4, "slow": 2}) == seconds


def test_a_busy_server_is_the_bottleneck_of_many_clients() -> None:
    clients = tuple(client(f"c{i}", block=0.1, server_block=0.05) for i in range(40))
    observation = Observation(1, 13, clients)
    start = predict_step_seconds(observation, {client.name: 2 for client in clients})
    assert start == pytest.approx(40 * 11 * 0.05)
    decision = decide("makespan", CutPolicyConfig(), observation)
    assert set(decision.cuts.values()) == {12}  # the server's least is one block each
    assert "bottleneck: the server (2 s for all clients)" in decision.reasons["c0"]


def test_among_equal_clients_their_names_decide_who_moves() -> None:
    clients = [client(f"c{i}", 2, block=0.2, server_block=0.05) for i in range(4)]
    cuts = [
        decide("makespan", CutPolicyConfig(), Observation(1, 13, tuple(order))).cuts
        for order in (clients, clients[::-1])
    ]
    assert cuts[0] == cuts[1]
    assert sorted(cuts[0].values()) == [3, 6, 6, 6]


def test_a_slow_client_is_the_bottleneck() -> None:
    fast = client("laptop", cut=8, block=0.1, server_block=0.001)
    slow = client("phone", cut=8, block=0.8, transfer=0.5, server_block=0.001)
    decision = decide("makespan", CutPolicyConfig(), Observation(1, 30, (fast, slow)))
    assert decision.cuts == {"laptop": 8, "phone": 1}
    assert decision.reasons["phone"] == (
        "bottleneck: client phone (1.3 s); a step takes 1.33 s, with the cuts until now 6.92 s; "
        "target 1: 8 -> 1"
    )
    decision = decide("makespan", CutPolicyConfig(max_cut=12, max_step=3), Observation(2, 30, (fast, slow)))
    assert decision.cuts == {"laptop": 8, "phone": 5}


@pytest.mark.parametrize("kind", KINDS)
def test_no_single_client_can_make_a_large_cohort_faster(kind: tuple[Any, Any]) -> None:
    """And with a shared adapter more path lengths occur than are tried for the fewest moves."""
    rng = np.random.default_rng(0)
    clients = tuple(
        ClientState(f"c{i}", 8, int(rng.integers(20, 30)), None, *rng.uniform(0.01, 0.3, 3), 1e-4, 1e-5)
        for i in range(3000)
    )
    observation = Observation(1, 31, clients, *kind)
    chosen = decide("makespan", CutPolicyConfig(), observation).cuts
    seconds = predict_step_seconds(observation, chosen)
    assert seconds < predict_step_seconds(observation, {client.name: 8 for client in clients}) / SLACK
    slowest = max(clients, key=lambda client: client.block_seconds or 0)
    for name, cut in itertools.product(("c0", "c1", slowest.name), (1, 10, 20)):
        assert predict_step_seconds(observation, chosen | {name: cut}) >= seconds / SLACK
