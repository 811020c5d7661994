"""Masked sums with real processes: the same bits whoever is killed, and no update in the server's memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from harness import AGGREGATOR, SERVER, Processes
from rich.console import Console
from safetensors.torch import load_file

from cases import rest_slow
from history_checker import check_history
from reference import make_setting
from splitft import Job, run

NAMES = ["client-0", "client-1", "client-2"]
WINDOW = 64  # bytes of an adapter that are looked for


@pytest.fixture(scope="module")
def setting(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("sums")
    return make_setting(folder, "llama", num_hidden_layers=4) | {
        "clients": 3, "rounds": 2, "local_steps": 2, "eval_every": 1, "method": "fed_lora",
        "robust_aggregation": "none", "secure_aggregation": True,
    }  # fmt: skip


@pytest.fixture(scope="module")
def wanted(setting: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The adapter that the run in one process makes."""
    folder = tmp_path_factory.mktemp("local") / "run"
    run(Job(**setting, output_dir=str(folder)), console=Console(quiet=True))
    return (folder / "adapter" / "adapter_model.safetensors").read_bytes()


@pytest.fixture
def start(setting: dict[str, Any], tmp_path: Path) -> Iterator[Callable[..., Processes]]:
    made: list[Processes] = []

    def make(**changes: Any) -> Processes:
        own = {key: changes.pop(key) for key in ("aggregator", "tls") if key in changes}
        made.append(Processes(setting | changes, tmp_path, names=NAMES, **own))
        return made[-1]

    yield make
    for processes in made:
        processes.stop()


POINTS = [
    ("client-1", "sum.MaskAsked:1:kill", {}),
    (SERVER, "sum.revealed:2:kill", {"tls": True}),
    ("client-0", "sum.KeysAsked:2:kill", {}),
    ("client-2", "sum.SharesAsked:1:kill", {"tls": True}),
    ("client-1", "sum.SurvivorsAsked:2:kill", {"aggregator": True}),
    ("client-1", "sum.RevealAsked:1:kill", {}),
    (SERVER, "server.aggregate:1:kill", {}),
    (AGGREGATOR, "checkpoint.renamed:2:kill", {"aggregator": True}),
    (SERVER, "sum.revealed:1:kill", {"aggregator": True, "tls": True}),
]


@pytest.mark.parametrize(("who", "point", "own"), rest_slow(POINTS, 2))
def test_a_killed_process_is_not_seen_in_the_result(
    who: str, point: str, own: dict[str, bool], start: Callable[..., Processes], wanted: bytes
) -> None:
    processes = start(**own)
    processes.start_all({who: point})
    processes.finish()
    assert processes.kills == 1
    assert (processes.output / "adapter" / "adapter_model.safetensors").read_bytes() == wanted
    check_history(processes.output, processes.job)


def windows_of(adapter: dict[str, torch.Tensor]) -> list[bytes]:
    """Windows of an adapter's values, as they lie in memory."""
    found = []
    for tensor in adapter.values():
        data = tensor.contiguous().numpy().tobytes()
        found += [data[i : i + WINDOW] for i in range(0, len(data) - WINDOW, 4 * WINDOW)]
    return [window for window in found if len(set(window)) > WINDOW // 4]


def memory_of(process: psutil.Process) -> list[bytes]:
    """All memory of a process that it can write."""
    parts = []
    with Path(f"/proc/{process.pid}/mem").open("rb", buffering=0) as memory:
        for line in Path(f"/proc/{process.pid}/maps").read_text().splitlines():
            (
                area,
                rights,
                *_,
            ) = line.split()
            if rights.startswith("rw"):
                begin, end = (int(place, 16) for place in area.split("-"))
                try:
                    memory.seek(begin)
                    parts.append(memory.read(end - begin))
                except OSError:
                    continue
    return parts


@pytest.mark.slow
@pytest.mark.parametrize("masked", [True, False])
def test_the_memory_of_the_server_holds_no_update(masked: bool, start: Callable[..., Processes]) -> None:
    """The server is stopped when it has summed the round; without masks the same search finds updates."""
    if not Path("/proc/self/mem").exists():
        pytest.skip("the memory of a process cannot be read here")
    processes = start(secure_aggregation=masked, rounds=1, warmup_steps=0)
    seen: list[bytes] = []
    trained: dict[str, list[bytes]] = {}

    def meanwhile() -> None:
        """Once every client has saved what it trained, and the server begins to evaluate: read its memory."""
        kept = "finished/round-000002/tensors.safetensors"
        files = [processes.folder / name / kept for name in NAMES]
        steps = processes.output / "steps.jsonl"
        if seen or not all(map(Path.exists, files)) or not steps.exists():
            return
        if '"aggregate"' not in steps.read_text():
            return
        server = psutil.Process(processes.running[SERVER].pid)
        server.suspend()
        seen.extend(memory_of(server))
        server.resume()
        for name, path in zip(NAMES, files, strict=True):
            blocks = {key: one for key, one in load_file(path).items() if key.startswith("/trained/blocks/")}
            trained[name] = windows_of(blocks)

    processes.start_all()
    processes.finish(meanwhile=meanwhile)
    assert sum(map(len, seen)) > 50_000_000
    for name in NAMES:
        assert len(trained[name]) > 20
        found = sum(any(window in part for part in seen) for window in trained[name])
        assert (found == 0) if masked else (found > 0.5 * len(trained[name])), name
