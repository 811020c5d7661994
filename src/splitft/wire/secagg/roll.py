"""The roll of a sum: the keys that its clients state, signed, and how many of them a sum needs."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

from splitft.wire.secagg.masks import KEY_BYTES

LEAST = 3  # clients of a sum: of two, each knows the other's share
COMMITMENT_BYTES = 32


@dataclass(frozen=True)
class RoundKeys:
    """The keys of one client for one sum.

    Attributes:
        mask_key, seal_key: Public keys, for the masks and for the shares.
        commitment: SHA-256 of the seed of the client's own mask.
        weight: Of the client in the mean; public.
        certificate, signature: Of the client over all this; empty without certificates.
    """

    mask_key: bytes
    seal_key: bytes
    commitment: bytes
    weight: int
    certificate: bytes = b""
    signature: bytes = b""


Roll = Mapping[str, RoundKeys]  # {client: its keys}


class Signatures(Protocol):
    """Signs for one client, and checks others' signatures."""

    certificate: bytes

    def sign(self, content: bytes) -> bytes:
        """Return the client's signature."""

    def check(self, name: str, certificate: bytes, signature: bytes, content: bytes) -> None:
        """Raise ValueError where a signature is not that of the client of this name."""


class Unsigned:
    """No signatures: a server could put keys of its own in the place of clients'."""

    certificate = b""

    def sign(self, content: bytes) -> bytes:
        """Return nothing."""
        return b""

    def check(self, name: str, certificate: bytes, signature: bytes, content: bytes) -> None:
        """Take whatever comes."""


def threshold_of(count: int, stated: int | None) -> int:
    """Return how many of the clients of a sum it needs: as stated, else more than two thirds of them.

    With 2t > n + c, a server that colludes with c < t of n clients gains nothing by telling clients different
    stories (Bonawitz et al., section 6); more than two thirds bear c < n / 3.
    """
    return max(LEAST, 2 * count // 3 + 1 if stated is None else stated)


def context_of(round_: int, attempt: int) -> bytes:
    """Return what all keys and signatures of one sum are bound to."""
    return hashlib.sha256(json.dumps(["splitft sum", round_, attempt]).encode()).digest()


def keys_content(context: bytes, name: str, keys: RoundKeys) -> bytes:
    """Return what a client signs of its keys."""
    return b"splitft keys\0" + context + json.dumps([name, *_told(keys)]).encode()


def survivors_content(context: bytes, roll: Roll, shared: Iterable[str], survivors: Iterable[str]) -> bytes:
    """Return what a client signs of the clients whose masked numbers came: the view that all must have."""
    view = [[[name, *_told(keys)] for name, keys in sorted(roll.items())], sorted(shared), sorted(survivors)]
    return b"splitft survivors\0" + context + hashlib.sha256(json.dumps(view).encode()).digest()


def _told(keys: RoundKeys) -> tuple[str, str, str, int]:
    """Return keys without their signature."""
    return keys.mask_key.hex(), keys.seal_key.hex(), keys.commitment.hex(), keys.weight


def check_roll(context: bytes, roll: Roll, signatures: Signatures) -> None:
    """Raise ValueError where keys are none, stand twice, or are not signed by their client."""
    for name, keys in roll.items():
        sizes = len(keys.mask_key), len(keys.seal_key), len(keys.commitment)
        if sizes != (KEY_BYTES, KEY_BYTES, COMMITMENT_BYTES) or keys.weight < 0:
            raise ValueError(f"keys of {name} of another form")
        signatures.check(name, keys.certificate, keys.signature, keys_content(context, name, keys))
    for kind in ("mask_key", "seal_key"):
        if len({getattr(keys, kind) for keys in roll.values()}) < len(roll):
            raise ValueError(f"a {kind} stands twice")
    if not any(keys.weight for keys in roll.values()):
        raise ValueError("no client has any weight")


def points_of(roll: Roll) -> dict[str, int]:
    """Return {client: the point of its shares}."""
    return {name: number for number, name in enumerate(sorted(roll), start=1)}
