"""Settings of the federation."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from splitft.job.sections import (
    Count,
    CutPolicyConfig,
    DeviceProfile,
    Name,
    Names,
    NetworkConfig,
    PathName,
    Strict,
    advanced,
    key,
)
from splitft.job.settings.data import DataSettings
from splitft.job.settings.model import ModelSettings
from splitft.job.settings.training import ScheduleSettings, SeedSettings, SplitSettings, TrainingSettings
from splitft.job.settings.wire import WireSettings


class FederationSettings(SplitSettings, ScheduleSettings, SeedSettings):
    """The rounds: their members, their cuts, their order, and their evaluations."""

    clients_per_round: Count | None = key(None, "Clients sampled each round; default: all.")
    cut_policy: CutPolicyConfig = Field(
        default_factory=CutPolicyConfig, description="How cuts are chosen and adapted."
    )
    order: Literal["parallel", "turns"] = key(
        "parallel",
        "parallel: all clients take step by step together. turns: one client after another takes "
        "all its local steps (the paper's).",
    )
    eval_every: Count = key(
        1, "Rounds from one evaluation to the next (also before the first and at the end)."
    )


class DeviceSettings(Strict):
    """Devices of the virtual clock."""

    devices: Name | Names | dict[Name, Name] | None = key(
        None,
        "Device of every client, one per client in order, or {client: device}: names of presets "
        "or of device_profiles. They drive the virtual clock and the cut policies.",
    )
    server_device: Name = key("gpu_server", "Device of the server.")
    device_profiles: dict[Name, DeviceProfile] = Field(
        default_factory=dict, description="{name: profile}: devices of your own."
    )


class CostSettings(ModelSettings, DataSettings, FederationSettings, TrainingSettings, WireSettings):
    """Everything that decides what a round computes, holds and sends, whatever the machines."""


class NetworkSettings(Strict):
    """Members of a run over a network."""

    network: NetworkConfig = Field(
        default_factory=NetworkConfig,
        description="Who takes part in a run over a network (`splitft server`).",
    )


class RunSettings(Strict):
    """The run as a process: its folder and its checkpoints."""

    output_dir: PathName = key("runs/splitft", "Folder of this run; must not hold another one.")
    save_every: Annotated[int, Field(ge=0)] = key(
        1, "Rounds from one checkpoint, for --resume, to the next; 0: none."
    )
    save_total_limit: Count = advanced(2, "Checkpoints to keep; a finished run keeps none.")
