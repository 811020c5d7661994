"""Seconds of one step of one client: its computing, and the server's for it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from splitft.devices.costs import ModelCosts
from splitft.devices.device import Device, link_seconds, transfer_seconds
from splitft.devices.flops import Passes, Work, block_work, head_work
from splitft.job.settings import CostSettings
from splitft.lora.ranks import held_blocks


@dataclass(frozen=True)
class StepSeconds:
    """One micro-batch: the client computes before, between and after its legs; the server works on each leg.

    labels: server: (front forward, front backward) and (trunk with head). labels: client: (front forward,
    tail and head, front backward) and (trunk forward, trunk backward). A whole model on the client: no leg.
    """

    client: tuple[float, ...]
    server: tuple[float, ...]


@dataclass(frozen=True)
class StepWork:
    """The same in FLOPs, as functions of the batch."""

    client: tuple[Work, ...]
    server: tuple[Work, ...]

    def seconds(self, rows: float, width: float, client: Device, server: Device) -> StepSeconds:
        """Seconds of a batch of (rows, width) tokens, padding included."""
        return StepSeconds(
            tuple(work.flops(rows, width) / client.flops for work in self.client),
            tuple(work.flops(rows, width) / server.flops for work in self.server),
        )


def step_work(costs: ModelCosts, job: CostSettings, cut: int) -> StepWork:
    """Return the work of a client's step at this cut; a cut of all blocks: the whole model on the client.

    Effective ranks are those of the client; a shared trunk's may be higher.
    """
    held = held_blocks(job, len(costs.blocks), cut)
    ranks = held.ranks(job)

    def run(blocks: Iterable[int], *, head: bool = False) -> Passes:
        parts = [block_work(costs, b, ranks[b], recompute=job.gradient_checkpointing) for b in blocks]
        return sum([*parts, head_work(costs)] if head else parts, Passes())

    if cut >= held.num_blocks:
        return StepWork((run(range(held.num_blocks), head=True).both,), ())
    front = run(held.front)
    if job.labels == "client":
        trunk, tail = run(held.trunk), run(held.tail, head=True)
        return StepWork((front.forward, tail.both, front.backward), (trunk.forward, trunk.backward))
    trunk = run(held.trunk, head=True)
    return StepWork((front.forward, front.backward), (trunk.both,))


class StateSeconds(NamedTuple):
    """The seconds that a cut policy sees of a client (`ClientState`), of one optimizer step."""

    block_seconds: float
    fixed_seconds: float
    transfer_seconds: float
    adapter_seconds: float
    server_block_seconds: float
    server_fixed_seconds: float


def client_state_seconds(
    costs: ModelCosts,
    job: CostSettings,
    client: Device,
    server: Device,
    *,
    rows: float,
    width: float,
    up_bytes: Sequence[int],
    down_bytes: Sequence[int],
) -> StateSeconds:
    """Return what a step costs a client as a linear function of its cut, for a typical batch (rows, width).

    A block is the mean of those that a cut divides, at full rank. up_bytes, down_bytes: of the messages of
    one micro-batch (see `batch_bytes`). Every figure is for all micro-batches of an optimizer step.
    """
    count, tail_start = len(costs.blocks), len(costs.blocks) - job.num_tail_blocks
    times = job.gradient_accumulation_steps

    def work(blocks: Iterable[int]) -> Work:
        passes = (block_work(costs, b, job.lora_r, recompute=job.gradient_checkpointing) for b in blocks)
        return sum(passes, Passes()).both

    block = times * work(range(tail_start)).flops(rows, width) / tail_start
    fixed = times * (work(range(tail_start, count)) + head_work(costs).both).flops(rows, width)
    at_home = job.labels == "client"
    mean_parameters = sum(costs.blocks[b].lora_parameters for b in range(tail_start)) / tail_start
    adapter = 4 * job.lora_r * mean_parameters / job.local_steps  # bytes of a block, a step's share
    up = sum(transfer_seconds(client, server, number) for number in up_bytes)
    down = sum(transfer_seconds(server, client, number) for number in down_bytes)
    return StateSeconds(
        block_seconds=block / client.flops,
        fixed_seconds=fixed / client.flops if at_home else 0.0,
        transfer_seconds=times * (up + down),
        adapter_seconds=link_seconds(client, server, adapter) + link_seconds(server, client, adapter),
        server_block_seconds=block / server.flops,
        server_fixed_seconds=0.0 if at_home else fixed / server.flops,
    )


def batch_bytes(costs: ModelCosts, job: CostSettings, tokens: int) -> tuple[list[int], list[int]]:
    """Return (up, down): tensor bytes of the messages of one micro-batch of `tokens` tokens, no padding.

    Without headers and gradient norms, which a batch of text dwarfs.
    """
    from splitft.wire.codecs.registry import What, codecs_of, make_codec

    samples = min(tokens, job.per_device_train_batch_size)
    lengths = [tokens // samples] * (samples - 1) if samples else []
    lengths.append(tokens - sum(lengths))

    def row_bytes(name: str, what: What) -> int:
        codec = make_codec(name, what)
        if codec is None:
            return tokens * costs.hidden * costs.element_bytes
        return sum(part.nbytes for part in codec.layout(lengths, costs.hidden))

    names = codecs_of(job)
    hidden = row_bytes(names["codec"], "activations")
    gradient = row_bytes(names["gradient_codec"], "gradients")
    down = gradient if job.train_front else 0
    if job.labels == "client":
        return [hidden, gradient], [hidden, down]
    return [hidden + 4 * tokens], [down]
