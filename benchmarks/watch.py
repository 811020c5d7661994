"""What a live page costs: its server with watchers, and the run that writes for it.

    python benchmarks/watch.py page [--seconds 30] [--watchers 0 1 10] [--clients 5 1000]
    python benchmarks/watch.py run [--repeats 3] [KEY=VALUE ...]

`page`: CPU seconds of `splitft watch` as a share of one core, while the live file of a run changes every
second in the rows of all its clients, and a round ends every ten seconds; watchers read all that comes.
`run`: CPU seconds of the quickstart, shortened, with the live file and without it, in turns, a process each;
and what a note of a step costs its thread.
"""

from __future__ import annotations

import argparse
import os
import re
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from benchlib.record import RESULTS, save, spread, table

from watched_runs import add_round, live, lock, record, write, write_run

SHORT = ["rounds=2", "local_steps=2", "max_train_samples=200", "max_eval_samples=8", "cut_policy.max_cut=5"]
# The run in a process of its own; with "without", nothing is written for a page.
RUN = """
import contextlib, resource, sys, time
from splitft.job import load_job
from splitft.running import runner

class Without(runner.LiveFile):
    def __enter__(self): return self
    def __exit__(self, *_): pass
    def on_loss(self, *event): self._progress.on_loss(*event)

if sys.argv[1] == "without":
    runner.LiveFile = Without
from rich.console import Console
runner.run(load_job("quickstart", sys.argv[2:]), console=Console(quiet=True))
used = resource.getrusage(resource.RUSAGE_SELF)
print(used.ru_utime + used.ru_stime)
"""


def page_cost(clients: int, watchers: int, seconds: float, folder: Path) -> dict[str, float]:
    """Return the share of a core, the resident MB, and the bytes a second that each watcher gets."""
    cuts = {f"client-{i}": 3 for i in range(clients)}
    run = write_run(folder / f"{clients}-{watchers}", [cuts])
    lock(run, os.getpid())
    os.utime(run / ".lock", (0, 0))
    write(run, "live.json", live(cuts))
    command = [sys.executable, "-m", "splitft.launch", "watch", str(run), "--listen", "127.0.0.1:0"]
    environment = os.environ | {"PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        found = re.search(r":(\d+)/", process.stdout.readline())
        assert found
        got = [0] * watchers
        for place in range(watchers):
            threading.Thread(target=_watch, args=(int(found[1]), got, place), daemon=True).start()
        time.sleep(5)  # all have the whole state
        server = psutil.Process(process.pid)
        before, bytes_before, began = server.cpu_times(), sum(got), time.monotonic()
        for second in range(int(seconds)):
            now = live(cuts, round_=1 + second // 10)
            for own in now["clients"].values():
                own |= {"loss": 2.5 + second / 100, "at": time.time(), "bytes_up": 700 * second}
            write(run, "live.json", now)
            if second % 10 == 9:
                add_round(run, record(1 + second // 10, cuts, 40.0))
            time.sleep(max(0.0, began + second + 1 - time.monotonic()))
        passed, after = time.monotonic() - began, server.cpu_times()
        used = after.user + after.system - before.user - before.system
        memory = server.memory_info().rss / 1e6
        process.kill()
    rate = (sum(got) - bytes_before) / passed / max(1, watchers)
    return {"share": used / passed, "megabytes": memory, "bytes_per_second": rate}


def _watch(port: int, got: list[int], place: int) -> None:
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(f"GET /events HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n".encode())
        while more := connection.recv(1 << 20):
            got[place] += len(more)


def note_seconds(steps: int = 200_000) -> float:
    """Return the seconds that a run's own thread takes to note a step."""
    from splitft.job.settings import FederationSettings
    from splitft.running.live import LiveFile, Notices
    from splitft.wire.ledger import Ledger

    class Progress:
        ledger, tokens_per_second = Ledger(), None

        def on_loss(self, *event: Any) -> None: ...

    with tempfile.TemporaryDirectory() as folder:
        job: Any = FederationSettings.model_construct(rounds=2, local_steps=steps)
        progress: Any = Progress()
        file = LiveFile(Path(folder), job, ["a"], 2, progress, Notices(), list)
        began = time.thread_time()
        for step in range(steps):
            file.on_loss(1, step, "a", 2.0)
        return (time.thread_time() - began) / steps


def run_cost(kind: str, changes: Sequence[str], folder: Path) -> float:
    """Return the CPU seconds of a short quickstart."""
    output = folder / f"{kind}-{time.monotonic_ns()}"
    command = [sys.executable, "-c", RUN, kind, *SHORT, *changes, f"output_dir={output}"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=os.environ)
    return float(done.stdout.split()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=["page", "run"])
    parser.add_argument("changes", nargs="*", metavar="KEY=VALUE")
    parser.add_argument("--seconds", type=float, default=30)
    parser.add_argument("--watchers", type=int, nargs="+", default=[0, 1, 10])
    parser.add_argument("--clients", type=int, nargs="+", default=[5, 1000])
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        if arguments.what == "page":
            costs = {
                f"{clients} clients, {watchers} watchers": page_cost(
                    clients, watchers, arguments.seconds, folder
                )
                for clients in arguments.clients
                for watchers in arguments.watchers
            }
            rows = [
                [
                    name,
                    f"{100 * cost['share']:.2f}",
                    f"{cost['megabytes']:.0f}",
                    f"{cost['bytes_per_second'] / 1e3:.1f}",
                ]
                for name, cost in costs.items()
            ]
            print(table(["", "% of a core", "MB resident", "kB/s a watcher"], rows))
            save({"page": costs}, RESULTS / "watch_page.json")
            return
        seconds: dict[str, list[float]] = {"with": [], "without": []}
        for _ in range(arguments.repeats):
            for kind, values in seconds.items():
                values.append(run_cost(kind, arguments.changes, folder))
        note = note_seconds()
        found = {kind: spread(values) for kind, values in seconds.items()}
        rows = [
            [kind, *(f"{own[key]:.2f}" for key in ("median", "min", "max"))] for kind, own in found.items()
        ]
        print(table(["live file", "CPU seconds", "least", "most"], rows))
        print(f"a note of a step: {1e6 * note:.2f} microseconds")
        save({"run": found, "note_seconds": note}, RESULTS / "watch_run.json")


if __name__ == "__main__":
    main()
