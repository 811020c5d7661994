"""FLOPs of a split step, as functions of the model's costs. A multiply-add is two.

Per token, a matrix of P parameters: 2P forward; backward 2P where the base is frozen (only the input's
gradient), 4P for LoRA (weight and input); attention over a row of w tokens: 4 w × heads × head_dim forward
and twice that backward, whole rows, masked or not, and without what a kernel recomputes.
"""

from __future__ import annotations

from dataclasses import dataclass

from splitft.devices.costs import ModelCosts


@dataclass(frozen=True)
class Work:
    """FLOPs that grow with the tokens of a batch, and with each token's row: padding counts."""

    per_token: float = 0.0
    per_pair: float = 0.0  # per token and token of its row

    def __add__(self, other: Work) -> Work:
        return Work(self.per_token + other.per_token, self.per_pair + other.per_pair)

    def flops(self, rows: float, width: float) -> float:
        """FLOPs of a batch of (rows, width) tokens, padding included."""
        return rows * width * (self.per_token + self.per_pair * width)


@dataclass(frozen=True)
class Passes:
    """Work of the forward and of the backward; recomputation belongs to the backward."""

    forward: Work = Work()
    backward: Work = Work()

    def __add__(self, other: Passes) -> Passes:
        return Passes(self.forward + other.forward, self.backward + other.backward)

    @property
    def both(self) -> Work:
        return self.forward + self.backward


def block_work(costs: ModelCosts, block: int, rank: int, *, recompute: bool = False) -> Passes:
    """Return the work of one block with an adapter of this rank; recompute: gradient checkpointing."""
    one = costs.blocks[block]
    lora = rank * one.lora_parameters
    forward = Work(2.0 * (one.parameters + lora), 4.0 * one.attention_width)
    base = one.parameters - one.silent_parameters
    backward = Work(
        2.0 * base + 4.0 * lora - 2.0 * rank * one.silent_lora_parameters,
        0.0 if one.silent_attention else 8.0 * one.attention_width,
    )
    passed_by = not (base or lora or backward.per_pair)
    return Passes(forward, backward + forward if recompute and not passed_by else backward)


def head_work(costs: ModelCosts) -> Passes:
    """Return the work of the head; it is frozen, so that its backward is one product too."""
    return Passes(Work(2.0 * costs.head_parameters), Work(2.0 * costs.head_parameters))
