"""What a partition did, beside the indices themselves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class PartitionReport:
    """How the rows were dealt.

    Attributes:
        method: Name of the method, as in the job file.
        clients: Name of each client.
        classes: Name of each class of rows that was dealt (length classes, labels, or one class "all").
        counts: Rows by (client, class); with samples_per_client a row that was drawn twice counts twice.
        edges: Largest token length of every length class but the last; empty for other methods.
    """

    method: str
    clients: tuple[str, ...]
    classes: tuple[str, ...]
    counts: tuple[tuple[int, ...], ...]
    edges: tuple[int, ...] = ()

    @property
    def rows(self) -> tuple[int, ...]:
        """Rows of each client."""
        return tuple(sum(row) for row in self.counts)

    @property
    def proportions(self) -> tuple[tuple[float, ...], ...]:
        """Share of each class among a client's rows, (client, class); each client's shares sum to 1."""
        return tuple(tuple(n / max(sum(row), 1) for n in row) for row in self.counts)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return {
            "method": self.method,
            "clients": list(self.clients),
            "classes": list(self.classes),
            "counts": [list(row) for row in self.counts],
            "edges": list(self.edges),
        }


def default_names(num_clients: int) -> tuple[str, ...]:
    """client-0, client-1, ..."""
    return tuple(f"client-{i}" for i in range(num_clients))


def as_counts(counts: NDArray[np.int64]) -> tuple[tuple[int, ...], ...]:
    """A (client, class) matrix as the nested tuples of a report."""
    return tuple(tuple(int(n) for n in row) for row in counts)
