"""Cohorts, configurations and policies for the tests of cut policies."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hypothesis import strategies as st

from splitft.cuts import ClientState, Decision, Observation, Proposal, decide, register_cut_policy
from splitft.job import CutPolicyConfig

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
