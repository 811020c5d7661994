"""Masks: key streams that are added modulo 2^32, and the seeds that two clients agree on.

AES-256 in counter mode expands a seed; X25519 and HKDF-SHA256 make the seed of a pair. A seed is of one sum
alone, so the counter begins at zero.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from numpy.typing import NDArray

KEY_BYTES = SEED_BYTES = 32
PIECE = 1 << 16  # numbers that are masked at once: they stay in the cache

Ring = NDArray[np.uint32]


def add_mask(total: Ring, seed: bytes, sign: Literal[1, -1]) -> None:
    """Add a seed's mask to numbers, or take it away (sign -1), modulo 2^32, in place.

    total: (numbers,), contiguous. seed: SEED_BYTES bytes.
    """
    stream = Cipher(algorithms.AES(seed), modes.CTR(bytes(16))).encryptor()
    zeros, drawn = bytes(4 * PIECE), bytearray(4 * PIECE + 15)
    apply = np.add if sign > 0 else np.subtract
    for start in range(0, len(total), PIECE):
        part = total[start : start + PIECE]
        stream.update_into(memoryview(zeros)[: 4 * len(part)], drawn)
        apply(part, np.frombuffer(drawn, "<u4", len(part)), out=part)


def pair_seed(own: X25519PrivateKey, other: bytes, context: bytes) -> bytes:
    """Return the seed of the mask that two clients share; both get the same.

    other: The other's public key. Raises ValueError where it is none.
    """
    both = sorted((public_bytes(own), other))
    return _derived(own, other, b"splitft mask\0" + context + b"".join(both))


def sealing_key(own: X25519PrivateKey, other: bytes, context: bytes, way: bytes) -> bytes:
    """Return the key that seals shares from one client to another. way: names both, in that order."""
    return _derived(own, other, b"splitft shares\0" + context + way)


def public_bytes(key: X25519PrivateKey) -> bytes:
    """Return the public key of a private one, KEY_BYTES bytes."""
    return key.public_key().public_bytes_raw()


def pair_sign(own: bytes, other: bytes) -> Literal[1, -1]:
    """Return whether the client with the mask key `own` adds the pair's mask (1); the other takes it away."""
    return 1 if own < other else -1


def _derived(own: X25519PrivateKey, other: bytes, info: bytes) -> bytes:
    shared = own.exchange(X25519PublicKey.from_public_bytes(other))
    return HKDF(hashes.SHA256(), SEED_BYTES, None, info).derive(shared)
