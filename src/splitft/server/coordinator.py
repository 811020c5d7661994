"""The coordinator: cuts, the global adapter, hand-outs, and the average of a round."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import KW_ONLY, InitVar, dataclass, field, replace
from typing import Any

from splitft.common.failpoints import failpoint
from splitft.common.state import State
from splitft.job.settings import TrainingSettings
from splitft.lora.basis import Basis, stack_bases
from splitft.lora.blocks import Adapter, Layout, tensors_of
from splitft.lora.means import Mean
from splitft.lora.moments import Moments, mean_moments, pack_blocks, rebase, unpack_blocks
from splitft.lora.ranks import HeldBlocks, held_blocks
from splitft.server.average import UpdatesError, check_adapter
from splitft.server.global_adapter import GlobalAdapter, Mark
from splitft.server.guard import Guard
from splitft.server.round_average import RemoteAverage, RoundAverage, rows_seen, trunk_contributions
from splitft.server.seam import SHARED, GlobalBlocks, TrunkLoad, TrunkMoments, TrunkUpdate, by_trunk
from splitft.wire.messages import AdapterDown, AdapterUp, OptimizerState


@dataclass(frozen=True)
class Holding:
    """What a client was given.

    returning: blocks that leave it with its last cut, and the changes of their bases since it had them.
    """

    held: HeldBlocks  # the division of its model
    micro_batches: int = 1  # parts of each of its batches
    arriving: range = range(0)  # blocks that came to it with its last cut
    returning: Mapping[int, list[Basis]] = field(default_factory=dict)


@dataclass(eq=False)
class Coordinator:
    """Hands out and averages adapters. A client's weight is the number of token rows that the worker saw.

    Raises ValueError where a message does not fit.
    """

    settings: TrainingSettings
    layout: Layout  # places of adapters in the model
    num_blocks: int
    adapter: InitVar[Adapter]  # the first global adapter
    _: KW_ONLY
    continues: bool  # the first adapter is of an earlier run, and evaluated unchanged
    micro_batches: Callable[[str], int]  # parts of a client's batches in the next round
    mean: Mean | None  # the average of a block; None: as the settings say
    averager: RemoteAverage | None  # of an aggregator, which has the clients' updates; None: they come here
    log: Callable[[dict[str, Any]], None]  # called for each average
    guard: Guard | None = None  # examines every average; None: they stand as they are made
    dropped: Callable[[], Collection[str]] = tuple  # clients that the averager lost on its last average
    place: Mapping[str, int] = field(default_factory=dict)  # of clients in all sums; others: as they came

    def __post_init__(self, adapter: Adapter) -> None:
        self.blocks = GlobalAdapter(adapter, self.layout, self.settings, self.settings.seed)
        self.holdings: dict[str, Holding] = {}  # of all clients that were handed anything out
        self._updates: dict[str, AdapterUp] = {}  # of this round
        self._round = 0  # of the last hand-out

    def load_trunks(
        self, round_: int, cuts: Mapping[str, int], *, every_block: bool = False
    ) -> tuple[GlobalBlocks, dict[str, TrunkLoad]]:
        """Set the clients' cuts; return what their trunks start from, and what each of them holds.

        every_block: Return all blocks of the global adapter, for an evaluation of the whole model.
        """
        self._round = round_
        # Set the cuts, and bring the global adapter to the ranks that follow from them.
        before = {client: self.holdings[client].held.cut for client in cuts if client in self.holdings}
        for client, cut in cuts.items():
            self.holdings[client] = Holding(self._held(cut), self.micro_batches(client))
        if round_ or not self.continues:
            ranks = [holding.held.ranks(self.settings) for holding in self.holdings.values()]
            self.blocks.fit({block: [each[block] for each in ranks] for block in self.blocks.adapter})

        # Blocks that leave a client come in the basis in which it had them last.
        for client, cut in cuts.items():
            was, now = before.get(client, cut), self.holdings[client]
            returning = {block: self.blocks.changes(client, block) for block in range(cut, was)}
            self.holdings[client] = replace(now, arriving=range(was, cut), returning=returning)

        # Divide what remains among the trunks.
        loads = {key: self._load(key, clients) for key, clients in by_trunk(cuts, self.settings).items()}
        blocks = sorted({block for load in loads.values() for block in load.blocks})
        if every_block:
            blocks = sorted(self.blocks.adapter)
        values = tensors_of({block: self.blocks.adapter[block] for block in blocks}, self.layout)
        return GlobalBlocks(tuple(blocks), values), loads

    def hand_out(
        self, round_: int, clients: Iterable[str], moved: Mapping[str, TrunkMoments], *, evaluate: bool
    ) -> dict[str, AdapterDown]:
        """Return what clients lack: their blocks at their effective ranks; to evaluate, the global adapter.

        Args:
            moved: Optimizer state of blocks that leave the trunks, which moves with them.
        """
        down = {}
        for key, members in by_trunk(clients, self.settings).items():
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
        for key, clients in by_trunk(states, self.settings).items():
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
        if self.averager is None:
            self._updates |= updates

    def aggregate(self, trained: Mapping[str, TrunkUpdate]) -> Sequence[str]:
        """Average what the clients and the trunks trained in this round, block by block.

        With a guard, the average does not stand before it was examined, without clients to blame. Returns
        them where a shared trunk trained with them: nothing is averaged then, and steps must be taken again.

        Raises DivergedError where the average is not finite: the global adapter then stays as it was.
        """
        failpoint("server.aggregate")
        rows = rows_seen(trained, self.holdings, self.place)
        held = {client: self.holdings[client].held for client in rows}
        updates, self._updates = self._updates, {}
        trunks, old = trunk_contributions(trained, held, rows, self.layout), dict(self.blocks.adapter)
        own = updates, trunks, self.mean, self.averager
        average = RoundAverage(self.settings, self.layout, self._round, old, held, rows, *own)
        if self.guard is None:
            averaged = average.without(())
            check_adapter("the average of the round", averaged)
            self.log({"event": "aggregate", "rows": rows})
            self.blocks.adopt(averaged)
            return ()

        # With a guard: until it stands, and again after its evaluation where that shows harm.
        before = self.blocks.mark()
        without = self._examined(average, self.guard, before)
        if SHARED in trained and self.guard.accused:
            self.blocks.put_back(before)
            return self.guard.accused
        self.log({"event": "aggregate", "rows": {c: n for c, n in rows.items() if c not in without}})
        return ()

    def hand_out_anew(self, round_: int, client: str, *, evaluate: bool = False) -> AdapterDown:
        """Return all that a client holds, as for one that has nothing, not even optimizer state."""
        self.blocks.forget(client)
        return self._hand_out(round_, client, evaluate)

    def state(self) -> State:
        """Return all that outlasts a round, as a checkpoint holds it."""
        return {"aggregator": self.blocks.state(), "cuts": {c: h.held.cut for c, h in self.holdings.items()}}

    def load_state(self, state: State) -> None:
        """Restore a state returned by `state()` after a round."""
        self.blocks.load_state(state["aggregator"])
        self.holdings.clear()
        self.holdings |= {client: Holding(self._held(cut)) for client, cut in state["cuts"].items()}
        self._updates.clear()

    def _examined(self, average: RoundAverage, guard: Guard, before: Mark) -> Sequence[str]:
        """Adopt an average that stands, from `before` on; return the clients without which it was made."""

        def make(without: Collection[str] = ()) -> None:
            self.blocks.put_back(before)
            while True:
                try:
                    self.blocks.adopt(average.without([*without, *guard.accused]))
                except UpdatesError as error:
                    guard.accuse(error.reasons)
                else:
                    return

        guard.begin()
        make()
        order = average.by_length(without=guard.accused)
        blamed = guard.check(average.old, lambda: self.blocks.adapter, order, make)
        return [*blamed, *guard.accused, *self.dropped()]

    def _held(self, cut: int) -> HeldBlocks:
        return held_blocks(self.settings, self.num_blocks, cut)

    def _unpacked(self, came: TrunkMoments) -> dict[int, Moments]:
        return unpack_blocks(came.blocks, came.steps, came.values, self.layout, self.settings.freeze_a)

    def _load(self, key: str, clients: list[str]) -> TrunkLoad:
        """Return what a trunk holds: each block at the highest of its clients' ranks."""
        ranks: dict[int, int] = {}
        for client in by_trunk(self.holdings, self.settings)[key]:
            held = self.holdings[client].held
            own = held.ranks(self.settings)
            ranks |= {b: max(own[b], ranks.get(b, 0)) for b in held.trunk if b in self.blocks.adapter}
        holder, holdings = f"trunk/{key}", [self.holdings[client] for client in clients]
        leaving = sorted({block for holding in holdings for block in holding.arriving})
        changes = {block: self.blocks.changes(holder, block) for block in leaving}
        rebased, bases = stack_bases(changes | self.blocks.take(holder, list(ranks)))
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
        ranks = holding.held.ranks(self.settings)
        if evaluate:
            ranks = dict.fromkeys(self.blocks.adapter, self.settings.lora_r)
        message = self.blocks.hand_out(round_, client, holding.held, ranks)
        return replace(message, micro_batches=holding.micro_batches)
