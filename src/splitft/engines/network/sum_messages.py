"""Messages of a masked sum (`secure_aggregation`); masked updates themselves travel as `AdapterUp`.

Keys, shares and signatures are uint8 tensors. The answer to each request is the next message of its client.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class _OfSum:
    round: int
    attempt: int  # counts the sums that were begun for the round


@dataclass(frozen=True)
class Trained:
    """Client to server, in the place of its adapters: they are trained, and stay with it for a sum."""

    round: int


class KeysAsked(_OfSum):
    """Server to client: draw new keys for a sum."""


@dataclass(frozen=True)
class KeysStated(_OfSum):
    """Client to server: its keys (`roll.RoundKeys`).

    bound: the clients of the one sum that this update may still enter; empty: any.
    """

    mask_key: Tensor
    seal_key: Tensor
    commitment: Tensor
    weight: int
    certificate: Tensor
    signature: Tensor
    bound: tuple[str, ...] = ()


@dataclass(frozen=True)
class SharesAsked(_OfSum):
    """Server to client: the keys of all clients of the sum; seal shares of your secrets for each."""

    clients: tuple[str, ...]
    mask_keys: tuple[Tensor, ...]
    seal_keys: tuple[Tensor, ...]
    commitments: tuple[Tensor, ...]
    weights: tuple[int, ...]
    certificates: tuple[Tensor, ...]
    signatures: tuple[Tensor, ...]


@dataclass(frozen=True)
class SharesSealed(_OfSum):
    """Client to server: shares, each sealed for the client that it is for."""

    clients: tuple[str, ...]
    sealed: tuple[Tensor, ...]


@dataclass(frozen=True)
class MaskAsked(_OfSum):
    """Server to client: the shares that others sealed for you; send your masked update."""

    clients: tuple[str, ...]
    sealed: tuple[Tensor, ...]


@dataclass(frozen=True)
class SurvivorsAsked(_OfSum):
    """Server to client: the clients whose masked updates came; sign that."""

    clients: tuple[str, ...]


@dataclass(frozen=True)
class SurvivorsSigned(_OfSum):
    """Client to server."""

    signature: Tensor


@dataclass(frozen=True)
class RevealAsked(_OfSum):
    """Server to client: who has signed; reveal one share of each client's secrets."""

    clients: tuple[str, ...]
    signatures: tuple[Tensor, ...]


@dataclass(frozen=True)
class SharesRevealed(_OfSum):
    """Client to server."""

    clients: tuple[str, ...]
    shares: tuple[Tensor, ...]


SumRequest = KeysAsked | SharesAsked | MaskAsked | SurvivorsAsked | RevealAsked
SumAnswer = KeysStated | SharesSealed | SurvivorsSigned | SharesRevealed


def to_tensor(data: bytes) -> Tensor:
    """Return bytes as (bytes,) uint8."""
    return torch.frombuffer(bytearray(data), dtype=torch.uint8) if data else torch.empty(0, dtype=torch.uint8)


def to_bytes(tensor: Tensor, most: int) -> bytes:
    """Undo `to_tensor`. Raises ValueError where a tensor is none of at most so many bytes."""
    if tensor.dtype is not torch.uint8 or tensor.ndim != 1 or len(tensor) > most:
        raise ValueError(f"bytes as {tensor.dtype} of shape {tuple(tensor.shape)}")
    return tensor.numpy().tobytes()


def pairs_of(clients: tuple[str, ...], values: tuple[Tensor, ...], most: int) -> dict[str, bytes]:
    """Return {client: bytes}. Raises ValueError where names and values do not go together."""
    if len(clients) != len(values) or len({*clients}) != len(clients):
        raise ValueError(f"{len(values)} values for {len(clients)} clients")
    return {name: to_bytes(value, most) for name, value in zip(clients, values, strict=True)}
