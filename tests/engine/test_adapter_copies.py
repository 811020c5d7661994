"""Clients' own copies of the adapter: the server's bytes where the job says so; of a hostile one nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from cases import rest_slow
from network_sites import run_sites
from network_threads import Settings, three_sites
from splitft import Job
from splitft.engines.network.control import AdapterCopy, packed
from splitft.engines.network.request_gate import RequestGate
from splitft.engines.network.transport.listener import Listener
from splitft.errors import JobError, NetworkError, PolicyError
from splitft.job.site_policy import SitePolicy
from splitft.lora.blocks import Layout, TensorSpec, flatten, initial_adapter
from splitft.running import serve as serving

NAMES = ["anna", "bert", "cleo"]
MODES: dict[str, Settings] = {
    "split": {"labels": "client", "tail_blocks": 1, "lora_r_cut": 2},
    "whole": {"method": "fed_lora", "labels": "server", "cuts": 1, "network": {"probe": False}},
    "dora": {"labels": "server", "use_dora": True, "adapter_name_or_path": None},
}
MODEL = "adapter_model.safetensors"
LAYOUT: Layout = {
    block: (TensorSpec("q.lora_A.weight", (4, 6)), TensorSpec("q.lora_B.weight", (6, 4)))
    for block in range(3)
}


def handed_out(folder: Path, mode: Settings) -> Settings:
    own = {"network": {**mode.get("network", {}), "hand_out_adapter": True}}
    return three_sites(folder, NAMES, rounds=1, **(mode | own))


@pytest.mark.parametrize("mode", rest_slow(list(MODES), 2))
def test_each_client_keeps_the_bytes_of_the_servers_adapter(mode: str, tmp_path: Path) -> None:
    said = run_sites(handed_out(tmp_path, MODES[mode]), tmp_path, server={}, client=lambda name: {})
    wanted = tmp_path / "run" / "adapter"
    for name in NAMES:
        own = tmp_path / name / "adapter"
        for file in (MODEL, "adapter_config.json"):  # the config's lists in one order in any process
            assert (own / file).read_bytes() == (wanted / file).read_bytes()
        assert {path.name for path in own.iterdir()} == {MODEL, "adapter_config.json", "README.md"}
        assert own.stat().st_mode & 0o077 == 0 and str(own) in said


def test_by_default_nobody_gets_a_copy(tmp_path: Path) -> None:
    setting = three_sites(tmp_path, NAMES, rounds=1, labels="server")
    run_sites(setting, tmp_path, server={}, client=lambda name: {})
    assert not any((tmp_path / name / "adapter").exists() for name in NAMES)


@pytest.mark.parametrize(("hands_out", "words"), [(True, "cannot be followed"), (False, "hand_out_adapter")])
def test_of_a_hostile_server_a_client_keeps_nothing(
    hands_out: bool, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It sends what is no adapter, or sends one where the job does not say so."""

    say = serving.say_farewell

    def hostile(listener: Listener, *rest: Any, **more: Any) -> None:
        for name in NAMES:
            listener.send(name, packed(AdapterCopy((0,), (torch.full((7,), 1.0),))))
        say(listener, *rest, **more)

    monkeypatch.setattr(serving, "hand_out_copies", lambda *given: None)
    monkeypatch.setattr(serving, "say_farewell", hostile)
    setting = handed_out(tmp_path, MODES["split"])
    setting["network"] = {"hand_out_adapter": hands_out, "rejoin_seconds": 5.0}
    with pytest.raises((NetworkError, PolicyError), match=words):
        run_sites(setting, tmp_path, server={}, client=lambda name: {})
    assert not any((tmp_path / name / "adapter").exists() for name in NAMES)


def changed(change: Callable[[list[Tensor]], list[Tensor]]) -> AdapterCopy:
    adapter = initial_adapter(LAYOUT, 2, seed=0)
    return AdapterCopy(tuple(adapter), tuple(change([flatten(block) for block in adapter.values()])))


@pytest.mark.parametrize(("message", "words"), [
    (AdapterCopy((0, 1), changed(list).values[:2]), "2 adapters of blocks"),
    (AdapterCopy((0, 1, 7), changed(list).values), "3 adapters of blocks"),
    (AdapterCopy((2, 1, 0), changed(list).values), "3 adapters of blocks"),
    (changed(lambda values: values[:2]), "2 adapters of blocks"),
    (changed(lambda values: [values[0], values[1], values[2][:-1]]), "do not make a whole rank"),
    (changed(lambda values: [one.double() for one in values]), "float64"),
    (changed(lambda values: [one.reshape(1, -1) for one in values]), "2 dimensions"),
    (changed(lambda values: [one * float("nan") for one in values]), "not finite"),
    (changed(lambda values: [one + 1e30 for one in values]), "far too large"),
    (changed(lambda values: [torch.cat([one, one]) for one in values]), "rank 4 to be kept in block 0"),
])  # fmt: skip
def test_what_is_no_adapter_of_the_job_is_refused(message: AdapterCopy, words: str) -> None:
    job = Job(model_name_or_path="m", dataset_name="d", lora_r=2)
    gate = RequestGate(job, SitePolicy(), 3, [2], 1, keeps_adapter=True)
    with pytest.raises((ValueError, PolicyError), match=words):
        gate.checked_copy(message, LAYOUT)
    assert set(gate.checked_copy(changed(list), LAYOUT)) == {0, 1, 2}


def test_starts_that_move_base_weights_are_refused() -> None:
    with pytest.raises(JobError, match=r"network\.hand_out_adapter"):
        Job(
            model_name_or_path="m", dataset_name="d", init_lora_weights="pissa",
            network={"hand_out_adapter": True},
        )  # fmt: skip
