"""Copies between a host and its accelerator: with CUDA through pinned memory, without waiting."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor


def to_device(tensor: Tensor, device: torch.device | str) -> Tensor:
    """Return the tensor on a device; the host does not wait for the copy to a CUDA device."""
    if tensor.device.type == "cpu" and torch.device(device).type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def to_host(tensors: Iterable[Tensor]) -> list[Tensor]:
    """Return the tensors on the host. All copies from CUDA run at once, and are waited for once."""
    copies: list[Tensor] = []
    devices: set[torch.device] = set()
    for tensor in tensors:
        if tensor.device.type == "cuda":
            devices.add(tensor.device)
            pinned = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
            copies.append(pinned.copy_(tensor.detach(), non_blocking=True))
        else:
            copies.append(tensor.detach().cpu())
    for device in devices:
        torch.cuda.current_stream(device).synchronize()
    return copies
