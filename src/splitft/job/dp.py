"""Keys of example-level differential privacy, and the rules that they bring along."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import Field

from splitft.job.sections import Strict, advanced, key

_PAGE = "docs/differential-privacy.md"


class DPConfig(Strict):
    """Example-level differential privacy of the adapter."""

    epsilon: float | None = key(
        None,
        "Largest ε of the run for one training row of a client; the noise follows from it. Needs method "
        "fed_lora (docs/differential-privacy.md). Default: no differential privacy.",
        gt=0,
    )
    delta: float | None = key(
        None, "δ, less than 1 / rows of each client. Default: 1 / (10 × rows), of each client.", gt=0, lt=1
    )
    noise_multiplier: float | None = key(
        None,
        "In place of epsilon: standard deviation of the noise, in units of max_grad_norm, as in Opacus.",
        gt=0,
    )
    noise_seed: int | None = advanced(
        None,
        "For experiments in one process that must be repeatable: seeds the noise and the draws of rows. With "
        "this number anybody can take the noise off, so ε then covers nothing; refused over a network. "
        "Default: a secret key of each client.",
        ge=0,
        le=2**32 - 1,
    )

    @property
    def active(self) -> bool:
        """Whether the job asks for differential privacy."""
        return self.epsilon is not None or self.noise_multiplier is not None


class DPSettings(Strict):
    """Differential privacy."""

    dp: DPConfig = Field(
        default_factory=DPConfig, description="Differential privacy of the adapter, for each training row."
    )


def broken_dp_rules(job: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield (key, problem) for every rule about differential privacy that `job` breaks."""
    given = [name for name in ("dp.epsilon", "dp.noise_multiplier") if job.get(name) is not None]
    if not given:
        for name in ("dp.delta", "dp.noise_seed"):
            if job.get(name) is not None:
                yield name, "is for jobs with dp.epsilon or dp.noise_multiplier: set one of them"
        return
    if len(given) == 2:
        yield "dp.noise_multiplier", "follows from dp.epsilon: set one of the two; null unsets one"

    # The method: no other than the adapter may tell of a row.
    method = job.get("method")
    if method in ("splitft", "same_split"):
        yield (
            given[0],
            f"does not go with method {method}: the server sees the activations of every row, and (ε, δ) "
            f"would cover the adapter alone; set method: fed_lora ({_PAGE})",
        )
    elif method in ("local_only", "centralized"):
        yield given[0], f"is built for method fed_lora, not for {method}"

    # One gradient for each row, of that row alone, with a bound.
    if job.get("max_grad_norm") == 0:
        yield "max_grad_norm", "with dp it bounds the gradient of each row, and must be more than 0"
    if job.get("packing") is True:
        yield "packing", "does not go with dp: a packed block holds several rows, and a row several blocks"
    if job.get("padding_free") is True:
        yield "padding_free", "does not go with dp, which computes the gradient of each row by itself"
    if job.get("group_by_length") is True:
        yield "group_by_length", "does not go with dp: every row is drawn by itself (Poisson sampling)"
    if job.get("partition.samples_per_client") is not None:
        yield (
            "partition.samples_per_client",
            "does not go with dp: it draws some rows several times, and ε is for a row that is there once",
        )
    if job.get("use_dora") is True:
        yield "use_dora", "does not go with dp: DoRA's magnitudes have no gradient for each row here"
    if job.get("lora_target_parameters"):
        yield "lora_target_parameters", "does not go with dp: experts have no gradient for each row here"
    if job.get("devices"):
        yield "devices", "do not go with dp: the virtual clock does not count gradients of single rows"
