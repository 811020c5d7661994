"""Optimizer steps of every block while cuts move: nobody starts anew."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from rich.console import Console
from runs import THREE_CLIENTS, Settings

from cases import rest_slow
from splitft import Job
from splitft.history import RoundRecord
from splitft.round import Observer, run_rounds
from splitft.running.parties import Parties, make_parties
from splitft.running.prepare import assemble


@pytest.fixture(scope="module")
def llama(llama: Settings) -> Settings:
    return llama | THREE_CLIENTS


class Silent(Observer):
    pass


def rounds_of(settings: Settings, **changes: Any) -> Iterator[tuple[RoundRecord, Parties]]:
    job = Job(**{**settings, **changes})
    parties = make_parties(assemble(job, Console(quiet=True)))
    for record in run_rounds(job, parties.policy, parties.server, parties.cohort, parties.ledger, Silent()):
        yield record, parties


def optimizer_steps(parties: Parties) -> dict[int, dict[str, int]]:
    """{block: {holder: optimizer steps}} of whoever holds a block; a trunk is called ''."""
    found: dict[int, dict[str, int]] = {}
    holders = {name: client.trained for name, client in parties.cohort.clients.items()}
    holders |= {key: trunk.trained for key, trunk in parties.server.worker.trunks.items()}
    for name, held in holders.items():
        for block in held.blocks:
            moments = held.moments(block)
            steps = set(moments.steps) if moments else {0}
            assert len(steps) == 1, f"tensors of block {block} at {name!r} disagree: {steps}"
            found.setdefault(block, {})[name] = steps.pop()
    return found


@pytest.mark.parametrize("order", ["turns", "parallel"])
def test_a_shared_trunk_steps_for_each_client_in_turns_and_once_for_all_in_parallel(
    order: str, llama: Settings
) -> None:
    cuts = {"client-0": 1, "client-1": 3, "client-2": 2}
    for record, parties in rounds_of(llama, order=order, server_adapter="shared"):
        for block, steps in optimizer_steps(parties).items():
            below = sum(cut <= block for cut in cuts.values())  # clients whose batches reach it in the trunk
            each = 2 * record.round
            wanted = {name: each for name, cut in cuts.items() if block < cut}
            if below:
                wanted[""] = each * (below if order == "turns" else 1)
            assert steps == wanted, f"block {block} in round {record.round}"


MOVES = {
    "method": "schedule",
    "schedule": {"1": [1, 3, 2], "2": [3, 3, 3], "3": [1, 2, 1], "4": [2, 1, 3], "5": [1, 1, 1]},
}


@pytest.mark.parametrize("changes", rest_slow([
    {},
    {"lora_r_cut": 2},
    {"lora_r_cut": 2, "lora_r_cut_side": "client", "aggregation": "exact"},
    {"lora_r_cut": 2, "aggregation": "freeze_a"},
    {"clients_per_round": 2},
], 2), ids=lambda changes: ",".join(changes) or "plain")  # fmt: skip
@pytest.mark.parametrize("order", ["turns", "parallel"])
def test_nobody_starts_anew_when_blocks_move_to_and_from_a_shared_trunk(
    order: str, changes: Settings, llama: Settings
) -> None:
    """Whoever holds a block goes on from a holder of the round before: nobody counts from nothing."""
    before: dict[int, dict[str, int]] = {}
    settings = llama | {"rounds": 6, "cut_policy": MOVES, "server_adapter": "shared", "order": order}
    moved = 0
    for record, parties in rounds_of(settings, **changes):
        now = optimizer_steps(parties)
        for block, holders in now.items():
            for holder, steps in holders.items():
                known = before.get(block, {})
                moved += bool(known) and holder not in known
                reach = [name for name in record.cohort if (record.cuts or {})[name] <= block]
                own = len(reach) if order == "turns" else min(len(reach), 1)
                own = 2 * (own if holder == "" else holder in record.cohort)
                least = min((n for name, n in known.items() if name != holder), default=0)
                floor = known.get(holder, least) + own
                assert steps >= floor, f"block {block} at {holder!r} in round {record.round}"
        before = now
    assert moved > 4
    assert before[3].keys() == {""}  # nobody's front in the last round
    if "clients_per_round" not in changes:  # else a client that was not drawn lags behind
        assert min(min(holders.values()) for holders in before.values()) >= 6 * 2
