"""The ServerApp: runs a job as `splitft server` does, with a SuperLink's SuperNodes as its clients."""

from __future__ import annotations

import json
import secrets
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from flwr.app import ConfigRecord, Context, Message, MessageType, MetricRecord
from flwr.serverapp import Grid, ServerApp
from rich.console import Console

from splitft.common.files import write_atomically
from splitft.engines.network.transport.certs import SERVER_NAME
from splitft.engines.network.transport.credentials import is_loopback
from splitft.engines.network.transport.listener import Listener
from splitft.errors import JobError
from splitft.job import load_job
from splitft.launch.flower.client import FAILURE, METRICS
from splitft.launch.flower.ticket import Ticket, make_authority
from splitft.running.network import client_names, notice
from splitft.running.serve import serve

REPLIES = "flower.json"  # replies of clients, in the run's folder
POLL_SECONDS = 2.0
LAST_WORDS_SECONDS = 60.0  # after the end, for replies; SuperLink and SuperNodes look every few seconds
MOST_LAUNCHES = 10  # of one client in a session
TTL_SECONDS = 90 * 24 * 3600.0  # of a Message and its reply: longer than any run

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run the job of the run config with the SuperNodes that are registered under its clients' names.

    Of the run config, listen is the HOST:PORT to listen at, endpoint that for clients; empty: the same.
    Raises SplitFTError.
    """
    settings, console = context.run_config, Console()
    job, listen, endpoint = load_job(str(settings["job"])), str(settings["listen"]), str(settings["endpoint"])
    if job.network.aggregator:
        raise JobError("launched by Flower, the server averages: leave network.aggregator out of the job")
    host = host_for_clients(listen, endpoint)
    with tempfile.TemporaryDirectory(prefix="splitft-") as scratch:
        certs = Path(scratch) / "certs"
        authority = make_authority(certs, host)
        tokens = {name: secrets.token_urlsafe(32) for name in client_names(job)}
        launchers: list[Launcher] = []

        def on_listening(listener: Listener) -> None:
            reached = endpoint or f"{listen.rpartition(':')[0]}:{listener.port}"
            tickets = {name: Ticket(name, reached, authority, token) for name, token in tokens.items()}
            launchers.append(Launcher(grid, tickets, listener.gone, lambda text: notice(console, text)))

        replies: Mapping[str, Any] = {}
        try:
            result = serve(
                job,
                listen,
                certs=certs / SERVER_NAME,
                tokens=tokens,
                resume=settings["resume"] is True,
                console=console,
                on_listening=on_listening,
            )
        finally:
            for launcher in launchers:
                replies = launcher.finish()
    if launchers:
        write_atomically(result.output_dir / REPLIES, json.dumps(replies, indent=1))


def host_for_clients(listen: str, endpoint: str) -> str:
    """Return the host that clients dial. Raises JobError where it does not follow."""
    host, _, port = (endpoint or listen).rpartition(":")
    if not host or not port.isdigit():
        raise JobError(f"endpoint and listen are HOST:PORT, not {endpoint or listen!r}")
    if not endpoint and not is_loopback(host):
        raise JobError(
            f"listen={listen} is open to a network: say with endpoint=HOST:PORT where clients reach it"
        )
    return host.strip("[]")


class Launcher:
    """Starts the SuperNodes of a run, in a thread of its own.

    A SuperNode is the client under whose name its key is registered. Late ones are started when they come,
    and started again where their app ends unexpectedly. tickets: for each client. gone: receives clients that
    report a failure, or whose app ends too often. results: figures of the others.
    """

    def __init__(
        self,
        grid: Grid,
        tickets: Mapping[str, Ticket],
        gone: Callable[[str, str], None],
        notice: Callable[[str], None],
    ) -> None:
        self.results: dict[str, dict[str, float]] = {}
        self._grid = grid
        self._tickets = tickets
        self._gone = gone
        self._notice = notice
        self._waiting = set(tickets)  # to be started
        self._launches = dict.fromkeys(tickets, 0)
        self._running: dict[str, str] = {}  # message: client
        self._said: set[str] = set()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="splitft-launcher", daemon=True)
        self._thread.start()

    def finish(self) -> dict[str, dict[str, float]]:
        """Stop starting clients, wait for outstanding replies, and return all results."""
        self._over.set()
        self._thread.join()
        deadline = time.monotonic() + LAST_WORDS_SECONDS
        while self._running and time.monotonic() < deadline:
            self._gather()
            time.sleep(POLL_SECONDS if self._running else 0.0)
        return self.results

    def _run(self) -> None:
        while not self._over.is_set():
            try:
                self._gather()
                self._launch()
            except Exception as error:  # of any kind: the run itself does not need Flower
                self._say(f"Flower does not answer: {error}")
            self._over.wait(POLL_SECONDS)

    def _launch(self) -> None:
        if not self._waiting:
            return
        nodes: dict[str, list[int]] = {}
        for node in self._grid.get_nodes():
            nodes.setdefault(node.name, []).append(node.node_id)
        for name, ids in nodes.items():
            if name not in self._tickets:
                self._say(
                    f"SuperNode {ids[0]} is not registered under the name of a client of the job "
                    "(flwr supernode register KEY.pub --name NAME), and gets nothing"
                )
            elif len(ids) > 1:
                self._say(f"{len(ids)} SuperNodes are registered as {name}: unregister all but one")
            elif name in self._waiting:
                content = self._tickets[name].content()
                message = Message(content, ids[0], MessageType.TRAIN, ttl=TTL_SECONDS, group_id=name)
                for sent in self._grid.push_messages([message]):
                    self._running[sent] = name
                    self._launches[name] += 1
                    self._waiting.discard(name)
                    self._notice(f"started {name} on SuperNode {ids[0]}")

    def _gather(self) -> None:
        if not self._running:
            return
        for reply in self._grid.pull_messages(list(self._running)):
            name = self._running.pop(reply.metadata.reply_to_message_id)
            content = reply.content if reply.has_content() else {}
            metrics, failure = content.get(METRICS), content.get(FAILURE)
            if isinstance(metrics, MetricRecord):
                self.results[name] = {
                    key: value for key, value in metrics.items() if isinstance(value, int | float)
                }
                continue
            if isinstance(failure, ConfigRecord):
                self._gone(name, f"it says: {failure.get('reason', '')!s}")
                continue
            reason = str(reply.error.reason) if reply.has_error() else "its reply cannot be read"
            self._notice(f"the app of {name} has ended: {reason}")
            if self._launches[name] < MOST_LAUNCHES:
                self._waiting.add(name)
            else:
                self._gone(name, f"its app has ended {MOST_LAUNCHES} times; the last: {reason}")

    def _say(self, text: str) -> None:
        """Print a line once."""
        if text not in self._said:
            self._said.add(text)
            self._notice(text)
