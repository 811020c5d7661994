"""Clients that are late: a round goes on without them where the job says so, and they are in the next."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from history_checker import check_history, effective_rounds, read_steps
from network_threads import QUIET, Settings, together
from reference import make_setting, write_rows
from splitft import Job, run
from splitft.client.client import Client
from splitft.history import read_history

NAMES = ["anna", "bert", "cleo"]
LATE, LIMIT = 9.0, 4.0  # seconds


@pytest.fixture(scope="module")
def setting(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    folder = tmp_path_factory.mktemp("stragglers")
    files = {name: str(write_rows(folder / f"{name}.txt", rows=24, seed=i)) for i, name in enumerate(NAMES)}
    return make_setting(folder, "llama", num_hidden_layers=5) | {
        "data_files": files, "rounds": 3, "local_steps": 2, "labels": "server", "warmup_steps": 0,
        "partition": {"method": "files"}, "max_eval_samples": None, "eval_every": 1,
        "cut_policy": {"method": "schedule", "schedule": {"1": [1, 2, 3], "2": [2, 2, 2], "3": [3, 1, 2]}},
        "network": {"clients": NAMES, "min_clients": 2, "round_seconds": LIMIT},
    }  # fmt: skip


def once_late(method: Callable[..., Any], round_: int) -> Callable[..., Any]:
    """Have cleo sleep the first time that it does this in that round."""
    slept: list[int] = []

    def late(client: Client, asked: int, *place: int) -> Any:
        if client.name == "cleo" and asked == round_ and not slept:
            slept.append(asked)
            time.sleep(LATE)
        return method(client, asked, *place)

    return late


@pytest.mark.slow
@pytest.mark.parametrize("server_adapter", ["per_client", "shared"])
def test_a_late_client_is_left_out_of_one_round(
    server_adapter: str, setting: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = setting | {"server_adapter": server_adapter}
    monkeypatch.setattr(Client, "forward", once_late(Client.forward, 1))
    folder = together(settings, tmp_path)
    rounds = effective_rounds(read_steps(folder))
    assert [sorted(entry["rows"]) for entry in rounds] == [NAMES[:2], NAMES, NAMES]
    check_history(folder, Job(**settings, output_dir=str(folder)))
    assert not (folder / "audit.jsonl").exists(), "nobody was expelled, or refused"


@pytest.mark.slow
def test_a_client_that_evaluates_too_long_is_left_out_of_the_figures(
    setting: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The adapter is that of a run in which nobody was late."""
    setting = setting | {"server_evaluates": False}
    run(Job(**setting, output_dir=str(tmp_path / "local")), console=QUIET)
    monkeypatch.setattr(Client, "evaluate", once_late(Client.evaluate, 1))
    folder = together(setting, tmp_path)
    found, wanted = (f / "adapter" / "adapter_model.safetensors" for f in (folder, tmp_path / "local"))
    assert found.read_bytes() == wanted.read_bytes()
    late = [record["clients"]["cleo"]["accuracy"] for record in read_history(folder)]
    assert late[1] is None and None not in (late[0], late[2], late[3])
