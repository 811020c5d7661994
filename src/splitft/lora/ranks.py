"""The division of a client's model among front, trunk and tail, and the effective rank of each adapter."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from splitft.job.lora import LoraSettings
from splitft.job.settings import SplitSettings


@dataclass(frozen=True)
class HeldBlocks:
    """The division of one client's model: front up to the cut, trunk up to the tail, tail up to the end."""

    cut: int
    tail_start: int
    num_blocks: int

    @property
    def front(self) -> range:
        return range(self.cut)

    @property
    def trunk(self) -> range:
        return range(self.cut, self.tail_start)

    @property
    def tail(self) -> range:
        return range(max(self.cut, self.tail_start), self.num_blocks)

    def on_client(self, blocks: Iterable[int]) -> tuple[int, ...]:
        """Return those of `blocks` that the client holds."""
        return tuple(block for block in blocks if block < self.cut or block >= self.tail_start)

    def ranks(self, lora: LoraSettings) -> dict[int, int]:
        """Return {block: effective rank of its adapter}."""
        return effective_ranks(self.num_blocks, self.cut, lora.lora_r, lora.lora_r_cut, lora.lora_r_cut_side)


def held_blocks(split: SplitSettings, num_blocks: int, cut: int) -> HeldBlocks:
    """Return the division of a model of `num_blocks` blocks for a client with this cut."""
    return HeldBlocks(cut, num_blocks - split.num_tail_blocks, num_blocks)


def effective_ranks(
    num_blocks: int, cut: int, r: int, r_cut: int | None = None, side: str = "both"
) -> dict[int, int]:
    """Return {block: rank} of one client's model: r_cut at its cut, r elsewhere.

    A cut of all blocks is no cut: the whole model is on the client.

    Args:
        r_cut: Rank at the cut. None: r.
        side: Blocks with r_cut: both at the cut (the paper's), or the client's last one alone.
    """
    if cut >= num_blocks:
        return dict.fromkeys(range(num_blocks), r)
    lower = (cut - 1, cut) if side == "both" else (cut - 1,)
    return {block: (r_cut or r) if block in lower else r for block in range(num_blocks)}
