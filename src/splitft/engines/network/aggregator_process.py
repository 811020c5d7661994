"""The aggregator (the paper's Local FedAvg Server): averages adapters for a server that must not see them.

It sees adapters and no activations; the server sees activations and averages. An update is on its disk before
the server hears of it, so it can be killed at any moment.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from splitft.common.checkpoint import load_checkpoint, save_checkpoint
from splitft.engines.network.aggregator_link import SERVER, digest_of
from splitft.engines.network.control import WIRE, Average, Averaged, End, Rejected, Said, Taken, packed
from splitft.engines.network.gate import check_adapters
from splitft.engines.network.transport.listener import Listener
from splitft.job.settings import TrainingSettings
from splitft.lora.blocks import Adapter, Layout, flatten, unflatten
from splitft.lora.ranks import HeldBlocks, held_blocks
from splitft.lora.reach import reach_of_rounds
from splitft.lora.robust import Contribution
from splitft.server.average import average_round, check_reach
from splitft.wire.messages import AdapterUp, wire_size

UPDATES = "updates"


@dataclass(eq=False)
class AggregatorProcess:
    """Keeps the last update of every client, and averages them when the server asks."""

    settings: TrainingSettings
    job_digest: str  # see `Average`
    names: Sequence[str]  # of the clients
    layout: Layout
    num_blocks: int
    listener: Listener
    folder: Path
    notice: Callable[[str], None]  # prints one line
    _taken: dict[str, AdapterUp] = field(default_factory=dict, init=False)
    _asked: Average | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        self._reach = reach_of_rounds(self.settings)
        for name in self.names:
            found = load_checkpoint(self.folder / name)
            if found is not None:
                state = found.state
                self._taken[name] = AdapterUp(state["round"], tuple(state["blocks"]), tuple(state["values"]))

    def serve(self) -> End:
        """Take in updates and answer the server, until it says that the run is over."""
        while True:
            event = self.listener.events.get()
            if event.kind == "joined" and event.name == SERVER:
                for name, update in self._taken.items():
                    self._tell_taken(name, update)
            elif event.kind == "expelled":
                self._reject(event.name, event.reason)
            elif event.kind == "said":
                self.listener.used(event)
                try:
                    message = WIRE.decode(event.payload)
                    if event.name == SERVER and isinstance(message, End):
                        self.listener.send(SERVER, packed(message))  # the confirmation that it waits for
                        return message
                    self._on_message(event.name, message)
                except ValueError as error:
                    self._reject(event.name, str(error))
                else:
                    self._answer()

    def _on_message(self, name: str, message: Said) -> None:
        if name == SERVER and isinstance(message, Average):
            self._asked = message
        elif name != SERVER and isinstance(message, AdapterUp):
            self._take(name, message)
        else:
            raise ValueError(f"{type(message).__name__} is nothing that {name} sends here")

    def _take(self, name: str, update: AdapterUp) -> None:
        """Keep a client's update; the server checks its sizes. Raises ValueError where it cannot be one."""
        known = {block for block in update.blocks if block in self.layout}
        if not len(known) == len(update.blocks) == len(update.values) or update.grad_norms is not None:
            raise ValueError(f"blocks: {list(update.blocks)[:9]}")
        check_adapters(update)
        state = {"round": update.round, "blocks": list(update.blocks), "values": list(update.values)}
        save_checkpoint(self.folder / name, update.round, state, keep=1)
        self._taken[name] = update
        self._tell_taken(name, update)

    def _tell_taken(self, name: str, update: AdapterUp) -> None:
        sizes = tuple(values.numel() for values in update.values)
        taken = Taken(name, digest_of(update), update.blocks, sizes, wire_size(update)[0])
        self.listener.send(SERVER, packed(taken))

    def _reject(self, name: str, reason: str) -> None:
        self.notice(f"what {name} sent is rejected: {reason}")
        if name != SERVER:
            self.listener.expel(name, reason)
        self.listener.send(SERVER, packed(Rejected("" if name == SERVER else name, reason)))

    def _answer(self) -> None:
        """Answer the server's request, once all its updates are here."""
        asked = self._asked
        if asked is None or not all(
            name in self._taken and torch.equal(digest_of(self._taken[name]), digest)
            for name, digest in zip(asked.clients, asked.digests, strict=False)
        ):
            return
        self._asked = None
        if asked.job != self.job_digest:
            other = "its job is another one than the server's: start both with the same job file"
            self._reject(SERVER, other)
            return
        try:
            averaged = self._average(asked)
        except (ValueError, KeyError) as error:
            self._reject(SERVER, f"the request does not fit the job: {error}")
            return
        self.notice(f"averaged the adapters of {', '.join(asked.clients)}")
        self.listener.send(SERVER, packed(averaged))

    def _beyond(self, old: Adapter, held: Mapping[str, HeldBlocks]) -> dict[str, str]:
        """Return {client: reason} of those whose updates no steps of this job can make."""
        found = {}
        for client, blocks in held.items():
            update = self._taken[client]
            reach = self._reach(update.round) if 1 <= update.round <= self.settings.rounds else None
            try:
                if reach is not None:
                    check_reach(self.settings, self.layout, old, blocks, update, reach)
            except ValueError as error:
                found[client] = str(error)
        return found

    def _average(self, asked: Average) -> Averaged:
        """Return the averages of a request. Raises ValueError where the request is not consistent."""
        # The contributions of trunks, then of clients, by block and holder.
        old = {
            b: unflatten(values, self.layout[b]) for b, values in zip(asked.blocks, asked.old, strict=True)
        }
        trunks: dict[int, dict[str, Contribution]] = defaultdict(dict)
        for holder, block, weight, values in zip(
            asked.holders, asked.held, asked.weights, asked.values, strict=True
        ):
            trunks[block][holder] = unflatten(values, self.layout[block]), float(weight)
        held = {
            c: held_blocks(self.settings, self.num_blocks, cut)
            for c, cut in zip(asked.clients, asked.cuts, strict=True)
        }
        rows = dict(zip(asked.clients, asked.rows, strict=True))
        # Without clients whose updates are further than their steps reach, and without their trunks.
        for client, reason in self._beyond(old, held).items():
            self._reject(client, reason)
            del held[client], rows[client]
            for contributions in trunks.values():
                contributions.pop(client, None)
        own = {client: self._taken[client] for client in rows}
        averaged = average_round(self.settings, self.layout, old, held, rows, own, trunks)
        return Averaged(asked.request, tuple(averaged), tuple(flatten(block) for block in averaged.values()))
