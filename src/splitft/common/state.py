"""The state of a party as plain values and tensors, and its form in files: JSON, tensors by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

State = dict[str, Any]  # maps, lists, numbers, texts, None and tensors, nested


def pack(state: Any) -> tuple[Any, dict[str, Tensor]]:
    """Return (values for JSON, {path: tensor}). Maps become lists of pairs, so that keys keep their type.

    Raises TypeError on anything else than maps, lists, tuples, numbers, texts, None and tensors, and
    ValueError where two paths are the same.
    """
    tensors: dict[str, Tensor] = {}
    return _down(state, "", tensors), tensors


def unpack(values: Any, tensors: Mapping[str, Tensor]) -> Any:
    """Undo `pack`; tuples come back as lists. Raises ValueError on what `pack` cannot have made."""
    if isinstance(values, list):
        return [unpack(item, tensors) for item in values]
    if not isinstance(values, dict):
        return values
    match values:
        case {"map": list(pairs), **rest} if not rest:
            return {key: unpack(item, tensors) for key, item in pairs}
        case {"tensor": str(path), **rest} if not rest and path in tensors:
            return tensors[path]
        case _:
            raise ValueError(f"not a state: {str(values)[:80]}")


def _down(value: Any, path: str, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, Tensor):
        if path in tensors:
            raise ValueError(f"two tensors are called {path}")
        tensors[path] = value.detach().cpu().contiguous().clone()
        return {"tensor": path}
    if isinstance(value, Mapping):
        return {"map": [[key, _down(item, f"{path}/{key}", tensors)] for key, item in value.items()]}
    if isinstance(value, list | tuple):
        return [_down(item, f"{path}/{i}", tensors) for i, item in enumerate(value)]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"{path}: a state cannot hold {type(value).__name__}")
