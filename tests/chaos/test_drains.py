"""SIGTERM at any moment: a party stops within seconds, and when it is back the same bits come out."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from harness import AGGREGATOR, SERVER, Processes
from rich.console import Console

from forks import has_namespaces
from reference import make_setting
from splitft import Job, run
from splitft.common.draining import DRAINED

NAMES = ["client-0", "client-1", "client-2"]
MODES: dict[str, dict[str, Any]] = {
    "per_client": {},
    "shared": {"server_adapter": "shared"},
    "delta": {"codec": "delta", "server_adapter": "shared", "max_staleness": 1},
    "moving": {
        "labels": "client", "tail_blocks": 1, "lora_r_cut": 2,
        "cut_policy": {"method": "schedule", "schedule": {"1": [1, 2, 3], "2": [3, 1, 2], "3": [2, 3, 1]}},
    },
    "whole": {"method": "fed_lora", "lora_dropout": 0.1},
}  # fmt: skip
MOST_SECONDS = 10.0  # of a drain


@pytest.fixture(scope="module")
def setting(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("drains")
    return make_setting(folder, "llama", num_hidden_layers=5) | {
        "clients": 3, "rounds": 4, "local_steps": 3, "cuts": [1, 2, 3], "eval_every": 1, "labels": "server",
    }  # fmt: skip


@pytest.fixture(scope="module")
def wanted(setting: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The adapter of each mode, made when it is asked for."""

    class Made(dict[str, bytes]):
        def __missing__(self, mode: str) -> bytes:
            folder = tmp_path_factory.mktemp("local") / "run"
            run(Job(**setting | MODES[mode], output_dir=str(folder)), console=Console(quiet=True))
            self[mode] = (folder / "adapter" / "adapter_model.safetensors").read_bytes()
            return self[mode]

    return Made()


def drain(processes: Processes, who: str, number: int = signal.SIGTERM) -> bool:
    """Send a signal to a party, and see it stop in time with the code that says: start it again.

    Returns whether it did: it may have come to its end just then.
    """
    process, began = processes.running[who], time.monotonic()
    if process.exitcode is not None:
        return False
    processes.signal(who, number)
    process.join(MOST_SECONDS)
    assert process.exitcode in (DRAINED, 0), processes.said(who)
    assert time.monotonic() - began < MOST_SECONDS
    return process.exitcode == DRAINED


CONTAINED = pytest.mark.skipif(not has_namespaces(), reason="this user may make no process namespace")


@pytest.mark.parametrize(("processes", "mode", "seed"), [
    pytest.param(mode + " apart" * (seed % 3 == 2) + how, mode, seed, marks=marks)
    for how, seeds, quick in (("", range(22), (2,)), (" contained", range(22, 44), (23,)))
    for seed in seeds
    for marks in [[pytest.mark.slow] * (seed not in quick) + [CONTAINED] * bool(how)]
    for mode in [list(MODES)[seed % len(MODES)]]
], indirect=["processes"])  # fmt: skip
def test_drains_at_random_moments_are_not_seen_in_the_result(
    processes: Processes, mode: str, seed: int, wanted: dict[str, bytes]
) -> None:
    """Of the server, and of another party, some milliseconds after some step of the run.

    Contained, each is the first process of its namespace, which no signal ends that it does not handle.
    """
    rng = random.Random(seed)
    others = [who for who in processes.everyone if who != SERVER]
    victims = [(rng.randrange(1, 36), SERVER), (rng.randrange(1, 36), rng.choice(others))]
    drained = []

    def meanwhile() -> None:
        for victim in [one for one in victims if one[0] <= steps(processes)]:
            victims.remove(victim)
            time.sleep(rng.uniform(0.0, 0.05))
            drained.append(drain(processes, victim[1]))

    processes.start_all()
    processes.finish(meanwhile=meanwhile)
    assert any(drained)
    assert (processes.output / "adapter" / "adapter_model.safetensors").read_bytes() == wanted[mode]


def steps(processes: Processes) -> int:
    """How many steps have taken effect at the server."""
    path = processes.output / "steps.jsonl"
    return path.read_text().count("\n") if path.exists() else 0


def wait_for(processes: Processes, who: str, text: str, seconds: float = 90.0) -> None:
    deadline = time.monotonic() + seconds
    while text not in processes.said(who):
        assert time.monotonic() < deadline, processes.said(who)
        time.sleep(0.02)


@pytest.mark.parametrize("processes", ["per_client apart"], indirect=True)
def test_all_parties_say_that_they_stop_for_a_while(processes: Processes, wanted: dict[str, bytes]) -> None:
    """A client, the aggregator, and the server by Ctrl-C; each is started again once the others know."""
    processes.start_all({SERVER: "server.step:12:delay:2"})
    wait_for(processes, SERVER, "before")
    drain(processes, "client-1")
    wait_for(processes, SERVER, "client-1 is away: it was stopped")
    processes.start("client-1")
    drain(processes, AGGREGATOR)
    wait_for(processes, SERVER, "it stops for a while, and comes back; dialling again")
    processes.start(AGGREGATOR)
    drain(processes, SERVER, signal.SIGINT)
    wait_for(processes, "client-0", "it stops for a while, and comes back; dialling again")
    processes.start(SERVER)
    processes.finish()
    assert processes.kills == 0
    assert (processes.output / "adapter" / "adapter_model.safetensors").read_bytes() == wanted["per_client"]


@pytest.mark.parametrize("processes", ["per_client"], indirect=True)
def test_a_second_ctrl_c_ends_the_run_for_all(processes: Processes) -> None:
    processes.start_all()
    for name in NAMES:  # one that has not dialled yet would dial on
        wait_for(processes, SERVER, f"{name} takes part")
    server = processes.running[SERVER]
    os.kill(server.pid or 0, signal.SIGINT)
    wait_for(processes, SERVER, "Ctrl-C again")
    os.kill(server.pid or 0, signal.SIGINT)
    server.join(MOST_SECONDS)
    assert server.exitcode == 130
    for name in NAMES:
        processes.running[name].join(MOST_SECONDS)
        assert processes.running[name].exitcode == 6
        assert "the server stopped" in processes.said(name)


@pytest.mark.slow  # it imports everything anew
@pytest.mark.skipif(not has_namespaces(), reason="this user may make no process namespace")
def test_the_first_process_of_a_container_drains(tmp_path: Path) -> None:
    (tmp_path / "rows.txt").write_text("we the people")
    words = ["client", "--server", "127.0.0.1:9", "--name", "anna", "--data", "rows.txt", "--accept", "first"]
    command = ["unshare", "-pf", "--mount-proc", str(Path(sys.executable).with_name("splitft")), *words]
    with (tmp_path / "log").open("w") as log:
        parent = subprocess.Popen(command, cwd=tmp_path, stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + 90
        while "no answer" not in (tmp_path / "log").read_text():
            assert time.monotonic() < deadline and parent.poll() is None
            time.sleep(0.05)
        (child,) = Path(f"/proc/{parent.pid}/task/{parent.pid}/children").read_text().split()
        assert "NSpid:\t" + f"{child}\t1\n" in Path(f"/proc/{child}/status").read_text()
        os.kill(int(child), signal.SIGTERM)
        assert parent.wait(MOST_SECONDS) == DRAINED
    finally:
        parent.kill()
        parent.wait()
