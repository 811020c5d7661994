"""Whole models at the clients over a network (`method: fed_lora`): the bits of one process."""

from __future__ import annotations

import json
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from cases import rest_slow
from history_checker import check_history
from network_threads import QUIET, Settings, Tamper, three_sites, together
from ports import free_port
from run_files import adapter_of, figures_of
from splitft import Job, run
from splitft.engines.network import control
from splitft.running.aggregator import serve_averages
from splitft.wire.messages import AdapterDown, AdapterUp, LocalLoss, Metrics
from tcp_proxy import Proxy
from wire_capture import messages_of

NAMES = ["anna", "bert", "cleo"]
MODES: dict[str, Settings] = {
    "micro-batches, a metric": {"gradient_accumulation_steps": 2, "metrics": ["top5_accuracy"]},
    "labels at home": {"labels": "client", "eval_every": 2},
    "algorithms": {
        "server_optimizer": "fedadam", "objective": "fedprox", "proximal_mu": 0.1, "optim": "sgd",
        "optim_args": "momentum=0.9", "learning_rate": 0.05,
    },
    "freeze_a, some clients": {"aggregation": "freeze_a", "clients_per_round": 2, "rounds": 3},
    "median, no padding": {"robust_aggregation": "median", "padding_free": True},
    "in turns, lower ranks": {"order": "turns", "lora_r_cut": 2, "aggregation": "exact"},
    "a shared trunk that holds nothing": {"server_adapter": "shared", "server_batch_tokens": 64},
    "a server without weights": {"network": {"clients": NAMES, "probe": False}},
    "pissa": {"adapter_name_or_path": None, "init_lora_weights": "pissa"},
    "dora": {"adapter_name_or_path": None, "use_dora": True},
}  # fmt: skip


@pytest.fixture(scope="module")
def setting(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    folder = tmp_path_factory.mktemp("whole")
    return three_sites(folder, NAMES, method="fed_lora", labels="server", cuts=1, eval_every=1)


def check_same(setting: Settings, folder: Path, apart: Path) -> None:
    """The run in one process has the adapter and the figures of the one over a network."""
    one = folder / "one"
    run(Job(**setting, output_dir=str(one)), console=QUIET)
    assert figures_of(apart) == figures_of(one)
    assert adapter_of(apart) == adapter_of(one)
    check_history(apart, Job(**setting | {"clients": len(NAMES)}))


@pytest.mark.parametrize("mode", rest_slow(MODES, 1))
def test_the_same_bits_as_in_one_process(mode: str, setting: Settings, tmp_path: Path) -> None:
    setting = setting | MODES[mode]
    check_same(setting, tmp_path, together(setting, tmp_path))


@pytest.mark.parametrize(
    "changes", rest_slow([{}, {"aggregation": "freeze_a", "server_optimizer": "fedavgm"}], 1)
)
def test_with_an_aggregator(changes: Settings, setting: Settings, tmp_path: Path) -> None:
    port = free_port()
    setting = setting | changes
    apart = setting | {"network": {"clients": NAMES, "aggregator": f"127.0.0.1:{port}"}}
    job, kept = Job(**apart, output_dir=str(tmp_path / "unused")), tmp_path / "aggregator"
    with ThreadPoolExecutor(1) as pool:
        ended = pool.submit(serve_averages, job, f"127.0.0.1:{port}", folder=kept, console=QUIET)
        folder = together(apart, tmp_path)
        ended.result(30)
    check_same(setting, tmp_path, folder)


def nan(message: Any) -> list[Any]:
    if isinstance(message, AdapterUp):
        message = replace(message, values=tuple(values * float("nan") for values in message.values))
    return [message]


def heavy(message: Any) -> list[Any]:
    """Claims the rows of four batches, to count four times."""
    return [replace(message, lengths=message.lengths * 4) if isinstance(message, LocalLoss) else message]


@pytest.mark.parametrize(("tamper", "why"), rest_slow([
    (heavy, "samples in a batch of"), (nan, "not finite"),
], 1))  # fmt: skip
def test_a_client_that_cheats_is_left_out(
    tamper: Tamper, why: str, setting: Settings, tmp_path: Path
) -> None:
    said: list[str] = []
    setting = setting | {"per_device_eval_batch_size": 16}
    folder = together(setting, tmp_path, tamper={"cleo": tamper}, said=said)
    assert why in said[0]
    honest = {name: path for name, path in setting["data_files"].items() if name != "cleo"}
    run(Job(**setting | {"data_files": honest}, output_dir=str(tmp_path / "one")), console=QUIET)
    assert adapter_of(folder) == adapter_of(tmp_path / "one")


UP = {
    control.Hello, control.Ready, control.Loaded, control.Held, control.Started, control.Worked, LocalLoss,
    AdapterUp, Metrics, control.Evaluated, control.Saved,
}  # fmt: skip
DOWN = {
    control.Welcome, control.Load, AdapterDown, control.Train, control.Evaluate, control.Save, control.End,
}  # fmt: skip


def tensors_in(message: object) -> list[torch.Tensor]:
    """All tensors of a message."""
    found: list[torch.Tensor] = []
    for value in vars(message).values():
        several = value if isinstance(value, tuple) else (value,)
        found += [one for one in several if isinstance(one, torch.Tensor)]
    return found


def test_adapters_losses_and_figures_are_all_that_crosses(setting: Settings, tmp_path: Path) -> None:
    """Every byte of all connections is read: no tensor of the width of hidden states, and no ids."""
    proxies: list[Proxy] = []

    def port_for(name: str, port: int) -> int:
        proxies.append(Proxy(port, capture=True))
        return proxies[-1].port

    folder = together(setting, tmp_path, port_for=port_for)
    values = load_file(folder / "adapter" / "adapter_model.safetensors").values()
    block = sum(tensor.numel() for tensor in values) // 4  # of four alike
    hidden = json.loads((Path(setting["model_name_or_path"]) / "config.json").read_text())["hidden_size"]
    crossed: Counter[type] = Counter()
    for proxy in proxies:
        assert proxy.captured is not None and proxy.connections == 1
        for way, kinds in (("up", UP), ("down", DOWN)):
            captured = bytes(proxy.captured[way])
            messages, size = messages_of(captured)
            assert size > 0.9 * len(captured), "the rest is HTTP/2"
            assert {type(message) for message in messages} <= kinds
            crossed.update(type(message) for message in messages)
            for message in messages:
                for tensor in tensors_in(message):
                    assert tensor.is_floating_point() and tensor.ndim == 1 and len(tensor) != hidden
                    assert len(tensor) == block or (isinstance(message, Metrics) and len(tensor) <= 8)
        proxy.close()
    assert len(proxies) == len(NAMES)
    assert crossed[LocalLoss] == len(NAMES) * 2 * 2 and crossed[AdapterUp] == len(NAMES) * 2
    assert crossed[Metrics]
