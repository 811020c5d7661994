"""Clients that come and go, each in a thread of its own, and the server that they come to."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from io import StringIO
from pathlib import Path
from typing import Any

from rich.console import Console

from network_threads import Settings, follow
from reference import make_setting, write_rows
from splitft import Callback, Job, run
from splitft.engines.network.transport.listener import Listener
from splitft.running.serve import serve

Held = Callable[[Any], bool]  # of a message that a client is about to send


def registered_job(folder: Path, registered: int, there: int, **own: Any) -> tuple[Settings, list[str]]:
    """Return a job of so many registered clients, and the names of those that have a file of rows below."""
    names = [f"site-{i:05d}" for i in range(registered)]
    step = registered // there
    come = names[::step][:there]
    (folder / "clients.txt").write_text("# registered\n" + "\n".join(names) + "\n")
    for i, name in enumerate(come):
        write_rows(rows_of(folder, name), rows=16, seed=i)
    network = {"clients_file": str(folder / "clients.txt"), "sampling": "connected", "rejoin_seconds": 1.0}
    setting = make_setting(folder, "llama", num_hidden_layers=3) | {
        "data_files": None, "labels": "server", "cuts": 1, "rounds": 4, "local_steps": 1,
        "warmup_steps": 0, "max_eval_samples": None, "eval_every": 1, "codec": "none",
        "network": network | own.pop("network", {}),
    } | own  # fmt: skip
    return setting, come


def rows_of(folder: Path, name: str) -> Path:
    """The file of a client."""
    return folder / f"{name}.txt"


class LeavesError(Exception):
    """A client goes, as if its process were killed."""


class Clients:
    """The clients of a server. A client that has left comes again with its folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._pool = ThreadPoolExecutor(96)
        self._coming: dict[str, Future[Any]] = {}
        self._leaving: dict[str, Held] = {}
        self._waiting: dict[str, tuple[Held, threading.Event]] = {}
        self.address = ""

    def come(self, *names: str) -> None:
        """Have clients dial, each where it does not take part already."""
        for name in names:
            if name not in self._coming or self._coming[name].done():
                self._coming[name] = self._pool.submit(self._take_part, name)

    def leave(self, name: str, where: Held = lambda message: True) -> None:
        """Have a client go in the place of its next message, or of the next one of a kind."""
        self._leaving[name] = where

    def hold(self, name: str, where: Held, until: threading.Event) -> None:
        """Have a client wait before a message."""
        self._waiting[name] = where, until

    def gone(self, name: str) -> bool:
        """Wait until a client has gone."""
        with suppress(Exception):
            self._coming[name].exception(60)
        return self._coming[name].done()

    def over(self, name: str) -> bool:
        """Whether a client takes part no more."""
        return name in self._coming and self._coming[name].done()

    def end(self) -> None:
        """Wait until all have gone."""
        for one in self._coming.values():
            one.exception(60)
        self._pool.shutdown()

    def _take_part(self, name: str) -> None:
        def tamper(message: Any) -> list[Any]:
            where = self._leaving.get(name)
            if where is not None and where(message):
                del self._leaving[name]
                raise LeavesError
            if name in self._waiting and self._waiting[name][0](message):
                self._waiting.pop(name)[1].wait(60)
            return [message]

        with suppress(LeavesError):
            data = rows_of(self._folder, name)
            follow(name, data, self.address, self._folder / name, tamper)


def serve_clients(
    setting: Settings,
    folder: Path,
    clients: Clients,
    first: Sequence[str],
    callbacks: Sequence[Callback] = (),
    **options: Any,
) -> tuple[Any, str]:
    """Serve a job to clients, of whom the first ones dial at once; return the result and what was said."""
    said = Console(file=StringIO(), width=400)

    def on_listening(listener: Listener) -> None:
        clients.address = f"127.0.0.1:{listener.port}"
        clients.come(*first)

    job = Job(**setting, output_dir=str(folder / "run"))
    given = {"callbacks": callbacks, "console": said, "on_listening": on_listening}
    result = serve(job, "127.0.0.1:0", **given, **options)
    return result, said.file.getvalue()  # type: ignore[attr-defined]


def replayed(setting: Settings, folder: Path, come: Sequence[str], record: Path) -> Path:
    """Run the same rounds in one process, with the cohorts of a record; return the run's folder."""
    own = {key: value for key, value in setting.items() if key != "network"}
    own["data_files"] = {name: str(rows_of(folder, name)) for name in come}
    job = Job(**own, replay_cohorts=str(record), output_dir=str(folder / "replayed"))
    return run(job, console=Console(quiet=True)).output_dir
