"""Figures of a party as Prometheus names them: families with a name, a text, and values by labels."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

PREFIX = "splitft_"
MOST_NAMED = 64  # clients of a run from which on no figure has their names: each would be one more series


class Figures:
    """Takes figures, and gives them as families. A figure that is None is left out."""

    def __init__(self) -> None:
        self._families: dict[str, Any] = {}

    def gauge(self, name: str, told: str, value: float | None, **labels: str) -> None:
        """Tell a value that goes up and down. name: without the prefix, with its unit."""
        self._add(GaugeMetricFamily, name, told, value, labels)

    def counter(self, name: str, told: str, value: float | None, **labels: str) -> None:
        """Tell a sum that only grows. name: without the prefix and `_total`, with its unit."""
        self._add(CounterMetricFamily, name, told, value, labels)

    def families(self) -> Iterator[Any]:
        """Yield the families."""
        yield from self._families.values()

    def _add(self, kind: Any, name: str, told: str, value: float | None, labels: dict[str, str]) -> None:
        if value is None:
            return
        if name not in self._families:
            self._families[name] = kind(PREFIX + name, told, labels=list(labels))
        self._families[name].add_metric(list(labels.values()), value)
