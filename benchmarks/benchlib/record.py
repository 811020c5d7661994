"""Figures: medians with their spread, tables, and the JSON that every benchmark leaves."""

from __future__ import annotations

import json
import os
import platform
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

RESULTS = Path(__file__).parents[1] / "results"


def machine() -> str:
    """Return what the figures were measured on, in one line."""
    model = next((line.split(":")[1].strip() for line in _cpuinfo() if line.startswith("model name")), "")
    parts = [
        platform.machine(), model, f"{os.cpu_count()} cores", f"{torch.get_num_threads()} threads of torch",
        f"Python {platform.python_version()}", f"torch {torch.__version__}",
    ]  # fmt: skip
    if torch.cuda.is_available():
        parts.append(torch.cuda.get_device_name())
    return ", ".join(part for part in parts if part)


def _cpuinfo() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.exists() else []


def spread(values: Sequence[float]) -> dict[str, Any]:
    """Return the median, the least and the greatest of some measurements, and all of them."""
    return {
        "median": statistics.median(values),
        "min": min(values),
        "max": max(values),
        "all": list(values),
    }


def ratio(these: Sequence[float], those: Sequence[float]) -> dict[str, float]:
    """Return these over those: of the medians, and pair by pair as they were measured side by side."""
    pairs = [a / b for a, b in zip(these, those, strict=True)]
    return {
        "of_medians": statistics.median(these) / statistics.median(those),
        "pairs_min": min(pairs),
        "pairs_median": statistics.median(pairs),
        "pairs_max": max(pairs),
    }


def save(result: Mapping[str, Any], path: Path) -> None:
    """Write what was measured, and on what."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({**result, "machine": machine()}, indent=1) + "\n")


def table(headings: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Return rows under headings: the first column to the left, figures to the right."""
    cells = [[str(cell) for cell in row] for row in [headings, *rows]]
    widths = [max(len(row[i]) for row in cells) for i in range(len(headings))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if not column else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in cells
    )
