"""A thousand clients at one server: memory of an idle one, and rounds in which clients come and go.

    python benchmarks/many_clients.py [--clients 1000] [--per-round 50] [--rounds 3] [--churn 5] [--certs]

The server is a process of its own, with a Llama of 3 blocks, 32 wide; without TLS, or with a certificate of
each client (--certs). All clients share another process.
Each has a real connection over loopback and speaks the whole protocol, with made-up activations and adapters
as they were handed out. `--churn`: clients that leave each second, and come again a second later.

Printed: seconds until all are connected; resident memory of the server before, with all connected and idle,
and at the end; CPU seconds a second while all are idle; seconds of each round.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import os
import random
import resource
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import torch
from door import LoopDialler

from splitft import Job
from splitft.engines.network.control import (
    EVALUATION,
    WIRE,
    End,
    Evaluate,
    Evaluated,
    Held,
    Load,
    Loaded,
    Ready,
    Save,
    Saved,
    Skip,
    Started,
    Train,
    Welcome,
    Worked,
    packed,
)
from splitft.engines.network.transport import certs
from splitft.engines.network.transport.credentials import channel_credentials
from splitft.engines.network.transport.listener import Listener
from splitft.wire.messages import Activations, AdapterDown, AdapterUp, Gradients, HeldOut
from tiny import save_tiny_model

MB = 1 << 20
WIDTH, TOKENS, STEPS = 32, 8, 2
A_SECOND = 50  # connections that are dialled at first
PROCESSES = multiprocessing.get_context("spawn")


class Fake:
    """A client without a model. It computes nothing, and answers as the protocol wants it."""

    def __init__(self, address: str, name: str, authority: Path | None = None) -> None:
        self.name, self.session, self.over, self.loaded = name, "", False, False
        self._blocks: dict[int, torch.Tensor] = {}
        self._round, self._step = -1, 0
        self.authority = authority
        credentials = channel_credentials(address, authority / name, False) if authority else None
        self.dialler = LoopDialler(address, credentials, name, "", 64 * MB, sink=self._take)

    def hang_up(self) -> None:
        self.loaded = False
        self.dialler._dialling.cancel()

    def _say(self, *messages: Any) -> None:
        for message in messages:
            self.dialler._send(self.session, packed(message))

    def _take(self, item: Any) -> None:
        if isinstance(item, Welcome):
            self.session = item.session
            self._say(Ready(100, 1, item.things, item.values))
            return
        self._answer(WIRE.decode(item) if isinstance(item, bytes) else item)

    def _answer(self, message: Any) -> None:
        match message:
            case Load():
                self._say(Loaded(message.done, True))
                self.loaded = True
            case AdapterDown():
                self._blocks |= dict(zip(message.blocks, message.values, strict=True))
                self._say(Held(message.round))
            case Train():
                self._round, self._step = message.round, 0
                self._say(Started(message.round, message.attempt), self._activations())
            case Gradients() if message.round == self._round:
                self._step += 1
                if self._step < STEPS:
                    self._say(self._activations())
                else:
                    blocks = tuple(sorted(self._blocks))
                    values = tuple(self._blocks[block] for block in blocks)
                    self._say(Worked(self._round, 0.0, 0.0), AdapterUp(self._round, blocks, values))
            case Skip():
                self._round = -1
            case Evaluate():
                ids = torch.arange(TOKENS, dtype=torch.int32)
                rows = [] if message.have else [HeldOut(message.round, 0, (TOKENS,), ids, ids)]
                self._say(Started(message.round, EVALUATION), *rows, Evaluated(message.round))
            case Save():
                self._say(Saved(message.done))
            case End():
                self.over = True

    def _activations(self) -> Activations:
        labels = torch.arange(TOKENS, dtype=torch.int32)
        return Activations(
            self._round, self._step, 0, True, (TOKENS,), torch.randn(TOKENS, WIDTH), labels=labels
        )


def serve_job(pipe: Any, settings: dict[str, Any], own: Path | None) -> None:
    """Serve in this process."""
    from rich.console import Console

    from splitft.running.serve import serve

    def on_listening(listener: Listener) -> None:
        pipe.send(listener.port)

    log = (Path(settings["output_dir"]).parent / "server.log").open("w")
    console = Console(file=log, width=200)
    serve(Job(**settings), "127.0.0.1:0", certs=own, on_listening=on_listening, console=console)
    pipe.send("done")


def figures_of(process: int) -> tuple[int, float]:
    """Return resident bytes and CPU seconds of a process."""
    status = Path(f"/proc/{process}/status").read_text().splitlines()
    resident = next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmRSS"))
    times = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return resident, (int(times[11]) + int(times[12])) / os.sysconf("SC_CLK_TCK")


def come_and_go(fakes: list[Fake], address: str, a_second: int, over: threading.Event) -> None:
    """Have clients leave and come again, until the run is over."""
    chance, away = random.Random(1), list[int]()
    while not over.wait(1.0):
        for place in away:
            fakes[place] = Fake(address, fakes[place].name, fakes[place].authority)
        away = chance.sample(range(len(fakes)), a_second)
        for place in away:
            LoopDialler.loop.call_soon_threadsafe(fakes[place].hang_up)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--clients", type=int, default=1000)
    parser.add_argument("--registered", type=int, default=10_000)
    parser.add_argument("--per-round", type=int, default=50)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--churn", type=int, default=5)
    parser.add_argument("--certs", action="store_true", help="TLS, and a certificate of each client")
    given = parser.parse_args()
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))

    # The server, with one client more than connect at first: until that comes, all are idle.
    folder = Path(tempfile.mkdtemp())
    names = [f"client-{i}" for i in range(given.registered)]
    (folder / "clients.txt").write_text("\n".join(names))
    settings = {
        "model_name_or_path": str(save_tiny_model(folder / "model", "llama", num_hidden_layers=3)),
        "privacy": "server_reads", "labels": "server", "cuts": 1, "codec": "none", "max_length": 24,
        "rounds": given.rounds, "local_steps": STEPS, "warmup_steps": 0, "max_grad_norm": 0.0,
        "per_device_train_batch_size": 1, "clients_per_round": given.per_round, "eval_clients": 20,
        "padding_free": False, "use_cpu": True, "output_dir": str(folder / "run"),
        "network": {
            "clients_file": str(folder / "clients.txt"), "sampling": "connected", "over_selection": 1.2,
            "min_clients": given.clients, "rejoin_seconds": 2.0,
        },
    }  # fmt: skip
    authority = folder / "certs" if given.certs else None
    if authority:
        certs.create_authority(authority)
        for name in names[: given.clients + 3 * given.churn]:
            certs.add_client(authority, name)
    pipe, other = PROCESSES.Pipe()
    own = authority / certs.SERVER_NAME if authority else None
    server = PROCESSES.Process(target=serve_job, args=(other, settings, own))
    server.start()
    assert server.pid is not None
    address = f"localhost:{pipe.recv()}"
    time.sleep(2.0)
    before, _ = figures_of(server.pid)
    LoopDialler.loop = asyncio.new_event_loop()
    threading.Thread(target=LoopDialler.loop.run_forever, daemon=True).start()

    # All connect, and are idle.
    began = time.monotonic()
    fakes = []
    for name in names[: given.clients - 1]:
        fakes.append(Fake(address, name, authority))
        time.sleep(1 / A_SECOND)
    while sum(fake.loaded for fake in fakes) < len(fakes) and time.monotonic() - began < 300:
        time.sleep(0.2)
    joined = time.monotonic() - began
    time.sleep(10.0)
    idle, cpu = figures_of(server.pid)
    time.sleep(10.0)
    share = (figures_of(server.pid)[1] - cpu) / 10.0

    # The last ones come, and the rounds run.
    late = names[given.clients - 1 : given.clients + 3 * given.churn]
    fakes += [Fake(address, name, authority) for name in late]
    over = threading.Event()
    going = threading.Thread(target=come_and_go, args=(fakes, address, given.churn, over))
    if given.churn:
        going.start()
    done = pipe.poll(900) and pipe.recv()
    over.set()
    if given.churn:
        going.join()
    history = (folder / "run" / "history.jsonl").read_text().splitlines()
    rounds = [json.loads(line) for line in history]
    seconds = [round(line["round_seconds"] + line["evaluation_seconds"], 2) for line in rounds]
    counted = [len(line["cohort"]) for line in rounds[1:]]
    at_end = max((figures_of(server.pid)[0] for _ in [0] if server.is_alive()), default=0)
    server.join(60)
    each = (idle - before) / len(fakes[: given.clients - 1])
    print(
        f"{given.clients - 1} clients in after {joined:.1f} s; server {before / MB:.0f} MB before, "
        f"{idle / MB:.0f} MB with all idle: {each / 1e6:.3f} MB a client; {share:.2f} CPU s a second; "
        f"{at_end / MB:.0f} MB at the end; {done}: rounds of {counted} clients in {seconds} s",
        flush=True,
    )


if __name__ == "__main__":
    main()
