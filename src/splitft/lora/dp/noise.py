"""Noise of a client: keys that no other party knows, and the generators that follow from them.

A generator is named by the client's key, the round's digest and the step. The same step from the same state
so draws the same noise, after a restart too, and tells nothing twice; a step from another state draws other
noise: two gradients under one noise would tell their difference without any.
"""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Mapping
from typing import Any

import numpy as np

from splitft.common.state import pack

_BYTES = 32


def new_key() -> str:
    """Return a key from the operating system's randomness, as text."""
    return secrets.token_hex(_BYTES)


def is_key(text: object) -> bool:
    """Whether something is a key as `new_key` makes them."""
    return isinstance(text, str) and len(text) == 2 * _BYTES and set(text) <= set("0123456789abcdef")


def experiment_key(seed: int, client: str) -> str:
    """Return the key of a client that follows from a number, for experiments: it protects nothing."""
    return hashlib.blake2b(f"noise/{seed}/{client}".encode(), digest_size=_BYTES).hexdigest()


def generator(key: str, *names: str | int) -> np.random.Generator:
    """Return a generator named by a key and by names.

    It is Philox with a key of 128 bits. A torch generator keeps 32 bits of its seed, which can be tried out.
    """
    text = "/".join(map(str, names)).encode()
    digest = hashlib.blake2b(text, key=bytes.fromhex(key), digest_size=16).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest, "little")))


def digest_of(*parts: Mapping[str, Any] | str | int) -> str:
    """Return a digest of states (maps, lists, numbers, tensors), texts and numbers."""
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        values, tensors = pack(part)
        digest.update(json.dumps(values, sort_keys=True).encode())
        for path, tensor in tensors.items():
            digest.update(f"{path} {tuple(tensor.shape)} {tensor.dtype}".encode())
            digest.update(tensor.reshape(-1).numpy().data)
    return digest.hexdigest()
