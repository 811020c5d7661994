"""SplitFT: federated split fine-tuning of language models.

Public API: `Job`, `load_job`, `run`, `RunResult`, `plan`, `compare`, `report`, `export`, `check`,
`check_split`, `SplitReport`; `register_codec`, `register_cut_policy` and the like for pieces of your own,
with the classes that these take and return; and the errors. Names load on first use: importing the package
costs nothing.
"""

from __future__ import annotations

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from splitft.cuts import Observation, Proposal, register_cut_policy
    from splitft.data.partition.registry import TrainingRows, register_partition
    from splitft.data.redaction.registry import register_redactor
    from splitft.devices.registry import register_device
    from splitft.errors import (
        DataError,
        DivergedError,
        JobError,
        ModelError,
        NetworkError,
        OutputError,
        SplitFTError,
    )
    from splitft.job import Job, PartitionConfig, load_job
    from splitft.job.sections import DeviceProfile
    from splitft.launch.functions import check, compare, export, plan, report
    from splitft.lora.client_optimizer import register_optimizer
    from splitft.lora.objective import register_objective
    from splitft.lora.rules import register_aggregation, register_robust_rule
    from splitft.lora.server_optimizer import register_server_optimizer
    from splitft.model.metrics import register_metric
    from splitft.proof.split import SplitReport, check_split
    from splitft.running.callbacks import Callback, register_callback
    from splitft.running.methods import register_method
    from splitft.running.result import RunResult
    from splitft.running.runner import run
    from splitft.wire.codecs.codec import Codec, Part
    from splitft.wire.codecs.registry import register_codec


# Before torch loads: OpenMP threads that spin while they wait make a run up to ten times slower as soon as
# anything else uses the cores. A value that the user set stays.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

_HOME = {
    "Job": "job",
    "PartitionConfig": "job",
    "load_job": "job",
    "run": "running.runner",
    **dict.fromkeys(("plan", "compare", "report", "export", "check"), "launch.functions"),
    "Callback": "running.callbacks",
    "register_callback": "running.callbacks",
    "RunResult": "running.result",
    "check_split": "proof.split",
    "SplitReport": "proof.split",
    "register_cut_policy": "cuts",
    "register_codec": "wire.codecs.registry",
    "Codec": "wire.codecs.codec",
    "Part": "wire.codecs.codec",
    "register_objective": "lora.objective",
    "register_optimizer": "lora.client_optimizer",
    "register_server_optimizer": "lora.server_optimizer",
    "Observation": "cuts",
    "Proposal": "cuts",
    "register_aggregation": "lora.rules",
    "register_robust_rule": "lora.rules",
    "register_partition": "data.partition.registry",
    "register_redactor": "data.redaction.registry",
    "TrainingRows": "data.partition.registry",
    "register_device": "devices.registry",
    "DeviceProfile": "job.sections",
    "register_metric": "model.metrics",
    "register_method": "running.methods",
    "SplitFTError": "errors",
    "JobError": "errors",
    "DataError": "errors",
    "DivergedError": "errors",
    "ModelError": "errors",
    "NetworkError": "errors",
    "OutputError": "errors",
}

__all__ = [
    "Callback",
    "Codec",
    "DataError",
    "DeviceProfile",
    "DivergedError",
    "Job",
    "JobError",
    "ModelError",
    "NetworkError",
    "Observation",
    "OutputError",
    "Part",
    "PartitionConfig",
    "Proposal",
    "RunResult",
    "SplitFTError",
    "SplitReport",
    "TrainingRows",
    "check",
    "check_split",
    "compare",
    "export",
    "load_job",
    "plan",
    "register_aggregation",
    "register_callback",
    "register_codec",
    "register_cut_policy",
    "register_device",
    "register_method",
    "register_metric",
    "register_objective",
    "register_optimizer",
    "register_partition",
    "register_redactor",
    "register_robust_rule",
    "register_server_optimizer",
    "report",
    "run",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'splitft' has no attribute {name!r}")
    return getattr(import_module(f"splitft.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return __all__
