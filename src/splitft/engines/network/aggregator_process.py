"""The aggregator (the paper's Local FedAvg Server): averages adapters for a server that must not see them.

It sees adapters and no activations; the server sees activations and averages. An update is on its disk before
the server hears of it, so it can be killed at any moment.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from splitft.common.checkpoint import load_checkpoint, save_checkpoint
from splitft.common.notices import Notice
from splitft.common.text import error_line
from splitft.common.waits import next_of
from splitft.engines.network.aggregator_link import SERVER
from splitft.engines.network.control import (
    TICKET_BYTES,
    WIRE,
    Average,
    Averaged,
    End,
    HandIn,
    Rejected,
    Said,
    Taken,
    Unaveraged,
    packed,
)
from splitft.engines.network.desk import digest_of
from splitft.engines.network.gate import check_adapters, check_masked
from splitft.engines.network.transport.listener import Listener
from splitft.errors import NetworkError, SplitFTError
from splitft.job.settings import TrainingSettings
from splitft.lora.blocks import Layout, flatten, unflatten
from splitft.lora.ranks import held_blocks
from splitft.lora.reach import reach_of_rounds
from splitft.lora.robust import Contribution
from splitft.lora.summed import added
from splitft.server.average import UpdatesError, average_round, check_updates
from splitft.wire.messages import AdapterUp

UPDATES = "updates"
MOST_REFUSED = 100  # messages of the server: then it is not one that a restart mends


@dataclass(frozen=True)
class _Update:
    """The last update of a client. number: counts its updates; its file's name."""

    number: int
    ticket: Tensor
    digest: Tensor
    message: AdapterUp


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
    _taken: dict[str, _Update] = field(default_factory=dict, init=False)
    _asked: Average | None = field(default=None, init=False)
    _refused: int = field(default=0, init=False)  # messages of the server
    averages: int = field(default=0, init=False)  # that were sent in this process
    round: int = field(default=0, init=False)  # the last one that was averaged

    def __post_init__(self) -> None:
        self._reach = reach_of_rounds(self.settings)
        for name in self.names:
            found = load_checkpoint(self.folder / name)
            if found is not None and "ticket" in found.state:
                state = found.state
                update = AdapterUp(state["round"], tuple(state["blocks"]), tuple(state["values"]))
                digest = digest_of(update.blocks, update.values)
                self._taken[name] = _Update(found.round, state["ticket"], digest, update)

    @property
    def held(self) -> int:
        """The number of clients whose last update is here."""
        return len(self._taken)

    def serve(self) -> End:
        """Take in updates and answer the server, until it says that the run is over.

        Raises NetworkError where the server sends again and again what is no request.
        """
        while True:
            event = next_of(self.listener.events)
            if event.kind == "joined" and event.name == SERVER:
                for name in self._taken:
                    self._tell_taken(name)
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
            self._check(message)
            self._asked = message
        elif name != SERVER and isinstance(message, HandIn):
            self._take(name, message)
        else:
            raise ValueError(f"{type(message).__name__} is nothing that {name} sends here")

    def _check(self, asked: Average) -> None:
        """Raise ValueError where a request is not one of this job, or its parts do not go together."""
        if asked.job != self.job_digest:
            raise ValueError("its job is another one than the server's: start both with the same job file")
        of_clients = {len(part) for part in (asked.clients, asked.cuts, asked.rows, asked.digests)}
        of_trunks = {len(part) for part in (asked.holders, asked.held, asked.weights, asked.values)}
        blocks = {len(part) for part in (asked.blocks, asked.old, {*asked.blocks} & self.layout.keys())}
        fits = len(of_clients) == len(of_trunks) == len(blocks) == 1 and {*asked.held} <= {*asked.blocks}
        known = set(asked.clients) <= set(self.names) and len(set(asked.clients)) == len(asked.clients)
        within = 1 <= asked.round <= self.settings.rounds and max(asked.cuts, default=0) <= self.num_blocks
        if not fits or not known or not within:
            raise ValueError("the request does not fit the job")

    def _take(self, name: str, handed_in: HandIn) -> None:
        """Keep a client's update; the server checks its sizes. Raises ValueError where it cannot be one."""
        blocks, ticket = handed_in.blocks, handed_in.ticket
        known = {block for block in blocks if block in self.layout}
        if not len(known) == len(blocks) == len(handed_in.values):
            raise ValueError(f"blocks: {list(blocks)[:9]}")
        if ticket.dtype is not torch.uint8 or ticket.shape != (TICKET_BYTES,):
            raise ValueError(f"ticket: {ticket.dtype} {tuple(ticket.shape)}")
        update = AdapterUp(handed_in.round, blocks, handed_in.values)
        check_masked(update) if self.settings.secure_aggregation else check_adapters(update)
        number = self._taken[name].number + 1 if name in self._taken else 1
        state = {
            "round": update.round,
            "blocks": list(blocks),
            "values": list(update.values),
            "ticket": ticket,
        }
        save_checkpoint(self.folder / name, number, state, keep=1)
        self._taken[name] = _Update(number, ticket, digest_of(blocks, update.values), update)
        self._tell_taken(name)

    def _tell_taken(self, name: str) -> None:
        own = self._taken[name]
        sizes = tuple(values.numel() for values in own.message.values)
        taken = Taken(name, own.ticket, own.digest, own.message.blocks, sizes)
        self.listener.send(SERVER, packed(taken))

    def _reject(self, name: str, reason: str) -> None:
        """Refuse what came from a client, and the client from now on; or what came from the server."""
        text = f"what {name} sent is rejected: {reason}"
        self.notice(Notice(text, "client.rejected", "error", client=name, reason=reason))
        if name != SERVER:
            self.listener.expel(name, reason)
        self.listener.send(SERVER, packed(Rejected("" if name == SERVER else name, reason)))
        if name == SERVER:
            self._refused += 1
            if self._refused > MOST_REFUSED:
                raise NetworkError(f"{MOST_REFUSED} messages of the server were no requests; last: {reason}")

    def _answer(self) -> None:
        """Answer the server's request, once all its updates are here."""
        asked = self._asked
        if asked is None:
            return
        stated, others = dict(zip(asked.clients, asked.digests, strict=True)), {}
        for name, digest in stated.items():
            own = self._taken.get(name)
            if own is None:  # this disk has lost it, and its client hands it in again
                return
            if not torch.equal(own.digest, digest):
                others[name] = "it handed in another update to the aggregator than it stated"
        self._asked = None
        try:
            if others:
                raise UpdatesError(others)
            masked = self.settings.secure_aggregation
            averaged = self._added(asked) if masked else self._average(asked)
        except UpdatesError as error:
            for name, reason in error.reasons.items():
                self.notice(f"the update of {name} is not averaged: {reason}")
            reasons = tuple(error.reasons.values())
            self.listener.send(SERVER, packed(Unaveraged(asked.request, tuple(error.reasons), reasons)))
        except SplitFTError:
            raise
        except Exception as error:  # whatever a request makes of the averages
            self._reject(SERVER, f"the request does not fit the job: {error_line(error)}")
        else:
            did = "added the masked adapters" if masked else "averaged the adapters"
            text, told = f"{did} of {', '.join(asked.clients)}", list(asked.clients)
            self.notice(Notice(text, "averaged", round=asked.round, clients=told))
            self.averages, self.round = self.averages + 1, asked.round
            self.listener.send(SERVER, packed(averaged))

    def _added(self, asked: Average) -> Averaged:
        """Return the sum of masked updates, modulo 2^32. Raises UpdatesError where some are of another."""
        own = {client: self._taken[client].message for client in asked.clients}
        blocks = next(iter(own.values())).blocks
        sizes = [values.numel() for values in next(iter(own.values())).values]
        others = {
            client: f"an update of round {update.round}, or of other blocks"
            for client, update in own.items()
            if update.round != asked.round
            or update.blocks != blocks
            or [values.numel() for values in update.values] != sizes
        }
        if others:
            raise UpdatesError(others)
        return Averaged(asked.request, blocks, tuple(added([update.values for update in own.values()])))

    def _average(self, asked: Average) -> Averaged:
        """Return the averages of a request. Raises UpdatesError where clients' updates cannot be averaged."""
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
        own = {client: self._taken[client].message for client in rows}
        reach = self._reach(asked.round)
        check_updates(self.settings, self.layout, old, held, own, asked.round, reach)
        averaged = average_round(self.settings, self.layout, old, held, rows, own, trunks)
        return Averaged(asked.request, tuple(averaged), tuple(flatten(block) for block in averaged.values()))
