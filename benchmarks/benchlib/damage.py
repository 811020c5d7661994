"""A finished run with one number changed, to check the comparison of runs."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from benchlib.same_outputs import CONFIG, weight_files


def _adapter(folder: Path) -> None:
    path = weight_files(folder)[-1]
    tensors = load_file(path)
    tensors[max(tensors)].view(torch.int32).view(-1)[-1] ^= 1  # the last bit of the last value
    save_file(tensors, path)


def _config(folder: Path) -> None:
    path = weight_files(folder)[-1].with_name(CONFIG)
    config = json.loads(path.read_text())
    path.write_text(json.dumps(config | {"lora_alpha": math.nextafter(config["lora_alpha"], math.inf)}))


def _last_line(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change the last line of a jsonl file, where the file exists."""
    if path.exists():
        *lines, last = path.read_text(encoding="utf-8").splitlines()
        record = json.loads(last)
        change(record)
        path.write_text("\n".join([*lines, json.dumps(record)]) + "\n", encoding="utf-8")


def _history(folder: Path) -> None:
    def change(record: dict[str, Any]) -> None:
        record["loss"] = math.nextafter(record["loss"], math.inf)

    _last_line(folder / "history.jsonl", change)


def _ledger(folder: Path) -> None:
    def change(record: dict[str, Any]) -> None:
        for kinds in record["bytes"].values():
            for kind in sorted(kinds)[-1:]:
                kinds[kind] += 1

    _last_line(folder / "history.jsonl", change)


def _decisions(folder: Path) -> None:
    def change(decision: dict[str, Any]) -> None:
        name = max(decision["targets"])
        decision["targets"][name] = math.nextafter(decision["targets"][name], math.inf)

    _last_line(folder / "decisions.jsonl", change)


DAMAGES: dict[str, Callable[[Path], None]] = {
    "adapter": _adapter,
    "config": _config,
    "history": _history,
    "ledger": _ledger,
    "decisions": _decisions,
}
