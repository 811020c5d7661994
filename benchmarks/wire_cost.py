"""What the wire costs: CPU seconds of a training step over gRPC against the same step in one process.

The built-in model; five clients. `local` is `splitft run`; `network` is `splitft server` and five `splitft
client` processes on loopback; `mtls` is the same with certificates. CPU seconds (user and system) of all
processes of a side are read when the record of round 1 appears, and again two rounds later: start-up,
loading and evaluation are outside, hand-outs, checkpoints and averages inside. The sides take turns; medians.

What all threads but the main ones used is listed by itself: they do nothing but carry bytes (gRPC, frames,
TLS), and unlike the whole this share hardly depends on what else the machine does.

    python benchmarks/wire_cost.py [--repeats 3] [--local-steps 2] [--batch 4] [--side mtls]

Runs with the same settings are added to those in results/wire_cost.json.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil

from splitft import load_job
from splitft.job import dump_job

CLIENTS, SIDES = 5, ("local", "network", "mtls")
FIRST, LAST = 1, 3  # rounds after which clocks are read
RESULTS = Path(__file__).parent / "results" / "wire_cost.json"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def commands(side: str, folder: Path) -> list[list[str]]:
    """Return the command of every process of a side."""
    splitft, job = [sys.executable, "-m", "splitft.launch"], str(folder / "job.yaml")
    if side == "local":
        return [[*splitft, "run", job]]
    address, certs = f"localhost:{free_port()}", folder / "certs"
    secure = side == "mtls"
    if secure:
        quietly = {"check": True, "stdout": subprocess.DEVNULL}
        subprocess.run([*splitft, "certs", "init", "localhost", "--folder", str(certs)], **quietly)
        names = [f"client-{i}" for i in range(CLIENTS)]
        subprocess.run([*splitft, "certs", "add", *names, "--folder", str(certs)], **quietly)
    server = [
        *splitft,
        "server",
        job,
        "--listen",
        address,
        *(["--certs", str(certs / "server")] if secure else []),
    ]
    clients = [
        [
            *splitft, "client", "--server", address, "--name", f"client-{i}", "--job-data",
            "--accept", "first", "--folder", str(folder / f"client-{i}"),
            *(["--certs", str(certs / f"client-{i}")] if secure else []),
        ]
        for i in range(CLIENTS)
    ]  # fmt: skip
    return [server, *clients]


def cpu_seconds(processes: list[psutil.Process]) -> dict[str, float]:
    """Return CPU seconds of whole processes, of their main threads, and of the first process alone."""
    whole, main = [], []
    for process in processes:
        times = process.cpu_times()
        whole.append(times.user + times.system)
        own = next(thread for thread in process.threads() if thread.id == process.pid)
        main.append(own.user_time + own.system_time)
    return {"all": sum(whole), "main": sum(main), "server": whole[0]}


def measure(side: str, settings: list[str], steps: int) -> dict[str, float]:
    """Run one side; return CPU seconds a step: of all, of carrying bytes, of the server process."""
    folder = Path(tempfile.mkdtemp(prefix="wire-"))
    running: list[subprocess.Popen[bytes]] = []
    try:
        job = load_job("fixed-cuts", [*settings, f"output_dir={folder / 'run'}"])
        dump_job(job, folder / "job.yaml")
        environment = os.environ | {"OMP_NUM_THREADS": "1", "NO_COLOR": "1"}
        for number, command in enumerate(commands(side, folder)):
            with (folder / f"{number}.log").open("wb") as log:
                running.append(
                    subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT)
                )
        processes = [psutil.Process(process.pid) for process in running]
        read = {}
        for done in (FIRST, LAST):
            wait_for_round(folder, done, running)
            read[done] = cpu_seconds(processes)
        used = {name: (read[LAST][name] - read[FIRST][name]) / steps for name in read[LAST]}
        return {
            "cpu_seconds": used["all"],
            "carrying": used["all"] - used["main"],
            "server": used["server"],
        }
    finally:
        for process in running:
            process.kill()
            process.wait()
        shutil.rmtree(folder, ignore_errors=True)


def wait_for_round(folder: Path, round_: int, running: list[subprocess.Popen[bytes]]) -> None:
    """Return when the record of a round has appeared."""
    history = folder / "run" / "history.jsonl"
    while not history.exists() or history.read_bytes().count(b"\n") <= round_:
        for number, process in enumerate(running):
            if process.poll() is not None:
                raise SystemExit((folder / f"{number}.log").read_text(errors="replace")[-3000:])
        time.sleep(0.01)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--local-steps", type=int, default=2)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--codec", default="none")
    parser.add_argument("--model", default="builtin:smollm2-135m")
    parser.add_argument("--side", action="append", choices=SIDES, help="only these; may be repeated")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    settings = [
        f"model_name_or_path={options.model}", f"clients={CLIENTS}", f"rounds={LAST + 1}",
        f"eval_every={LAST + 1}", "max_eval_samples=5", f"local_steps={options.local_steps}",
        f"per_device_train_batch_size={options.batch}", f"codec={options.codec}",
    ]  # fmt: skip
    steps = CLIENTS * options.local_steps * (LAST - FIRST)
    result: dict[str, Any] = json.loads(options.out.read_text()) if options.out.exists() else {}
    if result.get("settings") != settings:
        machine = f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
        result = {"settings": settings, "steps": steps, "machine": machine, "runs": {s: [] for s in SIDES}}
    for _ in range(options.repeats):
        for side in options.side or SIDES:
            run = measure(side, settings, steps)
            print(f"{side:<8}", {name: round(value, 4) for name, value in run.items()}, flush=True)
            result["runs"][side].append(run)
            result |= compared(result["runs"])
            options.out.parent.mkdir(parents=True, exist_ok=True)
            options.out.write_text(json.dumps(result, indent=1))
    print(json.dumps({name: result[name] for name in ("medians", "ratios")}, indent=1))


def compared(runs: dict[str, list[dict[str, float]]]) -> dict[str, Any]:
    """Return the medians of every side, and what they are of the local one's CPU seconds."""
    medians = {
        side: {name: statistics.median(run[name] for run in made) for name in made[0]}
        for side, made in runs.items()
        if made
    }
    local = medians.get("local", {}).get("cpu_seconds")
    ratios = {
        side: {
            "cpu_seconds": figures["cpu_seconds"] / local,
            "carrying": figures["carrying"] / local,
            "of_minima": min(run["cpu_seconds"] for run in runs[side])
            / min(run["cpu_seconds"] for run in runs["local"]),
        }
        for side, figures in medians.items()
        if local and side != "local"
    }
    return {"medians": medians, "ratios": ratios}


if __name__ == "__main__":
    main()
