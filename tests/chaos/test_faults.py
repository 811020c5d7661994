"""Failpoints on every way: what is lost, doubled, damaged or late on its way is not seen in the result."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cases import rest_slow
from history_checker import check_history
from network_threads import QUIET, Settings, together
from reference import make_setting, write_rows
from splitft import Job, run
from splitft.common.failpoints import VARIABLE

NAMES = ["anna", "bert"]
PLACES = ("client.send", "client.take", "server.send", "server.take")
ACTIONS = ("drop", "duplicate", "corrupt", "delay:0.3")
COUNTS = (2, 9, 21)
FAULTS = [
    f"{place}:{count}:{action}"
    for place in PLACES
    for action in ACTIONS
    for count in COUNTS
    if not (place.endswith("take") and action == "corrupt")  # damage happens on the way
]
QUICK = [fault for fault in FAULTS if (":9:" in fault and "client.send" in fault) or "take:9:delay" in fault]
MODES: dict[str, Settings] = {
    "per_client": {},
    "shared": {"server_adapter": "shared", "labels": "client", "tail_blocks": 1},
}


@pytest.fixture(scope="module")
def setting(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    folder = tmp_path_factory.mktemp("faults")
    files = {name: str(write_rows(folder / f"{name}.txt", rows=24, seed=i)) for i, name in enumerate(NAMES)}
    return make_setting(folder, "llama", num_hidden_layers=4) | {
        "data_files": files, "rounds": 2, "local_steps": 2, "cuts": [1, 2], "labels": "server",
        "max_eval_samples": None, "partition": {"method": "files"}, "network": {"clients": NAMES},
        "warmup_steps": 0, "gradient_accumulation_steps": 2,
    }  # fmt: skip


@pytest.fixture(scope="module")
def undisturbed(setting: Settings, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    made = {}
    for mode, changes in MODES.items():
        folder = tmp_path_factory.mktemp("whole") / "run"
        run(Job(**setting | changes, output_dir=str(folder)), console=QUIET)
        made[mode] = (folder / "adapter" / "adapter_model.safetensors").read_bytes()
    return made


@pytest.mark.parametrize("mode", rest_slow(MODES, 1))
@pytest.mark.parametrize(
    "fault", [fault if fault in QUICK else pytest.param(fault, marks=pytest.mark.slow) for fault in FAULTS]
)
def test_a_fault_on_the_way_is_not_seen_in_the_result(
    fault: str,
    mode: str,
    setting: Settings,
    undisturbed: dict[str, bytes],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(VARIABLE, fault)
    settings: dict[str, Any] = setting | MODES[mode]
    folder = together(settings, tmp_path)
    check_history(folder, Job(**settings, output_dir=str(folder)))
    assert (folder / "adapter" / "adapter_model.safetensors").read_bytes() == undisturbed[mode]
