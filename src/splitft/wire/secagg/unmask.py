"""The server's end of a sum: masks that are left in a sum of masked numbers, and their removal."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from splitft.wire.secagg.masks import Ring, add_mask, pair_seed, pair_sign, public_bytes
from splitft.wire.secagg.roll import Roll, points_of
from splitft.wire.secagg.shamir import join


class SharesError(ValueError):
    """A client's secret cannot be made from the shares that came."""


@dataclass(frozen=True)
class Unmasking:
    """The clients of one sum.

    Attributes:
        context: Of the sum.
        roll: The keys of all its clients.
        threshold: Number of shares of a secret.
        shared: Clients that shared their secrets: the others have masked their numbers for these.
        survivors: Those of them whose masked numbers came.
    """

    context: bytes
    roll: Roll
    threshold: int
    shared: Collection[str]
    survivors: Collection[str]

    def secrets(self, revealed: Mapping[str, Mapping[str, bytes]]) -> dict[str, bytes]:
        """Return the secret of each client that shared: its seed where it survived, else its mask key.

        revealed: {client: its share of each client's secret}. One wrong share is borne where more came than
        are needed; whether its holder or its dealer lied does not show.

        Raises SharesError where too few right ones came.
        """
        return {name: self._secret(name, revealed) for name in self.shared}

    def remove(self, total: Ring, secrets: Mapping[str, bytes]) -> None:
        """Take the masks away from the sum of the survivors' masked numbers, in place."""
        for name in self.survivors:
            add_mask(total, secrets[name], -1)
        for name in self.shared:
            if name in self.survivors:
                continue
            # What each survivor added or took away for a client that is gone, the other way round.
            key = X25519PrivateKey.from_private_bytes(secrets[name])
            for other in self.survivors:
                theirs = self.roll[other].mask_key
                sign = pair_sign(public_bytes(key), theirs)
                add_mask(total, pair_seed(key, theirs, self.context), sign)

    def _secret(self, name: str, revealed: Mapping[str, Mapping[str, bytes]]) -> bytes:
        points = points_of(self.roll)
        shares = {points[holder]: own[name] for holder, own in revealed.items() if name in own}
        if len(shares) < self.threshold:
            raise SharesError(f"{len(shares)} shares of {name}'s secret came, {self.threshold} are needed")
        for some in self._enough(shares):
            if (found := self._joined(name, some)) is not None:
                return found
        raise SharesError(f"the shares of {name}'s secret do not fit")

    def _enough(self, shares: Mapping[int, bytes]) -> Iterator[dict[int, bytes]]:
        """Yield as many shares as are needed: the first ones, then the first ones without each of these."""
        first = dict(islice(shares.items(), self.threshold))
        yield first
        for point in first if len(shares) > self.threshold else ():
            yield dict(islice(((p, share) for p, share in shares.items() if p != point), self.threshold))

    def _joined(self, name: str, shares: Mapping[int, bytes]) -> bytes | None:
        """Return the secret of shares, None where it is not the client's."""
        try:
            secret = join(shares)
        except ValueError:
            return None
        if name in self.survivors:
            return secret if hashlib.sha256(secret).digest() == self.roll[name].commitment else None
        own = public_bytes(X25519PrivateKey.from_private_bytes(secret))
        return secret if own == self.roll[name].mask_key else None
