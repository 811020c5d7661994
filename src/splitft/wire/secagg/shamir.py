"""Shamir's secret sharing (1979) over a prime field: `threshold` shares give a secret, fewer tell nothing."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence

PRIME = (1 << 521) - 1
SECRET_BYTES, SHARE_BYTES = 32, 66


def split(secret: bytes, points: Sequence[int], threshold: int) -> dict[int, bytes]:
    """Return {point: share} of a secret.

    Args:
        secret: SECRET_BYTES bytes.
        points: Different numbers from 1 on, one for each holder of a share.
        threshold: Number of shares that give the secret.

    Raises ValueError where there are fewer points than that, or the secret has another length.
    """
    if len(secret) != SECRET_BYTES or not 1 <= threshold <= len(set(points)) or min(points) < 1:
        raise ValueError(
            f"{len(secret)} bytes for {len(set(points))} holders, of whom {threshold} are needed"
        )
    factors = [int.from_bytes(secret, "big"), *(secrets.randbelow(PRIME) for _ in range(threshold - 1))]
    return {point: _at(factors, point).to_bytes(SHARE_BYTES, "big") for point in points}


def join(shares: Mapping[int, bytes]) -> bytes:
    """Return the secret of {point: share}: as many as the threshold, or more.

    Raises ValueError where these shares are of no secret; of wrong ones another secret can come.
    """
    values = {point: int.from_bytes(share, "big") for point, share in shares.items()}
    if any(len(share) != SHARE_BYTES for share in shares.values()) or max(values.values()) >= PRIME:
        raise ValueError("shares of another form")
    secret = 0
    for point, value in values.items():
        above = below = 1
        for other in values:
            if other != point:
                above, below = above * other % PRIME, below * (other - point) % PRIME
        secret = (secret + value * above * pow(below, -1, PRIME)) % PRIME
    if secret >> (8 * SECRET_BYTES):
        raise ValueError("shares that do not belong together")
    return secret.to_bytes(SECRET_BYTES, "big")


def _at(factors: Sequence[int], point: int) -> int:
    """Return a polynomial's value."""
    value = 0
    for factor in reversed(factors):
        value = (value * point + factor) % PRIME
    return value
