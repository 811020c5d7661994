"""Settings by what needs them: base classes of `Job`. A function names the one that it reads."""

from __future__ import annotations

from splitft.job.settings.data import DataSettings
from splitft.job.settings.federation import DeviceSettings, FederationSettings, NetworkSettings, RunSettings
from splitft.job.settings.model import ModelSettings
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
from splitft.job.settings.wire import WireSettings

__all__ = [
    "AverageSettings",
    "BatchSettings",
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
