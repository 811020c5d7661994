"""Settings by what needs them: base classes of `Job`. A function names the one that it reads."""

from __future__ import annotations

from splitft.job.settings.federation import (
    CostSettings,
    DeviceSettings,
    FederationSettings,
    NetworkSettings,
    RunSettings,
    WireSettings,
)
from splitft.job.settings.sources import DataSettings, ModelSettings
from splitft.job.settings.training import (
    AverageSettings,
    BatchSettings,
    LoraSettings,
    OptimizerSettings,
    SchedulerType,
    ScheduleSettings,
    SeedSettings,
    SplitSettings,
    TrainingSettings,
)

__all__ = [
    "AverageSettings",
    "BatchSettings",
    "CostSettings",
    "DataSettings",
    "DeviceSettings",
    "FederationSettings",
    "LoraSettings",
    "ModelSettings",
    "NetworkSettings",
    "OptimizerSettings",
    "RunSettings",
    "ScheduleSettings",
    "SchedulerType",
    "SeedSettings",
    "SplitSettings",
    "TrainingSettings",
    "WireSettings",
]
