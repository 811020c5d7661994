"""Runs of one server and its clients, each a process of its own: seconds, bytes and results.

The folder of the tests must be on the path.
"""

from __future__ import annotations

import json
import time
from argparse import Namespace
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import psutil

from forks import start_command
from reference import make_setting, write_rows
from site_files import write_open_policy


class Times:
    """CPU seconds of processes, which are read while they live."""

    def __init__(self) -> None:
        self._seconds: dict[int, float] = {}

    def look(self, pids: list[int]) -> None:
        for pid in pids:
            try:
                for one in (psutil.Process(pid), *psutil.Process(pid).children(recursive=True)):
                    times = one.cpu_times()
                    self._seconds[one.pid] = times.user + times.system
            except psutil.Error:  # it has just ended
                continue

    @property
    def total(self) -> float:
        return sum(self._seconds.values())


def make_job(scratch: Path, names: Sequence[str], options: Namespace) -> dict[str, Any]:
    """Write a random Llama and rows for each client; return the settings of a job.

    options: hidden, blocks, rounds and steps.
    """
    setting = make_setting(scratch, "llama", num_hidden_layers=options.blocks, hidden_size=options.hidden)
    return setting | {
        "data_files": {n: str(write_rows(scratch / f"{n}.txt", 60, i)) for i, n in enumerate(names)},
        "partition": {"method": "files"}, "labels": "server", "cuts": 2, "rounds": options.rounds,
        "local_steps": options.steps, "max_length": 96, "per_device_train_batch_size": 8,
    }  # fmt: skip


def run_network(
    folder: Path,
    data: Mapping[str, str],
    port: int,
    at: str,
    server: Sequence[str | Path],
    clients: Mapping[str, Sequence[str | Path]],
    *,
    others: Sequence[int] = (),
    meanwhile: Callable[[], object] = lambda: None,
) -> dict[str, float]:
    """Run the job in a folder once; return wall seconds of its rounds, CPU seconds, megabytes each way.

    Args:
        folder: Holds job.yaml, whose run is to be in `run`.
        data: {client: its file}.
        port: At which the server listens.
        at: HOST:PORT that clients dial.
        server, clients: Further words of their commands.
        others: Processes whose CPU seconds count, too.
        meanwhile: Called often; its own CPU seconds do not count.
    """
    policy = write_open_policy(folder)
    started: list[ForkServerProcess] = [
        start_command(
            ["server", folder / "job.yaml", "--listen", f"127.0.0.1:{port}", *server], folder / "server.log"
        )
    ]
    for name, way in clients.items():
        words = [
            "client", "--server", at, "--name", name, "--data", data[name], "--accept", "first",
            "--policy", policy, "--folder", folder / name, *way,
        ]  # fmt: skip
        started.append(start_command(words, folder / f"{name}.log"))
    times, pids = Times(), [one.pid or 0 for one in started] + [*others]
    while any(one.is_alive() for one in started):
        times.look(pids)
        meanwhile()
        time.sleep(0.02)
    times.look(pids)
    if any(one.exitcode for one in started):
        raise SystemExit("\n".join(path.read_text() for path in folder.glob("*.log")))
    lines = read_history(folder)
    up, down = (sum(line[f"bytes_{way}"] for line in lines) / 1e6 for way in ("up", "down"))
    return {
        "wall": sum(line["round_seconds"] for line in lines), "cpu": times.total, "up": up, "down": down,
    }  # fmt: skip


def result_of(folder: Path) -> tuple[bytes, list[tuple[Any, ...]]]:
    """Return the adapter's bytes, and what each round's record counts."""
    keys = "bytes_up", "bytes_down", "loss", "perplexity"
    counted = [tuple(line[key] for key in keys) for line in read_history(folder)]
    return (folder / "run" / "adapter" / "adapter_model.safetensors").read_bytes(), counted


def read_history(folder: Path) -> list[dict[str, Any]]:
    """Return the rounds of the run in a folder."""
    return [json.loads(line) for line in (folder / "run" / "history.jsonl").read_text().splitlines()]
