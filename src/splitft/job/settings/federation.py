"""Settings of the federation: its rounds, devices, messages and network, and the run as a process."""

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
from splitft.job.settings.sources import DataSettings, ModelSettings
from splitft.job.settings.training import ScheduleSettings, SeedSettings, SplitSettings, TrainingSettings


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


class WireSettings(SplitSettings):
    """Codecs, and what the server remembers of samples."""

    activation_cache_gb: float = advanced(
        1.0,
        "With train_front: no, memory of the server for each client's activations; samples beyond it go up "
        "every time. With codec delta, memory of either end for them; samples beyond it go whole every time.",
        ge=0,
    )
    codec: Name | None = key(
        None,
        "How activations cross the cut: none, bf16, int8 (a quarter of float32), int4, int3, "
        "int2, delta (int4 the first time that a sample crosses, then what has changed), or a codec "
        "registered from Python. Default: none in one process, int8 over a network.",
    )
    delta_bits: Annotated[int, Field(ge=1, le=4)] = advanced(
        1, "With codec delta, bits of a value of what has changed."
    )
    gradient_codec: Name | None = key(
        None, "The same for their gradients, which bear fewer bits. Default: as codec; int2 with delta."
    )
    eval_codec: Name | None = advanced(
        None, "How activations of held-out rows cross the cut. Default: bf16; none with codec none."
    )

    @property
    def caches_activations(self) -> bool:
        """Whether the server keeps what each training sample's activations are."""
        return not self.train_front and self.activation_cache_gb > 0 and self.splits_model

    @property
    def sends_differences(self) -> bool:
        """Whether client and server keep what each training sample's activations were."""
        return self.codec == "delta" and self.splits_model


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
