"""The coordinator: cuts, the global adapter, hand-outs, and the average of a round."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from splitft.common.failpoints import failpoint
from splitft.common.state import State
from splitft.job.settings import TrainingSettings
from splitft.lora.basis import Basis, stack_bases
from splitft.lora.blocks import Adapter, Layout, adapter_of, tensors_of
from splitft.lora.means import Mean
from splitft.lora.moments import Moments, mean_moments, pack_blocks, rebase, unpack_blocks
from splitft.lora.ranks import HeldBlocks, held_blocks
from splitft.lora.robust import Contribution
from splitft.server.average import Contributions, average_round
from splitft.server.global_adapter import GlobalAdapter
from splitft.server.seam import GlobalBlocks, TrunkLoad, TrunkMoments, TrunkUpdate, by_trunk
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

    Args:
        layout, num_blocks: Places of adapters in the model, and its blocks.
        adapter: The first global adapter.
        continues: It is of an earlier run, and first evaluated unchanged.
        micro_batches: Parts of a client's batches in the next round.
        mean: The average of a block. None: as the settings say.
        averager: Remote aggregator, which has the clients' updates. None: they come here.
        log: Called for each average.
    """

    def __init__(
        self,
        settings: TrainingSettings,
        layout: Layout,
        num_blocks: int,
        adapter: Adapter,
        *,
        continues: bool = False,
        micro_batches: Callable[[str], int] = lambda client: 1,
        mean: Mean | None = None,
        averager: RemoteAverage | None = None,
        log: Callable[[dict[str, Any]], None] = lambda line: None,
    ) -> None:
        self.layout = layout
        self.holdings: dict[str, Holding] = {}  # of all clients that were handed anything out
        self._settings = settings
        self._num_blocks = num_blocks
        self._global = GlobalAdapter(adapter, layout, settings, settings.seed)
        self._continues = continues
        self._micro_batches = micro_batches
        self._mean = mean
        self._averager = averager
        self._log = log
        self._updates: dict[str, AdapterUp] = {}  # of this round

    @property
    def adapter(self) -> Adapter:
        """The global adapter of all blocks."""
        return self._global.adapter

    def load_trunks(self, round_: int, cuts: Mapping[str, int]) -> tuple[GlobalBlocks, dict[str, TrunkLoad]]:
        """Set the clients' cuts; return what their trunks start from, and what each of them holds."""
        # Set the cuts, and bring the global adapter to the ranks that follow from them.
        before = {client: self.holdings[client].held.cut for client in cuts if client in self.holdings}
        for client, cut in cuts.items():
            self.holdings[client] = Holding(self._held(cut), self._micro_batches(client))
        if round_ or not self._continues:
            ranks = [self._ranks(client) for client in self.holdings]
            self._global.fit({block: [each[block] for each in ranks] for block in self.adapter})

        # Blocks that leave a client come in the basis in which it had them last.
        for client, cut in cuts.items():
            was, now = before.get(client, cut), self.holdings[client]
            returning = {block: self._global.changes(client, block) for block in range(cut, was)}
            self.holdings[client] = replace(now, arriving=range(was, cut), returning=returning)

        # Divide what remains among the trunks.
        loads = {key: self._load(key, clients) for key, clients in by_trunk(cuts, self._settings).items()}
        blocks = sorted({block for load in loads.values() for block in load.blocks})
        values = tensors_of({block: self.adapter[block] for block in blocks}, self.layout)
        return GlobalBlocks(tuple(blocks), values), loads

    def hand_out(
        self, round_: int, clients: Iterable[str], moved: Mapping[str, TrunkMoments], *, evaluate: bool
    ) -> dict[str, AdapterDown]:
        """Return what clients lack: their blocks at their effective ranks; to evaluate, the global adapter.

        Args:
            moved: Optimizer state of blocks that leave the trunks, which moves with them.
        """
        down = {}
        for key, members in by_trunk(clients, self._settings).items():
            given = self._unpacked(moved[key])
            for client in members:
                arriving = [block for block in self.holdings[client].arriving if block in given]
                blocks, steps, moments = pack_blocks({block: given[block] for block in arriving})
                message = self._hand_out(round_, client, evaluate)
                down[client] = replace(message, moved=blocks, moved_steps=steps, moments=moments)
        return down

    def take_moments(self, states: Mapping[str, OptimizerState]) -> dict[str, TrunkMoments]:
        """Return the optimizer state of blocks that came back to the trunks with lower cuts, by trunk."""
        back: dict[str, TrunkMoments] = {}
        for key, clients in by_trunk(states, self._settings).items():
            given: dict[int, list[Moments]] = defaultdict(list)
            for client in clients:
                state = states[client]
                came = TrunkMoments(state.moved, state.moved_steps, state.moments)
                for block, moments in self._unpacked(came).items():
                    if block not in self.holdings[client].returning:
                        raise ValueError(
                            f"{client} sent the optimizer state of block {block}, which it keeps"
                        )
                    for basis in self.holdings[client].returning[block]:
                        moments = rebase(moments, basis)
                    given[block].append(moments)
            if given:
                back[key] = TrunkMoments(*pack_blocks({b: mean_moments(each) for b, each in given.items()}))
        return back

    def gather(self, updates: Mapping[str, AdapterUp]) -> None:
        """Take in what clients trained in this round."""
        if self._averager is None:
            self._updates |= updates

    def aggregate(self, trained: Mapping[str, TrunkUpdate]) -> None:
        """Average what the clients and the trunks trained in this round, block by block."""
        failpoint("server.aggregate")
        # Weigh each trunk's blocks by the rows of the clients that train them there.
        seen = {c: n for trunk in trained.values() for c, n in zip(trunk.clients, trunk.rows, strict=True)}
        rows = {client: seen[client] for client in self.holdings if client in seen}
        held = {client: self.holdings[client].held for client in rows}
        trunks: dict[int, dict[str, Contribution]] = defaultdict(dict)
        for key, trunk in trained.items():
            for block, adapter in adapter_of(trunk.blocks, trunk.values, self.layout).items():
                if weight := sum(rows[client] for client in trunk.clients if block in held[client].trunk):
                    trunks[block][key] = adapter, float(weight)

        # Average them with the clients' updates, where these are.
        if self._averager is None:
            averaged = average_round(
                self._settings, self.layout, self.adapter, held, rows, self._updates, trunks, self._mean
            )
        else:
            clients = {client: (held[client].cut, number) for client, number in rows.items()}
            averaged = self._averager.average(self.adapter, clients, trunks)
        self._log({"event": "aggregate", "rows": rows})
        self._global.adopt(averaged)
        self._updates.clear()

    def truncation_errors(self) -> dict[int, float]:
        """Return the relative error of each block that was brought to a lower rank since the last call."""
        return self._global.take_truncation_errors()

    def forget(self, client: str) -> None:
        """Record that a client has lost what it held."""
        self._global.forget(client)

    def hand_out_anew(self, round_: int, client: str, *, evaluate: bool = False) -> AdapterDown:
        """Return all that a client holds, as for one that has nothing, not even optimizer state."""
        self.forget(client)
        return self._hand_out(round_, client, evaluate)

    def state(self) -> State:
        """Return all that outlasts a round, as a checkpoint holds it."""
        cuts = {client: holding.held.cut for client, holding in self.holdings.items()}
        return {"aggregator": self._global.state(), "cuts": cuts}

    def load_state(self, state: State) -> None:
        """Restore a state returned by `state()` after a round."""
        self._global.load_state(state["aggregator"])
        self.holdings.clear()
        self.holdings |= {client: Holding(self._held(cut)) for client, cut in state["cuts"].items()}
        self._updates.clear()

    def _held(self, cut: int) -> HeldBlocks:
        return held_blocks(self._settings, self._num_blocks, cut)

    def _ranks(self, client: str) -> dict[int, int]:
        return self.holdings[client].held.ranks(self._settings)

    def _unpacked(self, moments: TrunkMoments) -> dict[int, Moments]:
        freeze_a = self._settings.freeze_a
        return unpack_blocks(moments.blocks, moments.steps, moments.values, self.layout, freeze_a)

    def _load(self, key: str, clients: list[str]) -> TrunkLoad:
        """Return what a trunk holds: each block at the highest of its clients' ranks."""
        ranks: dict[int, int] = {}
        for client in by_trunk(self.holdings, self._settings)[key]:
            own, trunk = self._ranks(client), self.holdings[client].held.trunk
            ranks |= {b: max(own[b], ranks.get(b, 0)) for b in trunk if b in self.adapter}
        holder, holdings = f"trunk/{key}", [self.holdings[client] for client in clients]
        leaving = sorted({block for holding in holdings for block in holding.arriving})
        changes = {block: self._global.changes(holder, block) for block in leaving}
        rebased, bases = stack_bases(changes | self._global.take(holder, list(ranks)))
        return TrunkLoad(
            tuple(clients),
            cuts=tuple(holding.held.cut for holding in holdings),
            micro_batches=tuple(holding.micro_batches for holding in holdings),
            blocks=tuple(ranks),
            ranks=tuple(ranks.values()),
            leaving=tuple(leaving),
            rebased=rebased,
            bases=bases,
        )

    def _hand_out(self, round_: int, client: str, evaluate: bool) -> AdapterDown:
        holding = self.holdings[client]
        ranks = dict.fromkeys(self.adapter, self._settings.lora_r) if evaluate else self._ranks(client)
        message = self._global.hand_out(round_, client, holding.held, ranks)
        return replace(message, micro_batches=holding.micro_batches)
