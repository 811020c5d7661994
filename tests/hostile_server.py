"""A hostile server for real clients: it speaks the protocol over the project's own listener, and deviates."""

from __future__ import annotations

import json
import queue
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from splitft import Job
from splitft.engines.network.control import WIRE, End, Failed, Held, Load, Loaded, Ready, packed
from splitft.engines.network.transport.admission import Admission, AuditLog
from splitft.engines.network.transport.listener import Listener
from splitft.errors import SplitFTError
from splitft.lora.blocks import flatten
from splitft.running.join import join
from splitft.running.prepare import Assembly, assemble
from splitft.running.welcome import welcome_of
from splitft.wire.codecs.registry import network_job
from splitft.wire.messages import Activations, AdapterDown, OptimizerState

QUIET = Console(quiet=True)
NAME = "anna"
Values = dict[str, Any]


def assembled(settings: Values) -> Assembly:
    """What a server of this job starts from."""
    return assemble(network_job(Job(**settings, output_dir="unused")), QUIET, elsewhere=[NAME])


class HostileServer:
    """A server for one client. tell: changes the job that the client is told."""

    def __init__(
        self,
        start: Assembly,
        folder: Path,
        tell: Callable[[Values], Any] = lambda job: None,
        **welcome: Any,
    ) -> None:
        self.start = start
        honest = welcome_of(start)
        job = json.loads(honest.job)
        told = tell(job)
        text = told if isinstance(told, str) else json.dumps(job)
        welcome = {"job": text, **welcome}
        door = Admission((NAME,), {}, False, AuditLog(folder, lambda line: None))
        self.listener = Listener("127.0.0.1:0", None, door, replace(honest, **welcome), 1 << 26)
        self.address = f"127.0.0.1:{self.listener.port}"
        self.heard: list[Any] = []  # all that the client has said
        self._session = ""

    def hear(self, *kinds: type, seconds: float = 30.0) -> Any:
        """Return the next message of one of these kinds; None where the client has hung up, or fails."""
        while True:
            try:
                event = self.listener.events.get(timeout=seconds)
            except queue.Empty:
                return None
            if event.kind == "joined":
                self._session = event.session
            elif event.kind == "said":
                self.listener.used(event)
                message = WIRE.decode(event.payload)
                self.heard.append(message)
                if isinstance(message, kinds):
                    return message
                if isinstance(message, Failed):
                    self.say(End("", False))  # as any server: the client waits until its word has arrived
                    return None
            elif event.kind == "away":
                return None

    def say(self, message: Any) -> None:
        self.listener.send(NAME, packed(message), self._session)

    def restore(self) -> bool:
        """Go through the handshake; return whether the client takes part."""
        if self.hear(Ready) is None:
            return False
        self.say(Load(0, False))
        return self.hear(Loaded) is not None

    def hand_out(self, cut: int = 2, round_: int = 0, **changes: Any) -> bool:
        """Hand out the start's adapters, but for changes; return whether the client takes them."""
        down = self.down(cut, round_)
        self.say(replace(down, **changes))
        return self.hear(Held, OptimizerState) is not None

    def down(self, cut: int, round_: int = 0) -> AdapterDown:
        tail = self.start.num_blocks - self.start.job.num_tail_blocks
        blocks = tuple(block for block in self.start.adapter if block < cut or block >= tail)
        values = tuple(flatten(self.start.adapter[block]) for block in blocks)
        return AdapterDown(round_, cut, blocks, (), values)

    def saw_activations(self) -> bool:
        return any(isinstance(message, Activations) for message in self.heard)

    def close(self) -> None:
        self.listener.close(0)


class Victim:
    """A real client in a thread of this process. error: what ended it."""

    def __init__(self, server: HostileServer, folder: Path, data: Path | None, **options: Any) -> None:
        self.error: SplitFTError | None = None
        self.other: BaseException | None = None
        options = {"accept": "first", "console": QUIET, "job_data": data is None, "patience": 20.0} | options

        def run() -> None:
            try:
                join(server.address, NAME, data=data, folder=folder, **options)
            except SplitFTError as error:
                self.error = error
            except BaseException as error:  # a traceback for whoever sits at the client
                self.other = error

        self.thread = threading.Thread(target=run, daemon=True)
        self.thread.start()

    def end(self, seconds: float = 30.0) -> str:
        """Return the one line with which the client ended. Fails where it goes on, or ends by a traceback."""
        self.thread.join(seconds)
        assert not self.thread.is_alive(), "the client goes on"
        assert self.other is None, self.other
        assert self.error is not None, "the client ended as if the run were complete"
        return str(self.error)


def cancelling(start: Assembly, cut: int, rank: int) -> tuple[torch.Tensor, ...]:
    """Adapters of the front, and zeros behind it, that cancel all adapted layers up to a rank: B.A = -W."""
    slots, scale, values = start.split_model.slots, start.job.lora_scaling, []
    for block in start.adapter:
        specs, parts = slots.layout[block], []
        for a, b in zip(specs[::2], specs[1::2], strict=True):
            layer = start.model.get_submodule(f"{slots.path}.{block}.{a.name.split('.lora_')[0]}")
            u, s, v = torch.linalg.svd(layer.get_base_layer().weight.double(), full_matrices=False)
            down, up = torch.zeros(a.shape).double(), torch.zeros(b.shape).double()
            count = min(rank, len(s)) if block < cut else 0
            down[:count], up[:, :count] = v[:count] * s[:count, None], -u[:, :count] / scale
            parts += [down.flatten(), up.flatten()]
        values.append(torch.cat(parts).float())
    return tuple(values)
