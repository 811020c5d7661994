"""TensorBoard: event files in the run's folder."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from splitft.job.settings import RunSettings
from splitft.running.trackers.tracker import Tracker, job_values

FOLDER = "tensorboard"


class TensorBoardTracker(Tracker):
    """Logs doubles, since float32 would round counts of bytes. A repeated round replaces the former one."""

    name, module = "tensorboard", "torch.utils.tensorboard"

    def on_train_begin(self, job: RunSettings, output_dir: Path, rounds_done: int) -> None:
        purge = rounds_done + 1 if rounds_done >= 0 else None
        self.writer = self.api.SummaryWriter(str(output_dir / FOLDER), purge_step=purge)
        self.writer.add_text("job", f"```json\n{json.dumps(job_values(job), indent=1)}\n```")

    def on_log(self, job: RunSettings, round_: int, logs: Mapping[str, float]) -> None:
        for name, value in logs.items():
            self.writer.add_scalar(name, value, round_, new_style=True, double_precision=True)
        self.writer.flush()

    def on_train_end(self, job: RunSettings, summary: Mapping[str, Any]) -> None:
        self.writer.close()
