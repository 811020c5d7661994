"""A rotation of every 64 values, after which none stands out: a Hadamard matrix with fixed random signs."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

SIZE = 64


@lru_cache(maxsize=4)
def rotation(device: torch.device) -> Tensor:
    """Return the (64, 64) matrix, orthogonal; the same on every machine."""
    matrix = torch.ones(1, 1)
    while len(matrix) < SIZE:
        matrix = torch.cat([torch.cat([matrix, matrix], 1), torch.cat([matrix, -matrix], 1)])
    signs = [1 if (0x9E3779B97F4A7C15 >> place) & 1 else -1 for place in range(SIZE)]  # golden ratio's bits
    matrix *= torch.tensor(signs)
    return matrix.div_(SIZE**0.5).to(device)


def rotate(rows: Tensor) -> Tensor:
    """Return (…, 64) float32 values rotated."""
    return rows @ rotation(rows.device).T


def rotate_back(rows: Tensor, out: Tensor) -> None:
    """Undo `rotate`, into `out`."""
    torch.matmul(rows, rotation(rows.device), out=out)
