"""A run over real connections on loopback, with threads for server and clients: quick to start."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from reference import make_setting, write_rows
from splitft import Callback, Job
from splitft.engines.network.aggregator_link import dial_aggregator
from splitft.engines.network.control import End
from splitft.engines.network.conversation import Conversation
from splitft.engines.network.desk import Dial
from splitft.engines.network.site import Site
from splitft.engines.network.transport.dialler import MAX_PAYLOAD, Dialler
from splitft.engines.network.transport.listener import Listener
from splitft.errors import NetworkError
from splitft.job.site_policy import SitePolicy
from splitft.running.client_setup import ClientSetup
from splitft.running.network import client_names
from splitft.running.serve import serve
from splitft.running.sums import sums_of

QUIET = Console(quiet=True)
Settings = dict[str, Any]
Tamper = Callable[[Any], Any]  # what a client sends instead of a message: a list of messages or bytes


def three_sites(folder: Path, names: Sequence[str], **own: Any) -> Settings:
    """Return a job of two rounds over three files, one of each client. own: further keys."""
    files = {name: str(write_rows(folder / f"{name}.txt", rows=20, seed=i)) for i, name in enumerate(names)}
    return make_setting(folder, "llama", num_hidden_layers=4) | {
        "data_files": files, "rounds": 2, "local_steps": 2, "cuts": [1, 2, 2], "max_eval_samples": None,
        "partition": {"method": "files"}, "warmup_steps": 0,
    } | own  # fmt: skip


class Tampering(Conversation):
    """The messages of a client that does as it is told, but for what it sends."""

    def __init__(self, dialler: Dialler, tamper: Tamper) -> None:
        super().__init__(dialler)
        self.tamper = tamper

    def say(self, message: Any) -> None:
        for changed in self.tamper(message):
            if isinstance(changed, bytes):
                self.send(changed)
            else:
                super().say(changed)


def follow(
    name: str,
    data: Path,
    address: str,
    folder: Path,
    tamper: Tamper | None = None,
    credentials: Any = None,
    token: str = "",
    eval_data: Path | None = None,
    certs: Path | None = None,
    policy: SitePolicy | None = None,
) -> End:
    """Be a client of the server at an address, to the end of the run."""
    dialler = Dialler(address, credentials, name, token, MAX_PAYLOAD)

    def dial(aggregator: str) -> Dial:
        return dial_aggregator(aggregator, name, None, False, "", lambda text: None)

    conversation = Tampering(dialler, tamper) if tamper else Conversation(dialler)
    own = policy or SitePolicy()
    sums = partial(sums_of, name, certs, folder, own, lambda text: None)
    setup = ClientSetup(
        name, data, eval_data, None, QUIET, dial, own, server=address, sums=sums, folder=folder
    )
    site = Site(conversation, folder, setup)
    try:
        return site.run()
    finally:
        dialler.close(0)


def together(
    setting: Settings,
    folder: Path,
    tamper: Mapping[str, Tamper] | None = None,
    said: list[str] | None = None,
    port_for: Callable[[str, int], int] = lambda name, port: port,
    resume: bool = False,
    console: Console = QUIET,
    callbacks: Sequence[Callback] = (),
    policy: SitePolicy | None = None,
) -> Path:
    """Run a job with a thread for each client; return the run's folder.

    said: is told why tampering clients ended. port_for: the port that a client dials, given the server's.
    policy: of every client.
    """
    tamper, said = tamper or {}, [] if said is None else said
    names = client_names(Job(**setting))
    ports: list[int] = []
    listening = threading.Event()

    def on_listening(listener: Listener) -> None:
        ports.append(listener.port)
        listening.set()

    def take_part(name: str) -> None:
        assert listening.wait(60)
        address = f"127.0.0.1:{port_for(name, ports[0])}"
        own = setting.get("eval_files", {}).get(name)
        eval_data = Path(own) if own else None
        data, kept = Path(setting["data_files"][name]), folder / name
        try:
            own_words = {"eval_data": eval_data, "policy": policy}
            said_last = follow(name, data, address, kept, tamper.get(name), **own_words).reason
        except NetworkError as error:
            if name not in tamper:
                raise
            said_last = str(error)
        if name in tamper:
            said.append(said_last)

    job = Job(**setting, output_dir=str(folder / "run"))
    with ThreadPoolExecutor(len(names)) as pool:
        clients = [pool.submit(take_part, name) for name in names]
        options = {"callbacks": callbacks, "console": console, "resume": resume}
        serve(job, "127.0.0.1:0", on_listening=on_listening, **options)
        for client in clients:
            client.result(60)
    return folder / "run"
