"""A client's end of one sum (Bonawitz et al., CCS 2017, figure 4, with the consistency check).

    keys -> seal -> mask -> sign -> reveal

Each is answered once, in this order, under keys that are drawn anew for every sum.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Collection, Mapping
from typing import Literal

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from splitft.wire.secagg.masks import (
    SEED_BYTES,
    Ring,
    add_mask,
    pair_seed,
    pair_sign,
    public_bytes,
    sealing_key,
)
from splitft.wire.secagg.roll import (
    RoundKeys,
    Signatures,
    check_roll,
    keys_content,
    points_of,
    survivors_content,
    threshold_of,
)
from splitft.wire.secagg.shamir import SHARE_BYTES, split

NONCE = bytes(12)  # a sealing key seals one message

Step = Literal["keys", "seal", "mask", "sign", "reveal", "over"]
_STEPS: tuple[Step, ...] = ("keys", "seal", "mask", "sign", "reveal", "over")


class SumMember:
    """One client in one sum.

    Args:
        name: The client.
        context: Of the sum (`context_of`).
        weight: The client's own.
        stated: The threshold that the job states, None for its default.
        least: Fewest clients of a sum that this one takes part in.
        signatures: The client's, and the check of the others'.

    Every method raises ValueError where it is called twice or out of order, or where the server's view cannot
    be that of an honest server.
    """

    def __init__(
        self,
        name: str,
        context: bytes,
        weight: int,
        stated: int | None,
        least: int,
        signatures: Signatures,
    ) -> None:
        self._name, self._context, self._least = name, context, least
        self._stated, self._signatures = stated, signatures
        self._mask_key, self._seal_key = X25519PrivateKey.generate(), X25519PrivateKey.generate()
        self._seed = secrets.token_bytes(SEED_BYTES)
        bare = RoundKeys(
            public_bytes(self._mask_key),
            public_bytes(self._seal_key),
            hashlib.sha256(self._seed).digest(),
            weight,
        )
        signature = signatures.sign(keys_content(context, name, bare))
        self._keys = RoundKeys(
            bare.mask_key, bare.seal_key, bare.commitment, weight, signatures.certificate, signature
        )
        self._roll: dict[str, RoundKeys] = {}  # of all clients of the sum
        self._own_share = b""
        self._sealed: dict[str, bytes] = {}  # of the clients that shared, for this one
        self._survivors: frozenset[str] = frozenset()
        self._next: Step = "keys"

    @property
    def roll(self) -> Mapping[str, RoundKeys]:
        """The keys of all clients of the sum, once they have passed the checks of `seal`."""
        return self._roll

    def keys(self) -> RoundKeys:
        """Return the keys of this client."""
        self._step("keys")
        return self._keys

    def seal(self, roll: Mapping[str, RoundKeys]) -> dict[str, bytes]:
        """Check the keys of all clients; return shares of this one's secrets, sealed for each other one."""
        self._step("seal")
        if roll.get(self._name) != self._keys:
            raise ValueError("it states other keys of this client than this client's own")
        if len(roll) < max(self._least, self._threshold(len(roll))):
            raise ValueError(f"a sum of {len(roll)} clients, which is too few: {self._needs(len(roll))}")
        if self._stated is not None and 2 * self._stated <= len(roll):
            raise ValueError(
                f"a sum of {len(roll)} clients with a threshold of {self._stated}, not above half"
            )
        check_roll(self._context, roll, self._signatures)
        self._roll = dict(roll)
        points, threshold = points_of(roll), self._threshold(len(roll))
        of_key = split(self._mask_key.private_bytes_raw(), list(points.values()), threshold)
        of_seed = split(self._seed, list(points.values()), threshold)
        self._own_share = of_seed[points[self._name]]
        return {
            name: self._cipher(name, self._way(self._name, name)).encrypt(
                NONCE, of_key[point] + of_seed[point], self._context
            )
            for name, point in points.items()
            if name != self._name
        }

    def mask(self, total: Ring, sealed: Mapping[str, bytes]) -> None:
        """Mask this client's numbers, in place.

        Args:
            total: (numbers,), the numbers.
            sealed: {client: its shares for this one}, of the other clients that shared.
        """
        self._step("mask")
        shared = {*sealed, self._name}
        if not shared <= self._roll.keys() or self._name in sealed:
            raise ValueError("shares of clients that are not in the sum")
        if len(shared) < self._threshold(len(self._roll)):
            raise ValueError(f"shares of {len(shared)} clients: {self._needs(len(self._roll))}")
        self._sealed = dict(sealed)
        add_mask(total, self._seed, 1)
        for name in sealed:
            other = self._roll[name].mask_key
            seed = pair_seed(self._mask_key, other, self._context)
            add_mask(total, seed, pair_sign(self._keys.mask_key, other))

    def sign(self, survivors: Collection[str]) -> bytes:
        """Return this client's signature of the clients whose masked numbers came."""
        self._step("sign")
        self._survivors = frozenset(survivors)
        if len(self._survivors) != len(survivors) or not self._survivors <= {*self._sealed, self._name}:
            raise ValueError("a sum over clients that did not share")
        if self._name not in self._survivors:
            raise ValueError("a sum without this client, which has sent its numbers")
        if len(survivors) < max(self._least, self._threshold(len(self._roll))):
            raise ValueError(f"a sum of {len(survivors)} clients: {self._needs(len(self._roll))}")
        return self._signatures.sign(self._view())

    def reveal(self, signed: Mapping[str, bytes]) -> dict[str, bytes]:
        """Return this client's share of one secret of each client that shared.

        Of a client whose numbers came, of the seed of its own mask; of any other, of its mask key; never of
        both. A client whose shares do not open is left out.

        signed: {client: signature} of the survivors, at least as many as the threshold.
        """
        self._step("reveal")
        if len(signed) < self._threshold(len(self._roll)) or not signed.keys() <= self._survivors:
            raise ValueError(f"{len(signed)} clients agree on who is left: {self._needs(len(self._roll))}")
        for name, signature in signed.items():
            self._signatures.check(name, self._roll[name].certificate, signature, self._view())
        shares = {self._name: self._own_share}
        for name, sealed in self._sealed.items():
            try:
                both = self._cipher(name, self._way(name, self._name)).decrypt(NONCE, sealed, self._context)
            except InvalidTag:
                continue
            shares[name] = both[SHARE_BYTES:] if name in self._survivors else both[:SHARE_BYTES]
        return shares

    def _step(self, step: Step) -> None:
        if step != self._next:
            raise ValueError(
                f"{step} where {self._next} is next: nothing is answered twice under one sum's keys"
            )
        self._next = _STEPS[_STEPS.index(step) + 1]

    def _threshold(self, count: int) -> int:
        return threshold_of(count, self._stated)

    def _needs(self, count: int) -> str:
        return f"{max(self._least, self._threshold(count))} are needed"

    def _view(self) -> bytes:
        shared = {*self._sealed, self._name}
        return survivors_content(self._context, self._roll, shared, self._survivors)

    def _cipher(self, other: str, way: bytes) -> AESGCM:
        return AESGCM(sealing_key(self._seal_key, self._roll[other].seal_key, self._context, way))

    @staticmethod
    def _way(sender: str, receiver: str) -> bytes:
        return sender.encode() + b"\0" + receiver.encode()
