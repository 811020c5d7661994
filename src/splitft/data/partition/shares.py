"""Shares of the clients: their quota of rows, random shares, and a minimum of whole rows for each."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from splitft.common.seeds import numpy_generator
from splitft.data.rows import Indices
from splitft.errors import DataError

ALPHA_RANGE = (1e-6, 1e12)  # beyond it a draw equals the limit: all to one client, or equal shares


@dataclass(frozen=True)
class Quota:
    """The rows of each client."""

    min_rows: int = 1  # at least; rows are moved from the largest holders, but never between sites
    samples_per_client: int | None = None  # exactly that many, drawn; rows repeat where too few are there
    seed: int = 0

    def generator(self, method: str) -> np.random.Generator:
        """Return the random generator of a method."""
        return numpy_generator(self.seed, "partition", method)


def check_enough(num_rows: int, num_clients: int, quota: Quota) -> None:
    """Raise DataError where rows are too few for the minimum per client, or a sample is below it."""
    min_rows, samples_per_client = quota.min_rows, quota.samples_per_client
    if num_clients < 1 or min_rows < 0:
        raise DataError(f"cannot deal rows to {num_clients} clients with min_rows={min_rows}")
    if num_rows == 0:
        raise DataError("no training rows to deal: check the data files and eval_fraction")
    if samples_per_client is not None:
        if samples_per_client < max(min_rows, 1):
            raise DataError(
                f"partition.samples_per_client={samples_per_client} is below partition.min_rows={min_rows}: "
                "raise the one or lower the other"
            )
    elif num_rows < num_clients * min_rows:
        hints = ["add data", "set partition.samples_per_client"]
        if num_rows >= num_clients:
            hints.insert(0, f"lower partition.min_rows to {num_rows // num_clients}")
        if num_rows >= min_rows:
            hints.insert(0, f"lower clients to {num_rows // min_rows}")
        each = f"{min_rows} row{'s' * (min_rows != 1)} each"
        raise DataError(
            f"{num_rows} training rows cannot give {num_clients} clients {each}: " + ", or ".join(hints)
        )


def log_dirichlet(alpha: float, size: tuple[int, int], rng: np.random.Generator) -> NDArray[np.float64]:
    """Logarithms of `size[0]` draws from Dirichlet(alpha·1) over `size[1]` clients.

    In logarithms, because a small alpha gives shares that underflow to 0 and would leave a client without any
    mix of classes. Uses Gamma(a) = Gamma(a + 1) · U^(1/a).
    """
    alpha = min(max(alpha, ALPHA_RANGE[0]), ALPHA_RANGE[1])
    gammas = np.log(rng.gamma(alpha + 1.0, size=size)) + np.log1p(-rng.random(size)) / alpha
    top = gammas.max(axis=1, keepdims=True)
    normalised: NDArray[np.float64] = gammas - (top + np.log(np.exp(gammas - top).sum(axis=1, keepdims=True)))
    return normalised


def keep_minimum(counts: Indices, min_rows: int) -> Indices:
    """Move rows until every client of a (client, class) matrix has `min_rows`; no row appears or vanishes.

    One row at a time goes from the client that holds most (ties: the lower index), out of the class of which
    it holds most. The caller has checked that there are enough rows.
    """
    counts = counts.copy()
    totals = counts.sum(axis=1)
    for poor in range(len(counts)):
        while totals[poor] < min_rows:
            rich = int(totals.argmax())
            kind = int(counts[rich].argmax())
            counts[rich, kind] -= 1
            counts[poor, kind] += 1
            totals[rich] -= 1
            totals[poor] += 1
    return counts
