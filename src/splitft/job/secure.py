"""Keys of secure aggregation, and the rules that tie them to others."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any

from pydantic import Field

from splitft.job.sections import Strict, advanced, key

LEAST = 3  # clients of a sum: of two, each knows the other's share
LINEAR = ("by_rank", "average", "freeze_a")  # of adapters of one rank, each is a weighted mean of every value


class SecureSettings(Strict):
    """Secure aggregation of clients' adapters."""

    secure_aggregation: bool = key(
        False,
        "With method fed_lora: clients mask their adapters, and neither server nor aggregator gets one, only "
        "their sum over at least 3 clients (docs/network.md). In one process: the same numbers, unmasked.",
    )
    secure_aggregation_threshold: Annotated[int, Field(ge=LEAST)] | None = advanced(
        None,
        "Clients that must stay to the end of a sum, and that together could unmask it: above half of them. "
        "Default: more than two thirds of the round's clients, and 3 at least.",
    )
    secure_aggregation_range: float = advanced(
        2.0, "Most by which a value of an adapter may change in a round; a client beyond it ends.", gt=0
    )


def broken_secure_rules(job: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield (key, problem) for every rule about secure aggregation that `job` breaks; see `job.rules`."""
    threshold = job.get("secure_aggregation_threshold")
    if not job.get("secure_aggregation"):
        if job.get("secure_aggregation") is False and threshold:
            yield "secure_aggregation_threshold", "is for secure_aggregation: true"
        return
    if (method := job.get("method")) in ("splitft", "same_split", "local_only", "centralized"):
        yield "secure_aggregation", f"sums whole adapters of clients: set method: fed_lora, not {method}"
    if (robust := job.get("robust_aggregation", "none")) != "none":
        yield (
            "robust_aggregation",
            f"{robust} compares clients' adapters, of which secure_aggregation shows nobody a single one: "
            "set none",
        )
    if (rule := job.get("aggregation", "by_rank")) not in LINEAR:
        yield "aggregation", f"{rule} is no mean of every value, and a sum gives no other: set by_rank"
    yield from _counts(job, threshold or LEAST, stated=threshold is not None)


def _counts(job: Mapping[str, Any], fewest: int, *, stated: bool) -> Iterator[tuple[str, str]]:
    """Yield (key, problem) for every number of clients that no sum can have."""
    files, names = job.get("data_files"), job.get("network.clients")
    clients = len(names or (files if isinstance(files, Mapping) else ())) or job.get("clients")
    why = f"secure_aggregation_threshold is {fewest}" if stated else "a sum is of 3 clients at least"
    for name, count in (
        ("clients", clients),
        ("clients_per_round", job.get("clients_per_round")),
        ("network.min_clients", job.get("network.min_clients")),
    ):
        if count and count < fewest and name in job:
            yield name, f"{count} with secure_aggregation, and {why}: set {fewest} or more"
    if stated and clients and 2 * fewest <= clients:
        yield (
            "secure_aggregation_threshold",
            f"{fewest} of {clients} clients is not above half: a server could have two groups unmask what "
            f"each alone must not; set {clients // 2 + 1} or more",
        )
