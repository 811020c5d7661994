"""What trackers share: their library, the name of the run, and the library's own run to go on with."""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path
from typing import Any

from splitft.common.files import write_atomically
from splitft.common.text import error_line
from splitft.errors import JobError
from splitft.job.settings import RunSettings
from splitft.running.callbacks import Callback

PROJECT = "splitft"  # or experiment: as trackers call a group of runs; the libraries' variables set another
RUNS = "trackers.json"  # {tracker: its id of the run}, in the run's folder


class Tracker(Callback):
    """Base class of trackers.

    name: as `report_to` and the extra have it. module: the library's, imported when the tracker is made.
    Raises JobError where it is not installed.
    """

    name: str
    module: str

    def __init__(self) -> None:
        try:
            self.api: Any = import_module(self.module)
        except ImportError as error:
            raise JobError(
                f"report_to {self.name}: the library is not there ({error_line(error)}): "
                f"pip install 'splitft[{self.name}]'"
            ) from None

    def known_run(self, output_dir: Path) -> str | None:
        """Return the library's id of the run that this one goes on with; None: it is a new one."""
        return _runs(output_dir).get(self.name)

    def keep_run(self, output_dir: Path, run: str) -> None:
        """Write the library's id of the run down, for --resume."""
        write_atomically(output_dir / RUNS, json.dumps(_runs(output_dir) | {self.name: run}, indent=1))


def _runs(output_dir: Path) -> dict[str, str]:
    path = output_dir / RUNS
    known: dict[str, str] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return known


def run_name(job: RunSettings) -> str:
    """Return the name of a run in trackers."""
    return job.run_name or job.output_dir


def job_values(job: RunSettings) -> dict[str, Any]:
    """Return all keys of a job as JSON has them, groups nested."""
    return job.model_dump(mode="json")
