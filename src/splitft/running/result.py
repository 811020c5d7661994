"""What a run made, for people and notebooks: tables, a picture, the tuned model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from splitft.history import RoundRecord


@dataclass(frozen=True)
class RunResult:
    """What a run made. history: one record a round, the first before training.

    adapter_path: the adapter's folder; with `method: local_only` the folder of every client's.
    """

    output_dir: Path
    adapter_path: Path
    history: list[RoundRecord]
    summary: dict[str, Any]
