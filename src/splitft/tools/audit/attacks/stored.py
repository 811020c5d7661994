"""Attack on kept activations: tensors of the hidden states' width, wherever they were left."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from splitft.tools.audit.attacks.inverter import Inverter
from splitft.wire.codecs.int8 import Int8

LEAST_ROWS = 16  # of a tensor: fewer tokens say too little


def kept_rows(tensors: Mapping[str, Tensor], width: int) -> dict[str, Tensor]:
    """Return {name: (tokens, width) float32} of all tensors that could be activations.

    Numbers of 8 bits are decoded as `Int8` where their scales lie beside them, under the next number.
    """
    found, form = {}, Int8()
    for name, values in tensors.items():
        if values.shape[-1] != width or values.numel() < LEAST_ROWS * width or values.dtype is torch.bool:
            continue
        rows = values.reshape(-1, width)
        stem, _, number = name.rpartition("/")
        beside = tensors.get(f"{stem}/{int(number) + 1}") if number.isdecimal() else None
        wanted = form.layout([len(rows)], width)[1]
        if rows.dtype is torch.int8 and beside is not None and tuple(beside.shape) == tuple(wanted.shape):
            found[name] = form.decode((rows, beside), [len(rows)], width)
        else:
            found[name] = rows.float()
    return {name: rows for name, rows in found.items() if bool(torch.isfinite(rows).all())}


def at_scale(rows: Tensor, inverter: Inverter) -> Tensor:
    """Return rows; whole numbers, which lack their scale, as large as public activations."""
    if bool((rows != rows.round()).any()):
        return rows
    usual = (inverter.mean.pow(2) + inverter.spread.pow(2)).mean().sqrt()
    return rows * (usual / rows[1:].pow(2).mean().sqrt().clamp_min(1e-12))


def likeness(rows: Tensor, inverter: Inverter) -> float:
    """Return how alike the deviations of the dimensions are to those of public activations, -1 to 1."""
    own, usual = (part.clamp_min(1e-12).log() for part in (rows.std(0), inverter.spread))
    cosine = torch.nn.functional.cosine_similarity(own - own.mean(), usual - usual.mean(), dim=0)
    return float(cosine)
