"""MLflow, by its client: no run of the user's own is touched. MLFLOW_TRACKING_URI and its others count."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from splitft.job.settings import RunSettings
from splitft.running.trackers.tracker import PROJECT, Tracker, job_values, run_name

MOST_PARAMS, MOST_METRICS, LONGEST = 100, 1000, 6000  # of one call; letters of a value


class MLflowTracker(Tracker):
    """--resume goes on in the same run; there, a round that is repeated is logged a second time."""

    name, module = "mlflow", "mlflow"

    def on_train_begin(self, job: RunSettings, output_dir: Path, rounds_done: int) -> None:
        self.client = self.api.MlflowClient()
        self._names: dict[str, str] = {}
        known = self.known_run(output_dir)
        if known is not None:
            self.run = known
            self.client.update_run(known, status="RUNNING")
            return
        group = job.project or os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
        found = self.client.get_experiment_by_name(group)
        experiment = found.experiment_id if found else self.client.create_experiment(group)
        self.run = self.client.create_run(experiment, run_name=run_name(job)).info.run_id
        self.keep_run(output_dir, self.run)
        params = [
            self.api.entities.Param(self._allowed(key), str(value)[:LONGEST])
            for key, value in _flat(job_values(job))
        ]
        for first in range(0, len(params), MOST_PARAMS):
            self.client.log_batch(self.run, params=params[first : first + MOST_PARAMS])

    def on_log(self, job: RunSettings, round_: int, logs: Mapping[str, float]) -> None:
        now = int(time.time() * 1000)
        metrics = [
            self.api.entities.Metric(self._allowed(name), value, now, round_) for name, value in logs.items()
        ]
        for first in range(0, len(metrics), MOST_METRICS):
            self.client.log_batch(self.run, metrics=metrics[first : first + MOST_METRICS])

    def on_train_end(self, job: RunSettings, summary: Mapping[str, Any]) -> None:
        self.client.set_terminated(self.run, "KILLED" if summary["interrupted"] else "FINISHED")

    def _allowed(self, name: str) -> str:
        """Return a name of its own for each figure, with the letters that MLflow takes."""
        if name not in self._names:
            allowed = base = re.sub(r"[^/\w.\- :]", "_", name)
            number = 2
            while allowed in self._names.values():
                allowed, number = f"{base}_{number}", number + 1
            self._names[name] = allowed
        return self._names[name]


def _flat(values: Mapping[str, Any], group: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the keys of a job, dotted, with their values."""
    for key, value in values.items():
        if isinstance(value, dict) and value:
            yield from _flat(value, f"{group}{key}.")
        else:
            yield f"{group}{key}", value
