"""Weights & Biases; WANDB_MODE, WANDB_PROJECT and its other variables count."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from splitft.job.settings import RunSettings
from splitft.running.trackers.tracker import PROJECT, Tracker, job_values, run_name


class WandbTracker(Tracker):
    """--resume goes on in the same run; there, a round that is repeated keeps its former figures."""

    name, module = "wandb", "wandb"

    def on_train_begin(self, job: RunSettings, output_dir: Path, rounds_done: int) -> None:
        self.run = self.api.init(
            project=job.project or os.environ.get("WANDB_PROJECT", PROJECT),
            name=run_name(job),
            config=job_values(job),
            id=self.known_run(output_dir),
            resume="allow",
        )
        self.keep_run(output_dir, self.run.id)

    def on_log(self, job: RunSettings, round_: int, logs: Mapping[str, float]) -> None:
        self.run.log(dict(logs), step=round_)

    def on_train_end(self, job: RunSettings, summary: Mapping[str, Any]) -> None:
        self.run.finish(exit_code=int(summary["interrupted"]))
