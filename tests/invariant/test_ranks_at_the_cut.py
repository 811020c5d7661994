"""lora_r_cut_side: the exported ranks and those that travel are those of the definition."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from runs import THREE_CLIENTS, Settings, block_of, final_adapter, trained

from cases import rest_slow


@pytest.fixture(scope="module")
def llama(llama: Settings) -> Settings:
    return llama | THREE_CLIENTS


def low_blocks(cut: int, side: str) -> set[int]:
    """The definition: the client's last block, and on both sides the server's first."""
    return {"both": {cut - 1, cut}, "client": {cut - 1}}[side]


@pytest.mark.parametrize("side", rest_slow(["both", "client"], 1))
@pytest.mark.parametrize(("cuts", "changes"), rest_slow([
    ([2, 2, 2], {}),
    ([1, 2, 2], {}),
    ([1, 3, 1], {}),
    ([3, 3, 3], {"server_adapter": "shared"}),
    ([2, 2, 2], {"labels": "client", "tail_blocks": 1}),
    ([2, 2, 2], {"cut_policy": {"method": "schedule", "schedule": {"1": 1, "3": 3}}}),
    ([2, 2, 2], {"aggregation": "exact"}),
    ([2, 2, 2], {"method": "fed_lora"}),
], 3), ids=str)  # fmt: skip
def test_the_exported_ranks_are_those_of_the_definition(
    side: str, cuts: list[int], changes: Settings, llama: Settings, tmp_path: Path
) -> None:
    """A block has the highest rank at which a party holds it; the scaling is the same everywhere."""
    _, result = trained(llama, tmp_path / "run", lora_r_cut=1, lora_r_cut_side=side, cuts=cuts, **changes)
    last = list((result.history[-1].cuts or {}).values())
    assert last == ([3, 3, 3] if "cut_policy" in changes else [] if "method" in changes else cuts)
    low = set.intersection(*(low_blocks(cut, side) for cut in last)) if last else set()
    config = json.loads((result.adapter_path / "adapter_config.json").read_text(encoding="utf-8"))
    targets = config["target_modules"]
    modules = {name.rpartition(".")[2] for name in config["rank_pattern"]}
    stated = {int(name.split(".")[2]) for name in config["rank_pattern"]}
    assert stated == low
    assert modules == (set(targets) if low else set())
    assert len(config["rank_pattern"]) == len(low) * len(targets)
    assert set(config["rank_pattern"].values()) <= {1}
    assert set(config["alpha_pattern"].values()) <= {2.0}  # 8 · 1 / 4
    ranks = {
        (block_of(name), tensor.shape["lora_B" in name]) for name, tensor in final_adapter(result).items()
    }
    assert ranks == {(block, 1 if block in low else 4) for block in range(4)}


@pytest.mark.parametrize("side", ["both", "client"])
def test_only_the_ranks_of_the_definition_travel(side: str, llama: Settings, tmp_path: Path) -> None:
    _, result = trained(llama, tmp_path / "run", lora_r_cut=1, lora_r_cut_side=side)
    per_rank = result.summary["parameters"]["adapter"] // (4 * 4)  # values of a block per unit of rank
    ranks = [1 if block in low_blocks(cut, side) else 4 for cut in llama["cuts"] for block in range(cut)]
    assert result.summary["bytes"]["up"]["adapter"] == 3 * 4 * per_rank * sum(ranks)
