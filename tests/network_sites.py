"""A run over real connections whose parties are started as their commands start them: `serve` and `join`."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from io import StringIO
from pathlib import Path
from typing import Any

from rich.console import Console

from network_threads import QUIET, Settings
from site_files import write_open_policy
from splitft import Callback, Job
from splitft.engines.network.transport.listener import Listener
from splitft.running.join import join
from splitft.running.network import client_names
from splitft.running.serve import serve

ADAPTER = Path("run", "adapter", "adapter_model.safetensors")


def run_sites(
    setting: Settings,
    folder: Path,
    *,
    server: dict[str, Any],
    client: Callable[[str], dict[str, Any]],
    address: Callable[[str, int], str] = lambda name, port: f"localhost:{port}",
    callbacks: Sequence[Callback] = (),
    heard: list[Listener] | None = None,
    listen: str = "127.0.0.1:0",
) -> str:
    """Run a job, a thread for each client; return all that server and clients have said.

    server: options of `serve`. client: returns those of `join`, by name. address: that a client dials, given
    its name and the server's port. heard: receives the listener.
    """
    said, listening, ports = StringIO(), threading.Event(), list[int]()
    console = Console(file=said, width=1000)
    policy = write_open_policy(folder)

    def on_listening(listener: Listener) -> None:
        ports.append(listener.port)
        if heard is not None:
            heard.append(listener)
        listening.set()

    def take_part(name: str) -> None:
        assert listening.wait(120)
        given = {"accept": "first", "policy": policy, "console": console} | client(name)
        join(
            address(name, ports[0]),
            name,
            data=Path(setting["data_files"][name]),
            folder=folder / name,
            **given,
        )

    job = Job(**setting, output_dir=str(folder / "run"))
    names = client_names(job)
    with ThreadPoolExecutor(len(names)) as pool:
        clients = [pool.submit(take_part, name) for name in names]
        options = {"callbacks": callbacks, "console": console, "on_listening": on_listening}
        serve(job, listen, **options, **server)
        for one in clients:
            one.result(60)
    return said.getvalue()


__all__ = ["ADAPTER", "QUIET", "run_sites"]
