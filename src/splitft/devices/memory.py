"""Memory of training, in bytes: what a client holds at a cut, and what the server holds for all.

Counted: weights of the blocks held, adapters with gradients and AdamW moments (float32) beside the copy that
was handed out, what one batch of per_device_train_batch_size rows of max_length tokens keeps for its
backward, and the larger of what the loss (over loss_chunk_tokens) and a block's backward need for a moment.
On steps of GPT-2 and Llama shapes, 2 to 10 blocks, float32 and bfloat16, with the full logits, the sum for a
batch was 0.99 to 1.05 of the peak of live tensors on a CPU. Not counted: the interpreter and its libraries
(some hundred MB), what an allocator holds beyond live tensors (10 to 40 % there), evaluation.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass

from splitft.devices.costs import ModelCosts
from splitft.devices.device import Device
from splitft.errors import JobError
from splitft.job.settings import CostSettings
from splitft.lora.ranks import held_blocks

_TRAINED = 4 * 4  # float32: value, gradient, two moments
_KEPT = 4  # float32: as it was handed out
_WORKSPACE = 0.5  # of what a block keeps: the gradients that its backward holds at once


@dataclass(frozen=True)
class MemoryUse:
    """Bytes of one party, or of several together."""

    weights: int
    adapters: int
    activations: int

    @property
    def total(self) -> int:
        return self.weights + self.adapters + self.activations


def client_memory(costs: ModelCosts, job: CostSettings, cut: int) -> MemoryUse:
    """Return what a client holds: embeddings, front, and with labels at home also tail, norm and head.

    A cut of all blocks: the whole model.
    """
    count = len(costs.blocks)
    whole = cut >= count
    blocks = held_blocks(job, count, min(cut, count))
    held = [*blocks.front, *blocks.tail]
    head = job.labels == "client" or whole
    weights = costs.embedding_bytes + sum(costs.blocks[b].weight_bytes for b in held)
    activations = _activations(costs, job, held, head=head, crossings=0 if whole else 2 if head else 1)
    return MemoryUse(
        weights + (costs.head_bytes - costs.tied_bytes if head else 0),
        (_TRAINED + _KEPT) * _adapter_parameters(costs, job, cut, held),
        activations,
    )


def server_memory(costs: ModelCosts, job: CostSettings, cuts: Iterable[int]) -> MemoryUse:
    """Return what the server holds for clients with these cuts: one frozen base, whatever their number.

    The whole one where the server evaluates by itself. With per_client each client has its own trunk adapter.
    Batches pass one after another; with labels at the clients and `order: parallel`, every client's trunk
    waits for the gradient of its tail at the same time.
    """
    clients = Counter(cuts)
    lowest, head = min(clients), job.labels == "server"
    trunks = {cut: held_blocks(job, len(costs.blocks), cut).trunk for cut in clients}
    held = range(len(costs.blocks)) if job.evaluates_at_server else trunks[lowest]
    weights = sum(costs.blocks[b].weight_bytes for b in held) + (costs.head_bytes if head else 0)
    if job.evaluates_at_server:
        weights += costs.embedding_bytes - costs.tied_bytes
    adapters = {cut: _adapter_parameters(costs, job, cut, blocks) for cut, blocks in trunks.items()}
    if job.server_adapter == "shared":
        trained = max(adapters.values())
    else:
        trained = sum(number * adapters[cut] for cut, number in clients.items())
    everything = sum(block.adapter_parameters(job.lora_r) for block in costs.blocks)
    crossings = 1 if head else 2
    batches = {c: _activations(costs, job, t, head=head, crossings=crossings) for c, t in trunks.items()}
    if head or job.order == "turns":
        activations = max(batches.values())
    else:
        activations = sum(number * batches[cut] for cut, number in clients.items())
    return MemoryUse(weights, _TRAINED * trained + _KEPT * everything, activations)


def highest_cut_in_memory(costs: ModelCosts, job: CostSettings, device: Device) -> int:
    """Return the most blocks that a client on this device can hold, one left for the server.

    Raises JobError where not even cut_policy.min_cut fits.
    """
    lowest = job.cut_policy.min_cut
    for cut in range(len(costs.blocks) - job.num_tail_blocks - 1, lowest - 1, -1):
        if client_memory(costs, job, cut).total <= device.memory_bytes:
            return cut
    least = client_memory(costs, job, lowest)
    fewer = "cut_policy.min_cut, " if lowest > 1 else ""
    smaller = {
        "gradient_checkpointing": not job.gradient_checkpointing,
        "dtype: bfloat16": costs.element_bytes > 2,
    }
    unset = [setting for setting, helps in smaller.items() if helps]
    hint = f", set {' or '.join(unset)}" if unset else ""
    raise JobError(
        f"device {device.name} has {_gb(device.memory_bytes)} of memory, but a client with {lowest} "
        f"block{'s' if lowest > 1 else ''} needs {_gb(least.total)} "
        f"({', '.join(f'{name} {_gb(number)}' for name, number in asdict(least).items())}): lower "
        f"{fewer}max_length or per_device_train_batch_size{hint}, or give the client another device"
    )


def _adapter_parameters(costs: ModelCosts, job: CostSettings, cut: int, blocks: Iterable[int]) -> int:
    ranks = held_blocks(job, len(costs.blocks), cut).ranks(job)
    return sum(costs.blocks[block].adapter_parameters(ranks[block]) for block in blocks)


def _activations(
    costs: ModelCosts, job: CostSettings, blocks: Iterable[int], *, head: bool, crossings: int
) -> int:
    """Bytes of one batch at its peak; crossings: cuts where a party holds an activation and its gradient."""
    rows, width = job.per_device_train_batch_size, job.max_length
    state = costs.hidden * costs.element_bytes
    each = [
        costs.blocks[b].activation_bytes + costs.blocks[b].activation_bytes_per_width * width for b in blocks
    ]
    largest = max(each, default=0.0)
    workspace = _WORKSPACE * largest
    kept: float = sum(each)
    if job.gradient_checkpointing:
        kept, workspace = len(each) * state, workspace + largest
    kept += costs.shared_activation_bytes + costs.shared_activation_bytes_per_width * width
    kept += crossings * 2 * state
    if head:
        kept += costs.head_activation_bytes
    tokens = rows * width
    chunk = min(tokens, job.loss_chunk_tokens)
    # float32: log-probabilities and two gradients of all tokens; or of a chunk, with its logits beside them.
    logits = 4 * costs.vocabulary * (4 * chunk or 3 * tokens)
    return round(tokens * kept + max(tokens * workspace, logits if head else 0))


def _gb(number: int) -> str:
    return f"{number / 1e9:.3g} GB"
