"""Cuts that follow what steps were measured to take, over real connections."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from cases import rest_slow
from network_threads import QUIET, together
from reference import make_setting, write_rows
from splitft import Job, run
from splitft.client.client import Client
from splitft.history import read_history

NAMES = ["fast", "slow"]
SLOW_SECONDS = 0.15  # of a block


@pytest.mark.parametrize("method", rest_slow(["makespan", "resource"], 1))
def test_cuts_follow_measured_seconds(method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The slow client gives up blocks once it is known to be slow, and the result is that of fixed cuts."""
    files = {name: str(write_rows(tmp_path / f"{name}.txt", rows=24, seed=i)) for i, name in enumerate(NAMES)}
    setting = make_setting(tmp_path, "llama", num_hidden_layers=8) | {
        "data_files": files, "rounds": 3, "local_steps": 2, "cuts": 4, "labels": "server", "warmup_steps": 0,
        "partition": {"method": "files"}, "max_eval_samples": None,
    }  # fmt: skip
    run(Job(**setting, output_dir=str(tmp_path / "fixed")), console=QUIET)

    forward = Client.forward

    def slowly(client: Client, *place: int) -> Any:
        time.sleep(SLOW_SECONDS * client.cut if client.name == "slow" else 0.0)
        return forward(client, *place)

    monkeypatch.setattr(Client, "forward", slowly)
    adaptive = setting | {"cut_policy": {"method": method}, "network": {"clients": NAMES}}
    folder = together(adaptive, tmp_path)

    cuts = [record["cuts"] for record in read_history(folder)]
    assert cuts[1] == {"fast": 4, "slow": 4}, "nobody knew"
    # The first decision goes straight to its targets, further than max_step.
    assert cuts[2]["slow"] <= (1 if method == "makespan" else 2) and cuts[2]["fast"] >= 4
    assert cuts[3]["slow"] <= 2
    decisions = [json.loads(line) for line in (folder / "decisions.jsonl").read_text().splitlines()]
    assert [decision["round"] for decision in decisions] == [2, 3]
    seen = {client["name"]: client for client in decisions[0]["observation"]["clients"]}
    assert SLOW_SECONDS <= seen["slow"]["block_seconds"] < 4 * SLOW_SECONDS
    assert seen["fast"]["block_seconds"] < SLOW_SECONDS and seen["fast"]["server_block_seconds"] > 0
    found, wanted = (
        (f / "adapter" / "adapter_model.safetensors").read_bytes() for f in (folder, tmp_path / "fixed")
    )
    assert found == wanted
