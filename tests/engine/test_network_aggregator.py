"""An aggregator of its own: the same bits as inside the server, which sees no client's own update."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from cases import rest_slow
from network_threads import QUIET, Settings, together
from ports import free_port
from reference import make_setting, write_rows
from run_files import adapter_of
from splitft import Job, register_method, run
from splitft.engines.network.desk import Desk
from splitft.errors import NetworkError
from splitft.running.aggregator import serve_averages
from splitft.wire.messages import AdapterUp
from tcp_proxy import Proxy

NAMES = ["anna", "bert", "cleo"]
MODES: dict[str, dict[str, Any]] = {
    "per_client": {},
    "shared, labels at home": {"server_adapter": "shared", "labels": "client", "tail_blocks": 1},
    "freeze_a": {"aggregation": "freeze_a"},
    # The aggregator settles none of what the server settles for itself.
    "a method of one's own, layout left open": {"method": "median_by_rank", "padding_free": "auto"},
    "algorithms": {
        "server_optimizer": "fedadam", "objective": "fedprox", "proximal_mu": 0.1, "optim": "sgd",
        "optim_args": "momentum=0.9", "labels": "client", "learning_rate": 0.05,
        "cut_policy": {"method": "schedule", "schedule": {"1": [1, 2, 3], "2": [3, 1, 2]}},
    },
    "moving cuts, lower rank at the cut": {
        "lora_r_cut": 2, "cut_policy": {"method": "schedule", "schedule": {"1": [1, 2, 3], "2": [3, 1, 2]}},
    },
}  # fmt: skip
WINDOW = 64  # bytes of adapter values that are looked for


@register_method("median_by_rank")
def median_by_rank(job: Job) -> dict[str, str]:
    return {"aggregation": "by_rank", "robust_aggregation": "median"}


@pytest.fixture(scope="module")
def setting(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    folder = tmp_path_factory.mktemp("aggregator")
    files = {name: str(write_rows(folder / f"{name}.txt", rows=30, seed=i)) for i, name in enumerate(NAMES)}
    return make_setting(folder, "llama", num_hidden_layers=5) | {
        "data_files": files, "rounds": 3, "local_steps": 2, "cuts": [1, 2, 3], "labels": "server",
        "max_eval_samples": None, "partition": {"method": "files"}, "warmup_steps": 0, "eval_every": 1,
    }  # fmt: skip


@pytest.fixture
def port() -> int:
    return free_port()


@pytest.fixture
def proxies() -> Iterator[Callable[[int], Proxy]]:
    made: list[Proxy] = []

    def make(target: int) -> Proxy:
        made.append(Proxy(target, capture=True))
        return made[-1]

    yield make
    for proxy in made:
        proxy.close()


def with_aggregator(setting: Settings, address: int) -> Settings:
    return setting | {"network": {"clients": NAMES, "aggregator": f"127.0.0.1:{address}"}}


def start(setting: Settings, port: int, folder: Path, pool: ThreadPoolExecutor) -> Future[None]:
    job = Job(**setting, output_dir=str(folder / "unused"))
    kept = folder / "aggregator"
    return pool.submit(serve_averages, job, f"127.0.0.1:{port}", folder=kept, console=QUIET)


def captured(proxy: Proxy) -> bytes:
    return b"".join(bytes(way) for way in (proxy.captured or {}).values())


@pytest.mark.parametrize("mode", rest_slow(MODES, ["moving cuts, lower rank at the cut"]))
def test_the_same_bits_as_inside_the_server(mode: str, setting: Settings, port: int, tmp_path: Path) -> None:
    setting = setting | MODES[mode]
    run(Job(**setting, output_dir=str(tmp_path / "local")), console=QUIET)
    apart = with_aggregator(setting, port)
    with ThreadPoolExecutor(1) as pool:
        ended = start(apart, port, tmp_path, pool)
        folder = together(apart, tmp_path)
        ended.result(30)
    assert adapter_of(folder) == adapter_of(tmp_path / "local")
    assert not (tmp_path / "aggregator" / "updates").exists(), "updates are kept after the run"


@pytest.mark.slow
def test_a_run_with_an_aggregator_is_extended(setting: Settings, port: int, tmp_path: Path) -> None:
    setting = setting | {"lr_scheduler_type": "constant"}
    run(Job(**setting, output_dir=str(tmp_path / "local")), console=QUIET)
    with ThreadPoolExecutor(1) as pool:
        for rounds, resume in ((2, False), (3, True)):
            apart = with_aggregator(setting, port) | {"rounds": rounds}
            ended = start(apart, port, tmp_path, pool)
            folder = together(apart, tmp_path, resume=resume)
            ended.result(30)
    assert adapter_of(folder) == adapter_of(tmp_path / "local")


def test_no_update_of_a_client_reaches_the_server(
    setting: Settings,
    port: int,
    proxies: Callable[[int], Proxy],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Neither a wire capture nor the server's checkpoints hold one; the aggregator's wire does."""
    updates: list[AdapterUp] = []
    hand_in = Desk.hand_in

    def remember(desk: Desk, update: AdapterUp) -> AdapterUp:
        updates.append(update)
        return hand_in(desk, update)

    monkeypatch.setattr(Desk, "hand_in", remember)
    before_aggregator = proxies(port)
    before_server: list[Proxy] = []

    def port_for(name: str, server_port: int) -> int:
        before_server.append(proxies(server_port))
        return before_server[-1].port

    apart = with_aggregator(setting, before_aggregator.port)
    with ThreadPoolExecutor(1) as pool:
        ended = start(apart, port, tmp_path, pool)
        folder = together(apart, tmp_path, port_for=port_for)
        ended.result(30)
    assert len(updates) == 3 * 3
    kept = b"".join(path.read_bytes() for path in sorted((folder / "checkpoints").rglob("*.safetensors")))
    assert len(kept) > 10_000
    at_server = [*map(captured, before_server), kept]
    at_aggregator = captured(before_aggregator)
    for update in updates:
        values = torch.cat(update.values).numpy().tobytes()
        windows = [values[i : i + WINDOW] for i in range(0, len(values) - WINDOW, WINDOW)]
        seen = sum(window in at_aggregator for window in windows)
        assert seen > 0.9 * len(windows), "the search finds what is there"
        for place in at_server:
            assert not any(window in place for window in windows)


def test_an_update_of_nan_is_rejected_and_the_others_go_on(
    setting: Settings, port: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {name: path for name, path in setting["data_files"].items() if name != "cleo"}
    honest = setting | {"data_files": files, "cuts": [1, 2]}
    run(Job(**honest, output_dir=str(tmp_path / "local")), console=QUIET)
    hand_in = Desk.hand_in

    def poison(desk: Desk, update: AdapterUp) -> AdapterUp:
        if len(update.blocks) == 3:  # cleo's
            update = replace(update, values=tuple(values * float("nan") for values in update.values))
        return hand_in(desk, update)

    monkeypatch.setattr(Desk, "hand_in", poison)
    apart = with_aggregator(setting, port)
    with ThreadPoolExecutor(1) as pool:
        ended = start(apart, port, tmp_path, pool)
        folder = together(apart, tmp_path, tamper={"cleo": lambda message: [message]})
        ended.result(30)
    assert adapter_of(folder) == adapter_of(tmp_path / "local")


def test_another_job_is_refused(setting: Settings, port: int, tmp_path: Path) -> None:
    apart = with_aggregator(setting, port)
    with ThreadPoolExecutor(1) as pool:
        ended = start(apart | {"robust_aggregation": "median"}, port, tmp_path, pool)
        with pytest.raises(NetworkError, match="same job file"):
            together(apart, tmp_path)
        with pytest.raises(NetworkError, match="not come to its end"):
            ended.result(30)
