"""The naive loop of naive.py over sockets: a server process, and one that is one client after another."""

from __future__ import annotations

import multiprocessing
import socket
import time
from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

from benchlib.parties import ALPHA, RANK, TARGETS, make_job
from benchlib.processes import Link
from benchlib.rows import rows_of
from tcp_proxy import Proxy

LORA = (RANK, ALPHA, TARGETS)


def send(connection: socket.socket, payload: bytes) -> None:
    connection.sendall(len(payload).to_bytes(8, "big") + payload)


def receive(connection: socket.socket) -> bytes:
    """Return one message; nothing where the other end has closed."""
    length = int.from_bytes(read(connection, 8), "big")
    return read(connection, length)


def read(connection: socket.socket, length: int) -> bytes:
    found = bytearray()
    while len(found) < length:
        piece = connection.recv(min(length - len(found), 1 << 20))
        if not piece:
            return b""
        found += piece
    return bytes(found)


def load(path: Path) -> Any:
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(1)
    return AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)


def run_server(path: Path, names: Sequence[str], cut: int, told: Connection) -> None:
    """Answer whoever speaks, one after another, until they close."""
    from naive import NaiveServer

    server = NaiveServer(load(path), names, cut, LORA)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        told.send(listening.getsockname()[1])
        connections = {}
        for _ in names:  # they come in their order
            connection, _ = listening.accept()
            connections[receive(connection).decode()] = connection
        while payload := receive(connections[names[0]]):
            send(connections[names[0]], server.answer(names[0], payload))
            for name in names[1:]:
                send(connections[name], server.answer(name, receive(connections[name])))


def run_clients(
    path: Path,
    names: Sequence[str],
    cut: int,
    batch: int,
    tokens: int,
    ports: Sequence[int],
    told: Connection,
) -> None:
    """Take as many steps of all as is said, and say what one took, until none are wanted."""
    from naive import NaiveClient

    job, model = make_job(len(names), batch, cuts=cut), load(path)
    connections, clients = [], []
    for number, (name, port) in enumerate(zip(names, ports, strict=True)):
        rows = rows_of([tokens] * 16 * batch, seed=number, vocabulary=model.config.vocab_size)
        clients.append(NaiveClient(name, model, cut, LORA, job, rows, tokens))
        connections.append(socket.create_connection(("127.0.0.1", port)))
        send(connections[-1], name.encode())
    while steps := told.recv():
        began = time.perf_counter()
        for _ in range(steps):
            for client, connection in zip(clients, connections, strict=True):
                send(connection, client.forward())
                client.backward(receive(connection))
        told.send((time.perf_counter() - began) / steps)


class NaiveProcesses:
    """Both processes while they run, and the proxies between them. Ends them on the way out."""

    def __init__(self, path: Path, names: Sequence[str], cut: int, batch: int, tokens: int) -> None:
        start = multiprocessing.get_context("spawn")
        server_told, told = start.Pipe()
        server = start.Process(target=run_server, args=(path, names, cut, told))
        server.start()
        port = server_told.recv()
        self.proxies = [Proxy(port) for _ in names]
        self._told, told = start.Pipe()
        ports = [proxy.port for proxy in self.proxies]
        clients = start.Process(target=run_clients, args=(path, names, cut, batch, tokens, ports, told))
        clients.start()
        self._running = [server, clients]
        self._step(1)

    def _step(self, steps: int) -> float:
        self._told.send(steps)
        seconds: float = self._told.recv()
        return seconds

    def seconds_of_a_step(self, link: Link, steps: int) -> float:
        """Return what a step of all clients takes over a link."""
        link.lay(self.proxies)
        return self._step(steps)

    def __enter__(self) -> NaiveProcesses:
        return self

    def __exit__(self, *_: object) -> None:
        self._told.send(0)
        for process in reversed(self._running):
            process.join(5)
            process.kill()
            process.join()
        for proxy in self.proxies:
            proxy.close()
