"""The global adapter: hands out what clients lack, and follows the mean of what was trained."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch

from splitft.common.state import State
from splitft.job.settings import AverageSettings
from splitft.lora.basis import Basis, basis_between, canonical_block, stack_bases, truncation_error
from splitft.lora.blocks import (
    Adapter,
    BlockAdapter,
    Layout,
    concat,
    device_of,
    flatten,
    rank_of,
    resize,
    slice_components,
    to_device,
    trained_tensors,
    widen,
)
from splitft.lora.ranks import HeldBlocks
from splitft.lora.server_optimizer import ServerState
from splitft.server.server_steps import ServerSteps
from splitft.wire.messages import AdapterDown


class _Copy(NamedTuple):
    """The version of a block that a holder has, the version of its A, and its rank."""

    version: int
    version_of_a: int
    rank: int


class Mark(NamedTuple):
    """The global adapter of a moment, and the state of the server optimizer."""

    adapter: Adapter
    steps: dict[int, ServerState]


class GlobalAdapter:
    """Holds the global adapter of every block and its version (the paper's Local FedAvg Server).

    A block has the highest of the effective ranks at which parties hold it. Where these differ, it is kept in
    a form whose leading components are the best approximation of each rank (`basis.canonical`), for all to
    start from; the change of basis is kept for holders whose optimizer state must follow.

    Args:
        seed: Of the new components of blocks that get a higher rank.
    """

    def __init__(self, adapter: Adapter, layout: Layout, settings: AverageSettings, seed: int) -> None:
        self._steps = ServerSteps(settings)
        self.adapter = dict(adapter)
        self.truncation_errors: dict[int, float] = {}  # {block: error} since last asked
        self._layout = layout
        self._settings = settings
        self._seed = seed
        self._version = dict.fromkeys(adapter, 0)
        self._version_of_a = dict.fromkeys(adapter, 0)
        self._canonical = dict.fromkeys(adapter, -1)  # version in which a block was brought to that form
        self._bases: dict[int, list[tuple[int, Basis]]] = defaultdict(list)
        self._copies: dict[str, dict[int, _Copy]] = defaultdict(dict)  # of each holder: a client or a trunk

    def fit(self, ranks: Mapping[int, Sequence[int]]) -> None:
        """Bring blocks to the ranks at which they are held: {block: effective ranks of its holders}.

        To a lower rank by the best approximation; to a higher one without changing the function.
        """
        for block, wanted in ranks.items():
            low, top, have = min(wanted), max(wanted), rank_of(self.adapter[block])
            if low < have and self._canonical[block] != self._version[block]:
                old, new = self.adapter[block], canonical_block(self.adapter[block])
                if any(not torch.equal(new[name], old[name]) for name in old):
                    self._put(block, new)
                    basis = basis_between(old, new)
                    self._bases[block].append((self._version[block], basis))
                    self._steps.rebase(block, basis)
                self._canonical[block] = self._version[block]
            old = self.adapter[block]
            if low < max(top, have):
                self.truncation_errors[block] = truncation_error(old, low)
            if top != have:
                canonical = self._canonical[block] == self._version[block]
                new = resize(old, top)
                if top > have:
                    new = widen(old, top, self._layout[block], self._seed, block)
                self._put(block, new)
                self._steps.resize(block, top)
                if canonical:  # new components have no weight, and come last
                    self._canonical[block] = self._version[block]

    def take_truncation_errors(self) -> dict[int, float]:
        """Return {block: error} of blocks brought to a lower rank since the last call."""
        errors, self.truncation_errors = self.truncation_errors, {}
        return errors

    def take(self, holder: str, blocks: Sequence[int]) -> dict[int, list[Basis]]:
        """Record that a holder has the current version of these blocks, and no others.

        Return the changes of basis of each since it had them last.
        """
        copies = self._copies[holder]
        changes = {block: self.changes(holder, block) for block in blocks}
        self._copies[holder] = {block: self._copy(block) for block in blocks}
        # Drop the changes of basis that every holder of a block has followed.
        for block in {*copies, *blocks}:
            held = (own[block].version for own in self._copies.values() if block in own)
            oldest = min(held, default=self._version[block])
            self._bases[block] = [entry for entry in self._bases[block] if entry[0] > oldest]
        return changes

    def forget(self, holder: str) -> None:
        """Record that a holder has lost what it had."""
        self._copies.pop(holder, None)

    def changes(self, holder: str, block: int) -> list[Basis]:
        """Return the changes of basis of a block since a holder had it last, oldest first."""
        had = self._copies[holder].get(block)
        return [basis for version, basis in self._bases[block] if had and version > had.version]

    def hand_out(self, round_: int, client: str, held: HeldBlocks, ranks: Mapping[int, int]) -> AdapterDown:
        """Return those of a client's blocks that it lacks, at these ranks."""
        had, blocks = dict(self._copies[client]), held.on_client(self.adapter)
        changes = self.take(client, blocks)
        lacking, frozen, values = [], [], []
        for block in blocks:
            rank = min(ranks[block], rank_of(self.adapter[block]))
            old = had.get(block)
            now = self._copies[client][block] = _Copy(self._version[block], self._version_of_a[block], rank)
            if old and old.version == now.version and old.rank >= rank:
                self._copies[client][block] = old
                continue
            tensors = resize(self.adapter[block], rank)
            same_a = old and old.version_of_a == now.version_of_a and old.rank >= rank
            if same_a and self._settings.freeze_a:
                frozen.append(block)
                tensors = trained_tensors(tensors, freeze_a=True)
            lacking.append(block)
            values.append(flatten(tensors))
        rebased, bases = stack_bases(changes)
        return AdapterDown(
            round_, held.cut, tuple(lacking), tuple(frozen), tuple(values), rebased=rebased, bases=bases
        )

    def adopt(self, averaged: Adapter) -> None:
        """Have blocks follow the average of what was trained from them, as the server optimizer says."""
        for block, new in averaged.items():
            old, have = self.adapter[block], rank_of(new)
            if self._settings.aggregation == "by_rank" and have < rank_of(old):  # no holder trained the rest
                new = concat([new, slice_components(old, have, rank_of(old))])
            new = self._steps.step(block, old, new)
            self._put(block, new, same_a=self._settings.freeze_a)

    def mark(self) -> Mark:
        """Return what `put_back` goes back to."""
        return Mark(dict(self.adapter), self._steps.state()["blocks"])

    def put_back(self, mark: Mark) -> None:
        """Have the adapter of an earlier moment again, as a new version: holders may have a later one."""
        for block, old in mark.adapter.items():
            if self.adapter[block] is not old:
                self._put(block, old)
        self._steps.load_state({"blocks": mark.steps})

    def state(self) -> State:
        """Return the global adapter, and the versions that holders have, as a checkpoint holds them."""
        return {
            "adapter": self.adapter,
            "version": self._version,
            "version_of_a": self._version_of_a,
            "canonical": self._canonical,
            "bases": dict(self._bases),
            "server_optimizer": self._steps.state(),
            "copies": {
                holder: {block: list(copy) for block, copy in held.items()}
                for holder, held in self._copies.items()
            },
        }

    def load_state(self, state: State) -> None:
        """Restore a state returned by `state()`."""
        self.adapter = to_device(state["adapter"], device_of(self.adapter))
        self._version, self._version_of_a = dict(state["version"]), dict(state["version_of_a"])
        self._canonical = dict(state["canonical"])
        self._steps.load_state(state.get("server_optimizer", {"blocks": {}}))
        self._bases.clear()
        self._copies.clear()
        for block, kept in state["bases"].items():
            self._bases[block] = [(version, basis) for version, basis in kept]
        for holder, held in state["copies"].items():
            self._copies[holder] = {block: _Copy(*copy) for block, copy in held.items()}

    def _put(self, block: int, adapter: BlockAdapter, *, same_a: bool = False) -> None:
        """Replace a block. same_a: its A stays as it is."""
        self.adapter[block] = adapter
        self._version[block] += 1
        if not same_a:
            self._version_of_a[block] = self._version[block]

    def _copy(self, block: int) -> _Copy:
        return _Copy(self._version[block], self._version_of_a[block], rank_of(self.adapter[block]))
