"""What watching a run costs: CPU seconds of its processes with health, metrics and JSON logs, and without.

    python benchmarks/plane.py [--hidden 256] [--blocks 4] [--rounds 6] [--steps 8] [--repeats 4] [--every 15]

One server and two clients, each a process of its own, on loopback, with certificates. `watched`: the server
answers gRPC's health service and serves metrics, the clients serve metrics, all write JSON logs; health and
all metrics are asked for every 15 seconds, as Prometheus often does. `alone`: none of this but the operator's
socket, which every server has. Sides take turns. The model is random (its weights change no timing). Checked:
both sides leave the same adapter, to the byte. CPU seconds of this process, which asks, do not count.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any
from urllib.request import urlopen

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import grpc
from benchlib.network_runs import make_job, result_of, run_network
from benchlib.record import RESULTS, ratio, save, spread
from grpc_health.v1 import health_pb2, health_pb2_grpc

from ports import free_port
from splitft import Job
from splitft.engines.network.transport import certs
from splitft.job import dump_job

NAMES = ("north", "south")
SIDES = ("alone", "watched")


class Watcher:
    """Asks for health and metrics again and again. every: seconds."""

    def __init__(self, every: float) -> None:
        self.every, self.answers, self._next = every, 0, 0.0
        self.health, self.metrics = free_port(), {name: free_port() for name in ("server", *NAMES)}
        self._channel = grpc.insecure_channel(f"127.0.0.1:{self.health}")

    def words(self, party: str, folder: Path) -> list[str | Path]:
        """Return the options of a party's command."""
        own = ["--health", str(self.health)] if party == "server" else []
        log = ["--log-file", folder / f"{party}.jsonl", "--log-format", "json"]
        return [*own, "--metrics", str(self.metrics[party]), *log]

    def ask(self) -> None:
        """Ask all that answer yet, once the seconds are over."""
        if time.monotonic() < self._next:
            return
        self._next = time.monotonic() + self.every
        for port in self.metrics.values():
            try:
                with urlopen(f"http://127.0.0.1:{port}/metrics", timeout=1) as answer:
                    self.answers += bool(answer.read())
            except OSError:  # it has not started, or has ended
                continue
        try:
            health_pb2_grpc.HealthStub(self._channel).Check(health_pb2.HealthCheckRequest(), timeout=1)
        except grpc.RpcError:
            return
        self.answers += 1


def run_side(
    side: str, setting: dict[str, Any], authority: Path, folder: Path, every: float
) -> dict[str, float]:
    """Run the job once; return its seconds, and megabytes each way."""
    folder.mkdir(parents=True)
    dump_job(Job(**setting, output_dir=str(folder / "run")), folder / "job.yaml")
    port, watcher = free_port(), Watcher(every) if side == "watched" else None
    ways: dict[str, list[str | Path]] = {
        name: ["--certs", authority / name, *(watcher.words(name, folder) if watcher else [])]
        for name in ("server", *NAMES)
    }
    server, at = ways.pop("server"), f"localhost:{port}"
    meanwhile = watcher.ask if watcher else lambda: None
    took = run_network(folder, setting["data_files"], port, at, server, ways, meanwhile=meanwhile)
    return took | {"answers": watcher.answers if watcher else 0}


def main() -> None:
    """Measure, and show."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    for name, default in (("hidden", 256), ("blocks", 4), ("rounds", 6), ("steps", 8), ("repeats", 4)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--every", type=float, default=15.0, help="seconds from one question to the next")
    options = parser.parse_args()
    scratch = Path(tempfile.mkdtemp(prefix="splitft-plane-"))
    setting = make_job(scratch, NAMES, options)
    authority = scratch / "authority"
    certs.create_authority(authority)
    for name in NAMES:
        certs.add_client(authority, name)
    found: dict[str, list[dict[str, float]]] = {side: [] for side in SIDES}
    for repeat in range(options.repeats):
        for side in SIDES if repeat % 2 == 0 else SIDES[::-1]:
            folder = scratch / f"{side}-{repeat}"
            found[side].append(run_side(side, setting, authority, folder, options.every))
            print(side, {key: round(value, 2) for key, value in found[side][-1].items()}, flush=True)
        both = [result_of(scratch / f"{side}-{repeat}") for side in SIDES]
        assert both[0] == both[1], "the results are not the same"
    alone, watched = ([one["cpu"] for one in found[side]] for side in SIDES)
    result = {
        "options": vars(options), "alone": spread(alone), "watched": spread(watched),
        "cpu_ratio": ratio(watched, alone),
    }  # fmt: skip
    print(f"CPU seconds, watched over alone: {result['cpu_ratio']}")
    save(result, RESULTS / "plane.json")
    shutil.rmtree(scratch)


if __name__ == "__main__":
    main()
