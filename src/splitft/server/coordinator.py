"""The coordinator: cuts, the global adapter, what is handed out, and the average of a round."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from splitft.common.failpoints import failpoint
from splitft.common.state import State
from splitft.job.settings import TrainingSettings
from splitft.lora.basis import Basis, stack_bases
from splitft.lora.blocks import Adapter, Layout, adapter_of, rank_of, tensors_of
from splitft.lora.means import Mean
from splitft.lora.moments import Moments, mean_moments, pack_blocks, rebase, resize_moments, unpack_blocks
from splitft.lora.ranks import HeldBlocks, held_blocks
from splitft.lora.robust import Contribution
from splitft.server.average import Contributions, average_blocks, client_contributions
from splitft.server.global_adapter import GlobalAdapter
from splitft.server.seam import SHARED, GlobalBlocks, TrunkLoad, TrunkMoments, TrunkUpdate, by_trunk
from splitft.wire.messages import AdapterDown, AdapterUp, OptimizerState


class RemoteAverage(Protocol):
    """Averages elsewhere what clients hand in there (`splitft aggregator`)."""

    def average(
        self, old: Adapter, clients: Mapping[str, tuple[int, int]], trunks: Contributions
    ) -> Adapter: ...


@dataclass(frozen=True)
class Holding:
    """What a client was given.

    Attributes:
        held: The division of its model.
        micro_batches: Parts of each of its batches.
        arriving: Blocks that came to it with its last cut.
        returning: Blocks that leave it with its last cut, and the changes of their bases since it had them.
    """

    held: HeldBlocks
    micro_batches: int = 1
    arriving: range = range(0)
    returning: Mapping[int, list[Basis]] = field(default_factory=dict)


class Coordinator:
    """Hands out and averages adapters. A client's weight is the number of token rows that the worker saw.

    Raises ValueError where a message does not fit.
    """

    def __init__(
        self,
        settings: TrainingSettings,
        layout: Layout,
        num_blocks: int,
        adapter: Adapter,
        device: torch.device,
        *,
        continues: bool = False,
        micro_batches: Callable[[str], int] = lambda client: 1,
        mean: Mean | None = None,
        averager: RemoteAverage | None = None,
        log: Callable[[dict[str, Any]], None] = lambda line: None,
    ) -> None:
        """
        Args:
            layout, num_blocks: The places of adapters in the model, and its blocks.
            adapter, device: The first global adapter, and where it is kept.
            continues: The adapter comes from an earlier run; it is first evaluated unchanged.
            micro_batches: Parts of a client's batches in the next round.
            mean: The average of a block. None: as the settings say.
            averager: Remote aggregator, which has the clients' updates. None: they come here.
            log: Called once for each average.
        """
        self.layout = layout
        self.num_blocks = num_blocks
        self.holdings: dict[str, Holding] = {}
        self.global_adapter = GlobalAdapter(adapter, layout, settings, settings.seed)
        self._settings = settings
        self._shared = settings.server_adapter == "shared"
        self._device = device
        self._continues = continues
        self._micro_batches = micro_batches
        self._mean = mean
        self._averager = averager
        self._log = log
        self._updates: dict[str, AdapterUp] = {}  # of this round

    @property
    def adapter(self) -> Adapter:
        """The global adapter of all blocks."""
        return self.global_adapter.adapter

    def load_trunks(self, round_: int, cuts: Mapping[str, int]) -> tuple[GlobalBlocks, dict[str, TrunkLoad]]:
        """Set the clients' cuts; return what their trunks start from, and what each of them holds."""
        # The new cuts, and the ranks that follow from them.
        before = {client: self.holdings[client].held.cut for client in cuts if client in self.holdings}
        for client, cut in cuts.items():
            held = held_blocks(self._settings, self.num_blocks, cut)
            arriving = range(before.get(client, cut), cut)
            self.holdings[client] = Holding(held, self._micro_batches(client), arriving)
        if round_ or not self._continues:
            self.global_adapter.fit(self._ranks_of_holders())

        # Blocks that leave a client, in the basis in which it had them last.
        for client, cut in cuts.items():
            leaving = range(cut, before.get(client, cut))
            returning = {block: self.global_adapter.changes(client, block) for block in leaving}
            self.holdings[client] = replace(self.holdings[client], returning=returning)

        # Blocks that each trunk holds.
        loads = {key: self._load(key, clients) for key, clients in by_trunk(cuts, self._shared).items()}
        blocks = sorted({block for load in loads.values() for block in load.blocks})
        start = {block: self.adapter[block] for block in blocks}
        return GlobalBlocks(tuple(blocks), tensors_of(start, self.layout)), loads

    def hand_out(
        self,
        round_: int,
        clients: Iterable[str],
        moments: Mapping[str, TrunkMoments],
        *,
        evaluate: bool = False,
    ) -> dict[str, AdapterDown]:
        """Return what clients lack: their blocks at their effective ranks; to evaluate, the global adapter.

        moments: optimizer state of blocks that leave the trunks, which moves with them.
        """
        down = {}
        for key, members in by_trunk(clients, self._shared).items():
            given = self._unpacked(moments[key].blocks, moments[key].steps, moments[key].values)
            for client in members:
                arriving = self.holdings[client].arriving
                blocks, steps, vectors = pack_blocks({b: given[b] for b in arriving if b in given})
                message = self._hand_out(round_, client, evaluate)
                down[client] = replace(message, moved=blocks, moved_steps=steps, moments=vectors)
        return down

    def take_moments(self, states: Mapping[str, OptimizerState]) -> dict[str, TrunkMoments]:
        """Return the optimizer state of blocks that came back to the trunks with lower cuts, by trunk."""
        back: dict[str, TrunkMoments] = {}
        for key, clients in by_trunk(states, self._shared).items():
            given: dict[int, list[Moments]] = defaultdict(list)
            for client in clients:
                for block, moments in self._returned(client, states[client]).items():
                    given[block].append(moments)
            means = {}
            for block, each in given.items():
                top = max(rank_of(moments.exp_avg) for moments in each)
                means[block] = mean_moments([resize_moments(moments, top) for moments in each])
            if means:
                back[key] = TrunkMoments(*pack_blocks(means))
        return back

    def gather(self, updates: Mapping[str, AdapterUp]) -> None:
        """Take in what clients trained in this round."""
        if self._averager is None:
            self._updates |= updates

    def aggregate(self, trunks: Mapping[str, TrunkUpdate]) -> None:
        """Average what the clients and the trunks trained in this round, block by block.

        Sums go in the clients' order, whether a client or its trunk holds the block, and a shared trunk comes
        last: where the cuts are is then not seen in the last bit, either.
        """
        failpoint("server.aggregate")
        seen = {c: n for one in trunks.values() for c, n in zip(one.clients, one.rows, strict=True)}
        rows = {client: seen[client] for client in self.holdings if client in seen}
        given = self._contributions(trunks, rows)
        if self._averager is None:
            order = [*self.holdings, SHARED]
            averaged = average_blocks(self._settings, self.adapter, given, order, self._mean)
        else:
            clients = {client: (self.holdings[client].held.cut, number) for client, number in rows.items()}
            averaged = self._averager.average(self.adapter, clients, given)
        self._log({"event": "aggregate", "rows": rows})
        self.global_adapter.adopt(averaged)
        self._updates.clear()

    def truncation_errors(self) -> dict[int, float]:
        """Return the relative error of each block that was brought to a lower rank since the last call."""
        errors, self.global_adapter.truncation_errors = self.global_adapter.truncation_errors, {}
        return errors

    def forget(self, client: str) -> None:
        """Record that a client has lost what it held."""
        self.global_adapter.forget(client)

    def hand_out_anew(self, round_: int, client: str, *, evaluate: bool = False) -> AdapterDown:
        """Return all that a client holds, as for one that has nothing, not even optimizer state."""
        self.forget(client)
        return self._hand_out(round_, client, evaluate)

    def state(self) -> State:
        """Return all that outlasts a round, as a checkpoint holds it."""
        cuts = {client: holding.held.cut for client, holding in self.holdings.items()}
        return {"aggregator": self.global_adapter.state(), "cuts": cuts}

    def load_state(self, state: State) -> None:
        """Restore a state returned by `state()` after a round."""
        self.global_adapter.load_state(state["aggregator"], self._device)
        self.holdings.clear()
        for client, cut in state["cuts"].items():
            self.holdings[client] = Holding(held_blocks(self._settings, self.num_blocks, cut))
        self._updates.clear()

    def _ranks(self, client: str) -> dict[int, int]:
        return self.holdings[client].held.ranks(self._settings)

    def _ranks_of_holders(self) -> dict[int, list[int]]:
        """Return {block: effective ranks at which it is held}, for every block with an adapter."""
        ranks = [self._ranks(client) for client in self.holdings]
        return {block: [each[block] for each in ranks] for block in self.adapter}

    def _load(self, key: str, clients: list[str]) -> TrunkLoad:
        """Return what a trunk holds: each block at the highest of its clients' ranks."""
        ranks: dict[int, int] = {}
        for client in self.holdings if self._shared else clients:
            for block, rank in self._ranks(client).items():
                if block in self.holdings[client].held.trunk and block in self.adapter:
                    ranks[block] = max(rank, ranks.get(block, 0))
        holder = f"trunk/{key}"
        leaving = sorted({block for client in clients for block in self.holdings[client].arriving})
        changes = {block: self.global_adapter.changes(holder, block) for block in leaving}
        rebased, bases = stack_bases(changes | self.global_adapter.take(holder, list(ranks)))
        return TrunkLoad(
            tuple(clients),
            cuts=tuple(self.holdings[client].held.cut for client in clients),
            micro_batches=tuple(self.holdings[client].micro_batches for client in clients),
            blocks=tuple(ranks),
            ranks=tuple(ranks.values()),
            leaving=tuple(leaving),
            rebased=rebased,
            bases=bases,
        )

    def _hand_out(self, round_: int, client: str, evaluate: bool) -> AdapterDown:
        holding = self.holdings[client]
        ranks = dict.fromkeys(self.adapter, self._settings.lora_r) if evaluate else self._ranks(client)
        message = self.global_adapter.hand_out(round_, client, holding.held, ranks)
        return replace(message, micro_batches=holding.micro_batches)

    def _unpacked(
        self, blocks: tuple[int, ...], steps: tuple[int, ...], values: Sequence[Tensor]
    ) -> dict[int, Moments]:
        return unpack_blocks(blocks, steps, values, self.layout, self._settings.freeze_a)

    def _returned(self, client: str, state: OptimizerState) -> dict[int, Moments]:
        """Return the optimizer state that a client gives up, in the basis of the global adapter."""
        returned = self._unpacked(state.moved, state.moved_steps, state.moments)
        for block in returned:
            changes = self.holdings[client].returning.get(block)
            if changes is None:
                raise ValueError(f"{client} sent the optimizer state of block {block}, which it keeps")
            for basis in changes:
                returned[block] = rebase(returned[block], basis)
        return returned

    def _contributions(
        self, trunks: Mapping[str, TrunkUpdate], rows: Mapping[str, int]
    ) -> dict[int, dict[str, Contribution]]:
        """Return {block: {holder: (adapter, weight)}} of all clients and trunks that trained it."""
        given: dict[int, dict[str, Contribution]] = defaultdict(dict)
        for client, update in self._updates.items():
            held = self.holdings[client].held
            for block, contribution in client_contributions(
                self._settings, self.layout, held, self.adapter, update, rows.get(client, 0)
            ).items():
                given[block][client] = contribution
        for key, trained in trunks.items():
            for block, adapter in adapter_of(trained.blocks, trained.values, self.layout).items():
                below = [c for c in trained.clients if self.holdings[c].held.cut <= block]
                if weight := sum(rows[client] for client in below):
                    given[block][key] = adapter, float(weight)
        return given
