"""Sections of a job with keys of their own, and the types of its values."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from splitft.errors import JobError

T = TypeVar("T")

ADVANCED: dict[str, Any] = {"advanced": True}  # in the schema of a key that few jobs need
Count = Annotated[int, Field(ge=1)]
Name = Annotated[str, Field(min_length=1)]
PathName = Annotated[  # a pathlib.Path is welcome from Python; the job holds text, as its file does
    Name, BeforeValidator(lambda value: os.fspath(value) if isinstance(value, os.PathLike) else value)
]
Names = Annotated[list[Name], Field(min_length=1)]
Options = dict[Name, bool | int | float | str]  # parameters of a registered piece


def _as_names(value: Any) -> Any:
    """Round numbers are names in a job file; from Python they may be plain integers."""
    if not isinstance(value, Mapping):
        return value
    return {str(key) if type(key) is int else key: inner for key, inner in value.items()}


def per_client(key: str, entry: T | list[T], names: Sequence[str]) -> dict[str, T]:
    """Return {client: value} of a key's entry: a list, or one value for all. Raises JobError."""
    values = entry if isinstance(entry, list) else [entry] * len(names)
    if len(values) != len(names):
        raise JobError(
            f"{key}: {len(values)} entries for {len(names)} clients ({', '.join(names)}); give one per "
            "client, or one for all"
        )
    return dict(zip(names, values, strict=True))


def key(default: Any, description: str, **more: Any) -> Any:
    """Return the field of a key with its text in the reference. more: bounds of its values."""
    return Field(default=default, description=description, **more)


def advanced(default: Any, description: str, **bounds: Any) -> Any:
    """Return the field of a key that few jobs need: the reference lists these by themselves."""
    return key(default, description, json_schema_extra=ADVANCED, **bounds)


class Strict(BaseModel):
    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, allow_inf_nan=False, protected_namespaces=()
    )


class PartitionConfig(Strict):
    """The partition of the training rows."""

    method: Name = key(
        "iid",
        "iid: shuffled, equal shares. length_dirichlet: length classes dealt by Dirichlet(alpha) "
        "(the paper's). dirichlet: the same over the values of `column`. by_column: one client per value of "
        "`column`. files: one client per data file. Or a registered partition.",
    )
    alpha: float = key(0.5, "Dirichlet concentration; small is skewed, large tends to iid.", gt=0)
    num_buckets: Count = key(5, "Length classes (quantiles of token length) of length_dirichlet.")
    column: Name | None = key(None, "Column that dirichlet and by_column read.")
    options: Options = advanced({}, "{name: value}: parameters of a registered partition.")
    min_rows: Count = key(1, "Fewest training rows a client may get.")
    samples_per_client: Count | None = key(
        None, "Draw exactly this many rows for each client, with replacement where data are fewer."
    )


NAME_PATTERN = r"^[a-z0-9][a-z0-9_-]{0,63}$"
ClientName = Annotated[str, Field(pattern=NAME_PATTERN)]
AT_SERVER = "at the server"  # what clients are told in the place of `clients_file`


class NetworkConfig(Strict):
    """A run over a network: who may take part, and how long they are waited for."""

    clients: Annotated[list[ClientName], Field(min_length=1)] | None = key(
        None,
        "Names of the clients that may take part, in the order of all sums. Default: client-0, "
        "client-1 and so on, as many as `clients` says.",
    )
    clients_file: PathName | None = key(
        None,
        "In place of `clients`: a file at the server with the name of a registered client in each line, in "
        "the order of all sums. Other clients never see the names. Before --resume, names may be added at "
        "the end.",
    )
    sampling: Literal["all", "connected"] = key(
        "all",
        "Clients from which the cohort of a round is drawn. all: every client of the job; the run waits for "
        "those that are away. connected: those that are connected as the round begins; nobody waits for "
        "others, and `cohorts.jsonl` has who was drawn and who counted.",
    )
    over_selection: float = key(
        1.0,
        "With sampling connected: draw so many times clients_per_round, and end the round's local steps once "
        "clients_per_round have finished theirs; late adapters are dropped.",
        ge=1,
        le=4,
    )
    min_clients: Count | None = key(
        None,
        "Fewest clients with which a round goes on. Default: all that are not expelled, so that "
        "the run waits for every lost one; with sampling connected, clients_per_round, or one.",
    )
    rejoin_seconds: float = key(
        60.0, "Wait so long for a lost client before a round goes on without it.", gt=0
    )
    round_seconds: float | None = key(
        None,
        "Go on without clients that have not trained by then, or not answered whatever else they "
        "are told, where `min_clients` others have. Default: never.",
        gt=0,
    )
    aggregator: str | None = key(
        None,
        "HOST:PORT of a `splitft aggregator`: clients send their adapters there, and not to the "
        "server. Default: the server averages.",
        pattern=r"^\S+:\d{1,5}$",
    )
    probe: bool = key(
        True,
        "With method fed_lora: the server holds the base model, to try each average on it before clients "
        "get it. No: it holds no weights; only reach and the clients' own figures tell a bad average.",
    )
    hand_out_adapter: bool = key(
        False,
        "At the end, send the whole adapter to every client that is connected, which keeps it in its folder: "
        "also the blocks that the server has trained, which clients get by no other way.",
    )

    @property
    def samples_connected(self) -> bool:
        """Whether clients come and go, and nobody waits for those that are not there."""
        return self.sampling == "connected"

    @property
    def told(self) -> NetworkConfig:
        """What clients get of these keys: never the place of the list of names."""
        return self if self.clients_file is None else self.model_copy(update={"clients_file": AT_SERVER})


class CutPolicyConfig(Strict):
    """The choice of the clients' cuts, and their changes during the run."""

    method: Name = key(
        "fixed",
        "fixed: `cuts` for the whole run. schedule: from `schedule`. resource: equal time for "
        "all, from the devices. accuracy: clients above the mean accuracy take more blocks. splitft: both "
        "(the paper's). makespan: the least predicted step time. Or a policy registered from Python.",
    )
    adapt_every: Count = key(1, "Rounds from one decision to the next.")
    gamma: float = key(
        0.5, "Layer-adjustment weight of accuracy and splitft (paper); 0: accuracy changes nothing.", ge=0
    )
    min_cut: Count = key(1, "Fewest blocks on a client.")
    max_cut: Count | None = key(None, "Most blocks on a client. Default: all but one, before the tail.")
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
    options: Options = advanced({}, "{name: value}: parameters of a registered policy.")
    schedule: Annotated[
        dict[Name, Count | Annotated[list[Count], Field(min_length=1)]] | None, BeforeValidator(_as_names)
    ] = key(None, "{round: cut, or one cut per client}, each from that round on (1: the first).")

    @property
    def reads_accuracy(self) -> bool:
        """Whether the policy may go by the clients' accuracies."""
        return self.method not in ("fixed", "schedule", "resource", "makespan")


class DeviceProfile(Strict):
    """One kind of device for the virtual clock; what is not given comes from the preset."""

    preset: Name = key("laptop", "The preset that this profile starts from.")
    flops: float | None = key(None, "Sustained FLOP/s in the base's dtype.", gt=0)
    slowdown: float = key(1.0, "Divides the FLOP/s.", gt=0)
    memory_gb: float | None = key(None, "Memory for training, in GB (10^9 bytes).", gt=0)
    uplink_mbps: float | None = key(None, "To the server, in Mbit/s.", gt=0)
    downlink_mbps: float | None = key(None, "From the server, in Mbit/s.", gt=0)
    latency_ms: float | None = key(None, "One way, in milliseconds.", ge=0)
    availability: float | None = key(None, "Probability that the device takes part in a round.", gt=0, le=1)
