"""Named randomness: every random choice has its own generator, named by what it is for.

Nothing depends on the order in which clients arrive or on how often another generator was used.
"""

from __future__ import annotations

import hashlib

import numpy as np
import torch

CPU = torch.device("cpu")


def derive_seed(*names: str | int) -> int:
    """Return a 63-bit seed that depends on all names and on nothing else."""
    text = "/".join(str(name) for name in names).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little") >> 1


def torch_generator(*names: str | int) -> torch.Generator:
    """Return a CPU generator seeded by the names."""
    return torch.Generator().manual_seed(derive_seed(*names))


def numpy_generator(*names: str | int) -> np.random.Generator:
    """Return a NumPy generator seeded by the names."""
    return np.random.default_rng(derive_seed(*names))


def seed_dropout(device: torch.device, *names: str | int) -> None:
    """Seed what dropout on a device draws from by the names; see `seed_torch`."""
    seed_torch(derive_seed(*names), device)


def seed_torch(seed: int, device: torch.device = CPU) -> None:
    """Seed torch's own generators of a device.

    On a CPU its generator alone: `torch.manual_seed` also notes, stack and all, what to do once another kind
    of device is there, and this is called for every block of every step.
    """
    if device.type == "cpu":
        torch.default_generator.manual_seed(seed)
    else:
        torch.manual_seed(seed)
