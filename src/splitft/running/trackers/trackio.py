"""Trackio: a SQLite file on this machine, or a Space, as TRACKIO_SPACE_ID and its other variables say."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from splitft.job.settings import RunSettings
from splitft.running.trackers.tracker import PROJECT, Tracker, job_values, run_name


class TrackioTracker(Tracker):
    """--resume goes on in the same run; there, a round that is repeated is logged a second time."""

    name, module = "trackio", "trackio"

    def on_train_begin(self, job: RunSettings, output_dir: Path, rounds_done: int) -> None:
        known = self.known_run(output_dir)  # Trackio finds its runs by name
        self.run = self.api.init(
            project=job.project or PROJECT,
            name=known or run_name(job),
            config=job_values(job),
            resume="allow" if known else "never",
        )
        self.keep_run(output_dir, self.run.name)

    def on_log(self, job: RunSettings, round_: int, logs: Mapping[str, float]) -> None:
        self.run.log(dict(logs), step=round_)

    def on_train_end(self, job: RunSettings, summary: Mapping[str, Any]) -> None:
        self.run.finish()
