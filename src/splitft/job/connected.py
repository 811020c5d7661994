"""Rules that tie registered clients, and sampling among those that are connected, to other keys of a job."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any


def broken_connected_rules(job: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield (key, problem) for every rule about registered or connected clients that `job` breaks.

    job: as of `job.rules.broken_rules`.
    """
    if job.get("network.clients_file") is not None:
        yield from _registered(job)
    if job.get("network.sampling") == "connected":
        yield from _connected(job)
    yield from _over_selection(job)
    method = job.get("cut_policy.method", "fixed")
    if job.get("eval_clients") and method in ("accuracy", "splitft") and job.get("method") == "splitft":
        yield "eval_clients", f"cut_policy.method {method} goes by the accuracy of every client: leave it out"


def _registered(job: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Rules of a list of names that the server alone has."""
    if job.get("network.clients") is not None:
        yield "network.clients_file", "set network.clients or network.clients_file, not both; null unsets one"
    for key in ("data_files", "eval_files"):
        if isinstance(job.get(key), Mapping):
            yield key, "names clients, and a job is told to all: leave it out with network.clients_file"
    for key in ("cuts", "devices"):
        if isinstance(job.get(key), list | dict):
            yield key, "with network.clients_file clients have no names here: give one value for all"
    yield from _without(job, "network.clients_file", "needs the names of all clients: list network.clients")


def _connected(job: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Rules of cohorts that are drawn from whoever is there."""
    method = job.get("cut_policy.method", "fixed")
    if method != "fixed" and job.get("method", "splitft") == "splitft":
        yield (
            "cut_policy.method",
            f"{method} moves blocks of clients, and with network.sampling connected these may be away: set "
            "fixed",
        )
    if job.get("save_every", 1) != 1:
        yield (
            "save_every",
            f"{job['save_every']} with network.sampling connected: a client that was away goes on from the "
            "round before, so every round has a checkpoint: set 1",
        )
    if job.get("codec") == "delta":
        yield (
            "codec",
            "delta remembers the samples of a session, and with network.sampling connected clients come and "
            "go: set int8 or int4",
        )
    if job.get("dp.epsilon") is not None or job.get("dp.noise_multiplier") is not None:
        yield (
            "network.sampling",
            "connected does not go with dp: a client's spent privacy stands in the records of all rounds; "
            "set all",
        )
    yield from _without(job, "network.sampling", "counts on the clients of the whole job: set all")


def _without(job: Mapping[str, Any], key: str, why: str) -> Iterator[tuple[str, str]]:
    """Yield the problem of a key with pieces of a job that know every client by name."""
    if job.get("secure_aggregation"):
        yield key, f"does not go with secure_aggregation, which {why}"
    if job.get("network.aggregator") is not None:
        yield key, f"does not go with network.aggregator, which {why}"


def _over_selection(job: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Rules of cohorts that are larger than what counts."""
    if job.get("network.over_selection", 1.0) == 1.0:
        return
    needs = {
        "network.sampling: connected": job.get("network.sampling", "connected") == "connected",
        "clients_per_round": job.get("clients_per_round", 1) is not None,
        "server_adapter: per_client": job.get("server_adapter") != "shared",
        "order: parallel": job.get("order") != "turns",
    }
    for need, there in needs.items():
        if not there:
            yield "network.over_selection", f"needs {need}; or leave it out"
