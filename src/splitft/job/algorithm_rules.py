"""Rules about server optimizer, client objective and client optimizer; see `splitft.job.rules`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

_ALONE = ("local_only", "centralized")  # methods without rounds that start from a global adapter


def broken_algorithm_rules(job: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield (key, problem) for every rule about algorithms that `job` breaks."""
    server, objective, method = (job.get(key) for key in ("server_optimizer", "objective", "method"))
    if server not in (None, "none"):
        if method in _ALONE:
            yield "server_optimizer", f"method {method} has no average of a round: set none"
        if job.get("aggregation") == "exact":
            yield (
                "server_optimizer",
                f"{server} goes by the change of every value of A and B, and aggregation exact factors their "
                "products anew in every round: set aggregation: by_rank",
            )
    if objective not in (None, "plain") and method in _ALONE:
        yield "objective", f"{objective} needs an adapter that is handed out, and method {method} has none"
    if objective == "fedprox" and "proximal_mu" in job and job["proximal_mu"] is None:
        yield "proximal_mu", "objective fedprox needs it, e.g. 0.01 or 0.1"
    if job.get("optim") in ("adamw_torch", "adamw_torch_fused") and job.get("optim_args"):
        yield "optim_args", "AdamW has keys of its own: adam_beta1, adam_beta2, adam_epsilon, weight_decay"
