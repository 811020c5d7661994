"""What a model costs, in plain numbers per block: the only thing that FLOPs, memory and time are made of."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class BlockCosts:
    """One block. Parameters are those of matrices, of experts as many as a token meets.

    silent_*: the part whose input carries no gradient, so that the backward passes it by. That is what a
    model computes before its first adapter; nothing in later blocks.
    """

    parameters: int
    weight_bytes: int  # of the frozen base, all experts
    lora_parameters: int  # per unit of rank
    attention_width: int  # heads × head_dim; 0 without attention
    silent_parameters: int
    silent_lora_parameters: int
    silent_attention: bool
    activation_bytes: float  # kept for the backward, per token
    activation_bytes_per_width: float  # the same, per token and token of its row: attention scores
    magnitudes: int = 0  # trained parameters beside those of rank: DoRA's

    def adapter_parameters(self, rank: int) -> int:
        """Return the parameters of the block's adapter."""
        return rank * self.lora_parameters + self.magnitudes


@dataclass(frozen=True)
class ModelCosts:
    """A model: its blocks, and what stands before and behind them.

    head_bytes: final norm and head as whoever computes the loss holds them; tied_bytes: the part of them that
    is the embedding too, held once where both are. traced: the activation bytes are those of the model's own
    forward; else an upper estimate from the sizes of its matrices.
    """

    blocks: tuple[BlockCosts, ...]
    hidden: int
    vocabulary: int
    element_bytes: int  # of activations and base weights
    embedding_bytes: int
    head_bytes: int
    tied_bytes: int
    head_parameters: int
    shared_activation_bytes: float  # per token, kept once by whoever runs blocks: masks, rotary tables
    shared_activation_bytes_per_width: float
    head_activation_bytes: float  # per token, kept by norm and head beside the logits
    traced: bool
