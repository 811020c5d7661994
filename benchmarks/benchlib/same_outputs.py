"""Folders of two runs against each other: history, ledger, decisions and adapters, bit by bit."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

MEASURED = ("round_seconds", "evaluation_seconds")  # fields of a record from a clock on the wall
WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"
# Of a config: peft writes them in any order, another one in every process.
SETS = ("target_modules", "exclude_modules")
Difference = tuple[str, str]  # the part (history, ledger, decisions, adapter, config), and the place in words


class OutputsMissingError(Exception):
    """A run's folder without a file that every run writes."""


def differences(before: Path, after: Path, *, network: bool) -> list[Difference]:
    """Return the first difference of each part of two runs' output folders; an empty list: all is the same.

    network: the run was one over a network, where seconds of steps in decisions are measured. Raises
    OutputsMissingError where there is nothing to compare.
    """
    parts: dict[str, Callable[[Path], Mapping[str, Any]]] = {
        "history": _history,
        "ledger": _ledger,
        "decisions": lambda folder: _decisions(folder, network=network),
        "adapter": _adapters,
        "config": _configs,
    }
    found = []
    for part, read in parts.items():
        one, other = read(before), read(after)
        place = next(_different_places(one, other, ""), None)
        if place:
            found.append((part, place))
    return found


def counts(folder: Path) -> Counter[str]:
    """Return how many records, decisions and tensors a run has."""
    tensors = sum(len(of_one) for of_one in _adapters(folder).values())
    found = {
        "records": len(_history(folder)),
        "decisions": len(_decisions(folder, network=False)),
        "tensors": tensors,
    }
    return Counter(found)


def _history(folder: Path) -> dict[str, Any]:
    """Return {record: its fields} less measured times and the ledger's."""
    return {
        name: {key: value for key, value in record.items() if key not in (*MEASURED, "bytes")}
        for name, record in _lines(folder / "history.jsonl").items()
    }


def _ledger(folder: Path) -> dict[str, Any]:
    return {name: record["bytes"] for name, record in _lines(folder / "history.jsonl").items()}


def _decisions(folder: Path, *, network: bool) -> dict[str, Any]:
    path = folder / "decisions.jsonl"
    found = _lines(path) if path.exists() else {}
    for decision in found.values() if network else ():
        for client in decision["observation"]["clients"]:
            for key in [key for key in client if key.endswith("_seconds")]:
                del client[key]
    return found


def _lines(path: Path) -> dict[str, Any]:
    """Return the lines of a jsonl file by their rounds."""
    if not path.exists():
        raise OutputsMissingError(f"{path} is missing")
    records = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    found = {f"round {record['round']}": record for record in records}
    if not found or len(found) < len(records):
        raise OutputsMissingError(f"{path} has no lines, or a round twice")
    return found


def weight_files(folder: Path) -> list[Path]:
    """Return the weights of a run's adapter, or of the clients' own. Raises OutputsMissingError."""
    found = [path for name in ("adapter", "adapters") for path in sorted((folder / name).rglob(WEIGHTS))]
    if not found:
        raise OutputsMissingError(f"{folder} has no {WEIGHTS}")
    return found


def _adapters(folder: Path) -> dict[str, Any]:
    return {str(path.parent.relative_to(folder)): load_file(path) for path in weight_files(folder)}


def _configs(folder: Path) -> dict[str, Any]:
    found = {}
    for path in weight_files(folder):
        config = json.loads(path.with_name(CONFIG).read_text(encoding="utf-8"))
        for key in SETS:
            if isinstance(config.get(key), list):
                config[key].sort()
        if Path(config["base_model_name_or_path"]).is_absolute():
            config["base_model_name_or_path"] = os.path.relpath(config["base_model_name_or_path"], folder)
        found[str(path.parent.relative_to(folder))] = config
    return found


def _different_places(before: Any, after: Any, path: str) -> Iterator[str]:
    """Yield a line for every place at which two trees of dicts, lists, tensors and plain values differ."""
    if isinstance(before, dict) and isinstance(after, dict):
        for key in [*before, *(key for key in after if key not in before)]:
            inner = f"{path}, {key}" if path else str(key)
            if key not in before or key not in after:
                yield f"{inner}: only {'before' if key in before else 'after'}"
            else:
                yield from _different_places(before[key], after[key], inner)
    elif isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        for number, (one, other) in enumerate(zip(before, after, strict=True)):
            yield from _different_places(one, other, f"{path}[{number}]")
    elif isinstance(before, torch.Tensor) and isinstance(after, torch.Tensor):
        yield from _different_bits(before, after, path)
    elif json.dumps(before) != json.dumps(after):  # tells 0.0 from -0.0, and 1 from 1.0
        yield f"{path}: {json.dumps(before)} before, {json.dumps(after)} after"


def _different_bits(before: torch.Tensor, after: torch.Tensor, path: str) -> Iterator[str]:
    if before.dtype != after.dtype or before.shape != after.shape:
        one, other = (f"{tensor.dtype} {list(tensor.shape)}" for tensor in (before, after))
        yield f"{path}: {one} before, {other} after"
        return
    size = before.element_size()
    rows = [tensor.contiguous().view(torch.uint8).reshape(-1, size) for tensor in (before, after)]
    different = (rows[0] != rows[1]).any(dim=1)
    if different.any():
        first = int(different.nonzero()[0])
        values = [float(tensor.flatten()[first]) for tensor in (before, after)]
        count = f"{int(different.sum())} of {before.numel()} values"
        yield f"{path}: {count}, first number {first}: {values[0]!r} before, {values[1]!r} after"
