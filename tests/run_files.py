"""What a run left in its folder, as tests compare it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

SECONDS = ("round_seconds", "evaluation_seconds")


def adapter_of(folder: Path) -> bytes:
    """The bytes of the run's adapter."""
    return (folder / "adapter" / "adapter_model.safetensors").read_bytes()


def figures_of(folder: Path) -> list[dict[str, Any]]:
    """The history, a mapping a round, without the bytes and seconds that no two runs have in common."""
    lines = [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]
    return [
        {key: value for key, value in line.items() if not key.startswith("bytes") and key not in SECONDS}
        for line in lines
    ]
