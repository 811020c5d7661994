"""Keys of callbacks and trackers."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from splitft.job.sections import Name, Strict, key

Tracker = Literal["tensorboard", "wandb", "mlflow", "trackio"]


class ReportSettings(Strict):
    """Callbacks and trackers of a run; no party but the one that runs the rounds reads them."""

    report_to: Tracker | Literal["none"] | Annotated[list[Tracker], Field(min_length=1)] = key(
        "none",
        "Trackers that get every figure of every round: one or a list. Each is an extra of its name "
        "(pip install 'splitft[wandb]').",
    )
    run_name: Name | None = key(None, "Name of the run in trackers. Default: output_dir.")
    project: Name | None = key(
        None,
        "Project (in MLflow: experiment) of the run in trackers. Default: WANDB_PROJECT or "
        "MLFLOW_EXPERIMENT_NAME, else splitft.",
    )
    callbacks: list[Name] = key([], "Callbacks registered from Python or by a plugin, by name.")

    @property
    def trackers(self) -> list[str]:
        """The names in `report_to`, as a list."""
        if isinstance(self.report_to, list):
            return list(dict.fromkeys(self.report_to))
        return [] if self.report_to == "none" else [self.report_to]
