"""I3 and I5 with real processes: the same bits as in one process, whoever is killed whenever."""

from __future__ import annotations

import json
import random
import shutil
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from harness import AGGREGATOR, SERVER, Processes
from rich.console import Console
from safetensors.torch import load, save

from cases import rest_slow
from history_checker import check_history
from reference import make_setting
from splitft import Job, run

NAMES = ["client-0", "client-1", "client-2"]
ROUNDS = 4
MODES: dict[str, dict[str, Any]] = {
    "per_client": {},
    "shared": {"server_adapter": "shared"},
    "frozen": {"train_front": False, "codec": "int4", "adapter_name_or_path": None},
    "delta": {"codec": "delta", "server_adapter": "shared", "max_staleness": 1},
    "moving": {
        "server_adapter": "shared", "labels": "client", "tail_blocks": 1, "lora_r_cut": 2,
        "cut_policy": {"method": "schedule", "schedule": {"1": [1, 2, 3], "2": [3, 1, 2], "3": [2, 3, 1]}},
    },
    "rare": {"save_every": 3, "labels": "client", "tail_blocks": 1},
    "whole": {
        "method": "fed_lora", "lora_dropout": 0.1, "gradient_accumulation_steps": 2,
        "server_optimizer": "fedavgm",
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def setting(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("network")
    return make_setting(folder, "llama", num_hidden_layers=5) | {
        "clients": 3, "rounds": ROUNDS, "local_steps": 3, "cuts": [1, 2, 3], "eval_every": 1,
        "labels": "server",
    }  # fmt: skip


@pytest.fixture(scope="module")
def wanted(setting: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The adapter that the run in one process makes, in every mode."""
    made = {}
    for mode, changes in MODES.items():
        folder = tmp_path_factory.mktemp("local") / "run"
        run(Job(**setting | changes, output_dir=str(folder)), console=Console(quiet=True))
        made[mode] = (folder / "adapter" / "adapter_model.safetensors").read_bytes()
    return made


@pytest.fixture(scope="module")
def undisturbed(
    setting: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], dict[str, bytes]]:
    """What every party holds at the end of a run of a mode over a network in which nothing happens."""

    @cache
    def make(mode: str) -> dict[str, bytes]:
        processes = Processes(setting | MODES[mode], tmp_path_factory.mktemp("undisturbed"), names=NAMES)
        try:
            processes.start_all()
            processes.finish(meanwhile=lambda: keep_checkpoint(processes))
        finally:
            processes.stop()
        return held(processes)

    return make


def keep_checkpoint(processes: Processes) -> None:
    """Copy the server's last checkpoint while it is there: the end of a run removes it."""
    last, kept = processes.output / "checkpoints" / f"round-{ROUNDS - 1:06d}", processes.folder / "kept"
    if last.exists() and not kept.exists():
        shutil.copytree(last, kept)


def held(processes: Processes) -> dict[str, bytes]:
    """The adapter, all tensors of every party (adapters, optimizer moments and steps), and the figures."""
    files = {
        "adapter": processes.output / "adapter" / "adapter_model.safetensors",
        SERVER: processes.folder / "kept" / "tensors.safetensors",
    }
    for name in NAMES:
        (files[name],) = (processes.folder / name / "saved").glob(f"round-{ROUNDS:06d}/tensors.safetensors")
        files[f"{name}, steps"] = files[name].with_name("state.json")
    found = {what: path.read_bytes() for what, path in files.items()}
    return found | {SERVER: without_seals(found[SERVER]), "history": figures(processes)}


def without_seals(checkpoint: bytes) -> bytes:
    """Return a server's tensors with zeros for kept samples, whose bytes differ with each seal."""
    return save({
        name: torch.zeros_like(tensor) if name.startswith("/cohort/memories/") else tensor
        for name, tensor in load(checkpoint).items()
    })  # fmt: skip


def figures(processes: Processes) -> bytes:
    """What the history tells of every round but its bytes and times, which a kill does change."""
    lines = [json.loads(line) for line in (processes.output / "history.jsonl").read_text().splitlines()]
    kept = ("round", "cohort", "cuts", "loss", "perplexity", "accuracy", "clients", "train_tokens")
    return json.dumps([{key: line[key] for key in kept} for line in lines]).encode()


@pytest.mark.parametrize("mode", rest_slow(MODES, ["moving"]))
def test_over_a_network_the_same_bits_come_out(
    mode: str, undisturbed: Callable[[str], dict[str, bytes]], wanted: dict[str, bytes]
) -> None:
    assert undisturbed(mode)["adapter"] == wanted[mode]


def test_a_start_of_random_numbers_is_the_same_in_every_process(
    setting: dict[str, Any], tmp_path: Path
) -> None:
    """A fast PiSSA draws from torch's own random state, of which each process has one."""
    settings = setting | {"rounds": 2, "init_lora_weights": "pissa_niter_2", "adapter_name_or_path": None}
    settings |= {"use_rslora": True, "loraplus_lr_ratio": 4.0}
    local = run(Job(**settings, output_dir=str(tmp_path / "local")), console=Console(quiet=True))
    processes = Processes(settings, tmp_path / "apart", names=NAMES)
    try:
        processes.start_all()
        processes.finish()
    finally:
        processes.stop()
    name = "adapter_model.safetensors"
    assert (processes.output / "adapter" / name).read_bytes() == (local.adapter_path / name).read_bytes()


@pytest.mark.parametrize("aggregator", rest_slow([True, False], 1))
def test_with_certificates_on_all_sides_the_same_bits_come_out(
    aggregator: bool, setting: dict[str, Any], wanted: dict[str, bytes], tmp_path: Path
) -> None:
    processes = Processes(setting, tmp_path, names=NAMES, aggregator=aggregator, tls=True)
    try:
        processes.start_all()
        processes.finish()
    finally:
        processes.stop()
    assert (processes.output / "adapter" / "adapter_model.safetensors").read_bytes() == wanted["per_client"]


POINTS = [
    ("per_client", SERVER, "server.step:30:kill"),
    ("shared", "client-2", "client.take:14:kill"),
    ("moving apart", SERVER, "server.aggregate:2:kill"),
    ("whole", SERVER, "server.step:40:kill"),
]
MORE_POINTS = [
    ("rare", "client-1", "client.take:30:kill"),
    ("whole", "client-1", "client.send:12:kill"),
    ("whole apart", AGGREGATOR, "server.take:5:kill"),
    ("per_client apart", AGGREGATOR, "server.take:4:kill"),
    ("delta", "client-1", "client.take:30:kill"),
    ("per_client", "client-1", "client.send:12:kill"),
    ("moving", SERVER, "checkpoint.renamed:2:kill"),
    ("delta", SERVER, "server.step:17:kill"),
    ("shared apart", AGGREGATOR, "checkpoint.renamed:5:kill"),
    ("shared apart", "client-0", "checkpoint.flushed:2:kill"),
]


@pytest.mark.parametrize(("processes", "who", "point", "mode"), [
    pytest.param(mode, who, point, mode.split()[0], marks=[pytest.mark.slow] if points is MORE_POINTS else [])
    for points in (POINTS, MORE_POINTS)
    for mode, who, point in points
], indirect=["processes"])  # fmt: skip
def test_a_killed_process_is_not_seen_in_the_result(
    processes: Processes, who: str, point: str, mode: str, wanted: dict[str, bytes]
) -> None:
    processes.start_all({who: point})
    processes.finish()
    assert processes.kills == 1
    assert (processes.output / "adapter" / "adapter_model.safetensors").read_bytes() == wanted[mode]


SLOW, SLOWLY_BACK = "client.take:{}:delay:3", "client.take:1:delay:5"


@pytest.mark.parametrize(
    ("processes", "message", "event", "count"),
    [
        pytest.param("per_client", 12, "aggregate", 1, id="evaluating"),
        pytest.param("per_client", 16, "backward", 6, id="training"),
    ],
    indirect=["processes"],
)
@pytest.mark.slow
def test_who_has_done_its_part_and_comes_back_late_is_waited_for(
    processes: Processes, message: int, event: str, count: int, undisturbed: Callable[[str], dict[str, bytes]]
) -> None:
    """client-1 is killed when all but client-0 are done, and not back when that one is, too."""
    done_at = 0.0

    def meanwhile() -> None:
        nonlocal done_at
        keep_checkpoint(processes)
        if processes.kills:
            return
        if not done_at and happened(processes, event, "client-1") >= count:
            done_at = time.monotonic()
        if done_at and time.monotonic() > done_at + 1.0:
            processes.kill("client-1")
            processes.kills += 1
            processes.start("client-1", SLOWLY_BACK)

    processes.start_all({"client-0": SLOW.format(message)})
    processes.finish(meanwhile=meanwhile)
    assert processes.kills == 1
    assert "has lost its state" not in " ".join(processes.said(SERVER).split())
    assert held(processes) == undisturbed("per_client")
    check_history(processes.output, processes.job)


def happened(processes: Processes, event: str, client: str) -> int:
    """How often an event is in the server's log, of this client where it is one client's."""
    if not (processes.output / "steps.jsonl").exists():
        return 0
    text = (processes.output / "steps.jsonl").read_text()
    lines = [json.loads(line) for line in text.splitlines() if line.endswith("}")]
    return sum(line["event"] == event and line.get("client", client) == client for line in lines)


@pytest.mark.parametrize(("processes", "mode", "seed"), [
    pytest.param(mode, mode, seed, marks=[] if seed == 4 else [pytest.mark.slow])
    for seed in range(50)
    for mode in [list(MODES)[seed % len(MODES)]]
], indirect=["processes"])  # fmt: skip
def test_kills_at_random_moments_are_not_seen_in_the_result(
    processes: Processes,
    mode: str,
    seed: int,
    undisturbed: Callable[[str], dict[str, bytes]],
    wanted: dict[str, bytes],
) -> None:
    """Server or client, two of them, at any moment after the start; the same adapter and optimizer state."""
    rng = random.Random(seed)
    victims = [(rng.uniform(0.2, latest), rng.choice([SERVER, *NAMES])) for latest in (1.0, 5.0)]
    began = time.monotonic()

    def meanwhile() -> None:
        keep_checkpoint(processes)
        for victim in [one for one in victims if one[0] < time.monotonic() - began]:
            victims.remove(victim)
            if processes.running[victim[1]].exitcode is None:
                processes.running[victim[1]].kill()

    processes.start_all()
    processes.finish(meanwhile=meanwhile)
    found = held(processes)
    assert processes.kills >= 1
    assert found["adapter"] == wanted[mode]
    assert found == undisturbed(mode)
    check_history(processes.output, processes.job)
