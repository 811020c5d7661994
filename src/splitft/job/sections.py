"""Sections of a job with keys of their own, and the types of its values."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

ADVANCED: dict[str, Any] = {"advanced": True}  # in the schema of a key that few jobs need
Count = Annotated[int, Field(ge=1)]
Name = Annotated[str, Field(min_length=1)]
PathName = Annotated[  # a pathlib.Path is welcome from Python; the job holds text, as its file does
    Name, BeforeValidator(lambda value: os.fspath(value) if isinstance(value, os.PathLike) else value)
]
Names = Annotated[list[Name], Field(min_length=1)]


def _as_names(value: Any) -> Any:
    """Round numbers are names in a job file; from Python they may be plain integers."""
    if not isinstance(value, Mapping):
        return value
    return {str(key) if type(key) is int else key: inner for key, inner in value.items()}


def advanced(default: Any, description: str, **bounds: Any) -> Any:
    """Return the field of a key that few jobs need: the reference lists these by themselves."""
    return Field(default=default, description=description, json_schema_extra=ADVANCED, **bounds)


class Strict(BaseModel):
    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, allow_inf_nan=False, protected_namespaces=()
    )


class PartitionConfig(Strict):
    """The partition of the training rows."""

    method: Literal["iid", "length_dirichlet", "dirichlet", "by_column", "files"] = Field(
        default="iid",
        description="iid: shuffled, equal shares. length_dirichlet: length classes dealt by Dirichlet(alpha) "
        "(the paper's). dirichlet: the same over the values of `column`. by_column: one client per value of "
        "`column`. files: one client per data file.",
    )
    alpha: float = Field(
        default=0.5, gt=0, description="Dirichlet concentration; small is skewed, large tends to iid."
    )
    num_buckets: Count = Field(
        default=5, description="Length classes (quantiles of token length) of length_dirichlet."
    )
    column: Name | None = Field(default=None, description="Column that dirichlet and by_column read.")
    min_rows: Count = Field(default=1, description="Fewest training rows a client may get.")
    samples_per_client: Count | None = Field(
        default=None,
        description="Draw exactly this many rows for each client, with replacement where data are fewer.",
    )


ClientName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,63}$")]


class NetworkConfig(Strict):
    """A run over a network: who may take part, and how long they are waited for."""

    clients: Annotated[list[ClientName], Field(min_length=1)] | None = Field(
        default=None,
        description="Names of the clients that may take part, in the order of all sums. Default: client-0, "
        "client-1 and so on, as many as `clients` says.",
    )
    min_clients: Count | None = Field(
        default=None,
        description="Fewest clients with which a round goes on. Default: all that are not expelled, so that "
        "the run waits for every lost one.",
    )
    rejoin_seconds: float = Field(
        default=60.0, gt=0, description="Wait so long for a lost client before a round goes on without it."
    )
    round_seconds: float | None = Field(
        default=None,
        gt=0,
        description="Go on without clients that have not trained by then, or not answered whatever else they "
        "are told, where `min_clients` others have. Default: never.",
    )
    aggregator: str | None = Field(
        default=None,
        pattern=r"^\S+:\d{1,5}$",
        description="HOST:PORT of a `splitft aggregator`: clients send their adapters there, and not to the "
        "server. Default: the server averages.",
    )


class CutPolicyConfig(Strict):
    """The choice of the clients' cuts, and their changes during the run."""

    method: Name = Field(
        default="fixed",
        description="fixed: `cuts` for the whole run. schedule: from `schedule`. resource: equal time for "
        "all, from the devices. accuracy: clients above the mean accuracy take more blocks. splitft: both "
        "(the paper's). makespan: the least predicted step time. Or a policy registered from Python.",
    )
    adapt_every: Count = Field(default=1, description="Rounds from one decision to the next.")
    gamma: float = Field(
        default=0.5,
        ge=0,
        description="Layer-adjustment weight of accuracy and splitft (paper); 0: accuracy changes nothing.",
    )
    min_cut: Count = Field(default=1, description="Fewest blocks on a client.")
    max_cut: Count | None = Field(
        default=None, description="Most blocks on a client. Default: all but one, before the tail."
    )
    max_step: Count = advanced(
        2, "Most blocks by which a cut moves in one decision; not in the first, nor by a schedule."
    )
    hysteresis: float = advanced(
        0.25,
        "A cut stays while its target is less than 0.5 + this away, in blocks; not in the "
        "first decision, nor by a schedule.",
        ge=0,
    )
    w_min: float = advanced(0.5, "Least accuracy weight of a client; at most 1.", gt=0)
    w_max: float = advanced(2.0, "Greatest accuracy weight of a client; at least 1.", gt=0)
    schedule: Annotated[
        dict[Name, Count | Annotated[list[Count], Field(min_length=1)]] | None, BeforeValidator(_as_names)
    ] = Field(
        default=None,
        description="{round: cut, or one cut per client}, each from that round on (1: the first).",
    )


class DeviceProfile(Strict):
    """One kind of device for the virtual clock; what is not given comes from the preset."""

    preset: Name = Field(default="laptop", description="The preset that this profile starts from.")
    flops: float | None = Field(default=None, gt=0, description="Sustained FLOP/s in the base's dtype.")
    slowdown: float = Field(default=1.0, gt=0, description="Divides the FLOP/s.")
    memory_gb: float | None = Field(
        default=None, gt=0, description="Memory for training, in GB (10^9 bytes)."
    )
    uplink_mbps: float | None = Field(default=None, gt=0, description="To the server, in Mbit/s.")
    downlink_mbps: float | None = Field(default=None, gt=0, description="From the server, in Mbit/s.")
    latency_ms: float | None = Field(default=None, ge=0, description="One way, in milliseconds.")
    availability: float | None = Field(
        default=None, gt=0, le=1, description="Probability that the device takes part in a round."
    )
